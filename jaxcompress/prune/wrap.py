"""What every way of pruning does to the optimizer that it wraps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.prune.rules import kernels_of
from jaxcompress.prune.state import PruneState, kernel_at, mask_kernels, spread_masks

Kernels = dict[str, jax.Array]


class Method(NamedTuple):
  """How masks are chosen; all arrays are by layer.

  Attributes:
    init: ``kernels -> masks``, for the layers that are pruned; only shapes are read.
    due: ``count -> bool``: whether an update, counted from 0, chooses masks anew.
    renew: ``(masks, weights, gradients, count) -> masks``; weights are those after the update, and
      gradients those before any mask.
  """

  init: Callable[[Kernels], Kernels]
  due: Callable[[jax.Array], jax.Array]
  renew: Callable[[Kernels, Kernels, Kernels, jax.Array], Kernels]


def masked(
  optimizer: optax.GradientTransformation, method: Method
) -> optax.GradientTransformationExtraArgs:
  """An optimizer under which pruned weights are exactly zero, whatever it does to the others.

  Pruned weights give the optimizer no gradient, so its momenta of them are zero; their update is
  ``-w``. A weight that comes back starts at zero, with momenta of zero. It must be the outermost
  transformation: one that changes updates after it would change zeros.

  Args:
    optimizer: any optax transformation.
    method: how masks are chosen.

  Returns:
    A transformation with :class:`~jaxcompress.prune.PruneState`; ``update`` needs ``params``.

  Raises:
    ValueError: on ``update``, without ``params``.

  Examples:
    >>> import optax
    >>> small = lambda masks, weights, gradients, count: {n: abs(weights[n]) > 1 for n in masks}
    >>> method = Method(
    ...   init=lambda kernels: {name: jnp.ones(w.shape, bool) for name, w in kernels.items()},
    ...   due=lambda count: count == 0,
    ...   renew=small,
    ... )
    >>> params = {"a": {"kernel": jnp.array([[0.5, -2.0]])}}
    >>> optimizer = masked(optax.sgd(0.0), method)
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].tolist()
    [[0.0, -2.0]]
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def init(params):
    masks = method.init(kernels_of(params))
    return PruneState(masks, jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(updates, state, params=None, **extras):
    if params is None:
      raise ValueError("params: pruning reads the weights; give update the parameters.")
    old, gradients = state.masks, updates
    if "parts" in extras:
      parts = extras["parts"].items()
      extras["parts"] = {name: mask_kernels(old, tree) for name, tree in parts}
    updates, inner = optimizer.update(mask_kernels(old, gradients), state.inner, params, **extras)
    masks = jax.lax.cond(
      method.due(state.count),
      lambda: method.renew(old, _updated(old, params, updates), _pick(old, gradients), state.count),
      lambda: old,
    )
    alive = {name: mask & old[name] for name, mask in masks.items()}
    where_alive = spread_masks(alive, params)
    updates = jax.tree.map(_keep_or_clear, where_alive, updates, params)
    return updates, PruneState(masks, state.count + 1, _zero_pruned(inner, where_alive))

  return optax.GradientTransformationExtraArgs(init, update)


def _pick(masks: Kernels, tree: Any) -> Kernels:
  return {name: kernel_at(tree, name) for name in masks}


def _updated(masks: Kernels, params: Any, updates: Any) -> Kernels:
  """The weights after the update, zero where they are pruned."""
  after = {name: kernel_at(params, name) + kernel_at(updates, name) for name in masks}
  return {name: jnp.where(mask, after[name], 0.0) for name, mask in masks.items()}


def _keep_or_clear(alive: Any, update: jax.Array, param: jax.Array) -> jax.Array:
  return update if alive is True else jnp.where(alive, update, -param)


def _zero_pruned(inner: Any, alive: Any) -> Any:
  """An optimizer's state without the momenta of pruned weights.

  They are found by their names and shapes, since optimizers for parts of the parameters keep trees
  of their own form.
  """
  masks = {path: x for path, x in jax.tree_util.tree_leaves_with_path(alive) if x is not True}
  lengths = {len(path) for path in masks}

  def clear(path: tuple[Any, ...], leaf: Any) -> Any:
    for mask in (masks.get(path[-length:]) for length in lengths):
      if mask is not None and mask.shape == jnp.shape(leaf):
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))
    return leaf

  return jax.tree_util.tree_map_with_path(clear, inner)
