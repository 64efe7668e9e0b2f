"""Removes channels until a network fits, at once or a few at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxcompress.nn import Graph
from jaxcompress.nn.checks import is_whole
from jaxcompress.prune.choose import choose_channels, fewest_channels, least_share
from jaxcompress.prune.costs import Cost
from jaxcompress.prune.importance import Importance
from jaxcompress.prune.removal import Keep, plan_removal, remove_channels

HALVINGS = 9  # of the interval in which the share of channels is searched


def fit_channels(
  importance: Importance,
  fits: Callable[[Graph], bool],
  *,
  divisor: int = 8,
  cost: Cost | None = None,
) -> Keep:
  """Keeps the most channels with which a network fits; the fewest, if it never does.

  Args:
    importance: of the network's channels.
    fits: whether a graph does.
    divisor: as for :func:`~jaxcompress.prune.choose_channels`.
    cost: likewise.

  Raises:
    ValueError: as there.

  Examples:
    >>> import jax
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import count_macs, init_variables
    >>> from jaxcompress.prune import channel_importance
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> found = channel_importance(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    >>> keep = fit_channels(found, lambda graph: count_macs(graph) <= 400_000)
    >>> 350_000 < count_macs(plan_removal(found.graph, keep.masks).graph) <= 400_000
    True
  """
  low, high = least_share(importance, divisor=divisor), 1.0
  best = fewest_channels(importance, divisor=divisor)
  for _ in range(HALVINGS):
    middle = (low + high) / 2
    keep = choose_channels(importance, middle, divisor=divisor, cost=cost)
    if fits(plan_removal(importance.graph, keep.masks).graph):
      low, best = middle, keep
    else:
      high = middle
  return best


def limits_of(whole: float, most: float, steps: int) -> tuple[float, ...]:
  """Sizes after each step, each the same share of the one before.

  Args:
    whole: the size at first.
    most: and in the end.
    steps: how many.

  Raises:
    ValueError: if ``steps`` or ``most`` is out of range.

  Examples:
    >>> limits_of(800, 100, 3)
    (400.0, 200.0, 100)
  """
  if not is_whole(steps, 1):
    raise ValueError(f"steps: {steps!r} must be a whole number of at least 1.")
  if not most > 0:
    raise ValueError(f"most: {most!r} must be positive.")
  share = min(1.0, most / whole)
  return (*(whole * share ** (k / steps) for k in range(1, steps)), most)


def remove_in_steps(
  model: nn.Module,
  variables: Mapping[str, Any],
  importance: Callable[[nn.Module, Any], Importance],
  size: Callable[[Graph], float],
  most: float,
  *,
  steps: int = 4,
  train: Callable[[nn.Module, Any], Any] = lambda model, variables: variables,
  divisor: int = 8,
  cost: Cost | None = None,
) -> tuple[nn.Module, Any]:
  """Removes channels in steps of equal shares, and measures their importance again before each.

  Args:
    model: a linen module made of leaf ops.
    variables: its ``params`` and ``batch_stats``.
    importance: ``(model, variables) -> Importance``, of the network as it is then.
    size: of a graph, such as :func:`~jaxcompress.nn.count_macs`.
    most: that the size may be in the end.
    steps: how many.
    train: ``(model, variables) -> variables``, in between: after each step but the last.
    divisor: as for :func:`~jaxcompress.prune.choose_channels`.
    cost: likewise.

  Returns:
    ``(smaller model, smaller variables)``, to be trained on.

  Raises:
    ValueError: if an argument is out of range, or the network is too large even with the fewest
      channels; the message says what is the least.

  Examples:
    >>> import jax
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import count_macs, init_variables
    >>> from jaxcompress.prune import channel_importance
    >>> model, image = models.resnet8(10), jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    >>> variables = init_variables(model, jax.random.key(0), image.shape[1:])
    >>> smaller, few = remove_in_steps(
    ...   model, variables, lambda *network: channel_importance(*network, image), count_macs, 400_000
    ... )
    >>> few["params"]["stem"]["kernel"].shape
    (3, 3, 3, 8)

  References:
    Molchanov et al., `Pruning Convolutional Neural Networks for Resource Efficient Inference
    <https://arxiv.org/abs/1611.06440>`_, 2017, section 2.
  """
  found = importance(model, variables)
  least = size(plan_removal(found.graph, fewest_channels(found, divisor=divisor).masks).graph)
  if least > most:
    raise ValueError(
      f"most: {most:,} cannot be reached; with divisor {divisor} and the fewest channels this network has"
      f" {least:,}; allow more, or pass a smaller divisor."
    )
  limits = limits_of(size(found.graph), most, steps)
  for step, limit in enumerate(limits, 1):
    if step > 1:
      variables = train(model, variables)
      found = importance(model, variables)
    keep = fit_channels(found, lambda graph: size(graph) <= limit, divisor=divisor, cost=cost)  # noqa: B023
    model, variables = remove_channels(model, variables, keep)
  return model, variables
