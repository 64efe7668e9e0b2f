"""Bilinear resizing as each runtime does it, in 32-bit integers.

All weigh the codes of four cells by whole shares of a power of two, or of what makes them exact, and
round once; they differ in the shares and in where halves go.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.ops.resizing import Cells, cells_between
from jaxcompress.quantize.integer.grid import Grid

XNNPACK_BITS = 11  # of a share
REFERENCE_BITS = 10
LARGEST_EXACT = (2**24 - 1) // 255  # product of both wholes whose sums float32 holds

Pair = tuple[int, int]


class Taps(NamedTuple):
  """The cells of one axis that outputs lie between, and the share of the second of them.

  Attributes:
    low: (outputs,) int32.
    high: (outputs,) int32.
    share: (outputs,) int32; the other cell has what is left of ``whole``.
    whole: int32.
  """

  low: np.ndarray
  high: np.ndarray
  share: np.ndarray
  whole: np.int32

  def along(self, x: jax.Array, axis: int) -> jax.Array:
    """Weighted sums of pairs of cells, int32."""
    share = jnp.asarray(self.share).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    first, second = (jnp.take(x, jnp.asarray(at), axis, mode="clip") for at in self[:2])
    return first * (self.whole - share) + second * share


class Upward(NamedTuple):
  """XNNPACK's: shares of 11 bits, halves up.

  Attributes:
    rows: of the height.
    columns: of the width.
    zero_point: int32, of the grid.
  """

  rows: Taps
  columns: Taps
  zero_point: np.int32

  def __call__(self, x: jax.Array) -> jax.Array:
    codes = x.astype(jnp.int32) + self.zero_point
    total = self.rows.along(self.columns.along(codes, 2), 1)
    bits = 2 * XNNPACK_BITS
    return ((total + (1 << (bits - 1))) >> bits) - self.zero_point


class Away(NamedTuple):
  """Resizing of TFLite's reference kernels: shares of 10 bits, halves away from zero.

  Columns leave 26 bits with 16-bit codes, of which the lower ten are weighed apart.

  Attributes:
    rows: of the height.
    columns: of the width.
    zero_point: int32, of the grid.
  """

  rows: Taps
  columns: Taps
  zero_point: np.int32

  def __call__(self, x: jax.Array) -> jax.Array:
    partial = self.columns.along(x.astype(jnp.int32) + self.zero_point, 2)
    rest = partial & (2**REFERENCE_BITS - 1)
    low = self.rows.along(rest, 1)
    high = self.rows.along(partial >> REFERENCE_BITS, 1) + (low >> REFERENCE_BITS)
    rest = low & (2**REFERENCE_BITS - 1)  # the sum is high * 2**10 + rest
    half = 1 << (REFERENCE_BITS - 1)
    down = (half - high - (rest > 0)) >> REFERENCE_BITS  # of minus the sum
    return jnp.where(high < 0, -down, (high + half) >> REFERENCE_BITS) - self.zero_point


class Even(NamedTuple):
  """The exact quotient, halves to even, as float32 gives it while sums are whole and below 2**24.

  Attributes:
    rows: of the height.
    columns: of the width.
    zero_point: int32, of the grid.
  """

  rows: Taps
  columns: Taps
  zero_point: np.int32

  def __call__(self, x: jax.Array) -> jax.Array:
    codes = x.astype(jnp.int32) + self.zero_point
    total = self.rows.along(self.columns.along(codes, 2), 1)
    whole = self.rows.whole * self.columns.whole
    steps = total // whole
    twice = 2 * (total - steps * whole)
    up = (twice > whole) | ((twice == whole) & (steps & 1 == 1))
    return steps + up - self.zero_point


OfMaps = Callable[[Grid, Pair, Pair, str], Any]


def _xnnpack_taps(size: int, to: int, sampling: str) -> Taps:
  """Positions in float32, in the order in which XNNPACK computes them."""
  ends = int(sampling == "align_corners" and to > 1)
  one = np.float32
  scale = one(size - ends) / one(to - ends)
  position = np.arange(to, dtype=np.float32) * scale
  if sampling == "half_pixel":
    position = position + (one(0.5) * scale - one(0.5))
  position = np.clip(position, one(0), one(size - 1))
  low = position.astype(np.int32)
  share = np.rint((position - low.astype(np.float32)) * one(2**XNNPACK_BITS)).astype(np.int32)
  high = np.minimum(low + 1, size - 1)
  return Taps(low, high, share, np.int32(2**XNNPACK_BITS))


def _reference_taps(size: int, to: int, sampling: str) -> Taps:
  """Positions in fixed point.

  Raises:
    ValueError: if their rounding reaches beyond the map, which the kernel would read.
  """
  one = 2**REFERENCE_BITS
  ends = int(sampling == "align_corners" and to > 1)
  scale = (one * (size - ends) + (to - ends) // 2) // (to - ends)
  position = np.arange(to, dtype=np.int64) * scale
  if sampling == "half_pixel":
    position = position + scale // 2 - one // 2
  low = np.maximum(position // one, 0)
  if low.max() >= size:
    raise ValueError(
      f"size: TFLite's reference kernels round positions to a 1024th of a cell, and from {size} to"
      f" {to} cells read beyond the map; resize in two steps."
    )
  share = np.clip(position - low * one, 0, one)  # what is beyond an edge has one cell
  high = np.minimum(low + 1, size - 1)
  return Taps(low.astype(np.int32), high.astype(np.int32), share.astype(np.int32), np.int32(one))


def _exact_taps(cells: Cells) -> Taps:
  low, high, part = (np.asarray(each, np.int32) for each in (cells.low, cells.high, cells.part))
  return Taps(low, high, part, np.int32(cells.whole))


def xnnpack(grid: Grid, size: Pair, to: Pair, sampling: str) -> Upward:
  """XNNPACK's rule of a resizing.

  Args:
    grid: of the input and the output.
    size: height and width of the input.
    to: height and width of the output.
    sampling: as for :func:`jaxcompress.ops.resizing.resize`.

  Examples:
    >>> rule = xnnpack(Grid(np.float32(1), 0), (1, 2), (1, 4), "half_pixel")
    >>> rule(jnp.array([0.0, 2.0]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0, 1, 2, 2]
  """
  rows, columns = (_xnnpack_taps(*axis, sampling) for axis in zip(size, to, strict=True))
  return Upward(rows, columns, np.int32(grid.zero_point))


def reference(grid: Grid, size: Pair, to: Pair, sampling: str) -> Away:
  """The rule of TFLite's reference kernels; see :func:`xnnpack`.

  Raises:
    ValueError: if the kernels would read beyond the map.

  Examples:
    >>> rule = reference(Grid(np.float32(1), 0), (1, 2), (1, 4), "half_pixel")
    >>> rule(jnp.array([0.0, -2.0]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0, -1, -2, -2]
  """
  rows, columns = (_reference_taps(*axis, sampling) for axis in zip(size, to, strict=True))
  return Away(rows, columns, np.int32(grid.zero_point))


def exact(grid: Grid, size: Pair, to: Pair, sampling: str) -> Even:
  """The rule of files whose sums float32 holds; see :func:`xnnpack`.

  Raises:
    ValueError: if it does not hold them.

  Examples:
    >>> rule = exact(Grid(np.float32(1), 0), (1, 2), (1, 4), "half_pixel")
    >>> rule(jnp.array([0.0, 2.0]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0, 0, 2, 2]
  """
  axes = [cells_between(*axis, sampling) for axis in zip(size, to, strict=True)]
  if (found := axes[0].whole * axes[1].whole) > LARGEST_EXACT:
    raise ValueError(
      f"size: from {size[0]} x {size[1]} to {to[0]} x {to[1]} outputs lie at {found}ths of a cell;"
      f" ONNX files hold sums of at most {LARGEST_EXACT}ths exactly; resize by a whole number."
    )
  rows, columns = map(_exact_taps, axes)
  return Even(rows, columns, np.int32(grid.zero_point))


def missing(grid: Grid, size: Pair, to: Pair, sampling: str) -> Any:
  """The rule of TFLite-Micro with 16 bits, which it does not support.

  Raises:
    ValueError: always.
  """
  raise ValueError(
    "method: TFLite-Micro resizes 8 bits only by 'bilinear'; give the layer 8, as"
    " Rule(match=..., activations=ema_range(8)) does, or resize by 'nearest'."
  )
