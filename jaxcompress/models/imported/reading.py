"""Walks through a traced function and reads each operation by a table."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress.models.imported import constants, views
from jaxcompress.models.imported.naming import is_tupled, module_of
from jaxcompress.models.imported.problems import (
  EVALUATE,
  Problem,
  Unreadable,
  in_words,
  is_of_jax,
  origin_of,
)
from jaxcompress.models.imported.values import Constant, Leaves, Op, Origin, Tensor

Value = Constant | Tensor

INLINED: Mapping[str, str] = {  # calls, and where their body is
  **dict.fromkeys(["jit", "pjit", "closed_call", "remat2", "checkpoint", "remat"], "jaxpr"),
  **dict.fromkeys(["core_call", "custom_jvp_call", "custom_vjp_call"], "call_jaxpr"),
  "custom_vjp_call_jaxpr": "fun_jaxpr",
  "custom_lin": "call_jaxpr",
}


class Call(NamedTuple):
  """One operation as its reader sees it.

  Attributes:
    name: of the primitive.
    params: of the primitive.
    shapes: of the outputs.
    dtypes: of the outputs.
    origin: where it stands.
    reader: that walks through the function.
  """

  name: str
  params: Mapping[str, Any]
  shapes: tuple[views.Shape, ...]
  dtypes: tuple[Any, ...]
  origin: Origin
  reader: "Reader"

  def op(self, kind: str, inputs: Sequence[Op], shape: views.Shape, /, **fields: Any) -> Op:
    """A new operation at this place."""
    return Op(kind, tuple(inputs), tuple(int(n) for n in shape), fields, self.origin)

  def is_read(self, value: Value) -> bool:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)


Read = Callable[..., Value | Sequence[Value]]


class Reader:
  """Reads a traced function into operations on (batch, height, width, channels).

  Attributes:
    leaves: the variables.
    problems: what could not be read.
  """

  def __init__(self, readers: Mapping[str, Read], leaves: Leaves):
    self.readers, self.leaves = readers, leaves
    self.problems: list[Problem] = []
    self.layer = ""  # path of the weights that were read last
    self.dtypes: set[str] = set()  # that tensors have
    self._outer = Origin()  # of the call whose body is read
    self._views: dict[views.Shape, views.View] = {}  # the last one of each shape

  def run(
    self,
    jaxpr: Any,
    consts: Sequence[Value],
    arguments: Sequence[Value],
    wanted: Sequence[bool] | None = None,
  ) -> list[Value]:
    """The values that a jaxpr returns; of those that nothing reads, any number."""
    read = _read_by(jaxpr, wanted)
    values: dict[Any, Value] = {
      **dict(zip(jaxpr.constvars, consts, strict=True)),
      **dict(zip(jaxpr.invars, arguments, strict=True)),
    }

    def value_of(atom: Any) -> Value:
      return constants.literal(atom.val) if hasattr(atom, "val") else values[atom]

    for eqn in jaxpr.eqns:
      outputs = [variable in read for variable in eqn.outvars]
      if any(outputs):
        found = self._read(eqn, [value_of(atom) for atom in eqn.invars], outputs)
        values.update(zip(eqn.outvars, found, strict=True))
    return [
      value_of(atom) if hasattr(atom, "val") or atom in values else constants.literal(0)
      for atom in jaxpr.outvars
    ]

  def closed(
    self, body: Any, arguments: Sequence[Value], wanted: Sequence[bool] | None = None
  ) -> list[Value]:
    """The values that a jaxpr with its constants, or one without, returns."""
    if not hasattr(body, "jaxpr"):
      return self.run(body, (), arguments, wanted)
    consts = [c if isinstance(c, Constant | Tensor) else _closed_over(c) for c in body.consts]
    return self.run(body.jaxpr, consts, arguments, wanted)

  def _read(self, eqn: Any, operands: list[Value], wanted: Sequence[bool]) -> Sequence[Value]:
    name = eqn.primitive.name
    if name in INLINED and INLINED[name] in eqn.params:
      return self._inlined(eqn, eqn.params[INLINED[name]], operands, wanted)
    if name in CONTROL:
      found = CONTROL[name](self, eqn, operands)
      if found is not None:
        return found
    fixed = [value for value in operands if isinstance(value, Constant)]
    if len(fixed) == len(operands):
      return constants.fold(eqn, fixed)
    outs = [variable.aval for variable in eqn.outvars]
    call = Call(
      name,
      eqn.params,
      tuple(tuple(out.shape) for out in outs),
      tuple(out.dtype for out in outs),
      self._origin(eqn),
      self,
    )
    self.dtypes |= {str(dtype) for dtype in call.dtypes}
    try:
      return self._by_table(call, operands)
    except Unreadable as problem:
      known = [value for value in operands if isinstance(value, Tensor)]
      if problem.operation:
        self.report(call.origin, problem.operation, problem.hint)
      return [self._unread(call, shape, known) for shape in call.shapes]

  def _inlined(
    self, eqn: Any, body: Any, operands: list[Value], wanted: Sequence[bool]
  ) -> list[Value]:
    """Reads the body of a call; lines in a library's functions are those of their calls."""
    outer, self._outer = self._outer, self._origin(eqn)
    found = self.closed(body, operands, wanted)
    self._outer = outer
    return found

  def _origin(self, eqn: Any) -> Origin:
    here, outer = origin_of(eqn), self._outer
    line = outer.line if outer.fixed or not here.line else here.line
    module = "/".join(part for part in (outer.module, here.module) if part)
    fixed = outer.fixed or is_of_jax(eqn.params.get("name"))
    return Origin(line, module, self.layer, fixed)

  def _by_table(self, call: Call, operands: Sequence[Value]) -> Sequence[Value]:
    if call.name not in self.readers:
      raise Unreadable(*in_words(call.name))
    if any(isinstance(value, Constant) and value.random for value in operands):
      raise Unreadable("random numbers, as dropout draws them in training", EVALUATE)
    if any(isinstance(value, Tensor) and views.is_unknown(value.view) for value in operands):
      raise Unreadable("")  # what comes before was reported
    found = self.readers[call.name](call, *operands)
    results: Sequence[Any] = [found] if isinstance(found, Constant | Tensor) else found
    for value, shape in zip(results, call.shapes, strict=True):
      if isinstance(value, Tensor) and views.sizes_of(value.view) != shape:
        raise AssertionError(f"{call.name} at {call.origin}: {value.view} is no view of {shape}")
      if isinstance(value, Tensor):
        self._views[shape] = value.view
    return results

  def _unread(self, call: Call, shape: views.Shape, known: Sequence[Tensor]) -> Tensor:
    """A tensor of an operation that was not understood, seen as one of its shape was before."""
    sizes = (views.sizes_of(tensor.view) for tensor in known)
    alike = [tensor.view for tensor, size in zip(known, sizes, strict=True) if size == shape]
    view = (alike or [self._views.get(shape, views.unknown(shape))])[0]
    if views.is_unknown(view):
      view = self._views.get(shape, view)
    return Tensor(
      call.op("unread", [tensor.op for tensor in known], views.canonical_shape(view)), view
    )

  def report(self, origin: Origin, operation: str, hint: str = "") -> None:
    """Notes what is not taken over."""
    layer = origin.module
    if not layer and origin.layer:
      layer = "/".join(module_of(origin.layer, is_tupled(self.leaves.paths)))
    problem = Problem(layer, operation, origin.line, hint)
    if problem not in self.problems:
      self.problems.append(problem)


