"""TFLite's reference arithmetic (gemmlowp's), value for value, in 32-bit integers.

LiteRT's reference kernels and TensorFlow Lite for Microcontrollers scale by a 31-bit factor and a
power of two and round twice, halves away from zero. Where they compute in float64, the constants
are made here in numpy; what runs under ``jit`` needs no 64-bit numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.quantize.integer.grid import (
  ASSEMBLE,
  INT32,
  STEPS,
  Grid,
  check_below,
  check_cells,
  reach_of,
)

LANES = 8  # channels at a time in LiteRT's optimized depthwise kernel
SUM_BITS = {8: 20, 16: 15}  # by which an addition of integers shifts its inputs to the left

Scalar = np.ndarray | np.integer


class Factor(NamedTuple):
  """A real factor ``q31 * 2**(left - right - 31)``, called on int32.

  ``u = (v * 2**left * q31 + 2**30) >> 31``, then ``u / 2**right`` with halves away from zero.

  Attributes:
    q31: int32, below 2**31.
    left: int32, at least 0; ``v * 2**left`` must be an int32.
    right: int32, at least 0; 0 if ``left`` is not.

  Examples:
    >>> quantize_multiplier(0.3)(jnp.int32([10, 5, -5])).tolist()
    [3, 2, -2]
  """

  q31: Scalar
  left: Scalar
  right: Scalar

  def __call__(self, v: jax.Array) -> jax.Array:
    v = v.astype(jnp.int32)
    return divide_by_power(doubling_high_product(v << self.left, jnp.asarray(self.q31)), self.right)


class Upward(NamedTuple):
  """A :class:`Factor` whose second rounding takes halves up, as LiteRT's optimized kernels do.

  Those on x86 take over from XNNPACK where weights are int4.

  Attributes:
    factor: of the first rounding.
    up: bool, the channels that it is about; in the others halves go away from zero.

  Examples:
    >>> half = quantize_multiplier(0.25)
    >>> half(jnp.int32([-6])).tolist(), Upward(half, np.array([True]))(jnp.int32([-6])).tolist()
    ([-2], [-1])
  """

  factor: Factor
  up: np.ndarray

  def __call__(self, v: jax.Array) -> jax.Array:
    q31, left, right = self.factor
    u = doubling_high_product(v.astype(jnp.int32) << left, jnp.asarray(q31))
    half = jnp.where(right > 0, (u >> jnp.maximum(right - 1, 0)) & 1, 0)
    return jnp.where(self.up, (u >> right) + half, divide_by_power(u, right))


class Sum(NamedTuple):
  """An addition: both inputs, shifted to the left by ``shift``, and their sum are scaled.

  The inputs' factors are one half at most, so their sum stays within ``2**30``, as each input does.
  """

  left: Factor
  right: Factor
  total: Factor
  shift: np.int32

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = (a.astype(jnp.int32) << self.shift for a in (x, y))
    return self.total(self.left(x) + self.right(y))


class Difference(NamedTuple):
  """A subtraction: as :class:`Sum`, of what the second input is scaled to."""

  left: Factor
  right: Factor
  total: Factor
  shift: np.int32

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = (a.astype(jnp.int32) << self.shift for a in (x, y))
    return self.total(self.left(x) - self.right(y))


class WithZero(NamedTuple):
  """A requantization as an addition of zero."""

  addition: Any

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.addition(x, jnp.zeros((), x.dtype))


class Mean(NamedTuple):
  """A mean over height and width, which stay as axes of length one: a factor of their sum."""

  factor: Any

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.factor(jnp.sum(x.astype(jnp.int32), axis=(1, 2), keepdims=True))


class Average(NamedTuple):
  """The mean of the codes of the cells that exist, half away from zero, in every TFLite runtime.

  Attributes:
    counts: (1, height, width, 1) int32, cells of every window.
    zero_point: int32, of both ends.
  """

  counts: np.ndarray
  zero_point: np.int32

  def __call__(self, cells: Sequence[jax.Array]) -> jax.Array:
    counts = jnp.asarray(self.counts)
    codes = sum(cell.astype(jnp.int32) for cell in cells) + counts * self.zero_point
    rounded = (jnp.abs(codes) + counts // 2) // counts
    return jnp.sign(codes) * rounded - self.zero_point


class Steps(NamedTuple):
  """A product with a float64 factor, rounded half away from zero, as a staircase.

  Attributes:
    edges: (1, out, steps) int32, the least accumulator of every step above the lowest.
    lowest: int32, the value below all edges.
  """

  edges: np.ndarray
  lowest: np.int32

  def __call__(self, v: jax.Array) -> jax.Array:
    count = jax.vmap(lambda edges, v: jnp.searchsorted(edges, v, side="right"), (0, 1), 1)
    return count(jnp.asarray(self.edges)[0], v).astype(jnp.int32) + self.lowest


def quantize_multiplier(real: Any) -> Factor:
  """The nearest :class:`Factor` of positive reals, float64 in numpy.

  Examples:
    >>> quantize_multiplier(np.array([0.5, 3.0]))
    Factor(q31=array([1073741824, 1610612736], dtype=int32), left=array([0, 2], dtype=int32), right=array([0, 0], dtype=int32))
  """
  mantissa, exponent = np.frexp(np.asarray(real, np.float64))
  q31 = half_away(mantissa * INT32)
  carried = q31 == INT32
  q31, exponent = np.where(carried, q31 / 2, q31), exponent + carried
  q31, exponent = np.where(exponent < -31, 0, q31), np.where(exponent < -31, 0, exponent)
  left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
  return Factor(*(np.asarray(part).astype(np.int32) for part in (q31, left, right)))


def doubling_high_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """``(a * b + 2**30) >> 31`` of int32 without 64-bit integers; ``b`` is not negative.

  Examples:
    >>> doubling_high_product(jnp.int32(-3), jnp.int32(2**30)).item()
    -1
  """
  return _high_product(a, b, 2**15)


def truncating_high_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """``(a * b) >> 31``, likewise.

  Examples:
    >>> truncating_high_product(jnp.int32(-3), jnp.int32(2**30)).item()
    -2
  """
  return _high_product(a, b, 0)


def _high_product(a: jax.Array, b: jax.Array, added: int) -> jax.Array:
  """``(a * b + added * 2**15) >> 31``."""
  a_high, a_low = a >> 16, a & 0xFFFF
  b_high, b_low = b >> 15, b & 0x7FFF
  cross = 2 * (a_high * b_low)  # times 2**15, as is the next
  other = a_low.astype(jnp.uint32) * b_high.astype(jnp.uint32)
  rest = (cross & 0xFFFF) + (other & 0xFFFF).astype(jnp.int32) + ((a_low * b_low) >> 15) + added
  return a_high * b_high + (cross >> 16) + (other >> 16).astype(jnp.int32) + (rest >> 16)


def divide_by_power(v: jax.Array, exponent: jax.Array | Scalar) -> jax.Array:
  """``v / 2**exponent`` of int32, halves away from zero.

  Examples:
    >>> divide_by_power(jnp.int32([5, -5, 6]), jnp.int32([1])).tolist()
    [3, -3, 3]
  """
  mask = (jnp.int32(1) << exponent) - 1
  threshold = (mask >> 1) + (v < 0)
  return (v >> exponent) + ((v & mask) > threshold)


def convolution(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Factor:
  """The factor of accumulators: ``s_x * s_w / s_y``.

  Args:
    source: of the input.
    scales: float32, of the weights.
    output: of the output.
    reach: how far an accumulator gets from zero, shaped like ``scales``.

  Raises:
    ValueError: if an accumulator, shifted to the left, is no int32 that has room for a zero point.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> convolution(one, np.float32([0.25]), one, np.array([4]))(jnp.int32([6])).tolist()
    [2]
  """
  real = np.float64(source.scale) * np.asarray(scales, np.float64) / np.float64(output.scale)
  return _checked(quantize_multiplier(real), reach)


def convolution_upward(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Upward:
  """As :func:`convolution`, with the rounding of LiteRT's optimized kernels."""
  return Upward(convolution(source, scales, output, reach), np.full(scales.shape, True))


