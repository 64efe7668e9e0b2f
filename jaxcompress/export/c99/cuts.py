"""Cuts a network into stages, so that as few bytes as possible are needed at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.c99.schedule import NEVER, Flow, lifetimes, pull
from jaxcompress.export.c99.storage import Place, arrange, most_alive, share

LONGEST = 30  # operations of a stage
PATIENCE = 6  # longer stages that are tried in vain

Stage = tuple[int, int]
"""The first operation, and the one after the last."""


class Layout(NamedTuple):
  """The layout of memory while some stages run.

  Attributes:
    places: of tensors, and then of scratch.
    scratch: for each place of scratch, in their order, the operations that use it.
    order: of all calls, ``(operation, call)``.
  """

  places: tuple[Place, ...]
  scratch: tuple[tuple[int, ...], ...]
  order: tuple[tuple[int, int], ...]


def lay_out(flow: Flow, stages: Sequence[Stage]) -> Layout:
  """The places that stages need, which follow one another."""
  order = [call for stage in stages for call in pull(flow, *stage)]
  start, stop = stages[0][0], stages[-1][1]
  lives, times = lifetimes(flow, order, start, stop)
  places = share(flow, lives, times, range(start, stop))
  used, scratch = _scratch(flow, stages, times)
  return Layout((*places, *scratch), used, tuple(order))


def _scratch(
  flow: Flow, stages: Sequence[Stage], times: dict[int, np.ndarray]
) -> tuple[tuple[tuple[int, ...], ...], list[Place]]:
  """Scratch: of a fold its own, which is kept between its calls; the others of a stage share one."""
  users: list[tuple[int, ...]] = []
  for stage in stages:
    needing = [i for i in range(*stage) if flow.network.operations[i].scratch and times[i].size]
    folds = [i for i in needing if flow.network.operations[i].kind == "fold"]
    users += [(i,) for i in folds]
    if rest := tuple(i for i in needing if i not in folds):
      users.append(rest)
  places = []
  for using in users:
    size = max(flow.network.operations[i].scratch for i in using)
    born = np.array([min(times[i][0] for i in using)])
    places.append(Place((), 1, size, born, np.array([max(times[i][-1] for i in using)])))
  return tuple(users), places


def good_cuts(flow: Flow) -> list[tuple[Stage, ...]]:
  """Stages whose largest need is small, found in two ways; of equals, the fewest.

  By dynamic programming over the operations. A stage's need is the arena of its own places, together with
  the bytes of what others made before it and others read after it. First networks are only cut where less
  lives across the cut than around it, into longer stages; then wherever no more lives across it
  than this first try needs.
  """
  needs = _Needs(flow)
  across = needs.across()
  count = len(across)
  inner = range(1, count - 1)
  narrow = [i for i in inner if across[i - 1] > across[i] <= across[i + 1]]
  least, first = _cut([0, *narrow, count - 1], needs, 2 * LONGEST, 2 * PATIENCE)
  wider = [i for i in inner if across[i] <= least]
  _, second = _cut([0, *wider, count - 1], needs, LONGEST, PATIENCE)
  return [first, second]


def cuts_from(flow: Flow, starts: Iterable[int]) -> Iterator[tuple[int, int, tuple[Stage, ...]]]:
  """The best stages of what follows after some operations.

  Returns:
    How many operations are left out, the bytes that the others need, and their stages.
  """
  needs = _Needs(flow)
  across = needs.across()
  inner = range(1, len(across) - 1)
  narrow = [i for i in inner if across[i - 1] > across[i] <= across[i + 1]]
  for start in starts:
    candidates = [start, *(i for i in narrow if i > start), len(across) - 1]
    yield start, *_cut(candidates, needs, LONGEST, PATIENCE)


def _cut(
  candidates: Sequence[int], needs: "_Needs", longest: int, patience: int
) -> tuple[int, tuple[Stage, ...]]:
  """The best stages between some places, and what they need."""
  best: list[tuple[int, int, tuple[Stage, ...]]] = [(0, 0, ())]
  for j, stop in enumerate(candidates[1:], 1):
    found: tuple[int, int, tuple[Stage, ...]] | None = None
    in_vain = 0
    for i in reversed(range(j)):
      start = candidates[i]
      if found is not None and (stop - start > longest or in_vain == patience):
        break
      largest, count, stages = best[i]
      if found is not None:
        least = needs.least(start, stop)
        in_vain = in_vain + 1 if least > found[0] else 0
        if (max(largest, least), count + 1) >= found[:2]:
          continue
      tried = max(largest, needs(start, stop)), count + 1, (*stages, (start, stop))
      found = tried if found is None else min(found, tried)
    assert found is not None
    best.append(found)
  return best[-1][0], best[-1][2]


class _Needs:
  """Bytes that stages need; those that look alike are worked out once."""

  def __init__(self, flow: Flow):
    self._flow = flow
    kept = {tensor for _, tensor in flow.network.outputs}
    tensors = flow.network.tensors
    self._last = {
      name: NEVER if name in kept else max(readers, default=-1)
      for name, readers in flow.readers.items()
    }
    self._sizes = {name: (tensor.rows, tensor.row_bytes) for name, tensor in tensors.items()}
    kinds: dict[Any, int] = {}
    self._kinds = [
      kinds.setdefault((e.kind, e.reads, e.overwrites, e.is_view, e.scratch), len(kinds))
      for e in flow.network.operations
    ]
    self._numbers: dict[Any, int] = {}
    self._seen: dict[Stage, tuple[int, int]] = {}
    self._places: dict[int, tuple[Place, ...]] = {}
    self._known: dict[tuple[int, bool], int] = {}

  def across(self) -> list[int]:
    """Bytes of the tensors that live across each cut, before the first operation and so on."""
    count = len(self._kinds)
    change = np.zeros(count + 2, np.int64)
    for name, producer in self._flow.producers.items():
      rows, row_bytes = self._sizes[name]
      change[producer + 1] += rows * row_bytes
      change[min(max(self._last[name], producer), count) + 1] -= rows * row_bytes
    return change.cumsum()[: count + 1].tolist()

  def least(self, start: int, stop: int) -> int:
    """Bytes that a stage needs at least: what lives at once."""
    return self._of(start, stop, most_alive)

  def __call__(self, start: int, stop: int) -> int:
    """Bytes that a stage needs."""
    return self._of(start, stop, lambda places: arrange(places, 0).size)

  def _of(self, start: int, stop: int, measure: Callable[[Sequence[Place]], int]) -> int:
    looks, passing = self._looks(start, stop)
    key = looks, measure is most_alive
    if key not in self._known:
      if looks not in self._places:
        self._places[looks] = lay_out(self._flow, [(start, stop)]).places
      self._known[key] = measure(self._places[looks])
    return self._known[key] + passing

  def _looks(self, start: int, stop: int) -> tuple[int, int]:
    """A number that stages have in common that look alike, and the bytes that only pass by."""
    if (start, stop) in self._seen:
      return self._seen[start, stop]
    numbers: dict[str, int] = {}
    key: list[Any] = []
    for place in range(start, stop):
      emitted = self._flow.network.operations[place]
      key.append(self._kinds[place])
      for name in map(self._flow.network.whole, (*emitted.inputs, *emitted.outputs)):
        number = numbers.setdefault(name, len(numbers))
        key.append((number, self._sizes[name], self._last[name] >= stop))
    passing = 0
    for name, producer in self._flow.producers.items():
      if producer < start and self._last[name] >= stop and name not in numbers:
        rows, row_bytes = self._sizes[name]
        passing += rows * row_bytes
    looks = self._numbers.setdefault(tuple(key), len(self._numbers))
    self._seen[start, stop] = looks, passing
    return looks, passing
