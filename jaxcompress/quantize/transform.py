"""Quantization of a whole model: kernels as a map over parameters, activations by interception.

The graph says which tensors are rounded: in the graph with fused activations, the input and every
output, except that ops which only move or compare values (pooling, split, shuffle) keep the grid
of what they read, and what a concatenation joins shares one grid.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.nn import INPUT, Graph, fuse_activations, is_leaf_call, module_path, parameters
from jaxcompress.quantize import ranges
from jaxcompress.quantize.config import Quantization

SAME_GRID = ("MaxPool", "AvgPool", "Split", "ChannelShuffle", "Concat")
MOVES = ("MaxPool", "Split", "ChannelShuffle")  # their outputs are values that were rounded before


class QuantVariables(NamedTuple):
  """Variables of all quantizers.

  Attributes:
    params: trained; ``{"weights": {layer: ...}, "activations": {tensor: ...}}``.
    state: carried along, such as ranges; the same structure.
  """

  params: Any
  state: Any


class Sites(NamedTuple):
  """Which tensors of a graph are rounded. Hashable.

  Attributes:
    graph: the graph with fused activations.
    keys: pairs of a tensor and the name under which its grid is kept.
    rounded: the tensors that are rounded.
    nonnegative: the tensors that are known to be at least zero.
    kernels: the nodes that have a kernel.
  """

  graph: Graph
  keys: tuple[tuple[str, str], ...]
  rounded: frozenset[str]
  nonnegative: frozenset[str]
  kernels: tuple[str, ...]

  @property
  def key_of(self) -> dict[str, str]:
    """Name of each tensor's grid."""
    return dict(self.keys)


def find_sites(graph: Graph) -> Sites:
  """Decides which tensors are rounded, and which of them share a grid.

  Args:
    graph: a traced graph.

  Examples:
    >>> from jaxcompress import models
    >>> sites = find_sites(models.summarize(models.resnet8(), 32).graph)
    >>> "stage0_block0/add" in sites.rounded, "stage0_block0/relu" in sites.rounded
    (False, True)
  """
  graph = fuse_activations(graph)
  group = {INPUT: INPUT}
  rounded, nonnegative = {INPUT}, set()
  for node in graph.nodes:
    for tensor in node.outputs:
      group[tensor] = tensor
    if node.op in SAME_GRID:
      shared = group[node.inputs[0]]
      joined = {group[tensor] for tensor in (*node.inputs, *node.outputs)}
      group = {t: shared if key in joined else key for t, key in group.items()}
    if node.op not in (*MOVES, "Concat"):
      rounded |= set(node.outputs)
    rectified = str(node.attrs.get("act")).startswith(("relu", "hard_sigmoid"))
    if rectified or (node.op in (*SAME_GRID, "GlobalAvgPool") and nonnegative >= set(node.inputs)):
      nonnegative |= set(node.outputs)
  kernels = tuple(node.name for node in graph.nodes if node.op in ("ConvNorm", "Dense"))
  return Sites(graph, tuple(group.items()), frozenset(rounded), frozenset(nonnegative), kernels)


def init_quantizers(quantization: Quantization, sites: Sites, params: Any) -> QuantVariables:
  """Fresh variables of every quantizer.

  Args:
    quantization: the plan.
    sites: of the model's graph.
    params: the model's parameters.
  """
  weights = {
    name: quantization.weights.init(parameters(params, name)["kernel"]) for name in sites.kernels
  }
  example = jnp.zeros(())
  keys = dict.fromkeys(sites.key_of[tensor] for tensor in sites.key_of if tensor in sites.rounded)
  activations = {key: quantization.activations.init(example) for key in keys}
  pick = lambda i: {  # noqa: E731
    "weights": {name: pair[i] for name, pair in weights.items()},
    "activations": {name: pair[i] for name, pair in activations.items()},
  }
  return QuantVariables(pick(0), pick(1))


def quantize_kernels(
  quantization: Quantization,
  sites: Sites,
  variables: QuantVariables,
  params: Any,
  active: bool | jax.Array,
) -> Any:
  """The parameters with every kernel on its grid where ``active``; gradients pass straight through.

  Args:
    quantization: the plan.
    sites: of the model's graph.
    variables: the quantizers' variables.
    params: the model's parameters, a nested dict.
    active: bool or scalar bool array.

  Returns:
    A tree like ``params``.
  """

  def rounded(kernels):
    return {
      name: quantization.weights.apply(
        variables.params["weights"][name], variables.state["weights"][name], kernel, train=True
      )[0]
      for name, kernel in kernels.items()
    }

  kernels = {name: parameters(params, name)["kernel"] for name in sites.kernels}
  if not isinstance(active, bool):
    # One branch, so that rounded kernels are kept in memory: fused into a depthwise convolution
    # they would be rounded again for every pixel.
    kernels = jax.lax.cond(active, rounded, lambda kernels: kernels, kernels)
  elif active:
    kernels = rounded(kernels)
  for name, kernel in kernels.items():
    params = _replace(params, [*name.split("/"), "kernel"], kernel)
  return params


def _replace(tree: Mapping[str, Any], path: list[str], leaf: Any) -> dict[str, Any]:
  head, *rest = path
  return {**tree, head: _replace(tree[head], rest, leaf) if rest else leaf}


def _select(active: bool | jax.Array, new: Any, old: Any) -> Any:
  if isinstance(active, bool):
    return new if active else old
  return jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)


class ActivationPass(NamedTuple):
  """Activation quantization of one forward pass.

  Attributes:
    round_input: maps the images to the ones that the network sees.
    intercept: context manager; leaf ops called inside it round their outputs.
    new_state: call it after the pass; the activations' new state.
  """

  round_input: Callable[[jax.Array], jax.Array]
  intercept: Callable[[], AbstractContextManager]
  new_state: Callable[[], dict[str, Any]]


def quantize_activations(
  quantization: Quantization,
  sites: Sites,
  variables: QuantVariables,
  *,
  active: bool | jax.Array,
  train: bool,
  live_norm: bool | jax.Array | None = None,
) -> ActivationPass:
  """Rounds the activations of one forward pass, with ranges that come in and go out.

  Args:
    quantization: the plan.
    sites: of the model's graph.
    variables: the quantizers' variables.
    active: whether anything is rounded; bool or scalar bool array.
    train: whether ranges are updated (where active).
    live_norm: if given, BatchNorm uses the batch's statistics where true.

  Returns:
    An :class:`ActivationPass`, for one forward pass.
  """
  key_of = sites.key_of
  start, updated = variables.state["activations"], {}
  observing = False if not train else active

  def visit(tensor: str, x: jax.Array) -> jax.Array:
    key = key_of[tensor]
    y, state = quantization.activations.apply(
      variables.params["activations"][key],
      start[key],
      x,
      train=observing,
      nonnegative=tensor in sites.nonnegative,
    )
    if key in updated:
      state = ranges.merge(updated[key], state)
    updated[key] = state
    return _select(active, y, x)

  def interceptor(next_fun, args, kwargs, context):
    if not is_leaf_call(context):
      return next_fun(*args, **kwargs)
    if live_norm is not None and "train" in kwargs:
      kwargs = {**kwargs, "train": live_norm}
    output = next_fun(*args, **kwargs)
    name = module_path(context.module)
    return visit(name, output) if name in sites.rounded else output

  @contextmanager
  def intercept():
    with nn.intercept_methods(interceptor):
      yield

  return ActivationPass(lambda x: visit(INPUT, x), intercept, lambda: {**start, **updated})
