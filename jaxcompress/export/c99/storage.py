"""Storage of tensors: those that share bytes, the number of rows that are kept, and offsets.

A *place* holds one tensor, or several that are written upon one another row by row. It is a ring of rows:
row ``y`` lies at ``y % rows``; of a tensor that is kept whole there are as many as it has. Two places may
overlap where no byte is needed by both at one time; row by row, so that the output of a layer may trail
the input that it is computed from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.export.c99.emitted import Emitted, Tensor
from jaxcompress.export.c99.schedule import Flow, Life

ALIGNMENT = 4  # of offsets: processors load so many bytes at once
ROUNDS = 60  # of the search for an order of placing


class Place(NamedTuple):
  """A ring of rows in memory.

  Attributes:
    tensors: that lie in it.
    rows: that it has.
    row_bytes: bytes of each.
    born: when each row is written for the first time.
    dies: when each is read for the last time.
  """

  tensors: tuple[str, ...]
  rows: int
  row_bytes: int
  born: np.ndarray
  dies: np.ndarray

  @property
  def size(self) -> int:
    """Bytes of it."""
    return self.rows * self.row_bytes

  @property
  def starts(self) -> int:
    """The time at which its first byte is written."""
    return int(self.born.min())

  @property
  def ends(self) -> int:
    """The time at which a byte of it is read for the last time."""
    return int(self.dies.max())


class _Sharing:
  """Tensors that share a place, in the making."""

  def __init__(self, tensor: Tensor, life: Life):
    self.tensors = [tensor.name]
    self.current = {tensor.name}  # those that lie uppermost
    self.rows, self.row_bytes = tensor.rows, tensor.row_bytes
    self.born, self.dies = life
    self.is_whole = False

  def in_rows(self, tensor: Tensor, times: np.ndarray) -> np.ndarray:
    """Returns for each row of this place the largest of the times of the tensor's rows in it."""
    if tensor.row_bytes == self.row_bytes:
      return times
    found = np.full(self.rows, times.min())
    for row, time in enumerate(times):
      first = row * tensor.row_bytes // self.row_bytes
      last = -(-(row + 1) * tensor.row_bytes // self.row_bytes)
      np.maximum(found[first:last], time, out=found[first:last])
    return found

  def join(self, tensor: Tensor, life: Life, *, is_view: bool) -> None:
    """Puts a tensor upon the others; a view has their bytes, so that they are not gone."""
    self.tensors.append(tensor.name)
    self.current = self.current | {tensor.name} if is_view else {tensor.name}
    self.is_whole |= tensor.row_bytes != self.row_bytes
    self.dies = np.maximum(self.dies, self.in_rows(tensor, life.dies))

  def place(self) -> Place:
    """Keeps as few rows as the others allow."""
    rows = len(self.born) if self.is_whole else fewest_rows(self.born, self.dies)
    return Place(tuple(self.tensors), rows, self.row_bytes, self.born, self.dies)


def fewest_rows(born: np.ndarray, dies: np.ndarray) -> int:
  """The shortest ring in which no row is written before the one that it replaces was read.

  Examples:
    >>> fewest_rows(np.array([0, 1, 2, 4, 6]), np.array([3, 3, 5, 7, 7]))
    3
  """
  count = len(born)
  return next(n for n in range(1, count + 1) if (born[n:] > dies[: count - n]).all())


def share(
  flow: Flow,
  lives: Mapping[str, Life],
  times: Mapping[int, np.ndarray],
  operations: Iterable[int],
  prefer: Callable[[Emitted], int | None] = lambda emitted: None,
) -> list[Place]:
  """Puts outputs upon the inputs that nobody reads any more, and finds how many rows are kept.

  Args:
    flow: of the network.
    lives: of the tensors; others take no place.
    times: of the calls of each operation.
    operations: places of those that run, in order.
    prefer: which input an output lies upon where there are several; None: the largest.
  """
  network, tensors = flow.network, flow.network.tensors
  written = {network.whole(n) for place in operations for n in network.operations[place].outputs}
  shared = {
    name: _Sharing(tensors[name], life) for name, life in lives.items() if name not in written
  }
  for place in operations:
    emitted = network.operations[place]
    for part in emitted.outputs:
      name = network.whole(part)
      if name not in shared and name in lives and len(lives[name].born):
        below = _below(flow, emitted, name, lives, times[place], shared, prefer)
        if below is None:
          shared[name] = _Sharing(tensors[name], lives[name])
        else:
          below.join(tensors[name], lives[name], is_view=emitted.is_view)
          shared[name] = below
  return [sharing.place() for sharing in dict.fromkeys(shared.values())]


def _below(flow, emitted: Emitted, name: str, lives, when, shared, prefer) -> _Sharing | None:
  """Finds the tensor that an output can overwrite: a view's source, or an input that ends with the call."""
  tensors = flow.network.tensors
  tensor, life = tensors[name], lives[name]
  if name != emitted.outputs[0]:
    return None
  if emitted.is_view:
    return _complete(shared, emitted.inputs[0], tensor, life)
  found = []
  for place in emitted.overwrites:
    source = _complete(shared, emitted.inputs[place], tensor, life)
    if source is None or any(
      shared.get(flow.network.whole(other)) is source and k not in emitted.overwrites
      for k, other in enumerate(emitted.inputs)
    ):
      continue
    if (source.dies <= source.in_rows(tensor, life.born)).all():
      found.append((place, source))
  if not found:
    return None
  wanted = prefer(emitted)
  return min(found, key=lambda pair: (pair[0] != wanted, -fewest_rows(pair[1].born, pair[1].dies)))[
    1
  ]


def _complete(shared, name: str, tensor: Tensor, life: Life) -> _Sharing | None:
  """The place of a tensor, where another fits upon it: both are made as a whole, and it is uppermost."""
  source = shared.get(name)
  if source is None or name not in source.current or len(source.born) != source.rows:
    return None
  fits = source.rows * source.row_bytes == tensor.size and len(life.born) == tensor.rows
  return source if fits else None


class _Cells(NamedTuple):
  """Pieces of a place that live each by itself: bytes from ``low`` to ``high``, from ``born`` to ``dies``."""

  low: np.ndarray
  high: np.ndarray
  born: np.ndarray
  dies: np.ndarray
  starts: int
  ends: int
  size: int


def _cells(place: Place) -> _Cells:
  """A place as pieces: its rows, or a ring, whose rows are written again and again, as one."""
  starts, ends = place.starts, place.ends
  if place.rows < len(place.born):
    low, high, born, dies = np.array([[0], [place.size], [starts], [ends]])
    return _Cells(low, high, born, dies, starts, ends, place.size)
  low = np.arange(place.rows) * place.row_bytes
  return _Cells(low, low + place.row_bytes, place.born, place.dies, starts, ends, place.size)


def forbidden(first: Place, second: Place) -> list[tuple[int, int]]:
  """Where a place may not lie: open intervals of ``offset(second) - offset(first)``, sorted.

  Examples:
    >>> whole = lambda born, dies: Place((), 3, 4, np.array(born), np.array(dies))
    >>> forbidden(whole([0, 0, 0], [3, 4, 5]), whole([4, 5, 6], [9, 9, 9]))
    [(0, 12)]
  """
  return _forbidden(_cells(first), _cells(second))


def _forbidden(a: _Cells, b: _Cells) -> list[tuple[int, int]]:
  if a.starts > b.ends or b.starts > a.ends:
    return []
  if len(a.low) == len(b.low) == 1:
    return [(-b.size, a.size)]
  both = (a.born[:, None] <= b.dies) & (b.born <= a.dies[:, None])
  if both.all():
    return [(-b.size, a.size)]
  i, j = np.nonzero(both)
  return merge(a.low[i] - b.high[j], a.high[i] - b.low[j])


def merge(low: np.ndarray, high: np.ndarray) -> list[tuple[int, int]]:
  """The union of open intervals as disjoint ones; those that only touch stay apart.

  Examples:
    >>> merge(np.array([4, 0, 1]), np.array([6, 2, 4]))
    [(0, 4), (4, 6)]
  """
  if not len(low):
    return []
  order = np.argsort(low, kind="stable")
  low, reach = low[order], np.maximum.accumulate(high[order])
  heads = np.concatenate([[0], 1 + np.nonzero(low[1:] >= reach[:-1])[0]])
  ends = np.concatenate([heads[1:] - 1, [len(low) - 1]])
  return list(zip(low[heads].tolist(), reach[ends].tolist(), strict=True))


def most_alive(places: Sequence[Place]) -> int:
  """Bytes that are needed at once: no arena is smaller."""
  if not places:
    return 0
  cells = [_cells(place) for place in places]
  sizes = np.concatenate([piece.high - piece.low for piece in cells])
  born, dies = (np.concatenate([getattr(p, name) for p in cells]) for name in ("born", "dies"))
  order = np.argsort(np.concatenate([born, dies.astype(np.int64) + 1]), kind="stable")
  times = np.concatenate([born, dies.astype(np.int64) + 1])[order]
  alive = np.concatenate([sizes, -sizes])[order].cumsum()
  return int(alive[np.append(times[1:] != times[:-1], True)].max())


class Arena(NamedTuple):
  """Offsets of places, in their order, and the bytes that they span."""

  offsets: tuple[int, ...]
  size: int


def arrange(places: Sequence[Place], rounds: int = ROUNDS) -> Arena:
  """Finds offsets for places: the lowest that is free, in several orders; the best is kept.

  Args:
    places: in any order.
    rounds: how often an order is changed: what reaches farthest is placed earlier.
  """
  cells = [_cells(place) for place in places]
  beside: list[list[tuple[int, list[tuple[int, int]]]]] = [[] for _ in places]
  for i, second in enumerate(cells):
    for j, first in enumerate(cells[:i]):
      if gaps := _forbidden(first, second):
        beside[i].append((j, gaps))
        beside[j].append((i, [(-high, -low) for low, high in gaps]))
  bound, sizes = most_alive(places), [piece.size for piece in cells]
  keys: tuple[Callable[[int], tuple], ...] = (
    lambda i: (-sizes[i], cells[i].starts),
    lambda i: (-sizes[i] * (cells[i].ends - cells[i].starts + 1),),
    lambda i: (cells[i].starts, -sizes[i]),
    lambda i: (-cells[i].ends, -sizes[i]),
  )
  best = None
  for key in keys:
    order = sorted(range(len(places)), key=key)
    for _ in range(1 + rounds // len(keys)):
      offsets = _first_fit(order, sizes, beside)
      top = max(range(len(places)), key=lambda i: offsets[i] + sizes[i])
      size = offsets[top] + sizes[top]
      if best is None or size < best.size:
        best = Arena(tuple(offsets), size)
      if best.size <= bound:
        return best
      at = order.index(top)
      if at == 0:
        break
      order.insert(at // 2, order.pop(at))
  return best or Arena((), 0)


def _first_fit(order: Sequence[int], sizes: Sequence[int], beside: Sequence[list]) -> list[int]:
  """Offsets of what is placed in an order, each at the lowest that is free."""
  offsets: list[int | None] = [None] * len(sizes)
  for i in order:
    taken = []
    for j, gaps in beside[i]:
      if (at := offsets[j]) is not None:
        taken += [(at + low, at + high) for low, high in gaps]
    taken.sort()
    offset = 0
    for low, high in taken:
      if low < offset < high:
        offset = -(-high // ALIGNMENT) * ALIGNMENT
    offsets[i] = offset
  return [offset or 0 for offset in offsets]
