"""An optimizer that prunes: masks in its state, zeros in the weights, whatever it wraps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_optimizer
from jaxcompress.prune.rules import kernels_of, places_of

Masks = Mapping[str, jax.Array]
Kernels = dict[str, jax.Array]


class PruneState(NamedTuple):
  """State of a transformation that prunes.

  Attributes:
    masks: bool, shaped like the kernel, by layer; false where the weight is zero.
    count: updates so far, int32 scalar.
    inner: state of the optimizer that is wrapped.
    goal: what pruning leads to, arrays that never change; ``()`` where there is none.
    reached: progress of the schedule when masks were last chosen, float32 scalar; ``()`` without a
      schedule.
  """

  masks: dict[str, jax.Array]
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  inner: Any
  goal: Any = ()
  reached: Any = ()


def masks_of(opt_state: Any) -> dict[str, jax.Array]:
  """The masks in an optimizer's state, by layer; none where nothing is pruned.

  Args:
    opt_state: of any optimizer; where several transformations prune, a weight stays that all keep.

  Examples:
    >>> import optax
    >>> masks_of(optax.adam(0.1).init({"a": {"kernel": jnp.ones((2, 2))}}))
    {}
  """
  return _joined([state.masks for state in pruning_states(opt_state)])


def pruning_states(opt_state: Any) -> list[PruneState]:
  """The states of all transformations that prune, wherever they are; outer ones first.

  Examples:
    >>> import optax
    >>> from jaxcompress.prune import magnitude
    >>> optimizer = optax.chain(optax.clip(1.0), magnitude(optax.sgd(0.1), sparsity=0.5))
    >>> len(pruning_states(optimizer.init({"a": {"kernel": jnp.ones((2, 2))}})))
    1
  """
  is_ours = lambda node: isinstance(node, PruneState)  # noqa: E731
  found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(node)]
  return [state for one in found for state in (one, *pruning_states(one.inner))]


def goals_of(opt_state: Any) -> list[tuple[str, jax.Array]]:
  """Lists what all transformations that prune lead to, as pairs of a name and an array.

  Examples:
    >>> import optax
    >>> from jaxcompress.prune import n_m
    >>> state = n_m(optax.sgd(0.1), "2:4").init({"a": {"kernel": jnp.ones((4, 4))}})
    >>> [(name, int(value)) for name, value in goals_of(state)]
    [('m', 4), ('n', 2)]
  """
  return [
    (jax.tree_util.keystr(path, simple=True, separator="/"), value)
    for state in pruning_states(opt_state)
    for path, value in jax.tree_util.tree_leaves_with_path(state.goal)
  ]


def progress_of(opt_state: Any) -> jax.Array | None:
  """How far the schedules that prune have come, the least of them; None where there is none.

  Returns:
    Of the way to the final sparsity, a float32 scalar in [0, 1].

  Examples:
    >>> import optax
    >>> from jaxcompress.prune import agp, magnitude
    >>> optimizer = magnitude(optax.sgd(0.1), sparsity=0.5, schedule=agp(10, 20))
    >>> float(progress_of(optimizer.init({"a": {"kernel": jnp.ones((2, 2))}})))
    0.0
  """
  reached = [
    state.reached for state in pruning_states(opt_state) if not isinstance(state.reached, tuple)
  ]
  return jnp.min(jnp.stack(reached)) if reached else None


def is_final(opt_state: Any) -> bool:
  """Whether nothing in a chain changes the updates of a transformation that prunes.

  Examples:
    >>> import optax
    >>> from jaxcompress.prune import magnitude
    >>> prune, params = magnitude(optax.sgd(0.1), sparsity=0.5), {"a": {"kernel": jnp.ones((2, 2))}}
    >>> is_final(optax.chain(optax.clip(1.0), prune).init(params))
    True
    >>> is_final(optax.chain(prune, optax.scale(0.5)).init(params))
    False
  """
  if not pruning_states(opt_state):
    return True
  parts, _ = jax.tree.flatten(opt_state, is_leaf=lambda node: node is not opt_state)
  if type(opt_state) is tuple and any(map(pruning_states, parts[:-1])):
    return False
  if type(opt_state) is dict and len(parts) > 1:  # of optax.named_chain, in an unknown order
    return False
  if type(opt_state) is not dict and hasattr(opt_state, "inner_states"):  # optax.multi_transform
    parts = list(opt_state.inner_states.values())
  return all(map(is_final, parts))


def _joined(several: list[Masks]) -> dict[str, jax.Array]:
  joined: dict[str, jax.Array] = {}
  for masks in several:
    for name, mask in masks.items():
      joined[name] = joined[name] & mask if name in joined else mask
  return joined


def apply_masks(opt_state: Any, params: Any) -> Any:
  """The parameters with zeros where the masks say so.

  Training keeps them so by itself; this is for other copies of the weights, such as averages.

  Args:
    opt_state: of an optimizer that may prune.
    params: of the network, or the trained tree of a training state.

  Returns:
    A tree like ``params``.

  Examples:
    >>> from jaxcompress.prune import magnitude
    >>> import optax
    >>> params = {"a": {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}}
    >>> optimizer = magnitude(optax.sgd(0.0), sparsity=0.5)
    >>> _, state = optimizer.update(params, optimizer.init(params), params)
    >>> apply_masks(state, params)["a"]["kernel"].tolist()
    [[0.0, 0.0], [3.0, 4.0]]
  """
  return mask_kernels(masks_of(opt_state), params)


def mask_kernels(masks: Masks, tree: Any) -> Any:
  """A tree of parameters, or of their gradients, with zeros where masks are false."""
  clear = lambda m, x: x if m is True else jnp.where(m, x, jnp.zeros_like(x))  # noqa: E731
  return jax.tree.map(clear, spread_masks(masks, tree), tree)


def spread_masks(masks: Masks, params: Any) -> Any:
  """The masks in a tree like ``params``; true where there is none."""
  layers = places_of(params)
  absent = masks.keys() - set(layers.values())
  if absent:
    raise ValueError(
      f"params: they have no kernel of {min(absent)!r}, which is pruned; give those of the same network."
    )
  at = lambda path, _: masks.get(layers[path], True) if path in layers else True  # noqa: E731
  return jax.tree_util.tree_map_with_path(at, params)


def keep_masks(old: Any, new: Any) -> Any:
  """A fresh optimizer's state with the masks of an old one, for a training stage that starts anew.

  Args:
    old: state of the same optimizer.
    new: its state from ``init``.

  Returns:
    ``new``, with the masks of ``old``; its count starts at 0.

  Examples:
    >>> old = PruneState({"a": jnp.array([True, False])}, jnp.int32(9), ())
    >>> new = PruneState({"a": jnp.array([True, True])}, jnp.int32(0), ())
    >>> kept = keep_masks(old, new)
    >>> kept.masks["a"].tolist(), int(kept.count)
    ([True, False], 0)
  """
  is_ours = lambda node: isinstance(node, PruneState)  # noqa: E731

  def kept(before, after):
    if not is_ours(after):
      return after
    return after._replace(masks=before.masks, inner=keep_masks(before.inner, after.inner))

  return jax.tree.map(kept, old, new, is_leaf=is_ours)


def sparsity_of(opt_state: Any, params: Any = None) -> jax.Array:
  """Share of zeros over all kernels with a mask; float32 scalar.

  Args:
    opt_state: of any optimizer; zero for one that does not prune.
    params: the weights whose zeros are counted, of the network or a training state's trained tree;
      None: those that the masks leave out.

  Examples:
    >>> masks = {"a": jnp.array([[True, False]]), "b": jnp.array([[False, False]])}
    >>> state = PruneState(masks, jnp.int32(0), ())
    >>> float(sparsity_of(state)), float(sparsity_of(()))
    (0.75, 0.0)
    >>> weights = {"a": {"kernel": jnp.ones((1, 2))}, "b": {"kernel": jnp.zeros((1, 2))}}
    >>> float(sparsity_of(state, weights))
    0.5
  """
  masks = masks_of(opt_state)
  if not masks:
    return jnp.float32(0)
  kernels = {} if params is None else kernels_of(params)
  gone = [~mask if params is None else kernels[name] == 0 for name, mask in masks.items()]
  count = sum(jnp.sum(zeros, dtype=jnp.float32) for zeros in gone)
  return jnp.float32(count / sum(zeros.size for zeros in gone))


class SparsitySchedule(NamedTuple):
  """How pruning proceeds. Hashable by identity, as optax's schedules.

  Attributes:
    progress: ``count -> share`` of the way to the final sparsity, float32 in [0, 1], after the
      update with that number, counted from 0.
    due: ``count -> bool``: whether that update chooses the masks anew.
    end: the last update that does so, if there is one. After it the masks are chosen once more if
      they have not come all the way, as those of a run that went on with a shorter schedule.
  """

  progress: Callable[[jax.Array], jax.Array]
  due: Callable[[jax.Array], jax.Array]
  end: int | None = None


class Pruner(NamedTuple):
  """How masks are chosen; all arrays are by layer.

  Attributes:
    init: ``kernels -> masks``, bool, for the layers that are pruned; only shapes are read.
    due: ``count -> bool``: whether an update, counted from 0, chooses masks anew.
    renew: ``(masks, weights, gradients, count, goal) -> masks``; weights are those after the update,
      and gradients those before any mask.
    goal: ``kernels -> arrays``, what pruning leads to, such as each layer's sparsity; kept in the
      state, so that a run does not go on with another one by mistake.
    schedule: whose ``end`` is made up for, or None.
  """

  init: Callable[[Kernels], Kernels]
  due: Callable[[jax.Array], jax.Array]
  renew: Callable[..., Kernels]
  goal: Callable[[Kernels], Any] = lambda kernels: ()
  schedule: SparsitySchedule | None = None


def masked(
  optimizer: optax.GradientTransformation, pruner: Pruner
) -> optax.GradientTransformationExtraArgs:
  """An optimizer under which pruned weights are exactly zero, whatever it does to the others.

  Pruned weights give the optimizer no gradient, so its momenta of them are zero; their update is
  ``-w``. A weight that comes back starts at zero, with momenta of zero. It should be the outermost
  transformation, or the last of a chain: one that changes updates after it changes zeros. The
  training step puts those back, and tells with ``applied=False`` that the updates are not final;
  masks are then chosen by the weights before them.

  Args:
    optimizer: any optax transformation.
    pruner: how masks are chosen.

  Returns:
    A transformation with :class:`PruneState`; ``update`` needs ``params``.

  Raises:
    ValueError: if the optimizer is none; on ``init``, if a mask is not bool or of another shape than its kernel; on
      ``update``, without ``params``.

  Examples:
    >>> import optax
    >>> small = lambda masks, weights, gradients, count, goal: {n: abs(weights[n]) > 1 for n in masks}
    >>> pruner = Pruner(
    ...   init=lambda kernels: {name: jnp.ones(w.shape, bool) for name, w in kernels.items()},
    ...   due=lambda count: count == 0,
    ...   renew=small,
    ... )
    >>> params = {"a": {"kernel": jnp.array([[0.5, -2.0]])}}
    >>> optimizer = masked(optax.sgd(0.0), pruner)
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].tolist()
    [[0.0, -2.0]]
  """
  check_optimizer(optimizer)
  optimizer, schedule = optax.with_extra_args_support(optimizer), pruner.schedule

  def init(params):
    kernels = kernels_of(params)
    masks = pruner.init(kernels)
    _check_masks(masks, kernels)
    return PruneState(
      masks,
      jnp.zeros((), jnp.int32),
      optimizer.init(params),
      pruner.goal(kernels),
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
      own = kernels_of(gradients)
      masks = pruner.renew(old, _updated(old, params, final), own, count, state.goal)
      return masks, () if schedule is None else schedule.progress(count)

    due = pruner.due(count)
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
        f"pruner: the mask of {name!r} is {mask.dtype} {tuple(mask.shape)}; it must be {wanted}."
      )


def _updated(masks: Kernels, params: Any, updates: Any) -> Kernels:
  """The weights after the update, zero where they are pruned."""
  weights, changes = kernels_of(params), kernels_of(updates)
  after = {name: weights[name] + changes[name] for name in masks}
  return {name: jnp.where(mask, after[name], 0.0) for name, mask in masks.items()}


def _keep_or_clear(alive: Any, update: jax.Array, param: jax.Array) -> jax.Array:
  return update if alive is True else jnp.where(alive, update, -param)


def _zero_pruned(inner: Any, alive: Any) -> Any:
  """An optimizer's state without the momenta of pruned weights.

  They are found by their names and shapes, since optimizers for parts of the parameters keep trees
  of their own form; of several parameters whose paths end a momentum's, the longest path counts.
  """
  masks = dict(jax.tree_util.tree_leaves_with_path(alive))
  lengths = sorted({len(path) for path in masks}, reverse=True)

  def clear(path: tuple[Any, ...], leaf: Any) -> Any:
    mask: Any = next((masks[path[-n:]] for n in lengths if path[-n:] in masks), True)
    if mask is True or mask.shape != jnp.shape(leaf):
      return leaf
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))

  return jax.tree_util.tree_map_with_path(clear, inner)
