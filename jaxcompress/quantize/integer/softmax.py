"""Softmax on integers: rules by runtime, on a fixed grid from 0 to 1.

All start from the distance of a code to the highest of its row. LiteRT and onnxruntime look up float32
exponentials and add them up in the order of the channels; on 64-bit Arm LiteRT's have 16 bits. TFLite's reference kernels and those for
microcontrollers have fixed-point numbers of 32 bits, whose sums must stay below 512; with 16 bits all
runtimes of .tflite files look exponentials and reciprocals up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.quantize.integer.fixed_point import divide32, exponential, high
from jaxcompress.quantize.integer.floats import expf
from jaxcompress.quantize.integer.grid import INT32, Grid, check_below
from jaxcompress.quantize.integer.logistic import FAR_TOO_LARGE
from jaxcompress.quantize.integer.reference import (
  Factor,
  divide_by_power,
  doubling_high_product,
  quantize_multiplier,
)

CODES = 256
FARTHEST = 2.0**126  # a clip there keeps compilers from fusing what it stands between
MOST_SUMMED = 512  # of fixed-point exponentials, from which TFLite's kernels abort
LARGEST_CODE = 2**16 - 1
MOST_SUMMED_CODES = (2**31 - 1) // LARGEST_CODE
MOST_WIDE = 2**16  # whose exponentials of 16 bits an int32 adds up
WHOLE = 12  # bits of fixed-point sums
STEPS = 512  # between the numbers that are looked up with 16 bits
HALF = 126  # the exponent of a half in the bits of a float32
ROOM = 5.0  # what onnxruntime leaves of a float32 number's exponent


class Products(NamedTuple):
  """Float32 exponentials, times the reciprocal of their sum; halves away from zero.

  Attributes:
    table: (256,) float32, by the distance to the highest code.
    scale: float32, of the output.
  """

  table: np.ndarray
  scale: np.float32

  def __call__(self, x: jax.Array) -> jax.Array:
    powers, total = _in_order(self.table, x)
    reciprocal = jnp.clip(1 / (total * self.scale), 0, FARTHEST)
    product = jnp.clip(powers * reciprocal, 0, FARTHEST)
    whole = jnp.floor(product)
    return whole + (product - whole >= 0.5)


class Quotients(NamedTuple):
  """Float32 exponentials, divided by their sum in float64, half to even.

  A float32 quotient says which half is nearest. What lies between it and the exponential is exact in
  float32: a half has 9 bits, and the sum is taken in parts of 12.

  Attributes:
    table: (256,) float32, by the distance to the highest code.
    scale: float32, of the output: a power of two.
  """

  table: np.ndarray
  scale: np.float32

  def __call__(self, x: jax.Array) -> jax.Array:
    powers, total = _in_order(self.table, x)
    powers = powers / self.scale
    whole = jnp.floor(powers / total)
    bits = jax.lax.bitcast_convert_type(total, jnp.int32) & np.int32(-(2**12))
    coarse = jax.lax.bitcast_convert_type(bits, jnp.float32)
    half = whole + np.float32(0.5)
    above = (powers - half * coarse) - half * (total - coarse)
    odd = whole - 2 * jnp.floor(whole / 2)
    return whole + jnp.where(above == 0, odd, (above > 0).astype(jnp.float32))


class Fixed(NamedTuple):
  """Fixed-point exponentials, times the reciprocal of their sum.

  Attributes:
    table: (256,) int32, by the distance to the highest code; no whole bits.
  """

  table: np.ndarray

  def __call__(self, x: jax.Array) -> jax.Array:
    powers = jnp.asarray(self.table)[_below(x)]
    total = jnp.sum(divide_by_power(powers, np.int32(WHOLE)), axis=-1, keepdims=True)
    zeros = jax.lax.clz(total)
    rest = (total << zeros) & np.int32(2**31 - 1)
    half = (rest >> 1) + np.int32(2**30)
    y = np.int32(1515870810) + doubling_high_product(jnp.int32(-1010580540), half)
    for _ in range(3):
      error = np.int32(2**29) - doubling_high_product(half, y)
      y = y + (doubling_high_product(error, y) << 2)
    y = jnp.minimum(y, np.int32(2**30 - 1)) << 1 | (y >= np.int32(2**30)).astype(jnp.int32)
    return divide_by_power(doubling_high_product(powers, y), WHOLE + 31 - 8 - zeros)


class Codes(NamedTuple):
  """Exponentials of 16 bits, times the reciprocal of their sum, which has the 24 bits of a float32.

  Attributes:
    powers: (256,) int32, by the distance to the highest code.
    scale: float32, of the output: a power of two.
  """

  powers: np.ndarray
  scale: np.float32

  def __call__(self, x: jax.Array) -> jax.Array:
    powers = jnp.asarray(self.powers)[_below(x)]
    total = jnp.sum(powers, axis=-1, keepdims=True).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(1 / (total * self.scale), jnp.int32)
    factor = ((bits & (2**23 - 1)) | 2**23) << 7
    return divide_by_power(doubling_high_product(powers, factor), HALF - (bits >> 23))


class Wide(NamedTuple):
  """Exponentials and reciprocals of 16 bits.

  Attributes:
    powers: (65536,) int32, by the distance to the highest code.
    reciprocals: (65536,) int32, of ``1 + i / 65536``.
  """

  powers: np.ndarray
  reciprocals: np.ndarray

  def __call__(self, x: jax.Array) -> jax.Array:
    powers = jnp.asarray(self.powers)[_below(x)]
    total = jnp.sum(powers, axis=-1, keepdims=True)
    zeros = jax.lax.clz(total)
    rest = (((total << (zeros - 1)) >> 13) + 1) >> 1
    place = jnp.clip(rest - 2**16, 0, 2**16 - 1)
    shift = 31 - zeros
    product = powers * jnp.asarray(self.reciprocals)[place]
    return (product + (np.int32(1) << (shift - 1))) >> shift


def _in_order(table: np.ndarray, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The exponentials of all codes, and their sums, added up channel by channel."""
  powers = jnp.asarray(table)[_below(x)]
  columns = jnp.moveaxis(powers, -1, 0)
  total, _ = jax.lax.scan(lambda t, column: (t + column, None), jnp.zeros_like(columns[0]), columns)
  return powers, total[..., None]


