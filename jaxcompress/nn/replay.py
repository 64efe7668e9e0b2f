"""A graph as a module: the same leaf ops under the same names, from data instead of code.

Code that builds a network decides by channel counts, such as whether a shortcut is projected; with
other counts it would build another network. A replay keeps what the code once decided.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.core import FrozenDict

from jaxcompress.files.values import as_tuples
from jaxcompress.nn.graph import INPUT, Endpoints, Graph
from jaxcompress.nn.norm import Norm
from jaxcompress.nn.structure import LEAF_OPS


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
      what the last linear layer reads, flattened.
    image_size: side of the images for which it was recorded.
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
  image_size: int
  origin: str = ""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    tensors = _run(((layer.name, layer) for layer in self.layers), {INPUT: x}, train)
    ends: Any = self.ends
    if ends.pooled is not None:
      pooled = tensors[ends.pooled]
    else:
      classifier = next(layer for layer in self.layers if layer.name == ends.logits)
      pooled = tensors[classifier.inputs[0]].reshape(x.shape[0], -1)
    maps, preact = (tuple(tensors[name] for name in part) for part in (ends.maps, ends.preact))
    return Endpoints(tensors[ends.logits], pooled, maps, preact)


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
  return Replay(classes, layers, endpoints, graph.input_shape[1], origin)


def parse_layer(entry: Sequence[Any]) -> Layer:
  """A layer from plain values, as JSON gives them back; or a layer as it is.

  Raises:
    ValueError: if the op is none of the leaf ops, or has no such field.

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
