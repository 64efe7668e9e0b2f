"""XNNPACK's arithmetic on x86, value for value, on integers held as ``q - zero_point``.

The constants are computed in numpy in the order in which XNNPACK computes them, since every one of
its float32 roundings shows in the results. What runs under ``jit`` is exact integer arithmetic and
single float32 operations that no compiler may fuse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer.floats import fused
from jaxcompress.quantize.integer.grid import ASSEMBLE, STEPS, Grid, check_below, check_cells
from jaxcompress.quantize.integer.reference import truncating_high_product

MULTIPLIER_BITS = 20  # of the larger factor of an addition
QUANTIZED = (2.0**-8, 2.0**7)  # ratios of scales of a QUANTIZE, both included
LARGEST_STEPS = 2.0**29  # of an output before it is clipped, so that every runtime's int32 holds it
RATIOS = {  # of scales, that runtimes run: from (included), to (excluded)
  "conv": (2.0**-32, 2.0**8),
  "add": (2.0**-10, 2.0**8),
  "multiply": (2.0**-16, 2.0**8),
  "mean": (0.0, 2.0**20),
  "cell": (2.0**-32, 2.0**8),  # one cell of a mean to its output: onnxruntime's
  "requantize": (0.0, 2.0**8),
}


class Factor(NamedTuple):
  """``round_half_even(float32(accumulator) * multiplier)``.

  Examples:
    >>> Factor(jnp.float32(0.5))(jnp.array([5, -3, 1000])).tolist()
    [2.0, -2.0, 500.0]
  """

  multiplier: np.ndarray | np.float32

  def __call__(self, v: jax.Array) -> jax.Array:
    return jnp.round(v.astype(jnp.float32) * self.multiplier)


class Sum(NamedTuple):
  """An addition: ``(a * left + b * right + 2**(shift - 1)) >> shift``, all int32.

  The factors have 21 bits, the inputs 8, and the shift is 30 at most: less than ``2**31`` together.
  """

  left: np.int32
  right: np.int32
  shift: np.int32

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    total = x.astype(jnp.int32) * self.left + y.astype(jnp.int32) * self.right
    return (total + jnp.left_shift(jnp.int32(1), self.shift - 1)) >> self.shift


class Scaled(NamedTuple):
  """A product in fixed point: shifted, times a factor without rounding, and divided, halves up.

  Attributes:
    factor: int32, of 31 bits.
    left: int32, by how much the product is shifted at first.
    right: int32, at least 1: the exponent of the division.
  """

  factor: np.int32
  left: np.int32
  right: np.int32

  def __call__(self, v: jax.Array) -> jax.Array:
    high = truncating_high_product(v.astype(jnp.int32) << self.left, jnp.int32(self.factor))
    steps = (high + jnp.left_shift(jnp.int32(1), self.right - 1)) >> self.right
    return steps.astype(jnp.float32)


class Mean(NamedTuple):
  """A mean over height and width, which stay as axes of length one.

  ``round(float32(sum of codes) * multiplier + zero)``, made relative to the output's zero point.
  The clip between product and sum keeps compilers from fusing them into one rounding.

  Attributes:
    offset: int32, added to the sum of ``q - z`` to make it a sum of codes.
    multiplier: float32.
    zero: float32, where the output's zero point comes to lie.
    zero_point: float32, of the output.
  """

  offset: np.int32
  multiplier: np.float32
  zero: np.float32
  zero_point: np.float32

  def __call__(self, x: jax.Array) -> jax.Array:
    codes = jnp.sum(x.astype(jnp.int32), axis=(1, 2), keepdims=True) + self.offset
    scaled = jnp.clip(codes.astype(jnp.float32) * self.multiplier, -1e9, 1e9)
    return jnp.round(scaled + self.zero) - self.zero_point


class Stairs(NamedTuple):
  """``round(integer * multiplier + zero)`` of fused instructions, by where each code begins.

  Attributes:
    least: (255,) int32, the least integer that gives each code but the lowest.
    lowest: int32, the lowest code, relative to the output's zero point.
  """

  least: np.ndarray
  lowest: np.int32

  def __call__(self, x: jax.Array) -> jax.Array:
    place = jnp.searchsorted(jnp.asarray(self.least), x.astype(jnp.int32), side="right")
    return (place.astype(jnp.int32) + self.lowest).astype(jnp.float32)


class FusedMean(NamedTuple):
  """A :class:`Mean` whose products and sums are rounded once, as 64-bit Arm's fused instructions do."""

  steps: Stairs

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.steps(jnp.sum(x.astype(jnp.int32), axis=(1, 2), keepdims=True))


