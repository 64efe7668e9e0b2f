"""Graphs from data instead of code: checked, and run as a module of the same leaf ops.

Code that builds a network decides by channel counts, such as whether a shortcut is projected; with
other counts it would build another network. A replay keeps what the code once decided.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxcompress.files.values import as_tuples
from jaxcompress.nn.execute import run_node
from jaxcompress.nn.graph import INPUT, Endpoints, Graph, Node
from jaxcompress.nn.norm import Norm
from jaxcompress.nn.operations import kernel_shape
from jaxcompress.nn.structure import CONSTANT, LEAF_OPS, OPERATIONS
from jaxcompress.ops.dispatch import only_shapes

MOST_NODES = 1 << 14
MOST_NUMBERS = 1 << 26  # in one tensor: 64 channels of 1024 x 1024
MOST_IN_KERNEL = 1 << 28
MOST_WEIGHTS = 1 << 30  # in all kernels

Shape = tuple[int, ...]


class Layer(NamedTuple):
  """One leaf op of a :class:`Replay`.

  Attributes:
    name: path of the module, joined by slashes.
    op: the leaf op's class name, a key of :data:`LEAF_OPS`.
    fields: of the leaf op.
    inputs: names of the tensors read, as in a :class:`~jaxcompress.nn.Node`.
  """

  name: str
  op: str
  fields: Mapping[str, Any]
  inputs: tuple[str, ...]


class Replay(nn.Module):
  """A network given as a list of leaf ops; see :func:`replay`.

  Attributes:
    num_classes: size of the logits.
    layers: in the order in which they run.
    ends: names of the tensors that :class:`~jaxcompress.nn.Endpoints` holds; ``pooled`` None:
      what the last linear layer reads, flattened, where the logits are (batch, classes).
    image_size: side of the images for which it was recorded; or their shape (height, width, channels)
      where they are no squares or have not three channels.
    origin: what it was made of, as a person writes it.

  Examples:
    >>> layers = (
    ...   Layer("pool", "GlobalAvgPool", FrozenDict(), ("input",)),
    ...   Layer("classifier", "Dense", FrozenDict(features=2, use_bias=False), ("pool",)),
    ... )
    >>> model = Replay(2, layers, Endpoints("classifier", "pool"), image_size=8)
    >>> ones = jax.numpy.ones
    >>> params = {"classifier": {"kernel": ones((3, 2))}}
    >>> model.apply({"params": params}, ones((1, 8, 8, 3)), train=False).logits.tolist()
    [[3.0, 3.0]]
  """

  num_classes: int
  layers: tuple[Layer, ...]
  ends: Endpoints
  image_size: int | tuple[int, int, int]
  origin: str = ""

  def __repr__(self) -> str:
    size = self.image_size
    shape = (size, size, 3) if isinstance(size, int) else size
    of = f"{self.origin}, " if self.origin else ""
    return f"Replay({of}{len(self.layers)} layers, {'x'.join(map(str, shape))})"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    tensors = _run(((layer.name, layer) for layer in self.layers), {INPUT: x}, train)
    ends: Any = self.ends
    logits, pooled = tensors[ends.logits], None
    if ends.pooled is not None:
      pooled = tensors[ends.pooled]
    elif logits.ndim == 2:
      classifier = maker_of(self.layers, ends.logits)
      pooled = tensors[classifier.inputs[0]].reshape(x.shape[0], -1)
    maps, preact = (tuple(tensors[name] for name in part) for part in (ends.maps, ends.preact))
    outputs = {name: tensors[tensor] for name, tensor in ends.outputs.items()}
    return Endpoints(logits, pooled, maps, preact, FrozenDict(outputs))


def maker_of(layers: Iterable[Layer], tensor: str) -> Layer:
  """The layer that writes a tensor.

  Examples:
    >>> split = Layer("head/split", "Split", FrozenDict(sizes=(1, 2)), ("input",))
    >>> maker_of([split], "head/split:1").name
    'head/split'
  """
  by_name = {layer.name: layer for layer in layers}
  return by_name.get(tensor) or by_name[tensor.rpartition(":")[0]]


class _Scope(nn.Module):
  """The layers of a replay whose names begin alike; it gives them their place among the variables.

  The network may leave it and enter it again, so a call runs some of them.
  """

  @nn.compact
  def __call__(
    self,
    layers: tuple[tuple[str, Layer], ...],
    tensors: dict[str, jax.Array],
    *,
    train: bool | jax.Array,
  ) -> dict[str, jax.Array]:
    return _run(layers, tensors, train)


def _run(
  layers: Iterable[tuple[str, Layer]], tensors: dict[str, jax.Array], train: bool | jax.Array
) -> dict[str, jax.Array]:
  """The tensors and those that layers add, inside a compact method; names are relative to it."""
  scopes: dict[str, _Scope] = {}
  for head, run in itertools.groupby(layers, lambda pair: pair[0].partition("/")[0]):
    part = tuple((path.partition("/")[2], layer) for path, layer in run)
    if part[0][0]:
      scope = scopes[head] = scopes.get(head) or _Scope(name=head)
      tensors = scope(part, tensors, train=train)
    else:
      ((_, layer),) = part
      tensors = {**tensors, **_call(head, layer, tensors, train)}
  return tensors


def _call(
  name: str, layer: Layer, tensors: Mapping[str, jax.Array], train: bool | jax.Array
) -> dict[str, jax.Array]:
  module = LEAF_OPS[layer.op](**layer.fields, name=name)
  extras = {"train": train} if module.operation.takes_train else {}
  found = module(*(tensors[tensor] for tensor in layer.inputs), **extras)
  found = found if isinstance(found, tuple) else (found,)
  return {layer.name if i == 0 else f"{layer.name}:{i}": y for i, y in enumerate(found)}


def replay(graph: Graph, endpoints: Endpoints, origin: str = "") -> Replay:
  """The module that runs a traced graph.

  Its variables have the names and shapes of the traced model's, so those fit it. It belongs to
  the size of the images that the graph was traced with, since architectures may have other strides
  for others.

  Args:
    graph: not fused; its nodes' names, ops and attributes are taken.
    endpoints: names of tensors, as :func:`~jaxcompress.nn.tracing.trace_endpoints` gives them.
    origin: what the graph is of, as a person writes it.

  Raises:
    ValueError: if the graph has other ops than the leaf ops.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn.tracing import trace_endpoints
    >>> model = models.resnet8(num_classes=10)
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    >>> module = replay(*trace_endpoints(model, models.summarize(model).variables, x))
    >>> models.summarize(module).graph == models.summarize(model).graph
    True
  """
  layers = tuple(Layer(n.name, n.op, FrozenDict(n.attrs), n.inputs) for n in graph.nodes)
  for layer in layers:
    if layer.op not in LEAF_OPS:
      raise ValueError(
        f"graph: {layer.name!r} is a {layer.op}; a replay is made of {', '.join(LEAF_OPS)}."
      )
  classes = graph.shape(graph.output)[-1]
  return Replay(classes, layers, endpoints, size_of(graph.input_shape[1:]), origin)


def size_of(shape: tuple[int, ...]) -> int | tuple[int, int, int]:
  """The ``image_size`` of a :class:`Replay` for images of a shape (height, width, channels).

  Examples:
    >>> size_of((32, 32, 3)), size_of((28, 28, 1))
    (32, (28, 28, 1))
  """
  height, width, channels = shape
  return height if (height, channels) == (width, 3) else (height, width, channels)


def parse_layer(entry: Sequence[Any]) -> Layer:
  """A layer from plain values, as JSON gives them back; or a layer as it is.

  Raises:
    ValueError: if the op is not a leaf operation, or has no such field.

  Examples:
    >>> parse_layer(["stem", "ConvNorm", {"features": 8, "norm": [1e-5, 0.9, False]}, ["input"]])
    Layer(name='stem', op='ConvNorm', fields=FrozenDict({
        features: 8,
        norm: Norm(epsilon=1e-05, momentum=0.9, zero=False),
    }), inputs=('input',))
  """
  name, op, fields, inputs = entry
  if op not in LEAF_OPS:
    raise ValueError(f"layers: {name!r} is a {op!r}; it must be one of {', '.join(LEAF_OPS)}.")
  known = {field.name for field in dataclasses.fields(LEAF_OPS[op])} - {"parent", "name"}
  for field in fields:
    if field not in known:
      raise ValueError(f"layers: {name!r} has no field {field!r}; a {op} has {sorted(known)}.")
  fields = {field: as_tuples(value) for field, value in fields.items()}
  if fields.get("norm") is not None:
    fields["norm"] = Norm(*fields["norm"])
  return Layer(str(name), op, FrozenDict(fields), tuple(map(str, inputs)))


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
    if bool(read) == (node.op == CONSTANT) or node.input_shapes != read:
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
  labels = [label for label, _ in graph.outputs]
  if not labels or len(set(labels)) < len(labels):
    raise ValueError(
      f"graph: its outputs are {labels}; there is at least one, each of its own name"
    )
  for _, tensor in graph.outputs:
    if tensor not in shapes:
      raise ValueError(f"graph: its output {tensor!r} is made by no node")


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


def _held_shapes(node: Node) -> tuple[Shape, ...]:
  """The shape of a constant, if it has as many codes."""
  codes, ((batch, *rest),) = node.attrs.get("codes"), node.output_shapes
  if not isinstance(codes, tuple) or not all(type(code) is int for code in codes):
    raise ValueError(f"graph: {node.name!r} has no codes, which are whole numbers")
  if batch != 1 or len(codes) != math.prod(rest):
    raise ValueError(
      f"graph: {node.name!r} has {len(codes)} codes for shape {node.output_shapes[0]}"
    )
  return node.output_shapes


def _made_shapes(node: Node) -> tuple[Shape, ...]:
  """Shapes that a node's op makes of what it reads; the ones that it says where that is not known."""
  if node.op not in OPERATIONS:
    return node.output_shapes
  if node.op == CONSTANT:
    return _held_shapes(node)
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