def depthwise_upward(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Upward:
  """As :func:`convolution_upward`, of a depthwise one: what is left of eights rounds as elsewhere."""
  whole = scales.shape[-1] // LANES * LANES
  up = np.broadcast_to(np.arange(scales.shape[-1]) < whole, scales.shape)
  return Upward(convolution(source, scales, output, reach), up)


def dense_in_float64(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Steps:
  """Linear layers of LiteRT's reference kernels: one product in float64.

  Args:
    source: of the input.
    scales: (1, out) float32, of the weights.
    output: of the output.
    reach: (1, out), how far an accumulator gets from zero.

  Raises:
    ValueError: if an output before it is clipped is no int32 that has room for a zero point, or an
      accumulator can be the largest int32, which stands for edges that are beyond all.
  """
  check_below(INT32 - 1, reach, "bias: sums", ASSEMBLE)
  real = np.float64(source.scale) * np.asarray(scales, np.float64) / np.float64(output.scale)
  check_below(STEPS, reach * real, "scales: outputs before they are clipped", ASSEMBLE)
  steps, real = np.arange(output.low + 1, output.high + 1), real[..., None]
  edges = np.clip(np.ceil((steps - 0.5) / real) - 1, -INT32, INT32 - 1)
  for _ in range(2):  # the quotient is off by one at most
    edges = np.where(half_away(edges * real) < steps, edges + 1, edges)
  return Steps(np.clip(edges, -INT32, INT32 - 1).astype(np.int32), np.int32(output.low))


def matrices(left: Grid, right: Grid, output: Grid, reach: int) -> Factor:
  """The factor of sums of products of two activations, whose scales' product is float32.

  Raises:
    ValueError: as :func:`convolution`.
  """
  real = np.float64(np.float32(left.scale) * np.float32(right.scale)) / np.float64(output.scale)
  return _checked(quantize_multiplier(real), reach)


def product(left: Grid, right: Grid, output: Grid) -> Factor:
  """The factor of products in TensorFlow Lite for Microcontrollers: in float64.

  Raises:
    ValueError: if a product, shifted to the left, is no int32 that has room for a zero point.
  """
  real = np.float64(left.scale) * np.float64(right.scale) / np.float64(output.scale)
  return _checked(quantize_multiplier(real), reach_of(left) * reach_of(right))


def product_in_float32(left: Grid, right: Grid, output: Grid) -> Factor:
  """The factor of products in LiteRT's reference kernels: in float32.

  Raises:
    ValueError: as :func:`product`.
  """
  real = np.float32(left.scale) * np.float32(right.scale) / np.float32(output.scale)
  return _checked(quantize_multiplier(real), reach_of(left) * reach_of(right))


def requantization(source: Grid, output: Grid) -> Factor:
  """The factor from one grid to another, in float64.

  Raises:
    ValueError: if a value, shifted to the left, is no int32 that has room for a zero point.

  Examples:
    >>> fine, coarse = Grid(np.float32(0.25), 0, 16), Grid(np.float32(1), 3)
    >>> requantization(fine, coarse)(jnp.int32([4, 8, -12])).tolist()
    [1, 2, -3]
  """
  real = np.float64(source.scale) / np.float64(output.scale)
  return _checked(quantize_multiplier(real), reach_of(source))


def addition(left: Grid, right: Grid, output: Grid) -> Sum:
  """The factors of an addition: of the inputs below one half, of their sum below one.

  Raises:
    ValueError: if a scale is 2**19 times the output's or more, 2**14 times with 16 bits.
  """
  one, other, result = (np.float64(grid.scale) for grid in (left, right, output))
  twice, shift = 2 * max(one, other), SUM_BITS[output.bits]
  total = twice / (2**shift * result)
  first, second, both = (quantize_multiplier(x) for x in (one / twice, other / twice, total))
  if both.left > 0:  # one, or so little less that it is rounded to it
    raise ValueError(
      f"scales: the inputs' are up to {twice / 2 / result:.3g} times the output's, more than the"
      " reference kernels run; quantize.assemble widens grids so that it fits."
    )
  return Sum(first, second, both, np.int32(shift))


def subtraction(left: Grid, right: Grid, output: Grid) -> Difference:
  """The factors of an addition, of a difference.

  Raises:
    ValueError: as :func:`addition`.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> subtraction(one, one, Grid(np.float32(2), 0))(jnp.int32([9, 5]), jnp.int32([4, 9])).tolist()
    [3, -2]
  """
  return Difference(*addition(left, right, output))


def mean(source: Grid, output: Grid, count: int) -> Mean:
  """The factor of a sum over ``count`` cells, whose division it takes in.

  Raises:
    ValueError: if there are too many cells, or a sum, shifted to the left, is no int32 that has room
      for a zero point.
  """
  check_cells(source, count)
  whole = quantize_multiplier(np.float64(source.scale) / np.float64(output.scale))
  exponent = int(whole.left) - int(whole.right)
  shift = min(count.bit_length() - 1, 31 + exponent, 32)
  q31, exponent = (int(whole.q31) << shift) // count, exponent - shift
  left, right = max(exponent, 0), max(-exponent, 0)
  factor = Factor(*map(np.int32, (q31, left, right)))
  return Mean(_checked(factor, reach_of(source) * count))


def average(grid: Grid, counts: np.ndarray) -> Average:
  """Rule of an average pool whose ends share a grid; ``counts`` are the cells of every window.

  Raises:
    ValueError: if a window has too many cells.
  """
  check_cells(grid, int(counts.max(initial=0)))
  return Average(counts.astype(np.int32), np.int32(grid.zero_point))


def ceiling(value: float, output: Grid) -> np.float32:
  """The code of the largest value that an activation function lets through, or beyond the grid.

  Raises:
    ValueError: if so many steps are no int32, which TFLite holds them in.

  Examples:
    >>> ceiling(6.0, Grid(np.float32(6 / 100.5), -128))
    np.float32(-27.0)
  """
  steps = half_away(np.float32(value) / output.scale)
  if steps >= 2**31:
    raise ValueError(
      f"grids: scale {output.scale:.3g} is too fine for an activation function that ends at"
      f" {value:g}; TFLite counts its steps in int32."
    )
  return steps + np.float32(output.zero_point)


def _checked(factor: Factor, reach: Any) -> Factor:
  """The factor of numbers that get so far from zero, if int32 holds them shifted to the left."""
  shifted = np.asarray(reach, np.float64) * np.exp2(np.asarray(factor.left, np.float64))
  check_below(STEPS, shifted, "scales: sums after their shift", ASSEMBLE)
  return factor
