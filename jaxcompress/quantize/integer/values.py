"""What integers stand for: the grid of a tensor and the weights of a layer."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LOWEST, HIGHEST = -128, 127  # of an int8 activation
CEILINGS = {"relu": np.inf, "relu6": 6.0}


class Grid(NamedTuple):
  """The real numbers that an int8 tensor holds: ``real = (q - zero_point) * scale``.

  Attributes:
    scale: float32, positive.
    zero_point: the integer that stands for zero, -128 to 127.

  Examples:
    >>> grid = Grid(np.float32(0.5), -128)
    >>> grid.low, grid.high
    (0, 255)
  """

  scale: np.float32
  zero_point: int

  @property
  def low(self) -> int:
    """Smallest value of ``q - zero_point``; at most 0."""
    return LOWEST - self.zero_point

  @property
  def high(self) -> int:
    """Largest value of ``q - zero_point``; at least 0."""
    return HIGHEST - self.zero_point


HARD_SIGMOID_GRID = Grid(np.float32(1 / 255), -128)  # from 0 to 1: saturation is the clip
RELU6_GRID = Grid(np.float32(6 / 255), -128)  # from 0 to 6
THREE_GRID = Grid(np.float32(3 / 127), 0)  # its highest code is 3
SIXTH_GRID = Grid(np.float32(1 / 762), 0)  # its highest code is 1 / 6


class Integers(NamedTuple):
  """A layer's integers: ``y = (conv(q - z, weights) + bias) * (input_scale * scales)``.

  Attributes:
    weights: int8, -127 to 127; (k, k, in / groups, out) or (in, out).
    scales: (out,) float32, positive and finite.
    bias: (out,) int32.
  """

  weights: np.ndarray
  scales: np.ndarray
  bias: np.ndarray


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
    if grid != HARD_SIGMOID_GRID:
      raise ValueError(
        f"grids: the output of a hard_sigmoid has {grid}; it must be {HARD_SIGMOID_GRID}, whose ends"
        " are 0 and 1."
      )
    return low, high
  if act == "hard_swish":
    raise ValueError(
      "act: 'hard_swish' has no integer arithmetic inside another layer; write it as a layer without"
      " act followed by Activation('hard_swish')."
    )
  if act not in CEILINGS:
    raise ValueError(
      f"act: {act!r} has no integer arithmetic; use one of {', '.join(CEILINGS)}, hard_sigmoid, or"
      " hard_swish on its own."
    )
  if np.isfinite(CEILINGS[act]):
    high = min(high, ceiling(CEILINGS[act], grid) - np.float32(grid.zero_point))
  if high <= 0:
    raise ValueError(f"act: {act!r} leaves nothing of the grid {grid}; its range must exceed 0.")
  return np.float32(0), np.float32(high)
