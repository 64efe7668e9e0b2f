"""Asks the nodes of a graph what they are, and lets them take activation functions in."""

import math
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.graph import Graph, Node
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import Pads, resolve_padding


def kernel_shape(node: Node) -> tuple[int, ...] | None:
  """Shape of a node's kernel, (k, k, in / groups, out) or (in, out); None where there is none.

  A normalization has the kernel of the depthwise 1x1 convolution that it is on a device.

  Examples:
    >>> attrs, shape = {"kernel": 3, "groups": "depthwise", "features": 8}, (1, 4, 4, 8)
    >>> kernel_shape(Node("conv", "ConvNorm", attrs, ("input",), ("conv",), (shape,), (shape,)))
    (3, 3, 1, 8)
  """
  operation = OPERATIONS.get(node.op)
  return None if operation is None or operation.kernel is None else operation.kernel(node)


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


def channel_groups(node: Node) -> int:
  """Number of groups of channels that are of one size, as those of a convolution.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.mobilenet_v2(width=0.25)).graph
    >>> [channel_groups(node) for node in graph.nodes[:2]]
    [1, 8]
  """
  return OPERATIONS[node.op].groups(node)


def pads_of(node: Node) -> Pads:
  """Cells added around the input of a convolution or pool."""
  attrs, size = node.attrs, node.input_shapes[0][1:3]
  return resolve_padding(attrs["padding"], size, attrs["kernel"], attrs["stride"])


def shares_grid(node: Node) -> bool:
  """Whether the integers of a node's outputs are on the grid of what it reads, as most pools' are."""
  return OPERATIONS[node.op].grid != "own"


def macs(node: Node) -> int:
  """Multiply-adds of one node for one image: convolutions and linear layers only.

  Examples:
    >>> attrs = {"kernel": 3, "groups": 1, "features": 8}
    >>> shapes = ((1, 4, 4, 3),), ((1, 2, 2, 8),)
    >>> macs(Node("conv", "ConvNorm", attrs, ("input",), ("conv",), *shapes))  # 4 * 27 * 8
    864
  """
  return OPERATIONS[node.op].macs(node)


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


def by_groups(node: Node, kernel: np.ndarray) -> np.ndarray:
  """A node's kernel with an axis of groups: (taps, in / groups, groups, out / groups); a view.

  Input channel ``c`` is entry ``c % (in / groups)`` of group ``c // (in / groups)``.

  Examples:
    >>> shapes = ((1, 2, 2, 3),), ((1, 5),)
    >>> dense = Node("head", "Dense", {"features": 5}, ("input",), ("head",), *shapes)
    >>> by_groups(dense, np.zeros((12, 5))).shape
    (4, 3, 1, 5)
  """
  groups = channel_groups(node)
  depth = node.input_shapes[0][-1] // groups
  return kernel.reshape(-1, depth, groups, kernel.shape[-1] // groups)


def fuse_activations(graph: Graph) -> Graph:
  """Moves each rectifier into the op before it, as edge runtimes do.

  An ``Activation`` of ReLU or ReLU6 that alone reads the output of a convolution, a normalization,
  an add or a multiply becomes that node's ``act``. The node keeps its name and writes the
  activation's tensor, so the tensor in between is never rounded. A ``BatchNorm`` that no
  convolution precedes gets the attributes of the depthwise 1x1 convolution that it becomes.

  Args:
    graph: a traced graph.

  Returns:
    An equivalent graph; its tensors are the ones that quantization rounds.

  Raises:
    ValueError: for a ``BatchNorm`` of vectors.

  Examples:
    >>> from jaxcompress import models
    >>> graph = fuse_activations(models.summarize(models.resnet8(), 32).graph)
    >>> node = graph.producer("stage0_block0/relu")
    >>> node.op, node.attrs["act"]
    ('Add', 'relu')
  """
  nodes: list[Node] = []
  for node in graph.nodes:
    host = _host(graph, nodes, node)
    if host is None:
      fields = {**node.attrs, **OPERATIONS[node.op].lowered(node)}
      nodes.append(node._replace(attrs=FrozenDict(fields)))
    else:
      fields = {**nodes[host].attrs, "act": node.attrs["act"]}
      nodes[host] = nodes[host]._replace(attrs=FrozenDict(fields), outputs=node.outputs)
  return graph._replace(nodes=tuple(nodes))


def _host(graph: Graph, nodes: list[Node], node: Node) -> int | None:
  """Position of the node that can take an activation in."""
  if node.op != "Activation" or not ACTIVATIONS[node.attrs["act"]].fuses:
    return None
  (tensor,) = node.inputs
  if len(graph.consumers(tensor)) > 1:
    return None
  for i, host in enumerate(nodes):
    if host.output == tensor and OPERATIONS[host.op].hosts and not host.attrs.get("act"):
      return i
  return None
