"""Reads back what a model file says about itself, and what it is made of."""

import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.metadata import ENTRY, from_entry
from jaxcompress.export.operators import names_of
from jaxcompress.export.trial import is_tflite, parsing, read_model, read_sound_model
from jaxcompress.files.extras import require

FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16")
COPIES = (  # operators that change no number, or only the type of it
  *("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE", "CAST"),
  *("DequantizeLinear", "QuantizeLinear", "Reshape", "Squeeze", "Flatten", "Cast", "Identity"),
)
TYPE_NAMES = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}  # where ONNX's are not TFLite's


class Tensor(NamedTuple):
  """A tensor of a model file.

  Attributes:
    name: of the tensor.
    type: TFLite's, such as ``"INT8"``; ONNX's are named alike.
    shape: -1 where a size is free.
    maker: name of the operator that writes it; empty for inputs and constants.
    scales: float32, of the tensor or of each channel; empty if it has none.
    zero_points: likewise.
    axis: of the channels.
    values: of a constant; None for others, and for types that NumPy does not have.
    is_constant: whether it is one.
    is_inline: whether it is a constant inside the flatbuffer.
  """

  name: str
  type: str
  shape: tuple[int, ...]
  maker: str = ""
  scales: np.ndarray = np.zeros(0, np.float32)
  zero_points: np.ndarray = np.zeros(0, np.int64)
  axis: int = 0
  values: np.ndarray | None = None
  is_constant: bool = False
  is_inline: bool = False


class Operator(NamedTuple):
  """An operator of a model file.

  Attributes:
    name: TFLite's, such as ``"CONV_2D"``; ONNX's, such as ``"Conv"``.
    version: of the operator; in an .onnx file of the operator set.
    inputs: what it reads; None for those that are left out.
    outputs: what it writes.
    options: its attributes, such as ``{"strideH": 2}``.
  """

  name: str
  version: int
  inputs: tuple[Tensor | None, ...] = ()
  outputs: tuple[Tensor, ...] = ()
  options: Mapping[str, Any] = MappingProxyType({})

  @property
  def is_float(self) -> bool:
    """Whether it reads or writes a floating-point tensor."""
    return any(tensor.type in FLOATS for tensor in (*self.inputs, *self.outputs) if tensor)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """The metadata of a .tflite, .onnx or .jcz file, or of a folder of C, that jaxcompress wrote.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed; .jcz files need none.
    ValueError: if the file is missing, damaged, or not one of jaxcompress's.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export import packed
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import QuantizedModel
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> path = packed(quantized, tempfile.mkdtemp() + "/pool.jcz", metadata={"classes": ["a", "b"]})
    >>> read_metadata(path)["classes"]
    ['a', 'b']
  """
  if pathlib.Path(path).suffix.lower() == ".jcz":
    from jaxcompress.export.packed import packed_entry

    return packed_entry(path)
  if pathlib.Path(path).is_dir():
    return _of_folder(path)
  content = read_sound_model(path)
  with parsing(path):
    entries = tflite_entries(content) if is_tflite(content) else _onnx_entries(content)
  if ENTRY not in entries:
    raise ValueError(f"path: {path} has no metadata of jaxcompress.")
  try:
    return from_entry(entries[ENTRY])
  except (TypeError, ValueError) as error:
    raise ValueError(f"path: {path} has damaged metadata ({error}).") from error


def find_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """As :func:`read_metadata` of a .tflite or .onnx file or a folder, but empty for files of others."""
  if pathlib.Path(path).is_dir():
    return _of_folder(path)
  content = read_model(path)
  require("tflite" if is_tflite(content) else "onnx")
  with parsing(path):
    entries = tflite_entries(content) if is_tflite(content) else _onnx_entries(content)
    return from_entry(entries[ENTRY]) if ENTRY in entries else {}


def _of_folder(path: str | os.PathLike) -> dict[str, Any]:
  from jaxcompress.export.c99.manifest import read_manifest

  return {name: value for name, value in read_manifest(path).entry.items() if name != "c"}


