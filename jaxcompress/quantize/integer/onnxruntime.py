"""onnxruntime's arithmetic on x86 CPUs, value for value, on integers held as ``q - zero_point``.

Its 8-bit kernels scale in float32, each in its own order and some with fused multiply-adds. Where
a result depends on one or two codes only, it is a table made here in numpy; convolutions and linear
layers round as XNNPACK's do. Found with single operators on random and on nearly tied scales.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer import xnnpack
from jaxcompress.quantize.integer.grid import ASSEMBLE, Grid, check_below, reach_of
from jaxcompress.quantize.integer.reference import Mean
from jaxcompress.quantize.integer.xnnpack import Factor

ARM64_BITS = 22  # of the larger factor of an addition
CODES = 256
FAR = 1e9  # beyond all codes; a clip there keeps compilers from fusing what it stands between
FARTHEST = 2.0**126  # likewise of real numbers


class Sum(NamedTuple):
  """An addition, as a table of both codes.

  Attributes:
    table: (65536,) int16, the output's ``q - z`` for ``256 * left + right``.
    left: float32, the least ``q - z`` of the left input.
    right: of the right input.
  """

  table: np.ndarray
  left: np.float32
  right: np.float32

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    rows, columns = (x - self.left).astype(jnp.int32), (y - self.right).astype(jnp.int32)
    return jnp.asarray(self.table)[rows * CODES + columns]


class Requantization(NamedTuple):
  """A change of the grid, as a table of all codes.

  Attributes:
    table: (256,) float32, the output's ``q - z``.
    lowest: float32, the least ``q - z`` of the input.
  """

  table: np.ndarray
  lowest: np.float32

  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.asarray(self.table)[(x - self.lowest).astype(jnp.int32)]


class Product(NamedTuple):
  """``round(float32(product) * multiplier + zero_point)``, relative to that zero point."""

  multiplier: np.ndarray | np.float32
  zero_point: np.float32

  def __call__(self, v: jax.Array) -> jax.Array:
    scaled = jnp.clip(v.astype(jnp.float32) * self.multiplier, -FAR, FAR)
    return jnp.round(scaled + self.zero_point) - self.zero_point


class Average(NamedTuple):
  """An average of the cells that exist: real numbers are added up one by one, then a staircase.

  What is made of a sum is two quotients, and compilers make products of them; so the least sum of
  every code is known beforehand.

  Attributes:
    scale: float32, of both ends.
    edges: (kinds of windows, 255) float32, the least sum of every code but the lowest.
    kinds: (1, height, width, 1) int32, which of them each window is, by its number of cells.
    lowest: float32, the lowest ``q - z``.
  """

  scale: np.float32
  edges: np.ndarray
  kinds: np.ndarray
  lowest: np.float32

  def __call__(self, cells: Sequence[jax.Array]) -> jax.Array:
    total = jnp.zeros_like(cells[0])
    for cell in cells:
      total = total + jnp.clip(cell * self.scale, -FARTHEST, FARTHEST)
    steps = jnp.zeros(total.shape, jnp.int32)
    for kind, edges in enumerate(self.edges):
      above = jnp.searchsorted(edges, total, side="right")
      steps = jnp.where(self.kinds == kind, above, steps)
    return steps + self.lowest


def product(left: Grid, right: Grid, output: Grid) -> Product:
  """``float32(float32(s_a * s_b) / s_y)``, rounded after the zero point was added.

  Raises:
    ValueError: if it is outside the range that all runtimes run.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> product(one, one, Grid(np.float32(2), 5))(jnp.int32([1, 3])).tolist()
    [1.0, 1.0]
  """
  multiplier = xnnpack.product(left, right, output).multiplier
  return Product(multiplier, _zero_point(output))


def product_arm64(left: Grid, right: Grid, output: Grid) -> xnnpack.Stairs:
  """As :func:`product`, the product and the zero point fused.

  Raises:
    ValueError: as :func:`product`.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> product_arm64(one, one, Grid(np.float32(2), 5))(jnp.int32([1, 3])).tolist()
    [1.0, 1.0]
  """
  multiplier = np.float32(xnnpack.product(left, right, output).multiplier)
  reach = reach_of(left) * reach_of(right)
  return xnnpack.stairs(multiplier, _zero_point(output), output, range(-reach, reach + 1))


def addition(left: Grid, right: Grid, output: Grid) -> Sum:
  """``a * q_a + (b * q_b + k)`` with ``k = z_y - (a * z_a + b * z_b)``, each product fused.

  The factors are ``float32(s / s_y)``; codes and zero points are those of uint8.

  Raises:
    ValueError: if a ratio of scales is outside the range that all runtimes run.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> addition(one, Grid(np.float32(0.5), 0), one)(jnp.float32([5]), jnp.float32([-5])).tolist()
    [2]
  """
  xnnpack.addition(left, right, output)
  a, b = np.array([left.scale, right.scale], np.float32) / np.float32(output.scale)
  codes = np.arange(CODES, dtype=np.float32)
  zero_a, zero_b, zero = _zero_point(left), _zero_point(right), _zero_point(output)
  rest = fused(a, zero_a, b * zero_b)
  inner = fused(b, codes, zero - rest)
  sums = fused(a, codes[:, None], inner[None])
  table = np.clip(np.rint(sums), 0, CODES - 1) - zero
  return Sum(table.astype(np.int16).reshape(-1), np.float32(left.low), np.float32(right.low))


def addition_arm64(left: Grid, right: Grid, output: Grid) -> Sum:
  """Fixed-point factors as XNNPACK's, of 22 bits, halves away from zero.

  Raises:
    ValueError: as :func:`addition`, and if the larger factor would be rounded up to 23 bits, where
      onnxruntime adds real numbers instead.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> addition_arm64(one, Grid(np.float32(0.5), 0), one)(jnp.float32([5]), jnp.float32([-5])).tolist()
    [3]
  """
  xnnpack.addition(left, right, output)
  ratios = np.array([left.scale, right.scale], np.float32) / np.float32(output.scale)
  shift = ARM64_BITS - int(np.frexp(ratios.max())[1])
  factors = np.rint(np.ldexp(ratios, shift)).astype(np.int64)
  if factors.max() >= 2**ARM64_BITS:
    raise ValueError(
      f"scales: their ratio {ratios.max():.9g} is too near below a power of two for onnxruntime's factors"
      " of 22 bits on 64-bit Arm; make the output's steps a millionth finer."
    )
  first, second = (np.arange(grid.low, grid.high + 1) for grid in (left, right))
  sums = factors[0] * first[:, None] + factors[1] * second[None]
  steps = np.sign(sums) * ((np.abs(sums) + (1 << (shift - 1))) >> shift)
  table = np.clip(steps, output.low, output.high)
  return Sum(table.astype(np.int16).reshape(-1), np.float32(left.low), np.float32(right.low))


def subtraction(left: Grid, right: Grid, output: Grid) -> Sum:
  """``round(float32(s_a * a - s_b * b) / s_y)``: a difference of real numbers, each rounded before.

  Raises:
    ValueError: as :func:`addition`.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> subtraction(one, Grid(np.float32(0.5), 0), one)(jnp.float32([5]), jnp.float32([-5])).tolist()
    [8]
  """
  xnnpack.addition(left, right, output)
  first, second = (
    np.arange(grid.low, grid.high + 1, dtype=np.float32) * np.float32(grid.scale)
    for grid in (left, right)
  )
  steps = np.rint((first[:, None] - second[None]) / np.float32(output.scale))
  table = np.clip(steps, output.low, output.high)
  return Sum(table.astype(np.int16).reshape(-1), np.float32(left.low), np.float32(right.low))


def requantization(source: Grid, output: Grid) -> Requantization:
  """``round(float32(s_x * steps) / s_y)`` of every code.

  Examples:
    >>> requantization(Grid(np.float32(0.5), 0), Grid(np.float32(2), 3))(jnp.float32([6, -6, 7])).tolist()
    [2.0, -2.0, 2.0]
  """
  real = np.arange(source.low, source.high + 1, dtype=np.float32) * np.float32(source.scale)
  steps = np.rint(real / np.float32(output.scale)) + np.float32(0)  # no negative zero
  return Requantization(np.clip(steps, output.low, output.high), np.float32(source.low))


def mean(source: Grid, output: Grid, count: int) -> Mean:
  """``float32(s_x / float32(s_y * n))``: sums of ``q - z`` to output steps.

  Raises:
    ValueError: as :func:`~jaxcompress.quantize.integer.xnnpack.mean`, and if onnxruntime would refuse
      the multiplier.
  """
  xnnpack.mean(source, output, count)
  multiplier = np.float32(source.scale) / (np.float32(output.scale) * np.float32(count))
  low, high = xnnpack.RATIOS["cell"]
  if not low <= multiplier < high:
    raise ValueError(
      f"scales: a cell counts {multiplier:.3g} output steps, which onnxruntime runs from {low:.3g} to"
      f" {high:.0f}; {ASSEMBLE}."
    )
  return Mean(Factor(multiplier))


def average(grid: Grid, counts: np.ndarray) -> Average:
  """``round(float32(float32(sum / n) / s) + zero_point)`` of a pool whose ends share a grid.

  Args:
    grid: of both ends.
    counts: (1, height, width, 1), cells of every window.

  Raises:
    ValueError: if a sum of real numbers is too large for float32.

  Examples:
    >>> rule = average(Grid(np.float32(0.1), 0), np.full((1, 1, 1, 1), 2))
    >>> rule([jnp.full((1, 1, 1, 1), code, jnp.float32) for code in (5, 8)]).item()
    6.0
  """
  scale, zero = np.float32(grid.scale), _zero_point(grid)
  sums = float(scale) * reach_of(grid) * counts.max(initial=0)
  check_below(FARTHEST, sums, "grids: sums of a window", ASSEMBLE)
  sizes, kinds = np.unique(counts, return_inverse=True)

  steps = np.arange(1, CODES, dtype=np.float32)
  reaches = lambda size, total: np.rint(total / size / scale + zero) >= steps  # noqa: E731
  edges = [_least(partial(reaches, np.float32(size)), len(steps)) for size in sizes]
  kinds = kinds.reshape(counts.shape).astype(np.int32)
  return Average(scale, np.stack(edges), kinds, np.float32(grid.low))


def _least(holds: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
  """The least float32 numbers for which something holds that holds for all above, by bisection."""
  low, high = np.full(count, -(2**31 - 2**24), np.int64), np.full(count, 2**31 - 2**24, np.int64)
  while np.any(high - low > 1):
    middle = (low + high) // 2
    enough = holds(_float_of_rank(middle))
    low, high = np.where(enough, low, middle), np.where(enough, middle, high)
  return _float_of_rank(high)


def _float_of_rank(rank: np.ndarray) -> np.ndarray:
  """Float32 numbers in their order: 0 is zero, 1 the least positive one, -1 its opposite."""
  return np.sign(rank).astype(np.float32) * np.abs(rank).astype(np.int32).view(np.float32)


def _zero_point(grid: Grid) -> np.float32:
  """Returns the zero point of the uint8 codes: the distance of ``-z`` from the lowest code."""
  return np.float32(-grid.low)


def fused(a: Any, b: Any, c: Any) -> np.ndarray:
  """``a * b + c`` of float32 numbers, rounded once: float64 holds it exactly for codes ``b``."""
  a, b, c = (np.asarray(x, np.float64) for x in (a, b, c))
  return np.asarray(a * b + c, np.float32)
