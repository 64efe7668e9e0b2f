"""Writes what no device runs, or runs fast, as operations that every device does."""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn import Graph, Node
from jaxcompress.nn.operations import pads_of, shares_grid, window_of
from jaxcompress.nn.structure import REQUANTIZE
from jaxcompress.quantize.integer.functions import FUNCTIONS
from jaxcompress.quantize.integer.grid import Grid, with_bits

AVERAGE = "average"  # an attribute of convolutions that were average pools
MOST_AVERAGED = 518  # cells of a window of weights of 127 whose sums float32 holds exactly


def lower_gates(graph: Graph, which: Callable[[Node], bool] = lambda node: True) -> Graph:
  """Writes hard-swishes and silus as products of their input and its gate, ``x * gate(x)``.

  XNNPACK does not run TFLite's HARD_SWISH operator; the product is many times faster there. TFLite
  has no operator of a silu.

  Args:
    graph: with fused activations.
    which: whether a node is written so; the others stay as they are.

  Returns:
    A graph in which ``Activation("hard_swish")`` named ``x`` is ``Activation("hard_sigmoid")`` named
    ``x/gate`` and ``Multiply`` named ``x``; a silu's gate is a sigmoid.

  Examples:
    >>> shape = ((1, 4),)
    >>> node = Node("x", "Activation", {"act": "hard_swish"}, ("input",), ("x",), shape, shape)
    >>> [(node.name, node.op) for node in lower_gates(Graph((node,), (1, 4), "x")).nodes]
    [('x/gate', 'Activation'), ('x', 'Multiply')]
  """
  nodes: list[Node] = []
  for node in graph.nodes:
    if node.op == "Activation" and FUNCTIONS[node.attrs["act"]].gate and which(node):
      nodes += _gated(node)
    else:
      nodes.append(node)
  return graph._replace(nodes=tuple(nodes))


def has_operator(node: Node) -> bool:
  """Whether files have an operator of an activation function on its own, so that it need not be written out.

  Examples:
    >>> ends = ("input",), ("x",), ((1, 4),), ((1, 4),)
    >>> has_operator(Node("x", "Activation", {"act": "silu"}, *ends))
    False
  """
  return bool(FUNCTIONS[node.attrs["act"]].tables)


def _gated(node: Node) -> tuple[Node, Node]:
  name, (source,), (shape,) = f"{node.name}/gate", node.inputs, node.input_shapes
  gate = node._replace(
    name=name, attrs=FrozenDict(act=FUNCTIONS[node.attrs["act"]].gate), outputs=(name,)
  )
  product = node._replace(
    op="Multiply", attrs=FrozenDict(), inputs=(source, name), input_shapes=(shape, shape)
  )
  return gate, product


def lower_averages(graph: Graph, apart: Collection[tuple[str, str]]) -> Graph:
  """Writes the average pools that do not share their input's grid as depthwise convolutions.

  Average pools of runtimes copy the grid of what they read; a convolution of equal weights rounds to
  any. A pool that leaves its padding out of account stays, and so does one of more than 518
  cells, whose sums as a convolution would be too large.

  Args:
    graph: with fused activations.
    apart: pairs of a node and a tensor that it reads, with which it does not share a grid.

  Examples:
    >>> shapes, attrs = ((1, 4, 4, 2),), {"kernel": 2, "stride": 2, "padding": "SAME"}
    >>> node = Node(
    ...   "pool", "AvgPool", {**attrs, "count_padding": False}, ("x",), ("pool",), shapes, shapes
    ... )
    >>> (lowered,) = lower_averages(Graph((node,), shapes[0], "pool"), {("pool", "x")}).nodes
    >>> lowered.op, lowered.attrs["groups"], average_kernel(lowered).ravel().tolist()
    ('ConvNorm', 'depthwise', [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25])
  """
  nodes = (
    _as_convolution(node) if (node.name, node.inputs[0]) in apart and is_linear(node) else node
    for node in graph.nodes
  )
  return graph._replace(nodes=tuple(nodes))


def is_linear(node: Node) -> bool:
  """Whether a node is an average that a convolution computes: of as many cells everywhere."""
  if node.op != "AvgPool" or math.prod(window_of(node)) > MOST_AVERAGED:
    return False
  return node.attrs["count_padding"] or not any(map(any, pads_of(node)))


def _as_convolution(node: Node) -> Node:
  attrs = {key: node.attrs[key] for key in ("kernel", "stride", "padding")}
  features = node.output_shapes[0][-1]
  attrs |= {"features": features, "groups": "depthwise", "norm": None, "act": None, AVERAGE: True}
  return node._replace(op="ConvNorm", attrs=FrozenDict(attrs))