def last_operator(path: str | os.PathLike, place: int = 0) -> str:
  """Name of the operator that computes an output of a .tflite or .onnx file, copies left aside.

  Args:
    path: of the file.
    place: of the output among all.

  Returns:
    TFLite's name, such as ``"SOFTMAX"``, or ONNX's; empty where nothing computes it.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 4), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> last_operator(path)
    'HARD_SWISH'
  """
  content = read_model(path)
  require("tflite" if is_tflite(content) else "onnx")
  with parsing(path):
    find = _tflite_makers if is_tflite(content) else _onnx_makers
    makers, tensor = find(content, place)
    name = ""
    for _ in makers:  # at most as many as there are
      name, tensor = makers.get(tensor, ("", tensor))
      if name not in COPIES:
        break
    return name


def _tflite_makers(content: bytes, place: int) -> tuple[dict[Any, tuple[str, Any]], Any]:
  """Operators and their first inputs by what they write, and the output at a place."""
  from ai_edge_litert import schema_py_generated as schema

  model, names = schema.Model.GetRootAs(content, 0), names_of(schema.BuiltinOperator)
  graph, makers = model.Subgraphs(0), {}
  for operator in map(graph.Operators, range(graph.OperatorsLength())):
    code = model.OperatorCodes(operator.OpcodeIndex())
    kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    source = operator.Inputs(0) if operator.InputsLength() else None
    for i in range(operator.OutputsLength()):
      makers[operator.Outputs(i)] = names.get(kind, f"operator {kind}"), source
  return makers, graph.Outputs(place)


def _onnx_makers(content: bytes, place: int) -> tuple[dict[Any, tuple[str, Any]], Any]:
  import onnx

  graph = onnx.load_from_string(content).graph
  makers = {
    name: (node.op_type, next(iter(node.input), None))
    for node in graph.node
    for name in node.output
  }
  return makers, graph.output[place].name


def _onnx_entries(content: bytes) -> dict[str, str]:
  import onnx

  return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}


def tflite_entries(content: bytes) -> dict[str, bytes | None]:
  """The entries of the metadata in the bytes of a .tflite file, by name."""
  from ai_edge_litert import schema_py_generated as schema

  model, found = schema.Model.GetRootAs(content, 0), {}
  for entry in map(model.Metadata, range(model.MetadataLength())):
    buffer = model.Buffers(entry.Buffer())
    data = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else None
    found[(entry.Name() or b"").decode(errors="replace")] = data
  return found


def read_operators(path: str | os.PathLike) -> tuple[Operator, ...]:
  """The operators of a .tflite or .onnx file, in order, with the tensors that they read and write.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 4), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> [(operator.name, operator.outputs[0].shape) for operator in read_operators(path)]
    [('HARD_SWISH', (1, 4))]
  """
  content = read_sound_model(path)
  with parsing(path):
    return parse_operators(content)


def parse_operators(content: bytes) -> tuple[Operator, ...]:
  """The operators in the bytes of a sound file; see :func:`read_operators`."""
  return _tflite_operators(content) if is_tflite(content) else _onnx_operators(content)


def holds_int4(content: bytes) -> bool:
  """Whether a tensor in the bytes of a sound .tflite file has integers of 4 bits."""
  from ai_edge_litert import schema_py_generated as schema

  graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
  types = (graph.Tensors(index).Type() for index in range(graph.TensorsLength()))
  return schema.TensorType.INT4 in types


def ends_in_codes(content: bytes) -> bool:
  """Whether all that the bytes of a sound .tflite file give are floats made of integers at the end."""
  from ai_edge_litert import schema_py_generated as schema

  graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
  makers = [
    _tflite_makers(content, place)[0].get(graph.Outputs(place))
    for place in range(graph.OutputsLength())
  ]
  return all(maker is not None and maker[0] == "DEQUANTIZE" for maker in makers)


def holds_integers(content: bytes) -> bool:
  """Whether the bytes of a sound .onnx file are of a network that computes in integers."""
  import onnx

  return any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(content).graph.node)


