"""Recognises a softmax by what it gives, however it is spelled."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.models.imported.grouping import LOOSE
from jaxcompress.models.imported.meanings import MEANINGS
from jaxcompress.models.imported.values import Op, Operand

CELLS = 5  # that it is tried on
CLOSE = 1e-5
MOST_OPS = 16  # of a softmax


class Part(NamedTuple):
  """Operations on the channels of each cell, from one tensor to another.

  Attributes:
    base: the tensor that they read.
    ops: in order; the last one is the result.
  """

  base: Op
  ops: tuple[Op, ...]

  def run(self, x: np.ndarray) -> np.ndarray:
    """Its result for cells (cells, channels)."""
    values: dict[Op, Any] = {self.base: x}
    with np.errstate(all="ignore"):
      for op in self.ops:
        values[op] = _computed(op, [values[source] for source in op.inputs])
    return np.broadcast_to(values[self.ops[-1]], x.shape)


def softmax(op: Op) -> Op | None:
  """The tensor that an operation is the softmax of, over channels; None: of none.

  It is the farthest: a softmax of what has its maximum subtracted is one of the tensor before.
  """
  if op.fields["primitive"] not in ("div", "exp", "mul"):
    return None
  x = np.random.default_rng(0).normal(0, 2, (CELLS, op.shape[3]))
  powers = np.exp(x)
  wanted = powers / powers.sum(-1, keepdims=True)
  fitting = (part.base for part in _parts(op) if np.allclose(part.run(x), wanted, 0, CLOSE))
  return next(iter([*fitting][::-1]), None)


def _parts(op: Op) -> Iterator[Part]:
  """The parts that end in an operation and read one tensor alone, the smallest first."""
  pending: set[Op] = {op}
  ops: list[Op] = []
  while pending:
    last = max(pending, key=lambda x: x.number)
    if len(pending) == 1 and last.shape == op.shape and any(x.kind == "sum" for x in ops):
      yield Part(last, tuple(ops[::-1]))
    if not _is_of_cells(last) or len(ops) == MOST_OPS:
      return
    pending.remove(last)
    ops.append(last)
    pending |= set(last.inputs)


def _is_of_cells(op: Op) -> bool:
  """Whether an operation computes with the channels of each cell and with numbers alone."""
  if op.kind == "elementwise":
    return all(o.literal for o in op.fields["operands"] if isinstance(o, Operand))
  return op.kind in LOOSE and op.fields["roles"] == {"C"}


def _computed(op: Op, read: list[np.ndarray]) -> np.ndarray:
  if op.kind == "sum":
    return read[0].sum(-1, keepdims=True) * op.fields["factor"]
  if op.kind == "largest":
    return read[0].max(-1, keepdims=True)
  xs = [
    o.array.ravel()[0].astype(np.float64) if isinstance(o, Operand) else read[o]
    for o in op.fields["operands"]
  ]
  return MEANINGS[op.fields["primitive"]](op.fields["params"], *xs)
