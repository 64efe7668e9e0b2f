"""What integers stand for: the grid of a tensor and the weights of a layer."""

from typing import NamedTuple

import numpy as np

LOWEST, HIGHEST = -128, 127  # of an int8 activation
CEILINGS: dict[str | None, float] = {"relu": np.inf, "relu6": 6.0}


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


def clip_range(act: str | None, grid: Grid) -> tuple[np.float32, np.float32]:
  """Smallest and largest value of ``q - zero_point`` after a fused activation function.

  XNNPACK rounds the ceiling after the zero point was added, half to even.

  Args:
    act: ``"relu"``, ``"relu6"`` or None.
    grid: of the output.

  Raises:
    ValueError: if another activation function is asked for, or nothing is left between the bounds.

  Examples:
    >>> clip_range("relu6", Grid(np.float32(0.05), -28))
    (np.float32(0.0), np.float32(120.0))
  """
  if act is None:
    return np.float32(grid.low), np.float32(grid.high)
  if act not in CEILINGS:
    raise ValueError(
      f"act: {act!r} has no integer arithmetic; use one of {', '.join(map(str, CEILINGS))}."
    )
  ceiling = np.float32(CEILINGS[act]) / grid.scale + np.float32(grid.zero_point)
  high = np.rint(np.clip(ceiling, LOWEST, HIGHEST)) - np.float32(grid.zero_point)
  if high <= 0:
    raise ValueError(f"act: {act!r} leaves nothing of the grid {grid}; its range must exceed 0.")
  return np.float32(0), np.float32(high)
