"""Runs a graph in float, on folded layers, with a visitor at every tensor."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxcompress.nn import structure
from jaxcompress.nn.activations import activate
from jaxcompress.nn.fold import Folded
from jaxcompress.nn.graph import INPUT, Graph, Node
from jaxcompress.nn.layers import convolve

Visit = Callable[[str, jax.Array], jax.Array]
Layer = tuple[jax.Array, jax.Array]
WITHOUT_WEIGHTS = (
  "Add",
  "Multiply",
  "Concat",
  "Split",
  "ChannelShuffle",
  "MaxPool",
  "AvgPool",
  "GlobalAvgPool",
  "Activation",
)


def execute(
  graph: Graph, layers: Mapping[str, Layer], x: jax.Array, visit: Visit | None = None
) -> jax.Array:
  """The logits of a graph whose layers are folded, as the model in evaluation computes them.

  Args:
    graph: traced, with fused activations or without; hashable, so it can be static under ``jit``.
    layers: ``(weights, bias)`` of every node that has a kernel, by name, as
      :func:`folded_layers` makes them; weights (k, k, in / groups, out) or (in, out), bias (out,).
    x: (batch, height, width, channels), float.
    visit: ``(tensor, array) -> array``, called on the input and on every node's outputs after the
      activation, in the order in which they are computed; what it returns is what later nodes
      read. So it records, rounds or replaces.

  Returns:
    The logits, (batch, classes).

  Raises:
    ValueError: if a layer is missing, or an op is none of the leaf ops.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fold, init_variables, trace
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> x = jax.numpy.ones((2, 8, 8, 3))
    >>> graph = trace(model, variables, x)
    >>> logits = execute(graph, folded_layers(fold(graph, variables)), x)
    >>> bool(jax.numpy.allclose(logits, model.apply(variables, x, train=False).logits, atol=1e-5))
    True
  """
  visit = visit or (lambda tensor, array: array)
  tensors = {INPUT: visit(INPUT, x)}
  last = {tensor: node.name for node in graph.nodes for tensor in node.inputs}
  for node in graph.nodes:
    outputs = run_node(node, layers.get(node.name), *(tensors[name] for name in node.inputs))
    for tensor in node.inputs:
      if last[tensor] == node.name:
        tensors.pop(tensor, None)
    for tensor, array in zip(node.outputs, outputs, strict=True):
      tensors[tensor] = visit(tensor, array)
  return tensors[graph.output]


def run_node(node: Node, layer: Layer | None, *inputs: jax.Array) -> tuple[jax.Array, ...]:
  """The outputs of one node.

  Args:
    node: of a graph.
    layer: its weights and bias; None where it has no kernel.
    inputs: the arrays that it reads.

  Raises:
    ValueError: as :func:`execute`.
  """
  act = node.attrs.get("act")
  if node.op in WITHOUT_WEIGHTS:
    fields = {key: value for key, value in node.attrs.items() if key != "act"}
    if node.op == "Activation":
      return (activate(act, *inputs),)
    outputs = getattr(structure, node.op)(**fields).apply({}, *inputs)
    return outputs if isinstance(outputs, tuple) else (activate(act, outputs),)
  if node.op not in ("ConvNorm", "BatchNorm", "Dense"):
    raise ValueError(
      f"graph: {node.name!r} is a {node.op}; a graph is made of ConvNorm, BatchNorm, Dense,"
      f" {', '.join(WITHOUT_WEIGHTS)}."
    )
  if layer is None:
    raise ValueError(f"layers: {node.name!r} has no weights; give every node with a kernel some.")
  return (activate(act, linear(node, *layer, *inputs)),)


def linear(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  """What a node with a kernel computes before its activation."""
  bias = bias.astype(x.dtype)
  if node.op == "Dense":
    return x.reshape(x.shape[0], -1) @ weights.astype(x.dtype) + bias.reshape(1, -1)
  bias = bias.reshape(1, 1, 1, -1)
  if node.op == "BatchNorm":
    return x * weights.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) + bias
  groups = node.attrs["groups"]
  groups = x.shape[-1] if groups == "depthwise" else groups
  y = convolve(
    x, weights, stride=node.attrs["stride"], padding=node.attrs["padding"], groups=groups
  )
  return y + bias


def folded_layers(folded: Mapping[str, Folded]) -> dict[str, Layer]:
  """Weights and biases of folded layers as :func:`execute` takes them, float32.

  Examples:
    >>> layer = Folded(np.ones((1, 2), np.float32), np.array([2.0, 3.0]), np.zeros(2))
    >>> folded_layers({"dense": layer})["dense"][0].tolist()
    [[2.0, 3.0]]
  """
  return jax.device_put(
    {name: (layer.weights, np.asarray(layer.bias, np.float32)) for name, layer in folded.items()}
  )
