"""Groups what was read into leaf ops, from the outputs back, each by a table."""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcompress.models.imported.functions import Forms, activation_of
from jaxcompress.models.imported.scalings import (
  IDENTITY,
  NotAffine,
  Scaling,
  after,
  is_simple,
  is_step,
)
from jaxcompress.models.imported.units import Unit
from jaxcompress.models.imported.values import Leaves, Op, Operand, Origin

LOOSE = frozenset(["elementwise", "sum", "largest"])
"""Operations that mean something together with others."""


class Grouping:
  """Finds the leaf ops behind some outputs, from the last to the first.

  Attributes:
    units: the leaf ops that were found.
    aliases: tensors that are the same as others.
  """

  def __init__(
    self,
    table: Mapping[str, "Group"],
    ends: Sequence[Op],
    leaves: Leaves,
    momentum: Callable[[str | None], float],
    report: Callable[..., None],
  ):
    self.table, self.ends, self.leaves = table, ends, leaves
    self.momentum, self.report = momentum, report
    self.forms, self.readers = Forms(), _readers(ends)
    self.units: list[Unit] = []
    self.aliases: dict[Op, Op] = {}
    self.parts: dict[Op, list[Op]] = {}
    self._functions: dict[Op, Any] = {}
    queue = [(-op.number, id(op), op) for op in set(ends)]
    heapq.heapify(queue)
    seen = {id(op) for *_, op in queue}
    while queue:
      op = heapq.heappop(queue)[2]
      for read in self._group(op):
        if id(read) not in seen:
          seen.add(id(read))
          heapq.heappush(queue, (-read.number, id(read), read))
    for source, parts in self.parts.items():
      self.units += _splits(self, source, parts)
    self.units.sort(key=lambda unit: unit.number)

  def only_read_by_one(self, op: Op) -> bool:
    """Whether a tensor is read once, and is no end."""
    return self.readers.get(op, 0) == 1 and op not in self.ends

  def function(self, op: Op) -> Any:
    """See :func:`activation_of`."""
    if op not in self._functions:
      self._functions[op] = activation_of(op, self.forms)
    return self._functions[op]

  def _group(self, op: Op) -> Sequence[Op]:
    """Adds the leaf op that writes a tensor; what it reads."""
    if op.kind in ("input", "unread"):
      return op.inputs
    if op.kind == "part":
      self.parts.setdefault(op.inputs[0], []).append(op)
      return op.inputs
    unit = self.table[op.kind](self, op)
    if unit is None:
      return self.around(op)[1]
    if isinstance(unit, Op):
      self.aliases[op] = unit
      return (unit,)
    self.units.append(unit)
    return unit.inputs

  def around(self, op: Op) -> tuple[set[str], list[Op]]:
    """Names of the operations that make up what was not understood, and what those read."""
    names, edge, stack, seen = {op.fields.get("primitive", op.kind)}, [], list(op.inputs), {op}
    while stack:
      read = stack.pop()
      if read in seen:
        continue
      seen.add(read)
      if op.kind in LOOSE and read.kind in LOOSE and not self.stands(read):
        names.add(read.fields.get("primitive", read.kind))
        stack += read.inputs
      else:
        edge.append(read)
    return names, edge

  def stands(self, op: Op) -> bool:
    """Whether an operation of a part that was not understood is one of its own."""
    function = self.function(op)
    learned = (o for o in op.fields.get("operands", ()) if isinstance(o, Operand))
    return (function is not None and function[1] is not None) or any(
      o.constant.learned for o in learned
    )

  def scaled(self, op: Op) -> "Scaled":
    """The tensor that constants scale to give ``op``, as far back as one leaf op goes."""
    steps = [op]
    while self.only_read_by_one(below := steps[-1].inputs[0]) and is_step(below):
      if self.function(below) is not None:
        break
      steps.append(below)
    base, rest = steps[-1].inputs[0], steps[::-1]
    weighted = base.kind in WEIGHTED and self.only_read_by_one(base)
    while True:
      count, scaling = _longest(rest, weighted)
      if count == len(rest):
        return Scaled(base, scaling, weighted)
      if count:
        base, rest = rest[count - 1], rest[count:]
      weighted = False


class Scaled(NamedTuple):
  """A tensor that constants scale and shift.

  Attributes:
    base: the tensor.
    scaling: what is done to it.
    taken: whether ``base`` is an operation with a kernel that takes the constants in.
  """

  base: Op
  scaling: Scaling
  taken: bool


WEIGHTED = frozenset(["conv", "dense"])
"""Operations with a kernel, which take in the constants that follow."""


def _longest(steps: Sequence[Op], weighted: bool) -> tuple[int, Scaling]:
  """How many steps one leaf op takes in, and what they do together."""
  best = (0, IDENTITY) if weighted else None
  scaling, first = IDENTITY, None
  for count, step in enumerate(steps, 1):
    try:
      scaling = after(scaling, step)
    except NotAffine:
      break
    first = first or (count, scaling)
    if len(scaling.factor.roots()) > 1:
      break
    if is_simple(scaling, weighted):
      best = count, scaling
  if best is None:
    best = first
  if best is None:
    raise NotAffine
  return best


def _readers(ends: Sequence[Op]) -> dict[Op, int]:
  """How many operations read each tensor."""
  counts: dict[Op, int] = {}
  stack, seen = list(set(ends)), set(ends)
  while stack:
    for read in set((op := stack.pop()).inputs):
      counts[read] = counts.get(read, 0) + 1
      if read not in seen:
        seen.add(read)
        stack.append(read)
    del op
  return counts


def _splits(g: Grouping, source: Op, parts: Sequence[Op]) -> list[Unit]:
  """One split of a tensor for all parts that are read of it, and their concatenations."""
  edges = sorted({0, source.shape[3]} | {p.fields[end] for p in parts for end in ("start", "stop")})
  pieces: dict[tuple[int, int], Op] = {}
  by_bounds = {(p.fields["start"], p.fields["stop"]): p for p in parts}
  for i, bounds in enumerate(itertools.pairwise(edges)):
    shape = (*source.shape[:3], bounds[1] - bounds[0])
    number = source.number + (i + 1) / (len(edges) + 1)
    pieces[bounds] = by_bounds.get(bounds) or Op("part", (source,), shape, {}, Origin(), number)
  sizes = tuple(stop - start for start, stop in pieces)
  origin = parts[0].origin
  found = [Unit("Split", tuple(pieces.values()), (source,), {"sizes": sizes}, origin=origin)]
  for part in parts:
    start, stop = part.fields["start"], part.fields["stop"]
    inside = [piece for (a, b), piece in pieces.items() if start <= a and b <= stop]
    if by_bounds[start, stop] is not part:
      g.aliases[part] = by_bounds[start, stop]
    elif inside != [part]:
      found.append(Unit("Concat", (part,), tuple(inside), {}, origin=part.origin))
  return found


Group = Callable[[Grouping, Op], Unit | Op | None]
"""The leaf op that writes a tensor, a tensor that it is the same as, or None where it was refused."""
