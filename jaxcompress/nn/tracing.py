"""Records a model's graph by intercepting its leaf ops while ``eval_shape`` runs it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.core import FrozenDict
from flax.linen import module as linen

from jaxcompress.nn.foreign import (
  LINEN,
  Strangers,
  check_model,
  flag_for,
  takes_train,
  without_train,
)
from jaxcompress.nn.graph import INPUT, LOGITS, Endpoints, Graph, Node
from jaxcompress.nn.layers import LeafOp
from jaxcompress.nn.outputs import as_endpoints, name_outputs
from jaxcompress.nn.variables import OWN, blames, check_variables
from jaxcompress.ops.dispatch import only_shapes


@contextmanager
def intercept(interceptor: Callable[..., Any]) -> Iterator[None]:
  """``nn.intercept_methods``, which ends under ``python -O`` too.

  Flax takes an interceptor back inside an ``assert``, which ``-O`` leaves out: it would go on
  intercepting every later call of any network.

  Args:
    interceptor: as for ``nn.intercept_methods``.

  Examples:
    >>> from jaxcompress.nn import Activation
    >>> seen = []
    >>> def look(call, args, kwargs, context):
    ...   seen.append(type(context.module).__name__)
    ...   return call(*args, **kwargs)
    >>> with intercept(look):
    ...   _ = Activation("relu").apply({}, 1.0)
    >>> _ = Activation("relu").apply({}, 1.0)
    >>> seen
    ['Activation']
  """
  try:
    with nn.intercept_methods(interceptor):
      yield
  finally:
    if not __debug__:
      _take_back(interceptor)


def _take_back(interceptor: Callable[..., Any]) -> None:
  stack = linen._global_interceptor_stack
  if next(iter(stack), None) is interceptor:  # the newest comes first
    stack.pop()


def module_path(module: nn.Module) -> str:
  """A leaf op's name in the graph and in every table keyed by layer.

  Examples:
    >>> from jaxcompress.nn import Activation
    >>> class Network(nn.Module):
    ...   def setup(self):
    ...     self.stem = Activation("relu")
    >>> module_path(Network().bind({}).stem)
    'stem'
  """
  return "/".join(module.path)


def is_leaf_call(context: Any) -> bool:
  """Whether an intercepted method is the call of a leaf op.

  Examples:
    >>> from jaxcompress.nn import Activation
    >>> def look(call, args, kwargs, context):
    ...   print(type(context.module).__name__, is_leaf_call(context))
    ...   return call(*args, **kwargs)
    >>> with intercept(look):
    ...   _ = nn.Sequential([Activation("relu")]).apply({}, jax.numpy.ones(3))
    Sequential False
    Activation True
  """
  return isinstance(context.module, LeafOp) and context.method_name == "__call__"


def trace(model: nn.Module, variables: Mapping[str, Any], x: Any) -> Graph:
  """Records the graph of a model made of leaf ops, without computing anything.

  Args:
    model: a linen module whose ``__call__(x, *, train)`` returns :class:`Endpoints`, logits, or a
      tuple or dict of several outputs, which may be nested; see
      :func:`~jaxcompress.nn.outputs.as_endpoints` for their names.
    variables: its variables; only shapes and dtypes are read.
    x: images or a ``ShapeDtypeStruct`` of shape (batch, height, width, channels).

  Returns:
    The :class:`Graph` that leads from the input to the outputs, the logits first.

  Raises:
    ValueError: if the model computes outside leaf ops, which names the layer and the importer that
      takes it, calls one leaf op twice, returns what it reads, or takes no ``train``; or if the
      variables are of another network, or of images of another size.

  Examples:
    >>> from jaxcompress import models
    >>> import jax.numpy as jnp
    >>> model = models.resnet8(num_classes=10)
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    >>> init = lambda: model.init(jax.random.key(0), jnp.zeros(x.shape), train=False)
    >>> graph = trace(model, jax.eval_shape(init), x)
    >>> graph.nodes[0].name, graph.nodes[0].op
    ('stem', 'ConvNorm')
  """
  return _evaluated(model, variables, x).graph


def trace_endpoints(
  model: nn.Module, variables: Mapping[str, Any], x: Any
) -> tuple[Graph, Endpoints]:
  """Records the graph with all that a model returns, and the names of those tensors.

  Args:
    model: as for :func:`trace`.
    variables: as for :func:`trace`.
    x: as for :func:`trace`.

  Returns:
    ``(graph, endpoints)``. The graph also has the nodes that only ``maps`` and ``preact`` depend
    on. The endpoints hold names; ``pooled`` is None, and ``maps`` and ``preact`` are empty, where
    they are not outputs of leaf ops.

  Raises:
    ValueError: as :func:`trace`.

  Examples:
    >>> from jaxcompress import models
    >>> model = models.resnet8(num_classes=10)
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    >>> trace_endpoints(model, models.summarize(model).variables, x)[1].maps[0]
    'stem'
  """
  record = _evaluated(model, variables, x)
  ends = record.endpoints
  outputs = {tensor for _, tensor in record.graph.outputs}
  wanted = {*outputs, *ends.maps, *ends.preact} | ({ends.pooled} - {None})
  return record.graph._replace(nodes=_needed(record.nodes, wanted)), ends


def trace_init(model: nn.Module, x: Any) -> tuple[Graph, Any]:
  """Records the graph of a model that has no variables yet, and the shapes of those it will have.

  Args:
    model: as for :func:`trace`.
    x: images or a ``ShapeDtypeStruct`` of shape (batch, height, width, channels).

  Returns:
    ``(graph, variables)``; the variables are ``ShapeDtypeStruct``s.

  Raises:
    ValueError: as :func:`trace`.

  Examples:
    >>> from jaxcompress import models
    >>> import jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    >>> graph, variables = trace_init(models.resnet8(num_classes=10), x)
    >>> variables["params"]["classifier"]["kernel"].shape
    (64, 10)
  """
  check_model("model", model)
  init = lambda x, rng: model.init_with_output(rng, x, **_flag(model))  # noqa: E731
  record = _record(model, init, x, jax.random.key(0))
  return record.graph, record.variables


class _Record(NamedTuple):
  """A run as it was seen: its graph, all its nodes, names of what it returned, and variables."""

  graph: Graph
  nodes: list[Node]
  endpoints: Any
  variables: Any


def _evaluated(model: nn.Module, variables: Any, x: Any) -> _Record:
  check_model("model", model)
  check_variables("variables", variables)
  with blames("variables", OWN, tuple(x.shape[1:])):
    call = lambda x, variables: (model.apply(variables, x, **_flag(model)), None)  # noqa: E731
    return _record(model, call, x, variables)


def _flag(model: nn.Module) -> dict[str, Any]:
  return {"train": False} if takes_train(model) else flag_for(model, False)


def _record(
  model: nn.Module, call: Callable[[Any, Any], tuple[Any, Any]], x: Any, extra: Any
) -> _Record:
  """The leaf ops that ``call`` runs, and the shapes of the second thing it returns."""
  names: dict[int, str] = {}  # id of a tracer -> tensor name
  alive = []  # keeps the tracers, and so their ids, unique
  nodes: list[Node] = []
  ends: list[Any] = []
  strangers = Strangers()

  def remember(tracer, name):
    names[id(tracer)] = name
    alive.append(tracer)

  def name_of(tracer, reader):
    if id(tracer) not in names:
      earlier = [f"{node.name!r} ({node.op})" for node in nodes]
      raise ValueError(strangers.blame(reader, earlier))
    return names[id(tracer)]

  def record(next_fun, args, kwargs, context):
    if context.method_name != "__call__":
      return next_fun(*args, **kwargs)
    call = strangers.enter()
    outputs = next_fun(*args, **kwargs)
    if not is_leaf_call(context):
      new = (array for array in jax.tree.leaves(outputs) if id(array) not in names)
      strangers.leave(call, context.module, new)
    else:
      module = context.module
      name = module_path(module)
      if "/" in (module.name or ""):
        raise ValueError(
          f"model: leaf op {module.name!r} has a slash in its name; use another one."
        )
      if any(node.name == name for node in nodes):
        raise ValueError(
          f"model: leaf op {name!r} ({type(module).__name__}) is called twice; give each call its own"
          f" module, or {LINEN.way}: each call then has weights of its own."
        )
      results = outputs if isinstance(outputs, tuple) else (outputs,)
      labels = tuple(name if i == 0 else f"{name}:{i}" for i in range(len(results)))
      if clash := {INPUT, *names.values()}.intersection(labels):
        raise ValueError(
          f"model: leaf op {name!r} writes tensor {clash.pop()!r}, as something else in the graph is"
          " called; give it another name."
        )
      reader = f"{name!r} ({type(module).__name__}) reads"
      inputs = tuple(name_of(array, reader) for array in args)
      for result, label in zip(results, labels, strict=True):
        remember(result, label)
      nodes.append(
        Node(
          name,
          type(module).__name__,
          _attributes(module),
          inputs,
          labels,
          tuple(array.shape for array in args),
          tuple(result.shape for result in results),
        )
      )
    return outputs

  def run(x, extra):
    remember(x, INPUT)
    with intercept(record), only_shapes():
      result, variables = call(x, extra)
    result = as_endpoints(result)
    several = ([names.get(id(array)) for array in part] for part in (result.maps, result.preact))
    returned = name_outputs(result)
    readers = {name: f"the output {name!r} is" for name in returned} | {LOGITS: "the logits are"}
    outputs = {name: name_of(array, readers[name]) for name, array in returned.items()}
    for name, tensor in outputs.items():
      if tensor == INPUT:
        raise ValueError(
          f"model: its output {name!r} is the input itself; return what a leaf op makes of it."
        )
    found: Any = Endpoints(  # names in place of arrays
      name_of(result.logits, "the logits are"),
      names.get(id(result.pooled)),
      *(() if None in part else tuple(part) for part in several),
      FrozenDict({} if tuple(outputs) == (LOGITS,) else outputs),
    )
    ends.append((found, tuple(outputs.items())))
    return variables

  variables = jax.eval_shape(run, x, extra)
  if not takes_train(model):
    raise ValueError(f"model: {without_train(model)}.")
  ((endpoints, outputs),) = ends
  needed = _needed(nodes, {tensor for _, tensor in outputs})
  return _Record(Graph(needed, tuple(x.shape), outputs), nodes, endpoints, variables)


def _attributes(module: LeafOp) -> FrozenDict:
  found = {}
  for field in dataclasses.fields(module):
    value = _hashable(getattr(module, field.name))
    is_left_out = field.name in module.operation.newer and value == field.default
    if field.name not in ("parent", "name") and not is_left_out:
      found[field.name] = value
  return FrozenDict(found)


def _hashable(value: Any) -> Any:
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _needed(nodes: list[Node], outputs: set[str]) -> tuple[Node, ...]:
  """The nodes that some tensors depend on, in order."""
  wanted, kept = set(outputs), []
  for node in reversed(nodes):
    if wanted & set(node.outputs):
      wanted |= set(node.inputs)
      kept.append(node)
  return tuple(reversed(kept))
