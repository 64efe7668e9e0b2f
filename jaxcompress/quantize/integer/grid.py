"""Grids of tensors, integers of layers, and proofs that their sums fit.

A runtime that runs out of bits wraps around without a word. So whatever a rule adds up or shifts has
a bound, found from its weights and grids, and a program whose bounds are too large is refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

LOWEST, HIGHEST = -128, 127  # of an int8 activation
TYPES: Mapping[int, type] = {8: np.int8, 16: np.int16}  # of activations, by their bits
INT32 = 2**31
STEPS = 2**31 - 2**8  # of an output, to which runtimes add its zero point in int32
ASSEMBLE = "quantize.assemble makes scales that fit"


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


def check_below(limit: float, reach: Any, what: str, remedy: str) -> None:
  """Checks that numbers stay closer to zero than a limit.

  Args:
    limit: at most 2**53, so that float64 tells it from what is below.
    reach: how far the numbers get from zero, of any shape.
    what: the numbers, in words.
    remedy: what the user can do.

  Raises:
    ValueError: if one of them may reach the limit.

  Examples:
    >>> check_below(INT32, [5, 2**31 - 1], "sums", ASSEMBLE)
    >>> check_below(INT32, 2**31, "sums", ASSEMBLE)
    Traceback (most recent call last):
      ...
    ValueError: sums reach 2147483648, which runtimes hold below 2147483648 only; quantize.assemble makes scales that fit.
  """
  largest = np.abs(np.asarray(reach, np.float64)).max(initial=0)
  if not largest < limit:
    raise ValueError(
      f"{what} reach {largest:.15g}, which runtimes hold below {limit:.15g} only; {remedy}."
    )


def check_cells(grid: Grid, count: int) -> None:
  """Checks that int32 holds sums of codes over the cells of a mean or a pool, and half of them more.

  Args:
    grid: of the cells.
    count: of the cells.

  Raises:
    ValueError: if it does not: with 16 bits from 65535 cells on.

  Examples:
    >>> check_cells(Grid(np.float32(1), 0, 16), 65_000)
  """
  each = reach_of(grid) + 1
  remedy = f"use at most {(INT32 - 1) // each} cells with {grid.bits} bits"
  if grid.bits == 16:
    remedy += ", or give the layer 8, as Rule(match=..., activations=ema_range(8)) does"
  check_below(INT32, count * each, f"grids: sums of {count} cells", remedy)


def reach_of(grid: Grid) -> int:
  """How far ``q - zero_point`` gets from zero, and so ``q``.

  Examples:
    >>> reach_of(Grid(np.float32(1), -128)), reach_of(Grid(np.float32(1), 0, 16))
    (255, 32768)
  """
  return max(-grid.low, grid.high)
