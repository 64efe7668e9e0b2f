"""Pruning of the smallest weights, gradually or at once, anywhere or some of every few."""

import re
from typing import Literal

import jax.numpy as jnp
import optax

from jaxcompress.prune.rules import Rule, check_rules, check_sparsity, choose_targets
from jaxcompress.prune.schedules import Schedule, at_once
from jaxcompress.prune.scores import count_of, keep_largest, keep_largest_of_all, keep_n_of_m
from jaxcompress.prune.wrap import Method, masked


def magnitude(
  optimizer: optax.GradientTransformation,
  *,
  sparsity: float,
  scope: Literal["layer", "global"] = "layer",
  schedule: Schedule | None = None,
  rules: tuple[Rule, ...] = (),
) -> optax.GradientTransformationExtraArgs:
  """Prunes the weights of least magnitude; what is pruned once stays zero.

  Args:
    optimizer: what trains; any optax transformation.
    sparsity: share of zeros in the end, in [0, 1).
    scope: ``"layer"``: every kernel gets that share; ``"global"``: all kernels together, with one
      threshold.
    schedule: such as :func:`~jaxcompress.prune.agp`, which reaches the target gradually; None:
      after the first update.
    rules: which kernels are pruned, and how far; by default all but those of the first and the last
      layer and of depthwise convolutions. Kernels with a sparsity of their own are left out of a
      global threshold.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if a number or the scope is out of range; on ``init``, if a rule matches no kernel.

  Examples:
    >>> params = {"a": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]])}}
    >>> optimizer = magnitude(optax.sgd(0.1), sparsity=0.5)
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].tolist()
    [[0.0, -1.7999999523162842], [0.0, 3.5999999046325684]]

  References:
    Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015;
    Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017.
  """
  check_sparsity(sparsity)
  if scope not in ("layer", "global"):
    raise ValueError(f"scope: {scope!r} is unknown; it must be 'layer' or 'global'.")
  schedule = schedule or at_once()

  def init(kernels):
    return {
      name: jnp.ones(kernels[name].shape, bool) for name in check_rules(kernels, rules).layers
    }

  def renew(masks, weights, gradients, count):
    del gradients
    targets, done = choose_targets(weights, rules), schedule.progress(count)
    pooled = {name: weights[name] for name in targets.shared} if scope == "global" else {}
    found = keep_largest_of_all(pooled, sparsity * done, masks) if pooled else {}
    for name in weights.keys() - pooled.keys():
      share = targets.own.get(name, sparsity) * done
      found[name] = keep_largest(weights[name], share, masks[name])
    return found

  return masked(optimizer, Method(init, schedule.due, renew))


def n_m(
  optimizer: optax.GradientTransformation,
  pattern: str = "2:4",
  *,
  schedule: Schedule | None = None,
  rules: tuple[Rule, ...] = (),
) -> optax.GradientTransformationExtraArgs:
  """Keeps at most ``n`` of every ``m`` successive inputs of an output, as sparse tensor cores read.

  Args:
    optimizer: what trains; any optax transformation.
    pattern: ``"n:m"``, such as ``"2:4"`` or ``"4:8"``.
    schedule: such as :func:`~jaxcompress.prune.agp`, along which the number that stays falls from
      ``m`` to ``n``; None: after the first update.
    rules: which kernels are pruned; see :func:`magnitude`. A rule has no sparsity here.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if the pattern is none, or a rule has a sparsity; on ``init``, if a rule matches no
      kernel.

  Examples:
    >>> params = {"a": {"kernel": jnp.array([[1.0], [-2.0], [0.5], [4.0]])}}
    >>> optimizer = n_m(optax.sgd(0.0), "2:4")
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].ravel().tolist()
    [0.0, -2.0, 0.0, 4.0]

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks <https://arxiv.org/abs/2104.08378>`_,
    2021, section 3.
  """
  n, m = parse_pattern(pattern)
  for rule in rules:
    if rule.sparsity is not None:
      raise ValueError(
        f"rules: {rule.match!r} has sparsity {rule.sparsity}, but {pattern} has its own."
      )
  schedule = schedule or at_once()

  def init(kernels):
    return {
      name: jnp.ones(kernels[name].shape, bool) for name in check_rules(kernels, rules).layers
    }

  def renew(masks, weights, gradients, count):
    del gradients
    kept = m - count_of(schedule.progress(count), m - n)
    return {name: keep_n_of_m(w, kept, m, masks[name]) for name, w in weights.items()}

  return masked(optimizer, Method(init, schedule.due, renew))


def parse_pattern(pattern: str) -> tuple[int, int]:
  """How many stay of how many.

  Raises:
    ValueError: if the text is no pattern.

  Examples:
    >>> parse_pattern("2:4")
    (2, 4)
  """
  found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", str(pattern))
  n, m = map(int, found.groups()) if found else (0, 0)
  if not 0 < n < m:
    raise ValueError(f"pattern: {pattern!r} must be 'n:m' with 0 < n < m, such as '2:4'.")
  return n, m
