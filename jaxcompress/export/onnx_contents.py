"""What an .onnx file is made of, described as the operators and tensors of a .tflite file are."""

import os
from typing import Any

import numpy as np

from jaxcompress.export.contents import FLOATS, Operator, Tensor
from jaxcompress.export.runtime import read_sound_model
from jaxcompress.export.trial import parsing

NAMES = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}  # where ONNX's are not TFLite's


def read_onnx_operators(path: str | os.PathLike) -> tuple[Operator, ...]:
  """The operators of an .onnx file, in order, with the tensors that they read and write.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged.
  """
  content = read_sound_model(path)
  with parsing(path):
    return parse_onnx_operators(content)


def holds_integers(content: bytes) -> bool:
  """Whether the bytes of a sound .onnx file are of a network that computes in integers."""
  import onnx

  return any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(content).graph.node)


def parse_onnx_operators(content: bytes) -> tuple[Operator, ...]:
  """The operators in the bytes of a sound .onnx file; see :func:`read_onnx_operators`."""
  import onnx
  from onnx import helper, numpy_helper, shape_inference

  model = shape_inference.infer_shapes(onnx.load_from_string(content))
  graph = model.graph
  makers = {name: node.op_type for node in graph.node for name in node.output}
  infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
  constants = {constant.name: constant for constant in graph.initializer}

  def kind(code: int) -> str:
    name = onnx.TensorProto.DataType.Name(code)
    return NAMES.get(name, name)

  def tensor(name: str) -> Tensor | None:
    if not name:
      return None
    if name in constants:
      constant = constants[name]
      values = np.asarray(numpy_helper.to_array(constant))
      return Tensor(
        name,
        kind(constant.data_type),
        values.shape,
        values=values,
        is_constant=True,
        is_inline=True,
      )
    if name not in infos:
      return Tensor(name, "UNDEFINED", (), makers.get(name, ""))
    found = infos[name].type.tensor_type
    return Tensor(name, kind(found.elem_type), _shape(found), makers.get(name, ""))

  versions = {entry.domain: entry.version for entry in model.opset_import}
  operators = []
  for node in graph.node:
    inputs = tuple(tensor(name) for name in node.input)
    outputs = tuple(found for name in node.output if (found := tensor(name)))
    is_float = any(found.type in FLOATS for found in (*inputs, *outputs) if found)
    options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    version = versions.get(node.domain, 0)
    operators.append(Operator(node.op_type, version, is_float, inputs, outputs, options))
  return tuple(operators)


def _shape(found: Any) -> tuple[int, ...]:
  return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in found.shape.dim)
