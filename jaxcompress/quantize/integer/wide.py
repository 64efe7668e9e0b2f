"""LiteRT's arithmetic of 16-bit activations and 8-bit weights, value for value, without int64.

A product of both has 23 bits, so sums are no float32 integers. An activation is split into two
bytes; the convolution of each is exact (see :mod:`~jaxcompress.quantize.integer.convolve`) and as
many parts of it are added up as int32 holds; what all make together is kept in two int32 halves.
XNNPACK runs no 16-bit integers; LiteRT's own kernels and those for microcontrollers add up in int64
and scale alike, by a factor of 15 bits, rounding once, halves up. Beside such layers only products
and sums of two maps are computed in more than one way.
"""

from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer import reference
from jaxcompress.quantize.integer.convolve import Parts, sums_of_parts
from jaxcompress.quantize.integer.grid import Grid

LIMB = 15  # bits of the lower half, and of a factor
MASK = 2**LIMB - 1
LARGEST_SUM = 2**45  # so that its products with a factor stay below 2**60
LARGEST_STEPS = 2.0**31 - 2.0**16  # of an output before it is clipped
RATIOS = {  # of scales, that the kernels run: from (included), to (excluded)
  "conv": (2.0**-31, 2.0**7),
  "add": (2.0**-10, 2.0**8),
  "multiply": (2.0**-31, 1.0),
  "mean": (0.0, 2.0**12),
  "cell": (0.0, np.inf),
  "requantize": (0.0, 2.0**12),
}


class Bytes(NamedTuple):
  """The interval of both halves of a 16-bit integer: of the upper, signed one and the lower one."""

  low: int = -128
  high: int = 255


class Wide(NamedTuple):
  """Integers ``high * 2**15 + low``, below 2**45.

  Attributes:
    high: int32.
    low: int32, 0 to 2**15 - 1.
  """

  high: jax.Array | np.ndarray
  low: jax.Array | np.ndarray

  def __add__(self, other: "Wide") -> "Wide":  # type: ignore[override]  # of numbers, not of tuples
    low = self.low + other.low
    return Wide(self.high + other.high + (low >> LIMB), low & MASK)


def wide(values: np.ndarray) -> Wide:
  """int64 numbers as two halves.

  Examples:
    >>> wide(np.array([-1, 2**40 + 3]))
    Wide(high=array([      -1, 33554432], dtype=int32), low=array([32767,     3], dtype=int32))
  """
  values = np.asarray(values, np.int64)
  return Wide((values >> LIMB).astype(np.int32), (values & MASK).astype(np.int32))


def accumulate_wide(x: jax.Array, weights: jax.Array, parts: Parts, **shape: Any) -> Wide:
  """The convolution or matrix product of 16-bit activations, exactly.

  Args:
    x: integer-valued float32, -2**15 to 2**15 - 1; otherwise as for
      :func:`~jaxcompress.quantize.integer.convolve.accumulate`.
    weights: int8.
    parts: from :func:`~jaxcompress.quantize.integer.convolve.split_exactly` with :class:`Bytes`.
    **shape: stride, padding, dilation and groups.

  Examples:
    >>> x, weights = jnp.full((1, 2), 32767.0), jnp.full((2, 1), 127, jnp.int8)
    >>> total = accumulate_wide(x, weights, ((0, 2),))
    >>> total.high.item() * 2**15 + total.low.item() == 2 * 32767 * 127
    True
  """
  upper = jnp.floor(x / 256)
  sums = sums_of_parts(jnp.concatenate([upper, x - 256 * upper]), weights, parts, **shape)
  return reduce(add, map(_joined, sums))


def _joined(both: jax.Array) -> Wide:
  """Joins the sums of both bytes, one behind the other in the batch."""
  upper, lower = jnp.split(both, 2)
  return Wide(upper >> 7, (upper & 127) << 8) + Wide(lower >> LIMB, lower & MASK)


class Factor(NamedTuple):
  """``(v * multiplier + 2**(shift - 1)) >> shift``, called on :class:`Wide`; gives int32.

  Attributes:
    multiplier: int32, 0 to 2**15 - 1.
    shift: int32, 8 to 46.

  Examples:
    >>> factor = Factor(np.int32(2**14), np.int32(16))  # a quarter
    >>> factor(wide(np.array([6, -6, 2**31]))).tolist()
    [2, -1, 536870912]
  """

  multiplier: np.ndarray
  shift: np.ndarray

  def __call__(self, v: Wide) -> jax.Array:
    half = jnp.asarray(self.shift) - 1
    place = jnp.minimum(half // LIMB, 2)  # of the half that is added, among the limbs
    halves = [jnp.where(place == i, 1 << jnp.maximum(half - i * LIMB, 0), 0) for i in range(3)]
    first = v.low * self.multiplier + halves[0]
    second = (v.high & MASK) * self.multiplier + halves[1] + (first >> LIMB)
    third = (v.high >> LIMB) * self.multiplier + halves[2] + (second >> LIMB)
    rest = ((second & MASK) << LIMB) | (first & MASK)  # the lower 30 bits
    up, down = jnp.maximum(30 - self.shift, 0), jnp.maximum(self.shift - 30, 0)
    return ((third << up) >> down) + (rest >> jnp.minimum(self.shift, 30))


def convolution(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Factor:
  """The factor of accumulators: ``s_x * s_w / s_y`` in 15 bits.

  Args:
    source: of the input.
    scales: float32, of the weights.
    output: of the output.
    reach: how far an accumulator gets from zero, shaped like ``scales``.

  Raises:
    ValueError: if a factor is 128 or more, or an output before it is clipped is no int32.

  Examples:
    >>> one = Grid(np.float32(1), 0, 16)
    >>> convolution(one, np.float32([0.25]), one, np.array([4]))
    Factor(multiplier=array([16384], dtype=int32), shift=array([16], dtype=int32))
  """
  real = np.float64(source.scale) * np.asarray(scales, np.float64) / np.float64(output.scale)
  factor = reference.quantize_multiplier(real)
  steps = np.asarray(reach, np.float64) * real
  if np.any(real >= RATIOS["conv"][1]) or np.any(steps >= LARGEST_STEPS):
    raise ValueError(
      f"scales: sums reach {steps.max():.3g} output steps, and one is up to {real.max():.3g}; 16-bit"
      f" kernels run below {LARGEST_STEPS:.3g} and {RATIOS['conv'][1]:.0f}; quantize.assemble makes"
      " scales that fit."
    )
  rounded = (factor.q31.astype(np.int64) + 2**LIMB) >> 16
  multiplier = np.minimum(rounded, MASK).astype(np.int32)
  return Factor(multiplier, (LIMB - factor.left + factor.right).astype(np.int32))


def addition(left: Grid, right: Grid, output: Grid) -> reference.Sum:
  """As :func:`~jaxcompress.quantize.integer.reference.addition`, of scales a power of two apart.

  LiteRT's vector code for x86 rounds the smaller input once where all others round twice, and in
  the last few elements it does not. With such scales there is nothing to round.

  Raises:
    ValueError: if the scales are not a power of two apart, or too far.

  Examples:
    >>> addition(*(Grid(np.float32(scale), 0, 16) for scale in (1, 0.5, 2))).shift
    np.int32(15)
  """
  ratio = np.float64(left.scale) / np.float64(right.scale)
  if np.frexp(ratio)[0] != 0.5:
    raise ValueError(
      f"scales: those of 16-bit summands are {ratio:.6g} times each other, and runtimes round such a"
      " sum differently unless it is a power of two; quantize.assemble widens grids so that it is."
    )
  return reference.addition(left, right, output)
