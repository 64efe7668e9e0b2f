"""A graph in evaluation: BatchNorm folded, run in float with a visitor at every tensor."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.core import FrozenDict  # noqa: F401 - the examples use it

from jaxcompress.nn.activations import activate
from jaxcompress.nn.graph import INPUT, Graph, Node, parameters
from jaxcompress.nn.operations import FACTORS, FOLLOWERS, kernel_shape, needed_shape
from jaxcompress.nn.structure import LEAF_OPS, OPERATIONS
from jaxcompress.nn.variables import OWN, check_variables

Visit = Callable[[str, jax.Array], jax.Array]
Layer = tuple[jax.Array, jax.Array]


class Folded(NamedTuple):
  """A layer in evaluation: ``y = conv(x, kernel) * factor + bias``.

  Attributes:
    kernel: as trained, float32; (k, k, in / groups, out) or (in, out); ones for a normalization
      without a convolution.
    factor: (out,) float64, ``gamma / sqrt(variance + epsilon)``; ones without BatchNorm.
    bias: (out,) float64, ``beta - (mean - b) * factor`` with the convolution's bias ``b``, or the
      layer's own bias.
  """

  kernel: np.ndarray
  factor: np.ndarray
  bias: np.ndarray

  @property
  def weights(self) -> np.ndarray:
    """The kernel times its factor, float32: what a float runtime convolves with."""
    return (self.kernel * self.factor.reshape((1,) * (self.kernel.ndim - 1) + (-1,))).astype(
      np.float32
    )


def fold(graph: Graph, variables: Mapping[str, Any]) -> dict[str, Folded]:
  """Folds the running statistics of every layer of a graph.

  ``W' = W * gamma / sqrt(v + e)`` and ``b' = beta + (b - m) * gamma / sqrt(v + e)``. The kernel
  and its factor are kept apart, because symmetric per-channel integers of the kernel are, up to
  the sign of the factor, those of the folded weights.

  Args:
    graph: a traced graph.
    variables: the model's ``params`` and ``batch_stats``, arrays.

  Returns:
    A :class:`Folded` for each node that has a kernel, by name.

  Raises:
    ValueError: if the variables are of another network, or not arrays, or a value is not finite.

  Examples:
    >>> import jax
    >>> from jaxcompress import models
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), summary.variables)
    >>> stem = fold(summary.graph, ones)["stem"]
    >>> stem.kernel.shape, round(float(stem.factor[0]), 4), round(float(stem.bias[0]), 4)
    ((3, 3, 3, 16), 1.0, 0.0)

  References:
    Jacob et al., `Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference <https://arxiv.org/abs/1712.05877>`_, 2018, equation 14.
  """
  check_variables("variables", variables)
  layers = {}
  for host in graph.nodes:
    for name, number in host.attrs.get(FACTORS, ()):
      layers[name] = Folded(np.ones((1, 1, 1, 1), np.float32), np.array([number]), np.zeros(1))
    if kernel_shape(host) is not None:
      for node in (host, *host.attrs.get(FOLLOWERS, ())):
        layers[node.name] = _fold_node(
          node,
          parameters(variables.get("params", {}), node.name),
          parameters(variables.get("batch_stats", {}), node.name),
        )
  return with_followers(graph, layers)


def with_followers(graph: Graph, folded: Mapping[str, Folded]) -> dict[str, Folded]:
  """The layers of a graph with fused activations, each with those that became part of it.

  Args:
    graph: with fused activations or without.
    folded: of its layers; of those that became part of others, too, or they are in these already.

  Examples:
    >>> from jaxcompress.nn.operations import fuse_activations
    >>> shape, attrs = ((1, 1),), FrozenDict({"scale": 3.0, "bias": 1.0, "act": None})
    >>> dense = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), shape, shape)
    >>> affine = Node("affine", "Affine", attrs, ("dense",), ("affine",), shape, shape)
    >>> one = Folded(np.ones((1, 1)), np.ones(1), np.array([2.0]))
    >>> three = Folded(np.ones((1, 1, 1, 1)), np.array([3.0]), np.array([1.0]))
    >>> graph = fuse_activations(Graph((dense, affine), (1, 1), "affine"))
    >>> with_followers(graph, {"dense": one, "affine": three})
    {'dense': Folded(kernel=array([[1.]]), factor=array([3.]), bias=array([7.]))}
  """
  layers, used = dict(folded), set()
  for host in graph.nodes:
    for name, number in host.attrs.get(FACTORS, ()):
      if name in folded and host.name in layers:
        layer = layers[host.name]
        layers[host.name] = layer._replace(factor=layer.factor * number)
        used.add(name)
    for node in host.attrs.get(FOLLOWERS, ()):
      if node.name in layers and host.name in layers:
        (kernel, factor, bias), after = layers[host.name], layers.pop(node.name)
        layers[host.name] = Folded(kernel, factor * after.factor, bias * after.factor + after.bias)
  return {name: layer for name, layer in layers.items() if name not in used}


def _fold_node(node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Folded:
  _check_own(node, params, stats)
  kernel = np.asarray(params.get("kernel", np.ones(needed_shape(node))), np.float32)
  out = kernel.shape[-1]
  if (constants := OPERATIONS[node.op].constants) is not None:
    folded = Folded(kernel, *constants(node, params, stats))
  elif node.attrs.get("norm") is None:
    folded = Folded(kernel, np.ones(out), _shift(params, out))
  else:
    variance = np.asarray(stats["var"], np.float64) + node.attrs["norm"].epsilon
    factor = np.asarray(params["scale"], np.float64) / np.sqrt(variance)
    mean = np.asarray(stats["mean"], np.float64) - np.asarray(params.get("conv_bias", 0))
    folded = Folded(kernel, factor, _shift(params, out) - mean * factor)
  if not all(np.isfinite(array).all() for array in folded):
    raise ValueError(
      f"variables: layer {node.name!r} holds values that are not finite; train with a lower"
      " learning rate."
    )
  return folded


def _check_own(node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
  """Raises if a layer's variables are missing, of another shape, or no numbers."""
  shape = needed_shape(node)
  wanted: dict[str, tuple[int, ...]] = {"kernel": shape} if OPERATIONS[node.op].trained else {}
  sides: dict[str, tuple[int, ...]] = {}
  if node.attrs.get("norm") is not None and OPERATIONS[node.op].constants is None:
    wanted["scale"] = shape[-1:]
    sides = dict.fromkeys(("mean", "var"), shape[-1:])
  for of, found, names in (("params", params, wanted), ("batch_stats", stats, sides)):
    for name, size in names.items():
      if not isinstance(found, Mapping) or name not in found:
        raise ValueError(
          f"variables: layer {node.name!r} has no {name!r} in their {of!r}; give {OWN}."
        )
      if np.shape(found[name]) != size:
        raise ValueError(
          f"variables: the {name} of layer {node.name!r} has shape {np.shape(found[name])} and the"
          f" network's {size}; give {OWN}."
        )
      if isinstance(found[name], jax.ShapeDtypeStruct):
        raise ValueError(
          f"variables: the {name} of layer {node.name!r} is a shape; give arrays, as init_variables"
          " makes them."
        )