def convolution(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Factor:
  """``float32(float32(s_x * s_w) / s_y)``: accumulators to output steps.

  Args:
    source: of the input.
    scales: float32, of the weights.
    output: of the output.
    reach: how far an accumulator gets from zero, shaped like ``scales``.

  Raises:
    ValueError: if a factor is outside the range that XNNPACK runs, or an output before it is
      clipped is no int32.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> convolution(one, np.float32([0.5]), one, np.array([100])).multiplier.tolist()
    [0.5]
  """
  ratio = np.float32(source.scale) * np.asarray(scales, np.float32) / np.float32(output.scale)
  _within("conv", ratio)
  steps = reach * ratio.astype(np.float64)
  check_below(STEPS, steps, "bias: sums in output steps", ASSEMBLE)
  return Factor(ratio)


def matrices(left: Grid, right: Grid, output: Grid, reach: int) -> Factor:
  """The factor of sums of products of two activations, as that of :func:`convolution`.

  Raises:
    ValueError: as :func:`convolution`.
  """
  return convolution(left, np.asarray(right.scale, np.float32), output, np.asarray(reach))


def product(left: Grid, right: Grid, output: Grid) -> Factor:
  """``float32(float32(s_a * s_b) / s_y)`` of an elementwise product.

  Raises:
    ValueError: if it is outside the range that XNNPACK runs.
  """
  ratio = (np.float32(left.scale) * np.float32(right.scale)) / np.float32(output.scale)
  return Factor(_within("multiply", ratio))


def product_arm64(left: Grid, right: Grid, output: Grid) -> Scaled:
  """The bits of the factor of :func:`product`, and its exponent.

  Raises:
    ValueError: as :func:`product`.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> product_arm64(one, one, Grid(np.float32(2), 0))(jnp.int32([-3, 3])).tolist()
    [-1.0, 2.0]
  """
  fraction, exponent = np.frexp(product(left, right, output).multiplier)
  right_shift = max(-int(exponent), 1)
  factor = np.int32(np.ldexp(np.float64(fraction), 31))
  return Scaled(factor, np.int32(right_shift + int(exponent)), np.int32(right_shift))


def addition(left: Grid, right: Grid, output: Grid) -> Sum:
  """Fixed-point factors of an addition, the larger one of 21 bits.

  Raises:
    ValueError: if a ratio of scales is outside the range that XNNPACK runs.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> addition(one, Grid(np.float32(0.5), 3), one)
    Sum(left=np.int32(1048576), right=np.int32(524288), shift=np.int32(20))
  """
  ratios = np.array([left.scale, right.scale], np.float32) / np.float32(output.scale)
  _within("add", ratios)
  exponent = int(np.frexp(ratios.max())[1]) - 1
  shift = MULTIPLIER_BITS - exponent
  factors = np.rint(np.ldexp(ratios, shift)).astype(np.int32)
  return Sum(factors[0], factors[1], np.int32(shift))


def subtraction(left: Grid, right: Grid, output: Grid) -> Sum:
  """The factors of an addition, the second one negative.

  Raises:
    ValueError: as :func:`addition`.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> subtraction(one, Grid(np.float32(0.5), 3), one)
    Sum(left=np.int32(1048576), right=np.int32(-524288), shift=np.int32(20))
  """
  factors = addition(left, right, output)
  return factors._replace(right=-factors.right)


def mean(source: Grid, output: Grid, count: int) -> Mean:
  """``m = f(f(s_x / s_y) * f(1 / n))`` and ``Z = f(z_y - f(f(n z_x) * m))`` in float32.

  Raises:
    ValueError: if there are too many cells, or the ratio of scales is so large that int32 overflows.
  """
  check_cells(source, count)
  one, total = np.float32(1), np.float32(count * source.zero_point)
  ratio = _within("mean", np.float32(source.scale) / np.float32(output.scale))
  multiplier = ratio * (one / np.float32(count))
  zero_point = np.float32(output.zero_point)
  offset = np.int32(count * source.zero_point)
  return Mean(offset, multiplier, zero_point - total * multiplier, zero_point)


class Fine(NamedTuple):
  """A QUANTIZE: ``(v * factor + 128) >> 8``, all int32.

  Attributes:
    factor: int32, with 8 bits after the point.
  """

  factor: np.int32

  def __call__(self, v: jax.Array) -> jax.Array:
    return (v.astype(jnp.int32) * self.factor + 128) >> 8


def quantize(source: Grid, output: Grid) -> Fine:
  """The factor of QUANTIZE from 8 bits to 8 bits.

  Examples:
    >>> quantize(Grid(np.float32(0.3), 0), Grid(np.float32(1), 5))(jnp.int32([10, -10])).tolist()
    [3, -3]
  """
  ratio = np.float32(source.scale) / np.float32(output.scale)
  return Fine(np.int32(np.rint(np.float32(256) * ratio)))


def mean_arm64(source: Grid, output: Grid, count: int) -> FusedMean:
  """The steps of :func:`mean` where both products are fused with what is added to them.

  Raises:
    ValueError: as :func:`mean`.

  Examples:
    >>> grid = Grid(np.float32(0.1), 0)
    >>> rule = mean_arm64(grid, grid, 2)
    >>> rule(jnp.int32([[6, 1], [5, 1]]).reshape(2, 1, 2, 1)).ravel().tolist()
    [4.0, 3.0]
  """
  rule = mean(source, output, count)
  total = np.array([-count * source.zero_point], np.float32)
  zero = fused(total, rule.multiplier, rule.zero_point)
  reach = range(count * source.low, count * source.high + 1)
  return FusedMean(stairs(rule.multiplier, zero, output, reach, int(rule.offset), rule.zero_point))


def stairs(
  multiplier: np.float32,
  zero: np.ndarray | np.float32,
  output: Grid,
  reach: range,
  offset: int = 0,
  zero_point: np.float32 | None = None,
) -> Stairs:
  """Where the codes of ``round(float32(integer + offset) * multiplier + zero)`` begin.

  Args:
    multiplier: positive.
    zero: where the output's zero point comes to lie.
    output: of the result.
    reach: of the integers.
    offset: added to them.
    zero_point: of the output as the runtime holds it; None: ``zero``.

  Examples:
    >>> rule = stairs(np.float32(0.5), np.float32(128), Grid(np.float32(1), 0), range(-9, 10))
    >>> rule(jnp.int32([-9, 3, 5])).tolist()
    [-4.0, 2.0, 2.0]
  """
  zero_point = np.float32(zero) if zero_point is None else zero_point
  codes = np.arange(output.low, output.high) + 1.0
  low = np.full(codes.shape, reach.start)  # gives less, or is the least there is
  high = np.full(codes.shape, reach.stop)  # gives as much, or is more than there is
  while np.any(high - low > 1):
    middle = (low + high) // 2
    real = (middle + offset).astype(np.float32)
    enough = np.rint(fused(real, multiplier, zero)) - zero_point >= codes
    low, high = np.where(enough, low, middle), np.where(enough, middle, high)
  return Stairs(high.astype(np.int32), np.int32(output.low))


def ceiling(value: float, output: Grid) -> np.float32:
  """The code of the largest value that an activation function lets through, or beyond the grid.

  XNNPACK rounds it after the zero point was added, half to even.

  Examples:
    >>> [ceiling(6.0, Grid(np.float32(6 / 100.5), zero)) for zero in (-128, -127)]
    [np.float32(-28.0), np.float32(-26.0)]
  """
  return np.rint(np.float32(value) / output.scale + np.float32(output.zero_point))


def _within(kind: str, ratios):
  low, high = RATIOS[kind]
  if not (np.all(ratios >= low) and np.all(ratios < high)):
    worst = ratios.min() if np.any(ratios < low) else ratios.max()
    raise ValueError(
      f"scales: their ratio {worst:.3g} is outside {low:.3g} to {high:.0f}, which is what XNNPACK"
      " runs; quantize.assemble widens grids so that it fits."
    )
  return ratios