def _read_by(jaxpr: Any, wanted: Sequence[bool] | None) -> set[Any]:
  """The variables of a jaxpr that its outputs, or those of them that are wanted, follow from."""
  outputs = jaxpr.outvars if wanted is None else itertools.compress(jaxpr.outvars, wanted)
  read = {atom for atom in outputs if not hasattr(atom, "val")}
  for eqn in reversed(jaxpr.eqns):
    if not read.isdisjoint(eqn.outvars):
      read.update(atom for atom in eqn.invars if not hasattr(atom, "val"))
  return read


def _closed_over(value: Any) -> Constant:
  """An array that the function closes over."""
  return constants.literal(value)


def _scan(reader: Reader, eqn: Any, operands: Sequence[Value]) -> list[Value] | None:
  """Passes of a loop one after another, if what they go through is known; None if it is not."""
  params = eqn.params
  fixed, carried, length = params["num_consts"], params["num_carry"], params["length"]
  swept = operands[fixed + carried :]
  outputs = len(eqn.outvars) - carried
  if not all(isinstance(value, Constant) for value in swept):
    return None
  if all(isinstance(value, Constant) for value in operands) and length > MOST_PASSES:
    return None
  carry, stacked = list(operands[fixed : fixed + carried]), []
  steps = range(length - 1, -1, -1) if params.get("reverse") else range(length)
  for step in steps:
    parts = [_entry(value, step) for value in swept]
    found = reader.closed(params["jaxpr"], [*operands[:fixed], *carry, *parts])
    carry = found[:carried]
    stacked.append(found[carried:])
  if outputs and not all(isinstance(value, Constant) for part in stacked for value in part):
    return None
  ordered = stacked[::-1] if params.get("reverse") else stacked
  return [*carry, *(_stack([part[i] for part in ordered]) for i in range(outputs))]


MOST_PASSES = 64  # of a loop over constants; longer ones are left to JAX


def _entry(value: Any, step: int) -> Constant:
  index = None if value.index is None else value.index[step]
  made = ("slice", (value,)) if index is None else None
  return Constant(value.value[step], index, made, value.learned, value.random)


def _stack(parts: Sequence[Any]) -> Constant:
  known = all(part.index is not None for part in parts)
  return Constant(
    np.stack([part.value for part in parts]),
    np.stack([part.index for part in parts]) if known else None,
    None if known else ("stack", tuple(parts)),
    any(part.learned for part in parts),
    any(part.random for part in parts),
  )


def _cond(reader: Reader, eqn: Any, operands: Sequence[Value]) -> list[Value] | None:
  """The branch that is taken, if that is known."""
  which = operands[0]
  if not isinstance(which, Constant):
    return None
  branches = eqn.params["branches"]
  chosen = int(np.clip(int(which.value), 0, len(branches) - 1))
  return reader.closed(branches[chosen], list(operands[1:]))


CONTROL: Mapping[str, Callable[[Reader, Any, Sequence[Value]], list[Value] | None]] = {
  "scan": _scan,
  "cond": _cond,
}
"""Control flow that is followed where it does not depend on the images."""


def trace(apply: Callable[..., Any], variables: Any, images: jax.ShapeDtypeStruct) -> Any:
  """The jaxpr of a function, and the pytree of what it returns."""
  return jax.make_jaxpr(apply, return_shape=True)(variables, images)
