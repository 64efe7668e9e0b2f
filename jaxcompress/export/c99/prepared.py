"""A node of a network with all that its integer arithmetic was prepared to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.reference import Factor

MOST_LEFT = 30  # bits of a shift to the left; what is shifted farther is zero

Fields = dict[str, Any]


class Prepared(NamedTuple):
  """A node, and the constants of its arithmetic, as TFLite-Micro's.

  Attributes:
    node: of the graph.
    grids: of all tensors.
    integers: of its weights, or None.
    static: of its step; see :class:`~jaxcompress.quantize.integer.program.Step`.
    arrays: that its step is called with.
    is_int4: whether its weights are written in 4 bits.
  """

  node: Node
  grids: Mapping[str, Grid]
  integers: Integers | None
  static: Any
  arrays: Mapping[str, Any]
  is_int4: bool = False

  @property
  def source(self) -> Grid:
    """The grid of the first input."""
    return self.grids[self.node.inputs[0]]

  @property
  def output(self) -> Grid:
    """The grid of the first output."""
    return self.grids[self.node.output]

  @property
  def is_wide(self) -> bool:
    """Whether it reads 16 bits."""
    return self.source.bits == 16

  def function(self, name: str) -> str:
    """The function of a name for integers of the input's width."""
    return f"{name}_16" if self.is_wide else name

  def ends(self) -> Fields:
    """The lowest and the highest code of the output."""
    zero = self.output.zero_point
    return {name: int(self.arrays[name]) + zero for name in ("low", "high")}

  def zeros(self) -> Fields:
    """The codes of zero of the first input and the output."""
    return {"in_zero": self.source.zero_point, "out_zero": self.output.zero_point}


def factor_fields(factor: Factor) -> tuple[int, int]:
  """A factor as a C structure has it: its 31 bits, and by how much it is shifted to the left.

  Examples:
    >>> from jaxcompress.quantize.integer.reference import quantize_multiplier
    >>> factor_fields(quantize_multiplier(0.125))
    (1073741824, -2)
  """
  return int(np.asarray(factor.q31).item()), int(shifts(factor).item())


def shifts(factor: Factor) -> np.ndarray:
  """Bits by which factors shift to the left; to the right where below zero."""
  return np.minimum(factor.left, MOST_LEFT) - np.asarray(factor.right)


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """Rows, columns and channels of an array, whose rows are the first axis of what has several.

  Args:
    shape: with the batch.

  Examples:
    >>> map_shape((1, 8)), map_shape((1, 4, 8)), map_shape((1, 4, 5, 8))
    ((1, 1, 8), (4, 1, 8), (4, 5, 8))
  """
  inner = shape[1:]
  rows = inner[0] if len(inner) > 1 else 1
  columns = int(np.prod(inner[1:-1]))
  return rows, columns, inner[-1]


def row_count(shape: tuple[int, ...]) -> int:
  """Numbers in a row of an array.

  Examples:
    >>> row_count((1, 4, 5, 8))
    40
  """
  _, columns, channels = map_shape(shape)
  return columns * channels
