"""The parts of a .tflite file: tensors, the operators that read and write them, and its ends."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.contents import Tensor, tensor_of
from jaxcompress.export.interpreters import End, output_places
from jaxcompress.export.operators import names_of

CUSTOM = "CUSTOM"


class Call(NamedTuple):
  """An operator at its place.

  Attributes:
    place: among all, from 0.
    code: TFLite's name, or that of a custom operator.
    version: of the operator.
    inputs: indices of tensors; -1 where one is left out.
    outputs: indices of tensors.
    options: its attributes.
  """

  place: int
  code: str
  version: int
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  options: Mapping[str, Any] = MappingProxyType({})

  def option(self, name: str, default: Any = None) -> Any:
    """An attribute; the default where the file has none of the operator."""
    return self.options.get(name, default)


class Parts(NamedTuple):
  """A file with one graph.

  Attributes:
    tensors: of the graph; shapes are for one image.
    calls: the operators, in the order in which they run.
    inputs: indices of tensors.
    outputs: indices of tensors, by the names that the file gives its outputs.
    entries: of its metadata, by name.
    description: that the writer gave.
    graphs: how many there are; more than one where there is control flow.
  """

  tensors: tuple[Tensor, ...]
  calls: tuple[Call, ...]
  inputs: tuple[int, ...]
  outputs: Mapping[str, int]
  entries: Mapping[str, bytes | None]
  description: str
  graphs: int

  def readers(self, index: int) -> list[Call]:
    """The operators that read a tensor."""
    return [call for call in self.calls if index in call.inputs]

  def maker(self, index: int) -> Call | None:
    """The operator that writes a tensor."""
    return next((call for call in self.calls if index in call.outputs), None)


def has_free_shapes(content: bytes) -> bool:
  """Whether a tensor in the bytes of a sound file has a shape that only the runtime finds."""
  from ai_edge_litert import schema_py_generated as schema

  graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
  for index in range(graph.TensorsLength()):
    tensor = graph.Tensors(index)
    if any(tensor.ShapeSignature(axis) < 0 for axis in range(tensor.ShapeSignatureLength())):
      return True
  return False


def parse_parts(
  content: bytes,
  entries: Mapping[str, bytes | None],
  shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Parts:
  """The parts in the bytes of a sound file.

  Args:
    content: of the file.
    entries: of its metadata.
    shapes: of tensors, by their indices, that the runtime found; others are those in the file.

  Raises:
    ValueError: if an index points to what is not there.
  """
  from ai_edge_litert import schema_py_generated as schema

  model = schema.ModelT.InitFromPackedBuf(content, 0)
  graph = model.subgraphs[0]
  tensors = []
  for index, tensor in enumerate(graph.tensors):
    found = tensor_of(tensor, model.buffers[tensor.buffer], content, "")
    shape = tuple(map(int, () if tensor.shape is None else tensor.shape))
    if not found.is_constant:
      shape = tuple(map(int, shapes.get(str(index), shape)))
    special = tensor.isVariable or tensor.sparsity is not None
    tensors.append(found._replace(shape=shape, type="SPARSE or a state" if special else found.type))
  calls = tuple(_calls(model, graph, names_of(schema.BuiltinOperator)))
  inputs, ends = (_indices(part) for part in (graph.inputs, graph.outputs))
  for index in (*inputs, *ends, *(i for call in calls for i in (*call.inputs, *call.outputs))):
    if not -1 <= index < len(tensors):
      raise ValueError(f"tensor {index} is out of range for {len(tensors)} tensors")
  names = [End(tensors[index].name, (), "") for index in ends]
  outputs = {name: ends[place] for name, place in output_places(content, names).items()}
  description = " ".join((model.description or b"").decode(errors="replace").split())
  return Parts(tuple(tensors), calls, inputs, outputs, entries, description, len(model.subgraphs))


def _calls(model: Any, graph: Any, names: Mapping[int, str]) -> Iterator[Call]:
  for place, operator in enumerate(graph.operators or ()):
    code = model.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files have the second one only
    name = names.get(kind, f"operator {kind}")
    if name == CUSTOM:
      name = " ".join([CUSTOM, *(code.customCode or b"").decode(errors="replace").split()])
    options = vars(operator.builtinOptions) if operator.builtinOptions else {}
    inputs, outputs = _indices(operator.inputs), _indices(operator.outputs)
    yield Call(place, name, code.version, inputs, outputs, MappingProxyType(options))


def _indices(vector: Any) -> tuple[int, ...]:
  return () if vector is None else tuple(int(index) for index in np.asarray(vector))
