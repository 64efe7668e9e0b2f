"""A model's graph: its leaf ops in order, and what can be read off them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

INPUT = "input"
"""Name of the tensor that the network reads."""


class Node(NamedTuple):
  """One call of a leaf op.

  Attributes:
    name: the module's path, joined by slashes; parameters and ranges are found under it.
    op: the leaf op's class name, such as ``"ConvNorm"``.
    attrs: the module's fields.
    inputs: names of the tensors read.
    outputs: names of the tensors written: ``name``, then ``name:1``, ... where there are more.
    input_shapes: shapes of the inputs, the batch included.
    output_shapes: shapes of the outputs, the batch included.
  """

  name: str
  op: str
  attrs: Mapping[str, Any]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  input_shapes: tuple[tuple[int, ...], ...]
  output_shapes: tuple[tuple[int, ...], ...]

  @property
  def output(self) -> str:
    """Name of the first output."""
    return self.outputs[0]


class Graph(NamedTuple):
  """Leaf ops in the order in which they run. Hashable, so it can be static under ``jit``.

  Attributes:
    nodes: the calls that the logits depend on.
    input_shape: shape of the tensor named ``"input"``.
    output: name of the tensor that holds the logits.
  """

  nodes: tuple[Node, ...]
  input_shape: tuple[int, ...]
  output: str

  def consumers(self, tensor: str) -> tuple[Node, ...]:
    """The nodes that read a tensor."""
    return tuple(node for node in self.nodes if tensor in node.inputs)

  def producer(self, tensor: str) -> Node | None:
    """The node that writes a tensor; None for the input."""
    return next((node for node in self.nodes if tensor in node.outputs), None)

  def shape(self, tensor: str) -> tuple[int, ...]:
    """A tensor's shape, the batch included."""
    if tensor == INPUT:
      return self.input_shape
    node = next(node for node in self.nodes if tensor in node.outputs)
    return node.output_shapes[node.outputs.index(tensor)]


def parameters(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """The entry of one leaf op in a nested collection such as ``variables["params"]``.

  Examples:
    >>> parameters({"stem": {"conv": {"kernel": 1}}}, "stem/conv")
    {'kernel': 1}
  """
  for part in name.split("/"):
    tree = tree.get(part, {})
  return tree


def with_parameters(tree: Mapping[str, Any], name: str, entry: Any) -> dict[str, Any]:
  """The collection with another entry for one leaf op, or for one array of it.

  Examples:
    >>> with_parameters({"stem": {"kernel": 1, "bias": 2}}, "stem/kernel", 3)
    {'stem': {'kernel': 3, 'bias': 2}}
  """
  head, _, rest = name.partition("/")
  return {**tree, head: with_parameters(tree[head], rest, entry) if rest else entry}


def kernel_shape(node: Node) -> tuple[int, ...] | None:
  """Shape of a node's kernel, (k, k, in / groups, out) or (in, out); None where there is none.

  A normalization has the kernel of the depthwise 1x1 convolution that it is on a device.

  Examples:
    >>> attrs, shape = {"kernel": 3, "groups": "depthwise", "features": 8}, (1, 4, 4, 8)
    >>> kernel_shape(Node("conv", "ConvNorm", attrs, ("input",), ("conv",), (shape,), (shape,)))
    (3, 3, 1, 8)
  """
  channels = node.input_shapes[0][-1]
  if node.op == "Dense":
    return math.prod(node.input_shapes[0][1:]), node.attrs["features"]
  if node.op == "BatchNorm":
    return 1, 1, 1, channels
  if node.op != "ConvNorm":
    return None
  groups = channels if node.attrs["groups"] == "depthwise" else node.attrs["groups"]
  return (node.attrs["kernel"],) * 2 + (channels // groups, node.attrs["features"])


def needed_shape(node: Node) -> tuple[int, ...]:
  """:func:`kernel_shape` of a node that has a kernel.

  Raises:
    ValueError: if it has none.

  Examples:
    >>> shapes = ((1, 64),), ((1, 10),)
    >>> needed_shape(Node("head", "Dense", {"features": 10}, ("input",), ("head",), *shapes))
    (64, 10)
  """
  shape = kernel_shape(node)
  if shape is None:
    raise ValueError(f"node: {node.name} ({node.op}) has no kernel.")
  return shape


def macs(node: Node) -> int:
  """Multiply-adds of one node for one image: convolutions and linear layers only.

  Examples:
    >>> attrs = {"kernel": 3, "groups": 1, "features": 8}
    >>> shapes = ((1, 4, 4, 3),), ((1, 2, 2, 8),)
    >>> macs(Node("conv", "ConvNorm", attrs, ("input",), ("conv",), *shapes))  # 4 * 27 * 8
    864
  """
  shape = kernel_shape(node)
  if shape is None or node.op == "BatchNorm":
    return 0
  return math.prod(node.output_shapes[0][1:-1]) * math.prod(shape)


def count_macs(graph: Graph) -> int:
  """Multiply-adds of the whole graph for one image.

  Examples:
    >>> from jaxcompress import models
    >>> round(count_macs(models.summarize(models.mobilenet_v1()).graph) / 1e6, 1)
    568.7
  """
  return sum(macs(node) for node in graph.nodes)


def count_parameters(params: Any) -> int:
  """Number of trainable numbers in a parameter tree of arrays or shapes.

  Examples:
    >>> import jax.numpy as jnp
    >>> count_parameters({"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)})
    10
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
