"""Masks in an optimizer's state: what they are, how they are found, and what they do to weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.prune.rules import kernels_of, root_of

Masks = Mapping[str, jax.Array]


class PruneState(NamedTuple):
  """State of a transformation that prunes.

  Attributes:
    masks: bool, shaped like the kernel, by layer; false where the weight is zero.
    count: updates so far, int32 scalar.
    inner: state of the optimizer that is wrapped.
    goal: what pruning leads to, arrays that never change; ``()`` where the method has none.
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
  """What all transformations that prune lead to, as pairs of a name and an array.

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
  root, kernels = root_of(tree), kernels_of(tree)
  for name, mask in masks.items():
    kernel = kernels[name]
    masked = jnp.where(mask, kernel, jnp.zeros_like(kernel))
    tree = with_parameters(tree, f"{root}{name}/kernel", masked)
  return tree


def spread_masks(masks: Masks, params: Any) -> Any:
  """The masks in a tree like ``params``; true where there is none."""
  root, tree = root_of(params), jax.tree.map(lambda _: True, params)
  for name, mask in masks.items():
    tree = with_parameters(tree, f"{root}{name}/kernel", mask)
  return tree


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


def sparsity(opt_state: Any, params: Any = None) -> jax.Array:
  """Share of zeros over all kernels with a mask; float32 scalar.

  Args:
    opt_state: of any optimizer; zero for one that does not prune.
    params: the weights whose zeros are counted, of the network or a training state's trained tree;
      None: those that the masks leave out.

  Examples:
    >>> masks = {"a": jnp.array([[True, False]]), "b": jnp.array([[False, False]])}
    >>> state = PruneState(masks, jnp.int32(0), ())
    >>> float(sparsity(state)), float(sparsity(()))
    (0.75, 0.0)
    >>> weights = {"a": {"kernel": jnp.ones((1, 2))}, "b": {"kernel": jnp.zeros((1, 2))}}
    >>> float(sparsity(state, weights))
    0.5
  """
  masks = masks_of(opt_state)
  if not masks:
    return jnp.float32(0)
  gone = [~mask if params is None else kernel_at(params, name) == 0 for name, mask in masks.items()]
  count = sum(jnp.sum(zeros, dtype=jnp.float32) for zeros in gone)
  return jnp.float32(count / sum(zeros.size for zeros in gone))


def layer_sparsity(opt_state: Any) -> dict[str, jax.Array]:
  """Share of the weights that are pruned, float32 scalars by layer; only of layers with a mask.

  Args:
    opt_state: of any optimizer.

  Examples:
    >>> masks = {"a": jnp.array([[True, False]])}
    >>> {name: float(share) for name, share in layer_sparsity(PruneState(masks, 0, ())).items()}
    {'a': 0.5}
  """
  masks = masks_of(opt_state).items()
  return {name: 1 - jnp.mean(mask, dtype=jnp.float32) for name, mask in masks}


def kernel_at(tree: Any, name: str) -> jax.Array:
  """The kernel of a layer in a tree of parameters."""
  return parameters(tree, f"{root_of(tree)}{name}")["kernel"]
