"""Proofs that sums fit into what runtimes hold them in, made in numpy when a program is prepared.

A runtime that runs out of bits wraps around without a word. So whatever a rule adds up or shifts has
a bound, found from its weights and grids, and a program whose bounds are too large is refused.
"""

from typing import Any

import numpy as np

from jaxcompress.quantize.integer.values import Grid

INT32 = 2**31
STEPS = 2**31 - 2**8  # of an output, to which runtimes add its zero point in int32
ASSEMBLE = "quantize.assemble makes scales that fit"


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
