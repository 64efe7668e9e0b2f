"""The last layers of a classifier: found, made anew for other classes, or with their classes in another order."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from jaxcompress.arguments import check_key, check_whole
from jaxcompress.models.registry import Summary, summarize
from jaxcompress.nn import Graph, Node
from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.nn.replay import Layer, Replay, replay
from jaxcompress.nn.structure import LEAF_OPS, OPERATIONS
from jaxcompress.nn.tracing import trace_endpoints

HEADS = ("Dense", "ConvNorm")
POOLS = ("GlobalAvgPool", "AvgPool")
RELU = "relu"  # as SqueezeNet has it behind its last convolution


def with_classes(
  module: nn.Module,
  variables: Mapping[str, Any],
  num_classes: int,
  rng: jax.Array | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
  """The same network for other classes: its last layer is a fresh one, all else as it was.

  The layer that makes the logits is found in the traced graph, so any network of leaf ops will do:
  those of this package, imported ones, and ones with channels removed. Where the logits are the sum
  or the mean of several linear layers', all of these are fresh.

  Args:
    module: a linen module made of leaf ops, whose only output is the logits (batch, classes).
    variables: its ``params`` and ``batch_stats``.
    num_classes: size of the new logits; that of the old ones is allowed.
    rng: a PRNG key for the layer; ``jax.random.key(0)`` by default.

  Returns:
    ``(module, variables)`` of the network with the new layer.

  Raises:
    ValueError: if ``num_classes`` is not positive, or the logits do not come from linear layers.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> old = models.resnet8(100)
    >>> variables = init_variables(old, jax.random.key(0), (32, 32, 3))
    >>> new, renewed = with_classes(old, variables, 5)
    >>> new == models.resnet8(5), renewed["params"]["classifier"]["kernel"].shape
    (True, (64, 5))
    >>> bool((renewed["params"]["stem"]["kernel"] == variables["params"]["stem"]["kernel"]).all())
    True
  """
  check_whole("num_classes", num_classes, 1)
  rng = jax.random.key(0) if rng is None else rng
  check_key("rng", rng)
  summary = summarize(module)
  heads = find_heads(summary.graph)
  renewed = _resized(module, variables, summary, num_classes)
  made = dict(variables)
  for i, head in enumerate(heads):
    op = LEAF_OPS[head.op](**{**head.attrs, "features": num_classes})
    flag: dict[str, Any] = {"train": False} if op.operation.takes_train else {}
    key = jax.random.fold_in(rng, i) if i else rng
    fresh = op.init(key, jnp.zeros(head.input_shapes[0]), **flag)
    for collection, entry in fresh.items():
      made[collection] = with_parameters(made[collection], head.name, entry)
  return renewed, made


def permute_classes(
  module: nn.Module, variables: Mapping[str, Any], order: Sequence[int]
) -> dict[str, Any]:
  """The variables of the same network with its classes in another order.

  Args:
    module: as for :func:`with_classes`.
    variables: its own.
    order: the old positions of the new classes.

  Raises:
    ValueError: if the order is not a permutation of the classes, or the logits do not come from linear layers.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(3)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> image = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    >>> old = model.apply(variables, image, train=False).logits
    >>> new = model.apply(permute_classes(model, variables, (2, 0, 1)), image, train=False).logits
    >>> bool(jnp.allclose(new, old[:, jnp.array([2, 0, 1])]))
    True
  """
  heads = find_heads(summarize(module).graph)
  count = heads[0].attrs["features"]
  if sorted(order) != list(range(count)):
    raise ValueError(f"order: {tuple(order)} must have each of 0 to {count - 1} once.")
  places, made = np.array(order), dict(variables)
  for head in heads:
    for collection, tree in made.items():
      entry = parameters(tree, head.name)
      if entry:  # its arrays have the classes last
        turned = {name: jnp.asarray(array)[..., places] for name, array in entry.items()}
        made[collection] = with_parameters(tree, head.name, turned)
  return made


def find_heads(graph: Graph) -> tuple[Node, ...]:
  """The linear layers that make a classifier's logits: one, or several whose sum or mean they are.

  Behind them there may be nothing but pooling, a change of shape, a ReLU, sums and numbers that
  multiply these.

  Args:
    graph: of a network, traced.

  Raises:
    ValueError: if the network has several outputs, or the logits come from something else.

  Examples:
    >>> from jaxcompress import models
    >>> graph = summarize(models.repvit_m0_9(10), 32).graph
    >>> [head.name for head in find_heads(graph)]
    ['classifier', 'classifier_distilled']
  """
  shapes = [tuple(graph.shape(tensor)[1:]) for _, tensor in graph.outputs]
  if len(shapes) != 1 or len(shapes[0]) != 1:
    listed = ", ".join(map(str, shapes))
    raise ValueError(
      f"module: it gives {listed} for an image; a classifier with one output (classes,) has a last"
      " layer that can be made anew."
    )
  heads = []
  for node in _behind(graph):
    if node.op in HEADS:
      _check_linear(node, shapes[0][0])
      heads.append(node)
  return tuple(heads)


def _behind(graph: Graph) -> list[Node]:
  """The heads, and what is between them and the logits.

  Raises:
    ValueError: if the logits come from something else.
  """
  found: dict[str, Node] = {}
  readers, tensors = 0, [graph.output]
  while tensors:
    tensor = tensors.pop(0)
    node = graph.producer(tensor)
    if node is None or len(graph.consumers(tensor)) != readers or not _passes(node):
      what = "the image itself" if node is None else f"{node.name!r}, a {node.op}"
      raise ValueError(
        f"module: its logits come from {what}, and not from linear layers alone; give a network"
        " that ends with one."
      )
    readers = 1
    found[node.name] = node
    if node.op not in HEADS:
      tensors += node.inputs
  return list(found.values())


def _passes(node: Node) -> bool:
  """Whether a node is a head, or may be between one and the logits."""
  if node.op == "Activation":
    return node.attrs["act"] == RELU
  if node.op == "Affine":
    constants = node.attrs["scale"], node.attrs["bias"]
    return node.attrs["act"] is None and not any(isinstance(c, str) for c in constants)
  return node.op in (*HEADS, *POOLS, "Reshape", "Add")


def _check_linear(node: Node, classes: int) -> None:
  """Raises if a layer is not one linear function of its channels for each class."""
  act = node.attrs.get("act")
  problems = {
    f"has {node.attrs['features']} outputs for {classes} logits": node.attrs["features"] != classes,
    "convolves in groups": node.op == "ConvNorm" and OPERATIONS[node.op].groups(node) != 1,
    f"ends with {act}": act not in (None, RELU),
  }
  for problem, holds in problems.items():
    if holds:
      raise ValueError(
        f"module: its logits come from {node.name!r}, a {node.op} that {problem}, and not from linear"
        " layers alone; give a network that ends with one."
      )


def _resized(module: nn.Module, variables: Any, summary: Summary, num_classes: int) -> nn.Module:
  """The module with another number of classes."""
  if not isinstance(module, Replay) and "num_classes" in type(module).__dataclass_fields__:
    cloned = module.clone(num_classes=num_classes)
    if summarize(cloned).graph.shape(summary.graph.output)[-1] == num_classes:
      return cloned
  if not isinstance(module, Replay):  # a network of leaf ops whose code nobody knows
    image = jax.ShapeDtypeStruct(summary.graph.input_shape, jnp.float32)
    module = replay(*trace_endpoints(module, variables, image), origin=type(module).__name__)
  behind = {node.name: node for node in _behind(summary.graph)}
  layers = tuple(
    _with_fields(layer, _fields(behind[layer.name], num_classes)) if layer.name in behind else layer
    for layer in module.layers
  )
  return module.clone(num_classes=num_classes, layers=layers)


def _fields(node: Node, num_classes: int) -> Mapping[str, Any]:
  if node.op in HEADS:
    return {"features": num_classes}
  return OPERATIONS[node.op].resized(node, [num_classes], [num_classes])


def _with_fields(layer: Layer, fields: Mapping[str, Any]) -> Layer:
  return layer._replace(fields=FrozenDict({**layer.fields, **fields}))
