"""XNNPACK's arithmetic on x86, value for value, on integers held as ``q - zero_point``.

The constants are computed in numpy in the order in which XNNPACK computes them, since every one of
its float32 roundings shows in the results. What runs under ``jit`` is exact integer arithmetic and
single float32 operations that no compiler may fuse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer.values import HIGHEST, LOWEST, Grid

MULTIPLIER_BITS = 20  # of the larger factor of an addition
LARGEST_STEPS = 2.0**30  # of an output before it is clipped: XNNPACK adds zero points in int32
RATIOS = {  # of scales, that XNNPACK runs: from (included), to (excluded)
  "conv": (2.0**-32, 2.0**8),
  "add": (2.0**-10, 2.0**8),
  "multiply": (2.0**-16, 2.0**8),
  "mean": (0.0, 2.0**20),
}


class Sum(NamedTuple):
  """Constants of an addition: ``(a * left + b * right + 2**(shift - 1)) >> shift``, all int32."""

  left: np.int32
  right: np.int32
  shift: np.int32


class Mean(NamedTuple):
  """Constants of a mean: ``round(float32(sum of codes) * multiplier + zero)``.

  Attributes:
    offset: int32, added to the sum of ``q - z`` to make it a sum of codes.
    multiplier: float32.
    zero: float32, where the output's zero point comes to lie.
  """

  offset: np.int32
  multiplier: np.float32
  zero: np.float32


def multipliers(input: Grid, scales: np.ndarray, output: Grid) -> np.ndarray:
  """``float32(float32(s_x * s_w) / s_y)``: accumulators to output steps.

  Raises:
    ValueError: if one is outside the range that XNNPACK runs.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> multipliers(one, np.float32([0.5]), one).tolist()
    [0.5]
  """
  ratio = (np.float32(input.scale) * np.asarray(scales, np.float32)) / np.float32(output.scale)
  return _within("conv", ratio)


def product_multiplier(left: Grid, right: Grid, output: Grid) -> np.float32:
  """``float32(float32(s_a * s_b) / s_y)`` of an elementwise product.

  Raises:
    ValueError: if it is outside the range that XNNPACK runs.
  """
  ratio = (np.float32(left.scale) * np.float32(right.scale)) / np.float32(output.scale)
  return _within("multiply", ratio)


def sum_constants(left: Grid, right: Grid, output: Grid) -> Sum:
  """Fixed-point factors of an addition, the larger one of 21 bits.

  Raises:
    ValueError: if a ratio of scales is outside the range that XNNPACK runs.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> sum_constants(one, Grid(np.float32(0.5), 3), one)
    Sum(left=np.int32(1048576), right=np.int32(524288), shift=np.int32(20))
  """
  ratios = np.float32([left.scale, right.scale]) / np.float32(output.scale)
  _within("add", ratios)
  exponent = int(np.frexp(ratios.max())[1]) - 1
  shift = MULTIPLIER_BITS - exponent
  factors = np.rint(np.ldexp(ratios, shift)).astype(np.int32)
  return Sum(factors[0], factors[1], np.int32(shift))


def mean_constants(input: Grid, output: Grid, count: int) -> Mean:
  """``m = f(f(s_x / s_y) * f(1 / n))`` and ``Z = f(z_y - f(f(n z_x) * m))`` in float32.

  Raises:
    ValueError: if the ratio of scales is so large that int32 overflows.
  """
  one, total = np.float32(1), np.float32(count * input.zero_point)
  ratio = _within("mean", np.float32(input.scale) / np.float32(output.scale))
  multiplier = ratio * (one / np.float32(count))
  zero = np.float32(output.zero_point) - total * multiplier
  return Mean(np.int32(count * input.zero_point), multiplier, zero)


def _within(kind: str, ratios):
  low, high = RATIOS[kind]
  if not (np.all(ratios >= low) and np.all(ratios < high)):
    worst = ratios.min() if np.any(ratios < low) else ratios.max()
    raise ValueError(
      f"scales: their ratio {worst:.3g} is outside {low:.3g} to {high:.0f}, which is what XNNPACK"
      " runs; quantize.assemble widens grids so that it fits."
    )
  return ratios


def requantize(accumulator: jax.Array, multiplier: jax.Array, low, high) -> jax.Array:
  """``clip(round_half_even(float32(accumulator) * multiplier))``.

  Args:
    accumulator: (..., channels) int32 or integer-valued float32.
    multiplier: float32, broadcastable from the same rank or a scalar.
    low: smallest result, float32 scalar.
    high: largest result, float32 scalar.

  Returns:
    Integer-valued float32, the output's ``q - zero_point``.

  Examples:
    >>> requantize(jnp.array([5, -3, 1000]), jnp.float32(0.5), -128.0, 127.0).tolist()
    [2.0, -2.0, 127.0]
  """
  return jnp.clip(jnp.round(accumulator.astype(jnp.float32) * multiplier), low, high)


def add(left: jax.Array, right: jax.Array, constants: Sum, low, high) -> jax.Array:
  """Sum of two tensors on the output's grid, by fixed-point factors and a rounding shift.

  Args:
    left: integer-valued float32.
    right: the same shape, or a scalar.
    constants: of :func:`sum_constants`.
    low: as for :func:`requantize`.
    high: as for :func:`requantize`.
  """
  total = left.astype(jnp.int32) * constants.left + right.astype(jnp.int32) * constants.right
  total = (total + jnp.left_shift(jnp.int32(1), constants.shift - 1)) >> constants.shift
  return jnp.clip(total.astype(jnp.float32), low, high)


def mean(x: jax.Array, constants: Mean, zero_point: jax.Array) -> jax.Array:
  """Mean over height and width, kept as axes of length one.

  The clip between product and sum keeps compilers from fusing them into one rounding.

  Args:
    x: (batch, height, width, channels) integer-valued float32.
    constants: of :func:`mean_constants`.
    zero_point: of the output, float32.
  """
  codes = jnp.sum(x.astype(jnp.int32), axis=(1, 2), keepdims=True) + constants.offset
  scaled = jnp.clip(codes.astype(jnp.float32) * constants.multiplier, -1e9, 1e9)
  return jnp.clip(jnp.round(scaled + constants.zero), LOWEST, HIGHEST) - zero_point


def average(x: jax.Array, total, counts: jax.Array, zero_point: jax.Array) -> jax.Array:
  """TFLite's average pool: the mean of the codes of the cells that exist, half away from zero.

  XNNPACK leaves this op to TFLite's own kernel.

  Args:
    x: (batch, height, width, channels) integer-valued float32.
    total: sums a map over the pooling windows.
    counts: (1, out_height, out_width, 1) int32, cells of each window that exist.
    zero_point: of input and output, int32.
  """
  codes = total(x).astype(jnp.int32) + counts * zero_point
  rounded = (jnp.abs(codes) + counts // 2) // counts
  return (jnp.sign(codes) * rounded - zero_point).astype(jnp.float32)
