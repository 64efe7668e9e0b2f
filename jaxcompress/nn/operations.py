"""Asks the nodes of a graph what they are, and lets them take activation functions in."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.graph import Graph, GridKind, Node
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import Pads, Pair, Slide, both, resolve_padding
from jaxcompress.ops.transposed import resolve_transposed


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
    ValueError: if it has no kernel.

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
  """Cells added around the input of a convolution or pool, once it is spread if its layer does so."""
  attrs = node.attrs
  if OPERATIONS[node.op].spreads:
    return resolve_transposed(attrs["padding"], attrs["kernel"], attrs["stride"])
  return slide_of(node).pads


def window_of(node: Node) -> Pair:
  """Height and width of the kernel of a convolution or pool, without dilation."""
  return both(node.attrs["kernel"])


def slide_of(node: Node) -> Slide:
  """How the kernel of a convolution or pool moves over what it reads.

  Examples:
    >>> attrs, shapes = {"kernel": (1, 3), "stride": 2, "padding": "SYMMETRIC"}, ((1, 4, 4, 3),)
    >>> slide_of(Node("pool", "MaxPool", attrs, ("input",), ("pool",), shapes, shapes))
    Slide(stride=(2, 2), pads=((0, 0), (1, 1)), dilation=(1, 1))
  """
  attrs, size = node.attrs, node.input_shapes[0][1:3]
  stride, dilation = attrs["stride"], attrs.get("dilation", 1)
  pads = resolve_padding(attrs["padding"], size, attrs["kernel"], stride, dilation)
  return Slide(both(stride), pads, both(dilation))


def grid_kind(node: Node) -> GridKind:
  """Which grid the integers of a node's outputs are on; see :class:`~jaxcompress.nn.graph.Operation`."""
  kind = OPERATIONS[node.op].grid
  return kind(node) if callable(kind) else kind


def shares_grid(node: Node) -> bool:
  """Whether the integers of a node's outputs are on the grid of what it reads, as most pools' are."""
  return grid_kind(node) != "own"


def joins(node: Node) -> bool:
  """Whether a node copies integers of several tensors, which have to be on one grid for it."""
  return grid_kind(node) == "copied" and len(node.inputs) > 1


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
  """Counts the multiply-adds of the whole graph for one image.

  Examples:
    >>> from jaxcompress import models
    >>> round(count_macs(models.summarize(models.mobilenet_v1()).graph) / 1e6, 1)
    568.7
  """
  return sum(macs(node) for node in graph.nodes)


