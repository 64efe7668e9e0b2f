"""Checks a graph that a file describes, before anything is computed or made room for."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn.execute import run_node
from jaxcompress.nn.graph import INPUT, Graph, Node
from jaxcompress.nn.operations import kernel_shape
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.dispatch import only_shapes

MOST_NODES = 1 << 14
MOST_NUMBERS = 1 << 26  # in one tensor: 64 channels of 1024 x 1024
MOST_IN_KERNEL = 1 << 28
MOST_WEIGHTS = 1 << 30  # in all kernels

Shape = tuple[int, ...]


def check_graph(graph: Graph) -> None:
  """Checks that a graph can be run, and that its tensors and kernels are of sizes that networks have.

  Args:
    graph: as a file describes it.

  Raises:
    ValueError: if a node is there twice, reads what no node before it makes, has shapes that are
      not those of its inputs or of its op, or is too large; the message names the node.

  Examples:
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> check_graph(Graph((pool,), (1, 2, 2, 3), "pool"))
    >>> check_graph(Graph((pool._replace(inputs=("pool",)),), (1, 2, 2, 3), "pool"))
    Traceback (most recent call last):
    ...
    ValueError: graph: 'pool' reads 'pool', which no node before it makes
  """
  if len(graph.nodes) > MOST_NODES:
    raise ValueError(f"graph: it has {len(graph.nodes):,} nodes; at most {MOST_NODES:,} are read")
  _check_shape(INPUT, graph.input_shape)
  shapes: dict[str, Shape] = {INPUT: graph.input_shape}
  names, weights = set(), 0
  for node in graph.nodes:
    name = node.name
    if not isinstance(name, str) or not name:
      raise ValueError(f"graph: {name!r} is no name of a node")
    if name in names:
      raise ValueError(f"graph: {name!r} is there twice")
    names.add(name)
    for tensor in node.inputs:
      if tensor not in shapes:
        raise ValueError(f"graph: {name!r} reads {tensor!r}, which no node before it makes")
    read = tuple(shapes[tensor] for tensor in node.inputs)
    if not read or node.input_shapes != read:
      raise ValueError(f"graph: {name!r} reads shapes {node.input_shapes}, and there are {read}")
    for shape in node.output_shapes:
      _check_shape(name, shape)
    weights += _check_kernel(node)
    made = _made_shapes(node)
    if made != node.output_shapes or len(made) != len(node.outputs):
      raise ValueError(
        f"graph: {name!r} writes shapes {node.output_shapes}, and a {node.op} makes {made}"
      )
    for tensor, shape in zip(node.outputs, made, strict=True):
      if tensor in shapes:
        raise ValueError(f"graph: {name!r} writes {tensor!r}, which is there already")
      shapes[tensor] = shape
  if weights > MOST_WEIGHTS:
    raise ValueError(f"graph: it has {weights:,} weights; at most {MOST_WEIGHTS:,} are read")
  if graph.output not in shapes:
    raise ValueError(f"graph: its output {graph.output!r} is made by no node")


def _check_shape(name: str, shape: Any, most: int = MOST_NUMBERS) -> None:
  if not isinstance(shape, tuple) or not all(type(size) is int and size > 0 for size in shape):
    raise ValueError(f"graph: {name!r} has shape {shape}; sizes are whole numbers from 1")
  if math.prod(shape) > most:
    raise ValueError(
      f"graph: {name!r} has shape {shape}, which is more than the {most:,} numbers that are read"
    )


def _check_kernel(node: Node) -> int:
  """Number of weights of a node."""
  try:
    shape = kernel_shape(node)
  except (ArithmeticError, KeyError, TypeError) as error:
    raise ValueError(
      f"graph: {node.name!r} has attributes that no {node.op} has ({error!r})"
    ) from error
  if shape is None:
    return 0
  _check_shape(f"{node.name}/kernel", shape, MOST_IN_KERNEL)
  return math.prod(shape)


def _made_shapes(node: Node) -> tuple[Shape, ...]:
  """Shapes that a node's op makes of what it reads; the ones that it says where that is not known."""
  if node.op not in OPERATIONS:
    return node.output_shapes
  kernel, float32 = kernel_shape(node), jnp.float32
  layer: Any = None
  if kernel is not None:
    layer = tuple(jax.ShapeDtypeStruct(shape, float32) for shape in (kernel, kernel[-1:]))
  inputs = [jax.ShapeDtypeStruct(shape, float32) for shape in node.input_shapes]
  try:
    with only_shapes():
      made = jax.eval_shape(lambda layer, *inputs: run_node(node, layer, *inputs), layer, *inputs)
  except Exception as error:  # attributes may say anything
    raise ValueError(f"graph: {node.name!r} is no {node.op} that can run ({error})") from error
  return tuple(tuple(array.shape) for array in made)