def _below(x: jax.Array) -> jax.Array:
  """How far each code is below the highest of its row."""
  return (x.max(axis=-1, keepdims=True) - x).astype(jnp.int32)


def litert(source: Grid, output: Grid, channels: int) -> Products:
  """Softmax of LiteRT itself, since XNNPACK has no integer softmax."""
  distances = np.arange(CODES, dtype=np.float32)
  return Products(expf(-np.float32(source.scale) * distances), output.scale)


def litert_arm64(source: Grid, output: Grid, channels: int) -> Codes:
  """LiteRT's own on 64-bit Arm, whose instructions look up tables of bytes.

  Raises:
    ValueError: if there are so many channels that an int32 does not hold the sum.
  """
  if channels > MOST_SUMMED_CODES:
    raise ValueError(f"channels: {channels} exponentials must be {MOST_SUMMED_CODES} at most.")
  distances = np.arange(CODES, dtype=np.float32)
  powers = expf(-np.float32(source.scale) * distances) * np.float32(LARGEST_CODE)
  return Codes((powers.astype(np.float64) + 0.5).astype(np.int32), output.scale)


def onnxruntime(source: Grid, output: Grid, channels: int) -> Quotients:
  """onnxruntime's exponentials lie near the largest float32 numbers; here they are a bit smaller."""
  most = np.finfo(np.float32).max / np.float32(channels)
  room = np.float32(np.log(np.float64(most)))
  shift = max(0.0, float(room) - ROOM) / float(source.scale)
  powers = np.exp((shift - np.arange(CODES)) * np.float64(source.scale))
  return Quotients(powers.astype(np.float32) * np.float32(2.0**-16), output.scale)