def count_parameters(params: Any) -> int:
  """Counts the trainable numbers in a parameter tree of arrays or shapes.

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


FOLLOWERS = "then"
"""The attribute of a layer with the nodes that became part of its weights, in order."""
FACTORS = "times"
"""The attribute of a layer with the names and numbers that what it reads is multiplied by."""
SCALABLE = ("ConvNorm", "ConvTranspose", "Dense")


def fuse_activations(graph: Graph) -> Graph:
  """Moves each rectifier into the op before it, as edge runtimes do, and constants into weights.

  An ``Activation`` of ReLU or ReLU6 that alone reads the result of a convolution, a normalization,
  an add or a multiply becomes that node's ``act``. The node keeps its name and writes the
  activation's tensor, so the tensor in between is never rounded. An ``Affine``, or a ``BatchNorm`` of
  vectors, that alone reads the output of a layer with weights and no activation function becomes part
  of that layer likewise; :func:`~jaxcompress.nn.fold` of the graph has their product. One that none
  precedes gets the attributes of the depthwise 1x1 convolution that it becomes. Zeros that a ``Pad``
  puts around what only convolutions read become the padding of these, and a number that an ``Affine``
  multiplies what only layers with weights read becomes part of their weights.

  Args:
    graph: a traced graph.

  Returns:
    An equivalent graph; its tensors are the ones that quantization rounds.

  Examples:
    >>> from jaxcompress import models
    >>> graph = fuse_activations(models.summarize(models.resnet8(), 32).graph)
    >>> node = graph.producer("stage0_block0/relu")
    >>> node.op, node.attrs["act"]
    ('Add', 'relu')
  """
  graph = pads_within(graph)
  nodes: list[Node] = []
  for node in graph.nodes:
    host = _host(graph, nodes, node)
    if host is None:
      fields = {**node.attrs, **OPERATIONS[node.op].lowered(node)}
      nodes.append(node._replace(attrs=FrozenDict(fields)))
      continue
    fields = {**nodes[host].attrs, "act": node.attrs.get("act")}
    if node.op != "Activation":
      fields[FOLLOWERS] = (*fields.get(FOLLOWERS, ()), node)
    nodes[host] = nodes[host]._replace(attrs=FrozenDict(fields), outputs=node.outputs)
  return _factors_within(graph._replace(nodes=tuple(nodes)))


def _factors_within(graph: Graph) -> Graph:
  """The graph whose layers have the numbers in their weights that all they read is multiplied by."""
  for scaled in graph.nodes:
    attrs, readers = scaled.attrs, graph.consumers(scaled.output)
    if (
      scaled.op != "Affine"
      or isinstance(attrs["scale"], str)
      or attrs["bias"] != 0
      or attrs["act"] is not None
      or FOLLOWERS in attrs
      or graph.is_output(scaled.output)
      or any(reader.op not in SCALABLE for reader in readers)
    ):
      continue
    nodes = (_times(n, scaled) if n in readers else n for n in graph.nodes if n != scaled)
    graph = graph._replace(nodes=tuple(nodes))
  return graph


def _times(node: Node, scaled: Node) -> Node:
  factors = (*node.attrs.get(FACTORS, ()), (scaled.name, float(scaled.attrs["scale"])))
  attrs: Mapping[str, Any] = FrozenDict({**node.attrs, FACTORS: factors})
  return node._replace(attrs=attrs, inputs=scaled.inputs)


def pads_within(graph: Graph) -> Graph:
  """The graph whose convolutions have the padding of the ``Pad`` s of zeros that they alone read.

  Examples:
    >>> pad = Node("pad", "Pad", {"pads": ((1, 0), (1, 0)), "value": 0.0, "mode": "constant"},
    ...   ("input",), ("pad",), ((1, 4, 4, 3),), ((1, 5, 5, 3),))
    >>> attrs = {"kernel": 3, "stride": 2, "padding": "VALID", "groups": 1, "features": 8}
    >>> conv = Node("conv", "ConvNorm", attrs, ("pad",), ("conv",), ((1, 5, 5, 3),), ((1, 2, 2, 8),))
    >>> [node.attrs["padding"] for node in pads_within(Graph((pad, conv), (1, 4, 4, 3), "conv")).nodes]
    [((1, 0), (1, 0))]
  """
  for pad in reversed(graph.nodes):  # so that those of a Pad of a Pad are all within
    readers = graph.consumers(pad.output)
    if (
      pad.op != "Pad"
      or OPERATIONS["Pad"].fill(pad) != 0
      or graph.is_output(pad.output)
      or any(reader.op != "ConvNorm" for reader in readers)
    ):
      continue
    nodes = (_with_pads(n, pad) if n in readers else n for n in graph.nodes if n != pad)
    graph = graph._replace(nodes=tuple(nodes))
  return graph


def _with_pads(node: Node, pad: Node) -> Node:
  pads = tuple(
    (outer[0] + inner[0], outer[1] + inner[1])
    for outer, inner in zip(pad.attrs["pads"], pads_of(node), strict=True)
  )
  attrs: Mapping[str, Any] = FrozenDict({**node.attrs, "padding": pads})
  return node._replace(attrs=attrs, inputs=pad.inputs, input_shapes=pad.input_shapes)


def _host(graph: Graph, nodes: list[Node], node: Node) -> int | None:
  """Position of the node that can take an activation function, or constants, in."""
  if node.op == "Activation":
    accepts = lambda host: OPERATIONS[host.op].hosts or FOLLOWERS in host.attrs  # noqa: E731
    joins = ACTIVATIONS[node.attrs["act"]].fuses
  else:
    accepts = lambda host: kernel_shape(host) is not None  # noqa: E731
    act = node.attrs.get("act")
    joins = OPERATIONS[node.op].follows(node) and (act is None or ACTIVATIONS[act].fuses)
  tensor = node.inputs[0]
  if not joins or len(graph.consumers(tensor)) > 1 or graph.is_output(tensor):
    return None
  for i, host in enumerate(nodes):
    if host.output == tensor and accepts(host) and not host.attrs.get("act"):
      return i
  return None


def without_followers(graph: Graph) -> Graph:
  """The graph whose layers do not tell what became part of their weights.

  Examples:
    >>> shape = ((1, 4),)
    >>> attrs = FrozenDict({"scale": 2.0, "bias": 0.0, "act": None})
    >>> first = Node("first", "Affine", attrs, ("input",), ("first",), shape, shape)
    >>> second = first._replace(name="second", inputs=("first",), outputs=("second",))
    >>> fused = fuse_activations(Graph((first, second), (1, 4), "second"))
    >>> [node.name for node in fused.nodes], FOLLOWERS in fused.nodes[0].attrs
    (['first'], True)
    >>> FOLLOWERS in without_followers(fused).nodes[0].attrs
    False
  """

  def bare(node: Node) -> Node:
    attrs = {k: value for k, value in node.attrs.items() if k not in (FOLLOWERS, FACTORS)}
    return node if len(attrs) == len(node.attrs) else node._replace(attrs=FrozenDict(attrs))

  return graph._replace(nodes=tuple(map(bare, graph.nodes)))
