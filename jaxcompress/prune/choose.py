"""Chooses which channels stay, so that hardware likes what is left."""

import math
import numbers
import warnings
from collections.abc import Mapping

import numpy as np

from jaxcompress.nn import Graph
from jaxcompress.nn.checks import is_whole
from jaxcompress.prune.costs import Cost, channel_costs, check_cost
from jaxcompress.prune.importance import Importance
from jaxcompress.prune.removal import Keep, plan_removal
from jaxcompress.prune.routes import (
  Routes,
  families_of,
  find_routes,
  is_birth,
  name_depthwise,
  tensors_of,
  with_counts,
)

SCOPES = ("global", "layer")


def choose_channels(
  importance: Importance,
  fraction: float,
  *,
  scope: str = "global",
  divisor: int = 8,
  cost: Cost | None = None,
) -> Keep:
  """Keeps the most important channels.

  ``"layer"`` keeps the fraction everywhere; ``"global"`` keeps those above one threshold, so that
  layers differ; with a cost, those that matter most for what they cost. The numbers are then rounded to what every layer may have: multiples of the divisor
  (or all of its channels), at least one, and equal groups where there are shuffles and grouped
  convolutions, whose tensors shrink in proportion; where groups and the divisor cannot both be had,
  half of the divisor counts.

  Args:
    importance: of the network.
    fraction: share of the channels that stays, above 0 to 1.
    scope: ``"global"`` or ``"layer"``.
    divisor: of the layers' output channels: 8 or 16 fill the registers of usual hardware; 1: any.
    cost: by which importance is divided for ``"global"``, ``"macs"`` or ``"weights"``; see
      :func:`~jaxcompress.prune.channel_costs`. None: channels count alike.

  Returns:
    The masks, for every layer that makes channels.

  Raises:
    ValueError: if an argument is out of range.

  Warns:
    UserWarning: if no channel can be removed, or the network keeps a larger share even with the
      fewest, as where layers have no more than the divisor; the message says which share that is.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> from jaxcompress.prune import channel_importance
    >>> import jax
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> found = channel_importance(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    >>> keep = choose_channels(found, 0.5, scope="layer")
    >>> int(keep.masks["stem"].sum()), int(keep.masks["stage2_block0/conv1"].sum())
    (8, 32)
  """
  if not isinstance(fraction, numbers.Real) or not 0 < float(fraction) <= 1:
    raise ValueError(f"fraction: {fraction!r} is out of range; it must be above 0 and at most 1.")
  if scope not in SCOPES:
    raise ValueError(f"scope: {scope!r} is unknown; it must be one of {', '.join(SCOPES)}.")
  if not is_whole(divisor, 1):
    raise ValueError(f"divisor: {divisor!r} must be a whole number of at least 1.")
  check_cost(cost)
  if cost is not None and scope == "layer":
    raise ValueError(
      f"cost: {cost!r} has no meaning with scope 'layer', whose channels cost alike; leave one of them"
      " out."
    )
  kept = _kept(importance, fraction, scope, divisor, cost)
  free = np.isfinite(importance.scores)
  if fraction < 1 and not free.any():
    message = (
      f"fraction: {fraction} cannot be reached: this network has no channels that can be removed."
    )
    warnings.warn(message, stacklevel=2)
  elif fraction < 1 and kept[free].sum() > fraction * free.sum():
    least = least_share(importance, divisor=divisor)
    if fraction < least:
      warnings.warn(_out_of_reach(fraction, least, divisor), stacklevel=2)
  return _keep(importance, kept)


def fewest_channels(importance: Importance, *, divisor: int = 8) -> Keep:
  """Keeps as few channels as every layer may have, the most important ones.

  Args:
    importance: of the network.
    divisor: as for :func:`choose_channels`.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> from jaxcompress.prune import channel_importance
    >>> import jax
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> found = channel_importance(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    >>> int(fewest_channels(found).masks["stage2_block0/conv1"].sum())
    8
  """
  return _keep(importance, _kept(importance, 0.0, "layer", divisor))


def least_share(importance: Importance, *, divisor: int = 8) -> float:
  """The share of the channels that stays at least, in the sense of :func:`choose_channels`.

  1 where no channel could be removed.

  Args:
    importance: of the network.
    divisor: as for :func:`choose_channels`.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> from jaxcompress.prune import channel_importance
    >>> import jax
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> found = channel_importance(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    >>> round(least_share(found), 3), round(least_share(found, divisor=16), 3)
    (0.214, 0.429)
  """
  free = np.isfinite(importance.scores)
  kept = _kept(importance, 0.0, "layer", divisor)
  return float(kept[free].sum() / free.sum()) if free.any() else 1.0


def thinnest(graph: Graph, divisor: int = 8) -> Graph:
  """The graph with the fewest channels that :func:`choose_channels` can leave.

  Args:
    graph: traced, not fused.
    divisor: as for :func:`choose_channels`.

  Examples:
    >>> from jaxcompress import models
    >>> thinnest(models.summarize(models.vgg8(10)).graph).shape("stage4_conv0")
    (1, 4, 4, 8)
  """
  graph = name_depthwise(graph)
  routes = find_routes(graph)
  scores = np.where(routes.locked, np.inf, 0.0)
  keep = fewest_channels(Importance(graph, routes, scores), divisor=divisor)
  return plan_removal(graph, keep.masks).graph


