"""Activation functions that no device runs fast, as ops that every device does."""

from flax.core import FrozenDict

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.integer.values import HARD_SIGMOID_GRID, Grid


def fixed_grid(node: Node) -> Grid | None:
  """The grid that a node's outputs must have whatever was seen of them; None: any.

  Examples:
    >>> node = Node("gate", "Activation", {"act": "hard_sigmoid"}, ("x",), ("gate",), (), ())
    >>> fixed_grid(node).zero_point
    -128
  """
  return HARD_SIGMOID_GRID if node.attrs.get("act") == "hard_sigmoid" else None


def lower_hard_swish(graph: Graph) -> Graph:
  """Writes every hard-swish as the product of its input and a hard-sigmoid of it.

  XNNPACK does not run TFLite's HARD_SWISH operator; the product is many times faster there.

  Args:
    graph: with fused activations.

  Returns:
    A graph in which ``Activation("hard_swish")`` named ``x`` is ``Activation("hard_sigmoid")`` named
    ``x/gate`` and ``Multiply`` named ``x``.

  Examples:
    >>> shape = ((1, 4),)
    >>> node = Node("x", "Activation", {"act": "hard_swish"}, ("input",), ("x",), shape, shape)
    >>> [(node.name, node.op) for node in lower_hard_swish(Graph((node,), (1, 4), "x")).nodes]
    [('x/gate', 'Activation'), ('x', 'Multiply')]
  """
  nodes = []
  for node in graph.nodes:
    if node.op == "Activation" and node.attrs["act"] == "hard_swish":
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
