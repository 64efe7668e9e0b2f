"""The outputs of a model, by name."""

from collections.abc import Mapping
from typing import Any

import jax
from flax.core import FrozenDict

from jaxcompress.nn.graph import LOGITS, Endpoints, Graph


def as_endpoints(result: Any) -> Endpoints:
  """Converts the result of a model to :class:`~jaxcompress.nn.Endpoints`.

  The outputs of a tuple, a dict or a tree of them are named by their place, such as ``"1"``,
  ``"boxes"`` or ``"head/boxes"``, and ordered as JAX orders the leaves of a tree. Their logits are the
  output of that name; else the first of shape (batch, classes); else the first.

  Args:
    result: an array, a tree of arrays, or :class:`~jaxcompress.nn.Endpoints`, which stay as they are.

  Raises:
    ValueError: if the tree has no array, or two outputs have one name.

  Examples:
    >>> import jax.numpy as jnp
    >>> ends = as_endpoints({"boxes": jnp.ones((1, 5, 4)), "classes": jnp.ones((1, 3))})
    >>> list(ends.outputs), ends.logits.shape
    (['boxes', 'classes'], (1, 3))
    >>> as_endpoints(jnp.ones((1, 3))).outputs
    FrozenDict({})
  """
  if isinstance(result, Endpoints):
    return result
  outputs = _named(result, "")
  if tuple(outputs) == ("",):
    return Endpoints(result)
  if not outputs:
    raise ValueError(f"model: it returns {result!r}, without an array; return its outputs.")
  matrices = (array for array in outputs.values() if len(getattr(array, "shape", ())) == 2)
  first = next(matrices, next(iter(outputs.values())))
  return Endpoints(outputs.get(LOGITS, first), outputs=FrozenDict(outputs))


def name_outputs(endpoints: Endpoints) -> dict[str, Any]:
  """All outputs of a model by name, the one that holds the logits first.

  Logits that are not among ``endpoints.outputs`` are one more output, ``"logits"``.

  Raises:
    ValueError: if two outputs have one name.

  Examples:
    >>> logits, embedding = object(), object()
    >>> list(name_outputs(Endpoints(logits, outputs={"embedding": embedding})))
    ['logits', 'embedding']
    >>> list(name_outputs(Endpoints(logits, outputs={"embedding": embedding, "classes": logits})))
    ['classes', 'embedding']
  """
  outputs: dict[str, Any] = {}
  for key, part in endpoints.outputs.items():
    _add(outputs, _named(part, str(key)))
  names = [name for name, array in outputs.items() if array is endpoints.logits]
  if LOGITS in outputs and LOGITS not in names:
    raise ValueError(
      "model: its output 'logits' is another array than Endpoints.logits; give one of them another"
      " name."
    )
  if not names:
    return {LOGITS: endpoints.logits, **outputs}
  first = LOGITS if LOGITS in names else names[0]
  return {first: endpoints.logits, **outputs}


def holds_classes(graph: Graph) -> bool:
  """Whether the first output holds scores of classes, of an image or of each pixel of a map.

  It does if it has the shape (batch, classes), or the name ``"logits"``, as a single output that has
  no name of its own; and more than one channel. Other outputs are taken for plain numbers.

  Examples:
    >>> from jaxcompress.nn import Node
    >>> shapes = ((1, 2, 2, 3),), ((1, 2, 2, 3),)
    >>> node = Node("act", "Activation", {"act": "relu"}, ("input",), ("act",), *shapes)
    >>> graph = Graph((node,), (1, 2, 2, 3), "act")
    >>> holds_classes(graph), holds_classes(graph._replace(outputs=(("boxes", "act"),)))
    (True, False)
  """
  name, tensor = graph.outputs[0]
  shape = graph.shape(tensor)
  return shape[-1] > 1 and (name == LOGITS or len(shape) == 2)


def only_or_all(outputs: Mapping[str, Any]) -> Any:
  """The output where there is one, and otherwise all by name.

  Examples:
    >>> only_or_all({"logits": 1}), only_or_all({"boxes": 1, "scores": 2})
    (1, {'boxes': 1, 'scores': 2})
  """
  return dict(outputs) if len(outputs) > 1 else next(iter(outputs.values()))


def _named(tree: Any, prefix: str) -> dict[str, Any]:
  """The leaves of a tree by their path."""
  found: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    place = jax.tree_util.keystr(path, simple=True, separator="/")
    _add(found, {"/".join(filter(None, (prefix, place))): leaf})
  return found


def _add(outputs: dict[str, Any], more: Mapping[str, Any]) -> None:
  for name, array in more.items():
    if name in outputs:
      raise ValueError(f"model: it returns two outputs called {name!r}; give each its own name.")
    outputs[name] = array


def last_function(graph: Graph, tensor: str) -> str:
  """Returns the function that an output ends in: ``"softmax"``, ``"sigmoid"``, or else ``"logits"``.

  Args:
    graph: of the network.
    tensor: of the output.
  """
  (node,) = (node for node in graph.nodes if tensor in node.outputs)
  if node.op == "Softmax":
    return "softmax"
  return "sigmoid" if node.attrs.get("act") == "sigmoid" else LOGITS