def _shift(params: Mapping[str, Any], out: int) -> np.ndarray:
  return np.asarray(params.get("bias", np.zeros(out)), np.float64)


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
    The logits, (batch, classes): the first output; :func:`execute_outputs` gives all.

  Raises:
    ValueError: if a layer is missing, or an op is not a leaf operation.

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
  return execute_outputs(graph, layers, x, visit)[graph.outputs[0][0]]


def execute_outputs(
  graph: Graph, layers: Mapping[str, Layer], x: jax.Array, visit: Visit | None = None
) -> dict[str, jax.Array]:
  """As :func:`execute`, with all outputs by name.

  Examples:
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> graph = Graph((pool,), (1, 2, 2, 3), (("mean", "pool"),))
    >>> execute_outputs(graph, {}, jax.numpy.ones((1, 2, 2, 3)))["mean"].tolist()
    [[1.0, 1.0, 1.0]]
  """
  visit = visit or (lambda tensor, array: array)
  tensors = {INPUT: visit(INPUT, x)}
  kept = {tensor for _, tensor in graph.outputs}
  last = {tensor: node.name for node in graph.nodes for tensor in node.inputs if tensor not in kept}
  for node in graph.nodes:
    outputs = run_node(node, layers.get(node.name), *(tensors[name] for name in node.inputs))
    for tensor in node.inputs:
      if last.get(tensor) == node.name:
        tensors.pop(tensor, None)
    for tensor, array in zip(node.outputs, outputs, strict=True):
      tensors[tensor] = visit(tensor, array)
  return {name: tensors[tensor] for name, tensor in graph.outputs}


def run_node(node: Node, layer: Layer | None, *inputs: jax.Array) -> tuple[jax.Array, ...]:
  """The outputs of one node.

  Args:
    node: of a graph.
    layer: its weights and bias; None where it has no kernel.
    inputs: the arrays that it reads.

  Raises:
    ValueError: as :func:`execute`.
  """
  act, operation = node.attrs.get("act"), OPERATIONS.get(node.op)
  if operation is None:
    raise ValueError(
      f"graph: {node.name!r} is a {node.op}; a graph is made of {', '.join(OPERATIONS)}."
    )
  if operation.kernel is not None:
    if layer is None:
      raise ValueError(f"layers: {node.name!r} has no weights; give every node with a kernel some.")
    return (activate(act, linear(node, *layer, *inputs)),)
  if node.op not in LEAF_OPS or node.op == "Activation":
    return (activate(act, *inputs),)
  fields = {key: value for key, value in node.attrs.items() if key != "act"}
  outputs = LEAF_OPS[node.op](**fields).apply({}, *inputs)
  return outputs if isinstance(outputs, tuple) else (activate(act, outputs),)


def linear(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  """Computes a node with a kernel, before its activation function."""
  evaluate: Any = OPERATIONS[node.op].evaluate
  return evaluate(node, weights, bias.astype(x.dtype), x)


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
