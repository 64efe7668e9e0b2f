"""Reads back what a model file says about itself."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from jaxcompress.export.packed import SUFFIX, packed_entry
from jaxcompress.export.runtime import choose_kernels, read_sound_model
from jaxcompress.export.tflite import ENTRY

FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16")


class Operator(NamedTuple):
  """An operator of a .tflite file.

  Attributes:
    name: TFLite's, such as ``"CONV_2D"``.
    version: of the operator.
    is_float: whether it reads or writes a floating-point tensor.
  """

  name: str
  version: int
  is_float: bool


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """The metadata of a .tflite, .onnx or .jcz file that jaxcompress wrote.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed; .jcz files need none.
    ValueError: if the file is missing, damaged, or not one of jaxcompress's.
  """
  if pathlib.Path(path).suffix.lower() == SUFFIX:
    return packed_entry(path)
  entries = _onnx_entries(path) if choose_kernels(path) == "onnxruntime" else _tflite_entries(path)
  if ENTRY not in entries:
    raise ValueError(f"path: {path} has no metadata of jaxcompress.")
  try:
    return json.loads(entries[ENTRY])
  except (TypeError, ValueError) as error:
    raise ValueError(f"path: {path} has damaged metadata ({error}).") from error


def _onnx_entries(path: str | os.PathLike) -> dict[str, str]:
  return {entry.key: entry.value for entry in _read_onnx(path).metadata_props}


def _tflite_entries(path: str | os.PathLike) -> dict[str, bytes | None]:
  model = _read(path)
  entries = {
    entry.name.decode(): model.buffers[entry.buffer].data for entry in model.metadata or ()
  }
  return {name: None if data is None else bytes(data) for name, data in entries.items()}


def read_operators(path: str | os.PathLike) -> tuple[Operator, ...]:
  """The operators of a .tflite file, in order.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged.
  """
  model = _read(path)
  from ai_edge_litert import schema_py_generated as schema

  names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
  floats = {getattr(schema.TensorType, name) for name in FLOATS if hasattr(schema.TensorType, name)}
  graph = model.subgraphs[0]
  found = []
  for operator in graph.operators:
    code = model.operatorCodes[operator.opcodeIndex]
    used = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    is_float = any(tensor.type in floats for tensor in used)
    found.append(Operator(names[code.builtinCode], code.version, is_float))
  return tuple(found)


def _read(path: str | os.PathLike) -> Any:
  content = read_sound_model(path)
  from ai_edge_litert import schema_py_generated as schema

  return schema.ModelT.InitFromPackedBuf(content, 0)


def _read_onnx(path: str | os.PathLike) -> Any:
  content = read_sound_model(path)
  import onnx

  return onnx.load_from_string(content)