def _tflite_operators(content: bytes) -> tuple[Operator, ...]:
  """The operators in the bytes of a sound .tflite file."""
  from ai_edge_litert import schema_py_generated as schema

  model = schema.ModelT.InitFromPackedBuf(content, 0)
  names = names_of(schema.BuiltinOperator)
  found = []
  for graph in model.subgraphs:
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in graph.operators]
    # old files have the code in the first of two fields only
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in codes]
    kinds = [names.get(kind, f"operator {kind}") for kind in kinds]
    makers = {
      int(index): kind
      for operator, kind in zip(graph.operators, kinds, strict=True)
      for index in _indices(operator.outputs)
    }
    tensors = [
      tensor_of(tensor, model.buffers[tensor.buffer], content, makers.get(index, ""))
      for index, tensor in enumerate(graph.tensors)
    ]
    for operator, code, kind in zip(graph.operators, codes, kinds, strict=True):
      inputs = tuple(tensors[i] if i >= 0 else None for i in _indices(operator.inputs))
      outputs = tuple(tensors[i] for i in _indices(operator.outputs))
      options = vars(operator.builtinOptions) if operator.builtinOptions else {}
      found.append(Operator(kind, code.version, inputs, outputs, options))
  return tuple(found)


def _indices(vector: Any) -> list[int]:
  return [] if vector is None else [int(index) for index in vector]


def tensor_of(tensor: Any, buffer: Any, content: bytes, maker: str) -> Tensor:
  """Describes a tensor of a .tflite file; the shape is -1 where a size is free.

  Args:
    tensor: as the flatbuffer has it.
    buffer: its contents.
    content: of the file.
    maker: name of the operator that writes it.
  """
  from ai_edge_litert import schema_py_generated as schema

  shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
  kind = names_of(schema.TensorType)[tensor.type]
  details = tensor.quantization or schema.QuantizationParametersT()
  is_inline = buffer.data is not None and len(buffer.data) > 0
  is_constant = is_inline or buffer.offset > 1  # 0 and 1 stand for no place outside
  data = buffer.data if is_inline else content[buffer.offset : buffer.offset + buffer.size]
  return Tensor(
    name=(tensor.name or b"").decode(errors="replace"),
    type=kind,
    shape=tuple(_indices(shape)),
    maker=maker,
    scales=np.asarray(() if details.scale is None else details.scale, np.float32),
    zero_points=np.asarray(() if details.zeroPoint is None else details.zeroPoint, np.int64),
    axis=details.quantizedDimension,
    values=_values(data, kind, tensor.shape) if is_constant else None,
    is_constant=is_constant,
    is_inline=is_inline,
  )


def _values(data: Any, kind: str, shape: Any) -> np.ndarray | None:
  """A constant as an array; None if its type is packed or its data is not all there."""
  try:
    if kind == "INT4":
      from jaxcompress.export.packing import unpack_bits

      return unpack_bits(np.asarray(data), int(np.prod(shape)), 4).reshape(shape)
    dtype = np.dtype(kind.lower())
    return np.frombuffer(data, dtype).reshape([] if shape is None else shape)
  except (TypeError, ValueError):
    return None


def _onnx_operators(content: bytes) -> tuple[Operator, ...]:
  """The operators in the bytes of a sound .onnx file."""
  import onnx
  from onnx import helper, numpy_helper, shape_inference

  model = shape_inference.infer_shapes(onnx.load_from_string(content))
  graph = model.graph
  makers = {name: node.op_type for node in graph.node for name in node.output}
  infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
  constants = {constant.name: constant for constant in graph.initializer}

  def kind(code: int) -> str:
    name = onnx.TensorProto.DataType.Name(code)
    return TYPE_NAMES.get(name, name)

  def tensor(name: str) -> Tensor | None:
    if not name:
      return None
    if name in constants:
      values = np.asarray(numpy_helper.to_array(constants[name]))
      known = Tensor(name, kind(constants[name].data_type), values.shape, values=values)
      return known._replace(is_constant=True, is_inline=True)
    if name not in infos:
      return Tensor(name, "UNDEFINED", (), makers.get(name, ""))
    found = infos[name].type.tensor_type
    return Tensor(name, kind(found.elem_type), _onnx_shape(found), makers.get(name, ""))

  versions = {entry.domain: entry.version for entry in model.opset_import}
  operators = []
  for node in graph.node:
    inputs = tuple(tensor(name) for name in node.input)
    outputs = tuple(found for name in node.output if (found := tensor(name)))
    options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    version = versions.get(node.domain, 0)
    operators.append(Operator(node.op_type, version, inputs, outputs, options))
  return tuple(operators)


def _onnx_shape(found: Any) -> tuple[int, ...]:
  return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in found.shape.dim)
