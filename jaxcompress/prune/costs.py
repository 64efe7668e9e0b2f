"""Costs of channels: the multiply-adds or weights that go with them."""

import math
from typing import Literal, get_args

import numpy as np

from jaxcompress.arguments import unknown
from jaxcompress.nn import Graph, kernel_shape
from jaxcompress.nn.operations import macs
from jaxcompress.prune.routes import Routes, is_birth

Cost = Literal["macs", "weights"]
COSTS: tuple[str, ...] = get_args(Cost)


def check_cost(cost: str | None) -> None:
  """Raises if a cost is none that is known."""
  if cost is not None and cost not in COSTS:
    raise unknown("cost", cost, COSTS)


def channel_costs(graph: Graph, routes: Routes, cost: Cost) -> np.ndarray:
  """Counts what removing a channel of each class saves, per channel while few are removed.

  A class pays its share of all layers that make it, scale it or read it.

  Args:
    graph: traced, not fused.
    routes: of it.
    cost: ``"macs"``: multiply-adds for one image; ``"weights"``: of the kernels, whatever they are
      stored with.

  Returns:
    (classes,) float64.

  Raises:
    ValueError: if the cost is unknown.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.prune.routes import find_routes
    >>> graph = models.summarize(models.resnet8(10)).graph
    >>> routes = find_routes(graph)
    >>> found = channel_costs(graph, routes, "weights")
    >>> float(found[routes.ids["stage0_block0/conv1"][0]])  # 9 * 16 made of the stream, 9 * 16 for it
    288.0
  """
  check_cost(cost)
  total = np.zeros(len(routes.locked))
  for node in graph.nodes:
    amount = macs(node) if cost == "macs" else math.prod(kernel_shape(node) or (0,))
    ends = [node.output, node.inputs[0]] if is_birth(node) else [node.output]
    for ids in (routes.ids[tensor] for tensor in ends):
      np.add.at(total, ids, amount / len(ids))
  return total
