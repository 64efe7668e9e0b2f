"""NNX modules as functions of their variables, with the outputs of layers by path.

Flax's NNX takes a moment to import, so it is imported where there is such a module.
"""

import dataclasses
import functools
import types
from collections.abc import Sequence
from typing import Any

import jax
from flax.errors import TraceContextError
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcompress.nn.foreign import flag_for

SLOT = "captured_output"


@dataclasses.dataclass(frozen=True)
class Parts:
  """An NNX module in evaluation mode, taken apart.

  Attributes:
    name: of its class.
    graphdef: its static part.
    random: states of random numbers, which evaluation has no use for.
    templates: forms of its parameters and of all other state.
    variables: both as nested dicts of arrays, ``params`` and ``state``.
  """

  name: str
  graphdef: Any
  random: Any = dataclasses.field(compare=False, repr=False)
  templates: Any = dataclasses.field(compare=False, repr=False)
  variables: dict[str, Any] = dataclasses.field(compare=False, repr=False)


def split_nnx(module: Any) -> Parts:
  """Takes a copy of a module apart, in evaluation mode; the module stays as it is."""
  from flax import nnx

  copy = nnx.clone(module)
  copy.eval()
  graphdef, random, *states = nnx.split(copy, nnx.RngState, nnx.Param, ...)
  variables = dict(zip(("params", "state"), map(nnx.to_pure_dict, states), strict=True))
  return Parts(type(module).__qualname__, graphdef, random, tuple(map(_form, states)), variables)


def variables_for(parts: Parts, given: Any) -> dict[str, Any]:
  """Variables in the form of a module's parts; see ``NnxTeacher.variables_of``."""
  from flax import nnx

  if isinstance(given, nnx.State):
    given = nnx.to_pure_dict(given)
  flat = flatten_dict(dict(given))
  joined = set(given) == set(parts.variables)
  found = {}
  for path, own in flatten_dict(parts.variables).items():
    place = path if joined else path[1:]
    name = "/".join(map(str, path[1:]))
    if place not in flat:
      raise ValueError(f"they are of another network: {name} is missing")
    if jax.numpy.shape(flat[place]) != own.shape:
      shape = jax.numpy.shape(flat[place])
      raise ValueError(f"they are of another network: {name} has shape {shape}, not {own.shape}")
    found[path] = flat[place]
  return {**{kind: {} for kind in parts.variables}, **unflatten_dict(found)}


def run_nnx(
  parts: Parts, variables: Any, images: jax.Array, names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
  """A module's result on images, and the outputs of its layers by path where some are named."""
  from flax import nnx

  states = [jax.tree.map(lambda leaf: leaf, template) for template in parts.templates]
  for state, pure in zip(states, (variables["params"], variables["state"]), strict=True):
    nnx.replace_by_pure_dict(state, pure)
  random = jax.tree.map(lambda leaf: leaf, parts.random)
  module = nnx.merge(parts.graphdef, random, *states)
  layers = {
    "/".join(map(str, path)): node
    for path, node in nnx.iter_graph(module)
    if isinstance(node, nnx.Module) and path and callable(node)
  }
  for name in set(names) & set(layers):
    object.__setattr__(layers[name], "__class__", _watched(type(layers[name])))
  try:
    result = module(images, **flag_for(module, False))
  except TraceContextError as error:
    if not names:
      raise
    raise ValueError(
      f"model: one of the layers {', '.join(names)} is called within a transformation of JAX's, such as"
      " jax.checkpoint, out of which NNX carries no outputs; use NNX's own, such as nnx.remat, or name"
      " other layers."
    ) from error
  found = {name: getattr(node, SLOT, None) for name, node in layers.items()}
  return result, {name: None if box is None else _value(box) for name, box in found.items()}


@functools.cache
def _watched(kind: Any) -> Any:
  """The same kind of layer, which keeps the output of its last call as one of its variables.

  As a variable it comes out of NNX's transformations, such as ``nnx.remat``, as all others do.
  """
  from flax import nnx

  class Captured(nnx.Variable):  # of a type of its own, so that no filter of the network's finds it
    pass

  def call(self, *args, **kwargs):
    output = kind.__call__(self, *args, **kwargs)
    setattr(self, SLOT, Captured(output))
    return output

  fields = {"__call__": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
  return types.new_class(kind.__name__, (kind,), {}, lambda space: space.update(fields))


def _value(variable: Any) -> Any:
  return variable.get_value() if hasattr(variable, "get_value") else variable.value  # before 0.12.3


def _form(state: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
