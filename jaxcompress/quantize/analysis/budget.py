"""Bits for every layer under a budget of bytes, with the least summed sensitivity."""

import numbers
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import check_type
from jaxcompress.nn.select import Selector, exactly
from jaxcompress.quantize.analysis.findings import rows_of
from jaxcompress.quantize.analysis.sensitivity import Sensitivity
from jaxcompress.quantize.quantizers.uniform import absmax
from jaxcompress.quantize.rules import Rule

SLACK = 1e-12  # relative; bounds are floats


class Allocation(NamedTuple):
  """The bits of each layer.

  Attributes:
    bits: by layer.
    bytes: of the network, packed; see :func:`~jaxcompress.quantize.storage.packed_bytes`.
    cost: summed sensitivity.
  """

  bits: dict[str, int]
  bytes: int
  cost: float

  @property
  def widths(self) -> tuple[int, ...]:
    """The numbers of bits that layers have, the most first."""
    return tuple(sorted(set(self.bits.values()), reverse=True))

  @property
  def rules(self) -> tuple[Rule, ...]:
    """One rule for each number of bits, the most first; together they name every layer."""
    named = {n: [name for name, bits in self.bits.items() if bits == n] for n in self.widths}
    return tuple(Rule(match=exactly(names), weights=absmax(n)) for n, names in named.items())


def allocate_bits(
  sensitivity: Sensitivity, budget_bytes: int, *, layers: Selector | None = None
) -> tuple[Rule, ...]:
  """Chooses the bits of every layer with the least sum of costs within a budget; returns rules.

  Exact; see :func:`choose_bits`. The rules name every layer with a kernel, so they mean the same in
  ``quantize.int8(rules=...)`` and ``quantize.post_training(..., rules=...)``, whatever the
  number of bits there.

  Args:
    sensitivity: of the network.
    budget_bytes: that packed weights, scales and biases may take; see
      :func:`~jaxcompress.quantize.storage.packed_bytes`.
    layers: whose bits are chosen, a selector (:mod:`jaxcompress.nn.select`); None: all. The others
      keep the most that were measured.

  Returns:
    The rules.

  Raises:
    ValueError: if an argument is of another kind, the budget is below the least size that can be reached,
      ``layers`` selects nothing, or costs are not finite.

  Examples:
    >>> from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity
    >>> rows = (
    ...   LayerSensitivity("stem", 100, 1, (0.0, 0.5), (108, 58)),
    ...   LayerSensitivity("head", 200, 1, (0.0, 0.1), (208, 108)),
    ... )
    >>> found = Sensitivity("kl", (8, 4), rows, 0, 32)
    >>> [(rule.match, rule.weights.levels.high) for rule in allocate_bits(found, 250)]
    [('^(?:stem)$', 127), ('^(?:head)$', 7)]
  """
  return choose_bits(sensitivity, budget_bytes, layers=layers).rules


def choose_bits(
  sensitivity: Sensitivity, budget_bytes: int, *, layers: Selector | None = None
) -> Allocation:
  """The numbers of bits behind :func:`allocate_bits`.

  The choice is a multiple-choice knapsack. Layer by layer, all sums of bytes and cost that no other
  beats in both are kept, and those are dropped that could not end below the best whole choice known,
  by the bound of the Lagrangian ``sum of cost + m * (bytes - budget)``. So the result is exact; of
  equal costs the one with fewer bytes is taken.

  Args:
    sensitivity: of the network.
    budget_bytes: as for :func:`allocate_bits`.
    layers: likewise.

  Returns:
    An :class:`Allocation`.

  Raises:
    ValueError: as :func:`allocate_bits`.

  Examples:
    >>> from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity
    >>> rows = (
    ...   LayerSensitivity("stem", 100, 1, (0.0, 0.5), (108, 58)),
    ...   LayerSensitivity("head", 200, 1, (0.0, 0.1), (208, 108)),
    ... )
    >>> choose_bits(Sensitivity("kl", (8, 4), rows, 0, 32), 250)
    Allocation(bits={'stem': 8, 'head': 4}, bytes=216, cost=0.1)

  References:
    Kellerer et al., Knapsack Problems, 2004, chapter 11.
  """
  check_type("sensitivity", sensitivity, Sensitivity, "what quantize.sensitivity(...) gives")
  check_type("budget_bytes", budget_bytes, numbers.Real, "a number of bytes, such as 60_000")
  _check_costs(sensitivity)
  rows, widths = sensitivity.layers, np.array([sensitivity.bits] * len(sensitivity.layers))
  sizes = np.array([row.bytes for row in rows], np.int64).reshape(len(rows), -1)
  costs = np.array([row.costs for row in rows], np.float64).reshape(len(rows), -1)
  names, most = rows_of(layers, rows), int(np.argmax(sensitivity.bits))
  held = np.array([row.name not in names for row in rows], bool)
  for table in (sizes, costs, widths):
    table[held] = table[held, most : most + 1]
  if not np.isfinite(budget_bytes):
    raise ValueError(f"budget_bytes: {budget_bytes} must be a finite number.")
  room = int(budget_bytes) - sensitivity.fixed_bytes
  least = int(sizes.min(axis=1).sum())
  if room < least:
    raise ValueError(
      f"budget_bytes: {budget_bytes} cannot be met; with {min(sensitivity.bits)}-bit weights"
      f" {'everywhere' if layers is None else 'where they may be'} the network takes"
      f" {least + sensitivity.fixed_bytes} bytes, which is the least."
    )
  chosen = _knapsack(sizes, costs, room)
  width, size, cost = (table[np.arange(len(rows)), chosen] for table in (widths, sizes, costs))
  bits = {row.name: int(n) for row, n in zip(rows, width, strict=True)}
  return Allocation(bits, int(size.sum()) + sensitivity.fixed_bytes, float(cost.sum()))


