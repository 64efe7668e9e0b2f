"""What integers stand for: the grid of a tensor and the weights of a layer."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

LOWEST, HIGHEST = -128, 127  # of an int8 activation
TYPES: Mapping[int, type] = {8: np.int8, 16: np.int16}  # of activations, by their bits
CEILINGS = {"relu": np.inf, "relu6": 6.0}


class Grid(NamedTuple):
  """The real numbers that an integer tensor holds: ``real = (q - zero_point) * scale``.

  Attributes:
    scale: float32, positive.
    zero_point: the integer that stands for zero: -128 to 127 with 8 bits, 0 with 16.
    bits: 8 or 16, of the integers.

  Examples:
    >>> grid = Grid(np.float32(0.5), -128)
    >>> grid.low, grid.high
    (0, 255)
    >>> Grid(np.float32(0.5), 0, 16).high
    32767
  """

  scale: np.float32
  zero_point: int
  bits: int = 8

  @property
  def dtype(self) -> np.dtype:
    """Type of the integers."""
    return np.dtype(TYPES[self.bits])

  @property
  def low(self) -> int:
    """Smallest value of ``q - zero_point``; at most 0."""
    return -(2 ** (self.bits - 1)) - self.zero_point

  @property
  def high(self) -> int:
    """Largest value of ``q - zero_point``; at least 0."""
    return 2 ** (self.bits - 1) - 1 - self.zero_point


class GateGrids(NamedTuple):
  """The grids that a hard-sigmoid is computed on; the highest code of each is its end.

  Attributes:
    output: from 0 to 1: saturation is the clip, with 16 bits above only.
    relu6: from 0 to 6, likewise.
    three: its highest code is 3.
    sixth: its highest code is 1 / 6.
  """

  output: Grid
  relu6: Grid
  three: Grid
  sixth: Grid


def _gate_grids(bits: int) -> GateGrids:
  signed = lambda top: Grid(np.float32(top / (2 ** (bits - 1) - 1)), 0, bits)  # noqa: E731
  if bits == 8:
    positive = lambda top: Grid(np.float32(top / 255), LOWEST)  # noqa: E731
    return GateGrids(positive(1), positive(6), signed(3), signed(1 / 6))
  return GateGrids(*(signed(top) for top in (1, 6, 3, 1 / 6)))


GATES: Mapping[int, GateGrids] = {bits: _gate_grids(bits) for bits in TYPES}
HARD_SIGMOID_GRID = GATES[8].output


def with_bits(grid: Grid, bits: int, *, nonnegative: bool) -> Grid:
  """The grid of the same numbers in integers of another width.

  To 16 bits every step is kept, so nothing is rounded. To 8 bits the range is kept, from zero up
  where nothing lies below it.

  Args:
    grid: of a tensor.
    bits: 8 or 16.
    nonnegative: whether no number of the tensor is below zero.

  Examples:
    >>> wide = with_bits(Grid(np.float32(0.5), 3), 16, nonnegative=False)
    >>> wide
    Grid(scale=np.float32(0.5), zero_point=0, bits=16)
    >>> round(float(with_bits(wide, 8, nonnegative=True).scale) * 255 / (0.5 * 32767), 6)
    1.0
  """
  if bits == grid.bits:
    return grid
  if bits == 16:
    return Grid(grid.scale, 0, bits)
  if nonnegative:
    return Grid(grid.scale * np.float32(grid.high / (HIGHEST - LOWEST)), LOWEST)
  return Grid(grid.scale * np.float32(grid.high / HIGHEST), 0)


def fits_int4(weights: np.ndarray) -> bool:
  """Whether a file can hold int8 weights in 4 bits.

  Examples:
    >>> fits_int4(np.int8([-8, 7])), fits_int4(np.int8([8]))
    (True, False)
  """
  low, high = weights.min(initial=0), weights.max(initial=0)
  return bool(low >= -8 and high <= 7)


def centred(grid: Grid) -> Grid:
  """The grid with zero point 0 that holds the range of another one.

  Examples:
    >>> centred(Grid(np.float32(0.5), -128))
    Grid(scale=np.float32(1.003937), zero_point=0, bits=8)
  """
  top = 2 ** (grid.bits - 1) - 1
  return Grid(grid.scale * np.float32(max(-grid.low, grid.high) / top), 0, grid.bits)


class Integers(NamedTuple):
  """A layer's integers: ``y = (conv(q - z, weights) + bias) * (input_scale * scales)``.

  Attributes:
    weights: int8, -127 to 127; (k, k, in / groups, out) or (in, out).
    scales: (out,) float32, positive and finite.
    bias: (out,) int32, or int64 where the input has 16 bits.
  """

  weights: np.ndarray
  scales: np.ndarray
  bias: np.ndarray


INNER_SWISH = (
  "'hard_swish' has no integer arithmetic inside another layer; write it as a layer without act"
  " followed by Activation('hard_swish')."
)


def clip_range(
  act: str | None, grid: Grid, ceiling: Callable[[float, Grid], np.float32]
) -> tuple[np.float32, np.float32]:
  """Smallest and largest value of ``q - zero_point`` after a fused activation function.

  Args:
    act: ``"relu"``, ``"relu6"``, ``"hard_sigmoid"`` or None.
    grid: of the output.
    ceiling: of a runtime: the code of the largest value that is let through.

  Raises:
    ValueError: if another activation function is asked for, or nothing is left between the bounds.

  Examples:
    >>> from jaxcompress.quantize.integer import xnnpack
    >>> clip_range("relu6", Grid(np.float32(0.05), -28), xnnpack.ceiling)
    (np.float32(0.0), np.float32(120.0))
  """
  low, high = np.float32(grid.low), np.float32(grid.high)
  if act is None:
    return low, high
  if act == "hard_sigmoid":
    if grid != GATES[grid.bits].output:
      raise ValueError(
        f"grids: the output of a hard_sigmoid has {grid}; it must be {GATES[grid.bits].output}, whose"
        " ends are 0 and 1."
      )
    return np.float32(0), high
  if act == "hard_swish":
    raise ValueError(f"act: {INNER_SWISH}")
  if act not in CEILINGS:
    raise ValueError(
      f"act: {act!r} has no integer arithmetic; use one of {', '.join(CEILINGS)}, hard_sigmoid, or"
      " hard_swish on its own."
    )
  if np.isfinite(CEILINGS[act]):
    high = min(high, ceiling(CEILINGS[act], grid) - np.float32(grid.zero_point))
  if high <= 0:
    raise ValueError(
      f"act: {act!r} leaves nothing of the grid {grid}; its range must exceed 0, and its steps be"
      " smaller than what is left (steps as large as that come from weights or ranges that are far"
      " too large)."
    )
  return np.float32(0), np.float32(high)
