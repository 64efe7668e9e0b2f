"""A network made to fit into a budget of memory."""

import numpy as np

from jaxcompress.export.c99.cuts import Stage, cuts_from
from jaxcompress.export.c99.emitted import Network
from jaxcompress.export.c99.plan import Plan, plan, plan_stages
from jaxcompress.export.c99.schedule import flow_of
from jaxcompress.export.c99.strips import Strips, in_strips, striped_ends

COUNTS = (2, 3, 4, 6, 8)  # of strips that are tried
MOST_ENDS = 24  # maps at which strips end that are tried
MOST_BEYOND = 8  # tries that only tell how far a budget is from what can be done


def fit(network: Network, ram: int | None) -> tuple[Network, Plan]:
  """A network and its plan; in strips where a budget asks for it, with as few multiply-adds as are found.

  Args:
    network: any.
    ram: bytes that it may need; None: as few as it needs without computing anything twice.

  Raises:
    ValueError: if it needs more; the error says the least that was found.
  """
  if ram is not None and (isinstance(ram, bool) or not isinstance(ram, int | np.integer)):
    raise ValueError(f"ram: {ram!r} must be a whole number of bytes.")
  found = plan(network)
  if ram is None or found.bytes <= ram:
    return network, found
  least = found.bytes
  tries = _tries(network)
  within = [each for each in tries if each[1] <= ram]
  beyond = sorted((each for each in tries if ram < each[1] < least), key=lambda each: each[1])
  for strips, _, rest in (*within, *beyond[:MOST_BEYOND]):
    flow = flow_of(strips.network)
    tried = plan_stages(flow, _stages(strips, rest, len(network.operations)), strips.more)
    if tried.bytes <= ram:
      return strips.network, tried
    least = min(least, tried.bytes)
  raise ValueError(
    f"ram: {ram:,} must be at least {least:,} bytes, which is the least that was found; give the"
    " network smaller images or fewer channels."
  )


def _tries(network: Network) -> list[tuple[Strips, int, tuple[Stage, ...]]]:
  """Ways to begin in strips, those with the fewest multiply-adds first; what the rest needs; its stages."""
  ends = [stop for stop in striped_ends(network) if stop < len(network.operations)]
  tries = []
  for stop, need, rest in cuts_from(flow_of(network), ends[:MOST_ENDS]):
    strips = (in_strips(network, stop, count) for count in COUNTS)
    tries += [(each, need, rest) for each in strips if each is not None]
  return sorted(tries, key=lambda each: each[0].more)


def _stages(strips: Strips, rest: tuple[Stage, ...], count: int) -> tuple[Stage, ...]:
  """A stage for each strip, and those that follow."""
  ends = [sum(strips.each[: i + 1]) for i in range(len(strips.each))]
  stages = zip([0, *ends[:-1]], ends, strict=True)
  moved = len(strips.network.operations) - count
  return (*stages, *((start + moved, stop + moved) for start, stop in rest))
