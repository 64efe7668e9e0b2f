"""The order in which the rows of a network are computed, and how long each row is needed.

The operations of a network are cut into *stages*. Within a stage rows are pulled by its last
operation: before it makes a row, whoever makes what that row reads makes the rows that are missing, and
so on upwards. So only a few rows of what lies between are alive at any time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.export.c99.emitted import PADDING, Emitted, Network, Whole

NEVER = np.iinfo(np.int32).max  # after the last call
BEFORE = -1  # before the first call

Need = tuple[int, int]
"""An operation, and how many of its calls must be done."""


class Operation(NamedTuple):
  """The calls of one operation, on which their order depends.

  Attributes:
    calls: how often it is called.
    needs: for each call the calls of others that must be done before, input after input.
    last_reads: for each input the last call that reads each row of it, -1 where none does.
    grows: whether each call makes one row of the outputs; otherwise the last call makes all of them.
  """

  calls: int
  needs: tuple[tuple[Need, ...], ...]
  last_reads: tuple[np.ndarray, ...]
  grows: bool


class Flow(NamedTuple):
  """A network as the planner sees it.

  Attributes:
    network: of which it is.
    operations: as many as the network has.
    producers: place of the operation that makes a tensor, by name; -1 of the input.
    readers: places of the operations that read a tensor, by name, in order.
  """

  network: Network
  operations: tuple[Operation, ...]
  producers: dict[str, int]
  readers: dict[str, tuple[int, ...]]


def flow_of(network: Network) -> Flow:
  """Works out who needs whom.

  Raises:
    ValueError: if an operation reads what none before it makes.
  """
  producers = {network.input: BEFORE}
  readers: dict[str, tuple[int, ...]] = {network.input: ()}
  operations: list[Operation] = []
  for place, emitted in enumerate(network.operations):
    inputs, outputs = (tuple(map(network.whole, e)) for e in (emitted.inputs, emitted.outputs))
    missing = [name for name in inputs if name not in producers]
    if missing:
      raise ValueError(
        f"network: {emitted.name!r} reads {missing[0]!r}, which nothing before makes."
      )
    for name in dict.fromkeys(inputs):
      readers[name] += (place,)
    operations.append(_operation(network, emitted, producers, operations))
    producers |= dict.fromkeys(outputs, place)
    readers |= {name: readers.get(name, ()) for name in outputs}
  return Flow(network, tuple(operations), producers, readers)


def count_calls(network: Network, emitted: Emitted) -> int:
  """How often an operation is called for an image."""
  if emitted.kind == "whole":
    return 1
  tensor = emitted.inputs[0] if emitted.kind == "fold" else emitted.outputs[0]
  return network.tensors[tensor].rows


def rows_read(network: Network, emitted: Emitted, place: int, call: int) -> tuple[int, ...]:
  """Rows of an input that a call reads, without padding."""
  height, reads = network.tensors[emitted.inputs[place]].rows, emitted.reads[place]
  if isinstance(reads, Whole) or emitted.kind == "whole":
    return tuple(range(height))
  return tuple(row for row in reads.of(call, height) if row != PADDING)


def _operation(
  network: Network, emitted: Emitted, producers: dict[str, int], before: list[Operation]
) -> Operation:
  calls = count_calls(network, emitted)
  needs: list[list[Need]] = [[] for _ in range(calls)]
  last_reads = []
  for place, name in enumerate(emitted.inputs):
    lasts = np.full(network.tensors[name].rows, -1)
    producer = producers[network.whole(name)]
    for call in range(calls):
      rows = rows_read(network, emitted, place, call)
      if not rows:
        continue
      lasts[list(rows)] = call
      if producer != BEFORE:
        maker = before[producer]
        needs[call].append((producer, max(rows) + 1 if maker.grows else maker.calls))
    last_reads.append(lasts)
  return Operation(calls, tuple(map(tuple, needs)), tuple(last_reads), emitted.kind == "rows")


def pull(flow: Flow, start: int, stop: int) -> list[tuple[int, int]]:
  """The calls of a stage in their order, ``(operation, call)``.

  Args:
    flow: of the network.
    start: the first operation of the stage.
    stop: the one after its last.
  """
  done = dict.fromkeys(range(start, stop), 0)
  order = []
  for target in targets(flow, start, stop):
    path = [target]
    while path:
      place = path[-1]
      operation, call = flow.operations[place], done[place]
      if call == operation.calls:
        path.pop()
        continue
      for producer, count in operation.needs[call]:
        if producer >= start and done[producer] < count:
          path.append(producer)
          break
      else:
        order.append((place, call))
        done[place] = call + 1
        if place != target:
          path.pop()
  return order


def targets(flow: Flow, start: int, stop: int) -> list[int]:
  """The operations of a stage that are brought to their end, one after the other.

  Those whose outputs nobody in the stage reads, and then those whose outputs are read after it.
  """
  emitted = flow.network.operations
  inside = {
    place: [
      reader for name in emitted[place].outputs for reader in flow.readers[flow.network.whole(name)]
    ]
    for place in range(start, stop)
  }
  ends = [place for place, readers in inside.items() if not any(r < stop for r in readers)]
  kept = {tensor for _, tensor in flow.network.outputs}
  later = [
    place
    for place, readers in inside.items()
    if place not in ends
    and (any(r >= stop for r in readers) or not kept.isdisjoint(emitted[place].outputs))
  ]
  return ends + later


class Life(NamedTuple):
  """Times at which the rows of a tensor are written and last read: places in the order of all calls."""

  born: np.ndarray
  dies: np.ndarray


def lifetimes(
  flow: Flow, order: Sequence[tuple[int, int]], start: int = 0, stop: int | None = None
) -> tuple[dict[str, Life], dict[int, np.ndarray]]:
  """How long each row is needed, where the calls of some operations have an order.

  Rows that nobody needs are not made: they are the last ones of a tensor, and its life leaves them out.

  Args:
    flow: of the network.
    order: of the calls.
    start: the first operation of those that are called.
    stop: the one after the last; by default all are called.

  Returns:
    Lives of the tensors that they read or write, and for each operation the times of its calls. What
    others made lives from before the first call, and what others read beyond the last.
  """
  network = flow.network
  stop = len(network.operations) if stop is None else stop
  made: dict[int, list[int]] = {place: [] for place in range(start, stop)}
  for time, (place, _) in enumerate(order):
    made[place].append(time)
  times = {place: np.array(when, np.int64) for place, when in made.items()}
  lives: dict[str, Life] = {}
  for place, when in times.items():
    emitted, operation = network.operations[place], flow.operations[place]
    for part, lasts in zip(emitted.inputs, operation.last_reads, strict=True):
      name = network.whole(part)
      if name not in lives:
        lives[name] = Life(*np.full((2, network.tensors[name].rows), BEFORE))
      if when.size:
        ends = np.where(lasts < 0, BEFORE, when[np.minimum(lasts, len(when) - 1)])
        dies = lives[name].dies
        np.maximum(dies, ends[: len(dies)], out=dies)
    for name in emitted.outputs:
      rows = network.tensors[name].rows
      born = when if operation.grows or not when.size else np.full(rows, when[-1])
      whole = network.whole(name)
      if whole in lives:  # another part of it is there
        np.maximum(lives[whole].dies, born, out=lives[whole].dies)
      else:
        lives[whole] = Life(born.copy(), born.copy())
  kept = {tensor for _, tensor in network.outputs}
  for name, life in lives.items():
    if name in kept or any(reader >= stop for reader in flow.readers[name]):
      life.dies[:] = NEVER
  return lives, times
