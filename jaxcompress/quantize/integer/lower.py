"""What no device runs, or runs fast, as ops that every device does."""

from collections.abc import Callable, Mapping

from flax.core import FrozenDict

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.integer.values import GATES, Grid, with_bits


def fixed_grid(node: Node, bits: int = 8) -> Grid | None:
  """The grid that a node's outputs must have whatever was seen of them; None: any.

  Args:
    node: of a graph with fused activations.
    bits: 8 or 16, of its output.

  Examples:
    >>> node = Node("gate", "Activation", {"act": "hard_sigmoid"}, ("x",), ("gate",), (), ())
    >>> fixed_grid(node).zero_point
    -128
  """
  return GATES[bits].output if node.attrs.get("act") == "hard_sigmoid" else None


def lower_hard_swish(graph: Graph, which: Callable[[Node], bool] = lambda node: True) -> Graph:
  """Writes every hard-swish as the product of its input and a hard-sigmoid of it.

  XNNPACK does not run TFLite's HARD_SWISH operator; the product is many times faster there.

  Args:
    graph: with fused activations.
    which: whether a node is written so; the others stay as they are.

  Returns:
    A graph in which ``Activation("hard_swish")`` named ``x`` is ``Activation("hard_sigmoid")`` named
    ``x/gate`` and ``Multiply`` named ``x``.

  Examples:
    >>> shape = ((1, 4),)
    >>> node = Node("x", "Activation", {"act": "hard_swish"}, ("input",), ("x",), shape, shape)
    >>> [(node.name, node.op) for node in lower_hard_swish(Graph((node,), (1, 4), "x")).nodes]
    [('x/gate', 'Activation'), ('x', 'Multiply')]
  """
  nodes: list[Node] = []
  for node in graph.nodes:
    if node.op == "Activation" and node.attrs["act"] == "hard_swish" and which(node):
      nodes += _gated(node)
    else:
      nodes.append(node)
  return graph._replace(nodes=tuple(nodes))


def _gated(node: Node) -> tuple[Node, Node]:
  name, (source,), (shape,) = f"{node.name}/gate", node.inputs, node.input_shapes
  gate = node._replace(name=name, attrs=FrozenDict(act="hard_sigmoid"), outputs=(name,))
  product = node._replace(
    op="Multiply", attrs=FrozenDict(), inputs=(source, name), input_shapes=(shape, shape)
  )
  return gate, product


def lower_widths(
  graph: Graph, grids: Mapping[str, Grid], nonnegative: frozenset[str]
) -> tuple[Graph, dict[str, Grid]]:
  """Puts a ``Requantize`` between a tensor and the nodes that compute in another width.

  A node computes in the width of its output. One ``Requantize`` serves all nodes that read a tensor.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    nonnegative: tensors that are known to be at least zero.

  Returns:
    ``(graph, grids)``: every node but ``Requantize`` has tensors of one width; the tensor ``x`` in
    16 bits is named ``x/int16``.

  Examples:
    >>> from jaxcompress.quantize.integer.values import Grid
    >>> shape = ((1, 4, 4, 2),)
    >>> node = Node("pool", "GlobalAvgPool", {"keepdims": True}, ("input",), ("pool",), shape, shape)
    >>> grids = {"input": Grid(0.1, 3), "pool": Grid(0.001, 0, 16)}
    >>> lowered, grids = lower_widths(Graph((node,), shape[0], "pool"), grids, frozenset())
    >>> [(node.op, node.inputs) for node in lowered.nodes]
    [('Requantize', ('input',)), ('GlobalAvgPool', ('input/int16',))]
    >>> grids["input/int16"]
    Grid(scale=0.1, zero_point=0, bits=16)
  """
  nodes, grids = [], dict(grids)
  for node in graph.nodes:
    bits, inputs = grids[node.output].bits, []
    for tensor, shape in zip(node.inputs, node.input_shapes, strict=True):
      read = tensor if grids[tensor].bits == bits else f"{tensor}/int{bits}"
      if read not in grids:
        grids[read] = with_bits(grids[tensor], bits, nonnegative=tensor in nonnegative)
        ends = ((tensor,), (read,), (shape,), (shape,))
        nodes.append(Node(read, "Requantize", FrozenDict(), *ends))
      inputs.append(read)
    nodes.append(node._replace(inputs=tuple(inputs)))
  return graph._replace(nodes=tuple(nodes)), grids