def reference(source: Grid, output: Grid, channels: int) -> Fixed:
  """gemmlowp's exponentials of numbers with 5 whole bits, and Newton's reciprocal.

  Raises:
    ValueError: if there are 512 channels or more, whose sum makes the kernels abort.
  """
  if channels >= MOST_SUMMED:
    raise ValueError(
      f"channels: {channels} exponentials may add up to {MOST_SUMMED}, where TFLite's reference kernels"
      " and those for microcontrollers abort; end the network in its logits (their order is the same)"
      " and take the softmax of them outside, or pass kernels='xnnpack' or 'onnxruntime'."
    )
  factor = quantize_multiplier(min(float(source.scale) * 2.0**26, 2.0**31 - 1))
  left, distances = int(factor.left), np.arange(CODES, dtype=np.int64)
  numbers = np.maximum(high(-distances << left, int(factor.q31)), -(2**31))
  inside = distances <= (31 * 2**26) >> left
  return Fixed(np.where(inside, exponential(numbers, 5), 0).astype(np.int32))


def wide(source: Grid, output: Grid, channels: int, dtype: type = np.float64) -> Wide:
  """Between 513 numbers of an exponential from -10 to 0, and of a reciprocal, found in a type."""
  if channels >= MOST_WIDE:
    raise ValueError(f"channels: {channels} exponentials must be fewer than {MOST_WIDE}.")
  factor = _factor_of(source)
  distances = np.arange(2**16, dtype=np.int64)
  scaled = divide32(high(-distances << int(factor.left), int(factor.q31)), int(factor.right))
  powers, reciprocals = map(_chords, _knots(dtype))
  return Wide(powers[np.clip(scaled + 2**16 - 1, 0, 2**16 - 1)], reciprocals)


def _factor_of(source: Grid) -> Factor:
  """Returns the factor from distances to places of the exponential's chords."""
  factor = quantize_multiplier(float(source.scale) / (10.0 / 65535.0))
  reach = 2.0 ** (16 + int(factor.left))
  check_below(INT32, reach, "scales: distances of a softmax's codes", FAR_TOO_LARGE)
  return factor


def _knots(dtype: type) -> tuple[np.ndarray, np.ndarray]:
  exponential = expf if dtype is np.float32 else np.exp
  powers = knots(exponential, dtype(10) / dtype(65535), -65535)
  return powers, knots(lambda x: 1 / (1 + x), dtype(1) / dtype(65535), 0)


class Looked(NamedTuple):
  """Tables of a softmax of 16 bits.

  Attributes:
    factor: from distances to places.
    powers: (513,) int64, knots of the exponential from -10 to 0.
    reciprocals: (513,) int64, of ``1 / (1 + x)`` from 0 to 1.
  """

  factor: Factor
  powers: np.ndarray
  reciprocals: np.ndarray


def looked_up(source: Grid) -> Looked:
  """The knots of :func:`wide_micro`, whose chords :class:`Wide` holds."""
  return Looked(_factor_of(source), *_knots(np.float32))


def wide_micro(source: Grid, output: Grid, channels: int) -> Wide:
  """As :func:`wide`, what is looked up found in float32."""
  return wide(source, output, channels, np.float32)


def knots(function: Callable[[Any], Any], scale: Any, first: int) -> np.ndarray:
  """Numbers at every 128th of 65536 places of a function, with 15 bits after the point.

  They are those of TFLite's tables: chords between them lie on both sides of the function.

  Args:
    function: elementwise, of the type of the scale.
    scale: from one place to the next; float32 or float64.
    first: the first place.

  Returns:
    (513,) int64, of int16.
  """
  real = type(scale)
  low, top = scale * real(first), scale * real(first + 2**16 - 1)
  step = (top - low) / real(STEPS)
  unit = real(2) / real(65535)
  factor = real(2**16) / (unit * real(2**15 - 1) - unit * real(-(2**15)))
  places = low + np.arange(STEPS + 1).astype(real) * step
  values = function(places) * factor
  ends = half_away(values)
  ends[-1] = half_away(function(top) * factor)
  middles = half_away(function(places[:-1] + step / real(2)) * factor)
  errors = half_away((values[1:] + ends[:-1]) / real(2)) - middles
  found = np.append(ends[:-1] - half_away(errors / real(2)), ends[-1])
  return np.clip(found, -(2**15), 2**15 - 1).astype(np.int64)


def _chords(knots: np.ndarray) -> np.ndarray:
  """(65536,) int32: what lies between knots."""
  codes = np.arange(2**16)
  base, slope = knots[codes >> 7], np.diff(knots)[codes >> 7]
  return (base + ((slope * (codes & 127) + 64) >> 7)).astype(np.int32)
