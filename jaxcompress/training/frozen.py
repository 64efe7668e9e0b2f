"""Normalizations whose statistics are frozen in training, and what is slowed down before them."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn import Graph
from jaxcompress.nn.select import layers_of, listed, select
from jaxcompress.nn.tracing import is_leaf_call
from jaxcompress.training.stages import Path, moving, still_norms
from jaxcompress.training.state import CompressState

CLIP = 1.0  # norm of the gradient of the layers that are slowed


def frozen_norms(state: CompressState) -> dict[Path, int]:
  """Normalizations that run on their running statistics, and from which step on.

  From step 0 on those that stand still in the state's stage; the others as ``freeze_norm_step`` of
  the recipe and of its plan say.

  Args:
    state: of any step; what its recipe selects is looked up in its graph.

  Returns:
    Steps by the paths of modules; those that are never frozen are not there.

  Raises:
    ValueError: if a selector of the recipe names no layer, or none with statistics.

  Examples:
    >>> import optax
    >>> from jaxcompress import models
    >>> from jaxcompress.training import Recipe, init_state
    >>> recipe = Recipe(
    ...   student=models.resnet8(10), optimizer=optax.sgd(0.1), freeze_norm_step={"stem|stage0": 5}
    ... )
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> frozen = frozen_norms(init_state(recipe, jax.random.key(0), batch))
    >>> len(frozen), frozen[("stem",)]
    (3, 5)
  """
  still = still_norms(state.trainable[state.stage], state.params, state.batch_stats)
  plan = state.recipe.quantize
  at_plan = None if plan is None else plan.freeze_norm_step
  asked = _asked(state)
  found = {}
  for path in _norms(state.batch_stats):
    steps = (0 if path in still else None, at_plan, asked.get("/".join(path)))
    if (first := min((at for at in steps if at is not None), default=None)) is not None:
      found[path] = first
  return found


def _asked(state: CompressState) -> dict[str, int]:
  """Steps by the names of layers, as the recipe asks for them; of several selectors the first counts."""
  wanted = state.recipe.freeze_norm_step
  norms = ["/".join(path) for path in _norms(state.batch_stats)]
  if not isinstance(wanted, Mapping):
    return {} if wanted is None else dict.fromkeys(norms, wanted)
  steps: dict[str, int] = {}
  layers = layers_of(state.graph())
  for selector, at in wanted.items():
    chosen = [name for name in select(selector, layers, "freeze_norm_step") if name in norms]
    if not chosen:
      known = listed(str(selector), {name: layers[name] for name in norms if name in layers})
      raise ValueError(
        f"freeze_norm_step: {selector!r} names no layer with running statistics; {known}."
      )
    steps = {**dict.fromkeys(chosen, at), **steps}
  return steps


def _norms(batch_stats: Any) -> list[Path]:
  """Paths of the modules that have running statistics."""
  leaves = jax.tree_util.tree_leaves_with_path(batch_stats)
  paths = (tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in leaves)
  return list(dict.fromkeys(path[:-1] for path in paths))


def hold_frozen(frozen: Mapping[Path, int], step: jax.Array) -> Any:
  """An interceptor that calls normalizations as in evaluation, from their steps on.

  Raises:
    ValueError: where it comes to one that is no leaf op.
  """

  def hold(next_fun, args, kwargs, context):
    path = context.module.path
    if path not in frozen or context.method_name != "__call__":
      return next_fun(*args, **kwargs)
    if not is_leaf_call(context):
      raise ValueError(
        f"trainable, freeze_norm_step: {'/'.join(path)!r}, a {type(context.module).__name__}, does not"
        " move or is to be frozen, but only the leaf ops of jaxcompress.nn can hold their running"
        " statistics; use ConvNorm or BatchNorm of these, or let it train."
      )
    if not context.module.operation.takes_train:  # its constants are no statistics
      return next_fun(*args, **kwargs)
    live = step < frozen[path] if frozen[path] else False
    given = kwargs.get("train", True)  # what a plan says already
    train = live if given is True else (given & live if live is not False else False)
    return next_fun(*args, **{**kwargs, "train": train})

  return hold


def clipped(state: CompressState, steps: Mapping[str, int], *gradients: Any) -> tuple[Any, ...]:
  """Gradients, of which those of the slowed layers are clipped together to a norm of 1.

  Live statistics divide out how large a layer's outputs have become; frozen ones do not, and what a
  layer before them does wrong grows from layer to layer, and its gradient with it.

  Args:
    state: before the step.
    steps: of :func:`slowed_layers`.
    *gradients: of the trained tree, then parts of these, which are scaled alike.

  Returns:
    The gradients; the very same where no layer is slowed.
  """
  if not steps or not gradients:
    return gradients
  squares = [
    jnp.sum(jnp.square(gradient.astype(jnp.float32))) * _is_slow(state, steps[name])
    for name, gradient in _named(gradients[0]["student"])
    if name in steps
  ]
  norm = jnp.sqrt(sum(squares, jnp.zeros(())))
  factor = CLIP / jnp.maximum(norm, CLIP)
  return tuple(_scaled(state, steps, tree, factor) for tree in gradients)


def slowed(state: CompressState, steps: Mapping[str, int], updates: Any) -> Any:
  """An optimizer's updates, those of the slowed layers times ``frozen_rate``.

  Args:
    state: before the step.
    steps: of :func:`slowed_layers`.
    updates: in the form of the trained tree.
  """
  return _scaled(state, steps, updates, state.recipe.frozen_rate) if steps else updates


def _scaled(state: CompressState, steps: Mapping[str, int], tree: Any, factor: Any) -> Any:
  """A tree in the form of the trained one, the layers that are slowed by now times a factor."""

  def scaled(path, x):
    name = _layer(path)
    if name not in steps:
      return x
    return (x * jnp.where(_is_slow(state, steps[name]), factor, 1.0)).astype(x.dtype)

  return {**tree, "student": jax.tree_util.tree_map_with_path(scaled, tree["student"])}


def _is_slow(state: CompressState, at: int) -> Any:
  return state.step >= at if at else True


def _layer(path: Any) -> str:
  return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path[:-1])


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
  """Every leaf of a network's tree with the name of its layer."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield _layer(path), leaf


def slowed_layers(state: CompressState) -> dict[str, int]:
  """Layers that move before a normalization with frozen statistics, and from which step on it is.

  Its own layer is one of them. What comes after the last frozen normalization, such as a head, is
  not, nor is what quantizers and losses train.
  """
  frozen = {"/".join(path): at for path, at in frozen_norms(state).items()}
  moves = moving(state.trainable[state.stage], state.params, "student")
  moved = {name for name, moves in _named(moves) if moves}
  if not frozen or not moved:
    return {}
  try:
    steps = _behind(state.graph(), frozen)
  except ValueError:  # without a graph nobody knows what comes before; of its own it is known
    steps = frozen
  return {name: at for name, at in steps.items() if name in moved}


def _behind(graph: Graph, frozen: Mapping[str, int]) -> dict[str, int]:
  """Returns for each layer the first step from which it, or one that reads it, is frozen."""
  found: dict[str, int] = {}
  of_tensor: dict[str, int] = {}
  for node in reversed(graph.nodes):
    steps = [of_tensor[tensor] for tensor in node.outputs if tensor in of_tensor]
    steps += [frozen[node.name]] if node.name in frozen else []
    if not steps:
      continue
    found[node.name] = min([*steps, *([found[node.name]] if node.name in found else [])])
    for tensor in node.inputs:
      of_tensor[tensor] = min(found[node.name], of_tensor.get(tensor, found[node.name]))
  return found