def _check_costs(sensitivity: Sensitivity) -> None:
  if not sensitivity.layers:
    raise ValueError("sensitivity: it has no layers, whose bits could be chosen.")
  for row in sensitivity.layers:
    for bits, cost in zip(sensitivity.bits, row.costs, strict=True):
      if not np.isfinite(cost):
        raise ValueError(
          f"sensitivity: {bits}-bit weights of layer {row.name!r} cost {cost}, which cannot be compared;"
          " measure it again, on images and variables of a usual range."
        )


def _knapsack(sizes: np.ndarray, costs: np.ndarray, room: int) -> np.ndarray:
  """(layers,) positions of the choice with the least cost among those that fit."""
  price, best = _dual(sizes, costs, room)
  slack = SLACK * (1 + np.abs(costs).sum())
  priced = (costs + price * sizes).min(axis=1)
  rest = np.append(np.cumsum(priced[::-1])[::-1], 0.0)  # of the layers from each on
  smallest = np.append(np.cumsum(sizes.min(axis=1)[::-1])[::-1], 0)
  size, cost, history = np.zeros(1, np.int64), np.zeros(1), []
  for i, (own_sizes, own_costs) in enumerate(zip(sizes, costs, strict=True)):
    new_size = (size[:, None] + own_sizes).ravel()
    new_cost = (cost[:, None] + own_costs).ravel()
    bound = new_cost + rest[i + 1] - price * (room - new_size)
    alive = np.flatnonzero((new_size + smallest[i + 1] <= room) & (bound <= best + slack))
    kept = alive[_frontier(new_size[alive], new_cost[alive])]
    size, cost = new_size[kept], new_cost[kept]
    history.append(kept)
  at = int(np.argmin(cost))  # sizes rise and costs fall along the frontier
  chosen = []
  for kept in reversed(history):
    at, choice = divmod(int(kept[at]), sizes.shape[1])
    chosen.append(choice)
  return np.array(chosen[::-1], np.int64)


def _frontier(size: np.ndarray, cost: np.ndarray) -> np.ndarray:
  """Positions of the sums that no other beats, by size; costs fall strictly along them."""
  order = np.lexsort((cost, size))
  so_far = np.minimum.accumulate(cost[order])
  return order[np.append(True, cost[order][1:] < so_far[:-1])[: len(order)]]


def _dual(sizes: np.ndarray, costs: np.ndarray, room: int) -> tuple[float, float]:
  """A price for bytes whose bound is nearly the best, and the cost of a choice that fits."""
  smallest = np.lexsort((costs, sizes), axis=1)[:, 0]
  rows = np.arange(len(sizes))
  best = float(costs[rows, smallest].sum())
  spans = np.ptp(costs, axis=1).max(initial=0.0)
  low, high = 0.0, 2 * spans + 1e-300
  for _ in range(100):
    price = (low + high) / 2
    chosen = np.argmin(costs + price * sizes, axis=1)
    if sizes[rows, chosen].sum() <= room:
      high, best = price, min(best, float(costs[rows, chosen].sum()))
    else:
      low = price
  return high, best
