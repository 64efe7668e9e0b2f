"""The memory plan of a network: places of its tensors, and the order of its computation."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxcompress.export.c99.cuts import Stage, good_cuts, lay_out
from jaxcompress.export.c99.emitted import Network
from jaxcompress.export.c99.schedule import Flow, flow_of
from jaxcompress.export.c99.storage import arrange

COUNTER_BYTES = 2  # of each operation of a stage, for how often it was called


class Kept(NamedTuple):
  """The rows of a tensor in memory: row ``y`` is the ``y % rows``-th.

  Attributes:
    first: first byte in the arena.
    rows: that are kept.
  """

  first: int
  rows: int


class Plan(NamedTuple):
  """A plan by which a network is computed in one arena.

  Attributes:
    arena: bytes of it.
    kept: where every tensor lies, by name; those of which nothing is made, anywhere.
    scratch: first byte of what each operation has for itself.
    stages: first operations of the stages, and the operations after their last.
    left_out: whether the calls of an operation are left out, since its output has the input's bytes.
    counters: bytes beside the arena, in which the walk counts calls.
    more: multiply-adds that are computed again, since others need their results later.
  """

  arena: int
  kept: Mapping[str, Kept]
  scratch: tuple[int, ...]
  stages: tuple[Stage, ...]
  left_out: tuple[bool, ...]
  counters: int
  more: int = 0

  @property
  def bytes(self) -> int:
    """Bytes of memory: the arena and the counters."""
    return self.arena + self.counters


def plan(network: Network) -> Plan:
  """Cuts a network into stages, and finds places for as few rows of its tensors as these need.

  Nothing is computed twice. The same network always has the same plan.
  """
  flow = flow_of(network)
  return min(
    (plan_stages(flow, stages) for stages in dict.fromkeys(good_cuts(flow))),
    key=lambda found: (found.arena, len(found.stages)),
  )


def plan_stages(flow: Flow, stages: tuple[Stage, ...], more: int = 0) -> Plan:
  """Finds places for the rows of a network that is computed in given stages.

  Args:
    flow: of the network.
    stages: all of it.
    more: multiply-adds that the network computes again.
  """
  network, layout = flow.network, lay_out(flow, stages)
  arena = arrange(layout.places)
  kept, scratch = dict.fromkeys(network.tensors, Kept(0, 1)), [0] * len(network.operations)
  count = len(layout.places) - len(layout.scratch)
  sharing = {}
  for i, place in enumerate(layout.places[:count]):
    for name in place.tensors:
      rows = place.size // network.tensors[name].row_bytes
      kept[name], sharing[name] = Kept(arena.offsets[i], rows), i
  for users, first in zip(layout.scratch, arena.offsets[count:], strict=True):
    for user in users:
      scratch[user] = first
  left_out = tuple(
    e.is_view and sharing.get(e.inputs[0]) == sharing.get(e.outputs[0]) for e in network.operations
  )
  counters = COUNTER_BYTES * max(stop - start for start, stop in stages)
  for name, part in network.parts.items():
    whole = kept[part.whole]
    kept[name] = Kept(whole.first + part.first, whole.rows)
  return Plan(arena.size, kept, tuple(scratch), stages, left_out, counters, more)
