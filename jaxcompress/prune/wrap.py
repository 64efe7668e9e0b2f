"""What every way of pruning does to the optimizer that it wraps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.prune.rules import kernels_of
from jaxcompress.prune.schedules import Schedule
from jaxcompress.prune.state import PruneState, kernel_at, mask_kernels, spread_masks

Kernels = dict[str, jax.Array]


class Method(NamedTuple):
  """How masks are chosen; all arrays are by layer.

  Attributes:
    init: ``kernels -> masks``, bool, for the layers that are pruned; only shapes are read.
    due: ``count -> bool``: whether an update, counted from 0, chooses masks anew.
    renew: ``(masks, weights, gradients, count) -> masks``; weights are those after the update, and
      gradients those before any mask. With a ``goal`` that comes last.
    goal: ``kernels -> arrays``, what pruning leads to, such as each layer's sparsity; kept in the
      state, so that a run does not go on with another one by mistake. None: nothing.
    schedule: whose ``end`` is made up for, or None.
  """

  init: Callable[[Kernels], Kernels]
  due: Callable[[jax.Array], jax.Array]
  renew: Callable[..., Kernels]
  goal: Callable[[Kernels], Any] | None = None
  schedule: Schedule | None = None


def masked(
  optimizer: optax.GradientTransformation, method: Method
) -> optax.GradientTransformationExtraArgs:
  """An optimizer under which pruned weights are exactly zero, whatever it does to the others.

  Pruned weights give the optimizer no gradient, so its momenta of them are zero; their update is
  ``-w``. A weight that comes back starts at zero, with momenta of zero. It should be the outermost
  transformation, or the last of a chain: one that changes updates after it changes zeros. The
  training step puts those back, and tells with ``applied=False`` that the updates are not final;
  masks are then chosen by the weights before them.

  Args:
    optimizer: any optax transformation.
    method: how masks are chosen.

  Returns:
    A transformation with :class:`~jaxcompress.prune.PruneState`; ``update`` needs ``params``.

  Raises:
    ValueError: on ``init``, if a mask is not bool or of another shape than its kernel; on
      ``update``, without ``params``.

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

  schedule = method.schedule

  def init(params):
    kernels = kernels_of(params)
    masks = method.init(kernels)
    _check_masks(masks, kernels)
    return PruneState(
      masks,
      jnp.zeros((), jnp.int32),
      optimizer.init(params),
      () if method.goal is None else method.goal(kernels),
      () if schedule is None else jnp.zeros((), jnp.float32),
    )

  def update(updates, state, params=None, **extras):
    if params is None:
      raise ValueError("params: pruning reads the weights; give update the parameters.")
    old, gradients, count = state.masks, updates, state.count
    if "parts" in extras:
      parts = extras["parts"].items()
      extras["parts"] = {name: mask_kernels(old, tree) for name, tree in parts}
    updates, inner = optimizer.update(mask_kernels(old, gradients), state.inner, params, **extras)
    final = updates if extras.get("applied", True) else jax.tree.map(jnp.zeros_like, updates)

    def renew():
      goal = () if method.goal is None else (state.goal,)
      weights = _updated(old, params, final)
      masks = method.renew(old, weights, _pick(old, gradients), count, *goal)
      return masks, () if schedule is None else schedule.progress(count)

    due = method.due(count)
    if schedule is not None and schedule.end is not None:
      due |= (count > schedule.end) & (state.reached < 1)
    masks, reached = jax.lax.cond(due, renew, lambda: (old, state.reached))
    alive = {name: mask & old[name] for name, mask in masks.items()}
    where_alive = spread_masks(alive, params)
    updates = jax.tree.map(_keep_or_clear, where_alive, updates, params)
    inner = _zero_pruned(inner, where_alive)
    return updates, PruneState(masks, count + 1, inner, state.goal, reached)

  return optax.GradientTransformationExtraArgs(init, update)


def _check_masks(masks: Kernels, kernels: Kernels) -> None:
  for name, mask in masks.items():
    if name not in kernels or mask.dtype != bool or mask.shape != kernels[name].shape:
      wanted = f"bool {tuple(kernels[name].shape)}" if name in kernels else "of a kernel"
      raise ValueError(
        f"method: the mask of {name!r} is {mask.dtype} {tuple(mask.shape)}; it must be {wanted}."
      )


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
