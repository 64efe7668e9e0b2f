"""Resizing of maps: which cells an output reads, and with what shares; channels as cells."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("nearest", "bilinear")
SAMPLINGS = ("half_pixel", "asymmetric", "align_corners")
"""Where outputs lie among inputs; see :func:`resize`."""


class Cells(NamedTuple):
  """The two cells of one axis that each output lies between, exactly.

  An output is ``(low * (whole - part) + high * part) / whole``.

  Attributes:
    low: (outputs,) int64, index of the cell before it.
    high: (outputs,) int64, index of the cell after it; the same at an edge.
    part: (outputs,) int64, below ``whole``.
    whole: what the parts are counted in.
  """

  low: np.ndarray
  high: np.ndarray
  part: np.ndarray
  whole: int


def _positions(size: int, to: int, sampling: str) -> tuple[np.ndarray, int]:
  """Where the outputs lie, as whole numerators of one denominator."""
  i = np.arange(to, dtype=np.int64)
  if sampling == "half_pixel":
    return (2 * i + 1) * size - to, 2 * to
  if sampling == "asymmetric":
    return i * size, to
  return i * (size - 1), max(to - 1, 1)


def cells_between(size: int, to: int, sampling: str = "half_pixel") -> Cells:
  """The cells that a bilinear resizing reads along one axis.

  Args:
    size: of the input.
    to: size of the output.
    sampling: as for :func:`resize`.

  Examples:
    >>> cells = cells_between(2, 4)
    >>> cells.low.tolist(), cells.high.tolist(), cells.part.tolist(), cells.whole
    ([0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 3, 0], 4)
  """
  numerators, whole = _positions(size, to, sampling)
  numerators = np.clip(numerators, 0, (size - 1) * whole)
  shared = int(reduce(np.gcd, numerators, whole))
  numerators, whole = numerators // shared, whole // shared
  low = numerators // whole
  return Cells(low, np.minimum(low + 1, size - 1), numerators % whole, whole)


def nearest_cells(size: int, to: int, sampling: str = "half_pixel") -> np.ndarray:
  """(to,) int64: the cell that each output copies along one axis; a half goes to the next one.

  Args:
    size: of the input.
    to: size of the output.
    sampling: ``"half_pixel"``, or ``"asymmetric"``, which goes to the cell before.

  Examples:
    >>> nearest_cells(2, 5).tolist(), nearest_cells(2, 5, "asymmetric").tolist()
    ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
  """
  i = np.arange(to, dtype=np.int64)
  if sampling == "half_pixel":
    return (2 * i + 1) * size // (2 * to)
  return i * size // to


def resize(
  x: jax.Array, size: Sequence[int], *, method: str, sampling: str = "half_pixel"
) -> jax.Array:
  """Maps of another height and width, without antialiasing where they shrink.

  Args:
    x: (batch, height, width, channels), float.
    size: height and width of the output.
    method: ``"nearest"`` or ``"bilinear"``.
    sampling: where output ``i`` of ``n`` lies among ``m`` inputs: at ``(i + 0.5) m / n - 0.5``
      (``"half_pixel"``, as ``jax.image.resize`` has it), at ``i m / n`` (``"asymmetric"``), or at
      ``i (m - 1) / (n - 1)`` (``"align_corners"``, bilinear only).

  Returns:
    (batch, *size, channels), of the dtype of ``x``.

  Examples:
    >>> x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> resize(x, (1, 4), method="nearest").ravel().tolist()
    [0.0, 0.0, 4.0, 4.0]
    >>> resize(x, (1, 4), method="bilinear").ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
  """
  along = {"nearest": _copied, "bilinear": _between}[method]
  for axis, to in zip((1, 2), size, strict=True):
    x = along(x, axis, to, sampling)
  return x


def _copied(x: jax.Array, axis: int, to: int, sampling: str) -> jax.Array:
  size = x.shape[axis]
  cells = nearest_cells(size, to, sampling)
  if to % size == 0:
    return jnp.repeat(x, to // size, axis)
  return jnp.take(x, jnp.asarray(cells), axis, mode="clip")


def _between(x: jax.Array, axis: int, to: int, sampling: str) -> jax.Array:
  size = x.shape[axis]
  cells = cells_between(size, to, sampling)
  if to == size and not cells.part.any():
    return x
  weights = np.zeros((to, size))
  rows = np.arange(to)
  np.add.at(weights, (rows, cells.low), 1 - cells.part / cells.whole)
  np.add.at(weights, (rows, cells.high), cells.part / cells.whole)
  term = {1: "oh,nhwc->nowc", 2: "ow,nhwc->nhoc"}[axis]
  precision = jax.lax.Precision.HIGHEST
  return jnp.einsum(term, jnp.asarray(weights, x.dtype), x, precision=precision)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
  """Channels as cells, in blocks; the channels hold a block row by row.

  Args:
    x: (batch, height, width, block * block * channels).
    block: side of a block.

  Returns:
    (batch, height * block, width * block, channels).

  Examples:
    >>> depth_to_space(jnp.ones((1, 2, 3, 8)), 2).shape
    (1, 4, 6, 2)
  """
  batch, height, width, depth = x.shape
  rows = x.reshape(batch, height, width, block, depth // block).swapaxes(2, 3)
  return rows.reshape(batch, height * block, width * block, -1)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
  """Blocks of cells as channels: the inverse of :func:`depth_to_space`.

  Examples:
    >>> space_to_depth(jnp.ones((1, 4, 6, 2)), 2).shape
    (1, 2, 3, 8)
  """
  batch, height, width, depth = x.shape
  rows = x.reshape(batch, height // block, block, width // block, block * depth).swapaxes(2, 3)
  return rows.reshape(batch, height // block, width // block, -1)