def average_kernel(node: Node) -> np.ndarray | None:
  """The kernel of a convolution that was an average pool, (kh, kw, 1, channels); None of others."""
  if not node.attrs.get(AVERAGE):
    return None
  window, channels = window_of(node), node.output_shapes[0][-1]
  return np.full((*window, 1, channels), 1 / math.prod(window), np.float32)


def lower_grids(
  graph: Graph,
  grids: Mapping[str, Grid],
  nonnegative: Collection[str],
  apart: Mapping[tuple[str, str], str],
) -> tuple[Graph, dict[str, Grid]]:
  """Puts a ``Requantize`` between a tensor and the nodes that need its numbers on another grid.

  Those are nodes that compute in another width, which is that of their output, and nodes that copy
  integers and do not share their input's grid. One ``Requantize`` serves all nodes that need the
  same.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    nonnegative: tensors that are known to be at least zero.
    apart: the name of a node's grid, by pairs of the node and a tensor that it needs on it.

  Returns:
    ``(graph, grids)``: every node but ``Requantize`` has tensors of one width, and those that copy
    integers of one grid. The tensor ``x`` in 16 bits is named ``x/int16``, on the grid of ``y``
    ``x/on/y``.

  Examples:
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shape = ((1, 4, 4, 2),)
    >>> node = Node("pool", "GlobalAvgPool", {"keepdims": True}, ("input",), ("pool",), shape, shape)
    >>> grids = {"input": Grid(0.1, 3), "pool": Grid(0.001, 0, 16)}
    >>> lowered, grids = lower_grids(Graph((node,), shape[0], "pool"), grids, (), {})
    >>> [(node.op, node.inputs) for node in lowered.nodes]
    [('Requantize', ('input',)), ('GlobalAvgPool', ('input/int16',))]
    >>> grids["input/int16"]
    Grid(scale=0.1, zero_point=0, bits=16)
  """
  nodes, grids = [], dict(grids)
  for node in graph.nodes:
    bits, inputs = grids[node.output].bits, []
    for tensor, shape in zip(node.inputs, node.input_shapes, strict=True):
      read, grid = tensor, grids[tensor]
      if (node.name, tensor) in apart:
        read, grid = f"{tensor}/on/{apart[node.name, tensor]}", grids[node.output]
      elif grid.bits != bits:
        read = f"{tensor}/int{bits}"
        grid = with_bits(grid, bits, nonnegative=tensor in nonnegative)
      if read not in grids:
        grids[read] = grid
        ends = ((tensor,), (read,), (shape,), (shape,))
        nodes.append(Node(read, REQUANTIZE, FrozenDict(), *ends))
      inputs.append(read)
    nodes.append(node._replace(inputs=tuple(inputs)))
  return graph._replace(nodes=tuple(nodes)), grids


def as_before(graph: Graph) -> tuple[Graph, frozenset[tuple[str, str]]]:
  """The graph before :func:`lower_averages` and :func:`lower_grids`, and what they took apart.

  Returns:
    ``(graph, apart)``: without steps between grids, and pairs of a node and a tensor that it reads
    from another grid than its own.

  Examples:
    >>> ends = lambda a, b: ((a,), (b,), ((1, 4),), ((1, 4),))
    >>> nodes = (
    ...   Node("x/on/cat", "Requantize", {}, *ends("x", "x/on/cat")),
    ...   Node("cat", "Concat", {}, *ends("x/on/cat", "cat")),
    ... )
    >>> graph, apart = as_before(Graph(nodes, (1, 4), "cat"))
    >>> [(node.op, node.inputs) for node in graph.nodes], apart
    ([('Concat', ('x',))], frozenset({('cat', 'x')}))
  """
  source = {node.output: node.inputs[0] for node in graph.nodes if node.op == REQUANTIZE}
  nodes, apart = [], set()
  for node in graph.nodes:
    if node.output in source:
      continue
    inputs = tuple(source.get(tensor, tensor) for tensor in node.inputs)
    if average_kernel(node) is not None:
      attrs = {key: node.attrs[key] for key in ("kernel", "stride", "padding")}
      node = node._replace(op="AvgPool", attrs=FrozenDict(attrs, count_padding=True))
      apart.add((node.name, inputs[0]))
    if shares_grid(node):
      apart |= {(node.name, source[tensor]) for tensor in node.inputs if tensor in source}
    nodes.append(node._replace(inputs=inputs))
  outputs = tuple((name, source.get(tensor, tensor)) for name, tensor in graph.outputs)
  return graph._replace(nodes=tuple(nodes), outputs=outputs), frozenset(apart)