def _kept(
  importance: Importance, fraction: float, scope: str, divisor: int, cost: Cost | None = None
) -> np.ndarray:
  """(classes,) bool: which classes stay, by what is wanted and what every layer may have."""
  graph, routes, scores = importance
  paid = 1.0 if cost is None else channel_costs(graph, routes, cost)
  order = _order(scores / np.maximum(paid, np.finfo(np.float64).tiny))
  free = np.isfinite(scores)
  above = np.zeros(len(scores), bool)
  above[order[: round(fraction * free.sum())]] = True  # infinite scores come last in the order
  kept = np.ones(len(scores), bool)
  for family in families_of(graph, routes):
    members = np.isin(routes.signatures, family)
    if not free[members].all():
      continue
    count = int(members.sum())
    wanted = fraction * count if scope == "layer" else int(above[members].sum())
    numbers = {family[0]: _alone(graph, routes, members, wanted, divisor)}
    if len(family) > 1:
      numbers = _together(graph, routes, members, wanted, divisor)
    for signature, number in numbers.items():
      ranked = order[(routes.signatures == signature)[order]]
      kept[ranked[number:]] = False
  return kept


def _keep(importance: Importance, kept: np.ndarray) -> Keep:
  """The masks of the classes that stay."""
  graph, routes, _ = importance
  masks = {node.name: kept[routes.ids[node.output]] for node in graph.nodes if is_birth(node)}
  height, width, channels = graph.input_shape[1:]
  return Keep(masks, (height, width, channels))


def _out_of_reach(fraction: float, least: float, divisor: int) -> str:
  if least == 1:
    return (
      f"fraction: {fraction} cannot be reached: with divisor {divisor} no channel of this network can be"
      " removed, and all stay; pass a smaller divisor, or another importance."
    )
  return (
    f"fraction: {fraction} cannot be reached: with divisor {divisor} this network keeps at least"
    f" {math.ceil(1000 * least) / 1000:g} of its channels; ask for that or more, or pass a smaller"
    " divisor."
  )


def _order(scores: np.ndarray) -> np.ndarray:
  """Classes from the most to the least important, those that must stay last."""
  return np.lexsort((np.arange(len(scores)), np.where(np.isfinite(scores), -scores, np.inf)))


def _births(graph: Graph, routes: Routes, members: np.ndarray) -> list[int]:
  """How many channels of some classes each layer makes, where it makes any."""
  own = (int(members[routes.ids[node.output]].sum()) for node in graph.nodes if is_birth(node))
  return [number for number in own if number]


def _alone(graph: Graph, routes: Routes, members: np.ndarray, wanted: float, divisor: int) -> int:
  """How many classes of one signature stay: any number that the divisor allows, or all."""
  count = int(members.sum())
  births = _births(graph, routes, members)
  allowed = [
    total
    for total in range(1, count + 1)
    if total == count or not any(made // count * total % divisor for made in births)
  ]
  return min(allowed, key=lambda total: (abs(total - wanted), -total))


def _together(
  graph: Graph, routes: Routes, members: np.ndarray, wanted: float, divisor: int
) -> dict[np.uint64, int]:
  """How many classes of each signature of a family stay, so that its tensors shrink in proportion.

  Groups must be of equal sizes; where the divisor leaves no such number, half of it counts.
  """
  sizes, births = tensors_of(graph), _births(graph, routes, members)
  own = {tensor for tensor, ids in routes.ids.items() if members[ids].all()}
  parts = math.gcd(*(sizes[tensor] for tensor in own))
  signatures, counts = np.unique(routes.signatures[members], return_counts=True)
  whole = dict(zip(signatures, map(int, counts), strict=True))
  share = parts * wanted / members.sum()
  if parts - share <= 0.5:
    return whole
  while divisor:
    for part in sorted(range(1, parts), key=lambda part: (abs(part - share), -part)):
      if parts - share <= abs(part - share):
        return whole
      if any(made * part // parts % divisor for made in births):
        continue
      fewer = {t: n * part // parts if t in own else n for t, n in sizes.items()}
      found = _numbers(graph, routes, fewer, whole)
      if found is not None:
        return found
    divisor //= 2
  return whole


def _numbers(
  graph: Graph, routes: Routes, counts: Mapping[str, int], whole: Mapping[np.uint64, int]
) -> dict[np.uint64, int] | None:
  """Classes of each signature in a network of those counts; None if this one has not so many."""
  try:
    small = find_routes(with_counts(graph, counts))
  except ValueError:
    return None
  found, numbers = np.unique(small.signatures, return_counts=True)
  needed = dict(zip(found, map(int, numbers), strict=True))
  if not set(routes.signatures).issuperset(needed):
    return None
  result = {signature: needed.get(signature, 0) for signature in whole}
  return result if all(result[key] <= most for key, most in whole.items()) else None
