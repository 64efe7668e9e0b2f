"""Normalization by the channels of each cell as ONNX operators; channels are the second axis."""

import numpy as np
from onnx import TensorProto

from jaxcompress.export.onnx_emitter import OnnxEmitter
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.normalizing import DIGITS, digit_weights, digits, levels
from jaxcompress.quantize.integer.weighted import as_map


def channel_mean(emitter: OnnxEmitter, node: Node) -> None:
  """Conv of equal weights; of vectors on maps of one column."""
  shape = node.input_shapes[0]
  (value,), name = emitter.inputs(node), node.name
  if len(shape) != 4:
    _, rows, columns, channels = as_map(shape)
    value = emitter.reshaped(value, [0, channels, rows, columns], f"{name}/cells")
    value = emitter.copied(value, node.inputs[0])
  constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 2, 0, 1))
  result = emitter.file.operator("Conv", [value, *constants], f"{name}/out")
  emitter.write(node.output, result, node.attrs.get("act"))
  if len(shape) != 4:
    flat = emitter.reshaped(emitter.readable(node.output), [0, 1, *shape[1:-1]], f"{name}/flat")
    emitter.alias(node.output, emitter.copied(flat, node.output))


def rms_norm(emitter: OnnxEmitter, node: Node) -> None:
  """Tables, a convolution for each level, products and sums; Sqrt and Div in files of floats."""
  if emitter.grid(node.output) is None or emitter.signed:
    _float_rms_norm(emitter, node)
  else:
    _integer_rms_norm(emitter, node)


def _float_rms_norm(emitter: OnnxEmitter, node: Node) -> None:
  (value,), file, name = emitter.inputs(node), emitter.file, node.name
  square = file.operator("Mul", [value, value], f"{name}/square")
  axes = file.constant(np.array([1], np.int64))
  mean = file.operator("ReduceMean", [square, axes], f"{name}/mean", keepdims=1)
  epsilon = file.constant(np.float32(node.attrs["epsilon"]))
  root = file.operator(
    "Sqrt", [file.operator("Add", [mean, epsilon], f"{name}/sum")], f"{name}/root"
  )
  emitter.write(node.output, file.operator("Div", [value, root], f"{name}/out"))


def _integer_rms_norm(emitter: OnnxEmitter, node: Node) -> None:
  (value,), file, name = emitter.inputs(node), emitter.file, node.name
  shape, tensor = node.input_shapes[0], node.inputs[0]
  grid, output = emitter.grid(tensor), emitter.grid(node.output)
  assert grid is not None and output is not None
  _, rows, columns, channels = as_map(shape)
  codes = emitter.codes(tensor)
  parts = [
    _looked_up(emitter, codes, column, f"{name}/digit{i}")
    for i, column in enumerate(digits(grid).T)
  ]
  both = file.operator("Concat", parts, f"{name}/digits", axis=1)
  if len(shape) != 4:
    both = emitter.reshaped(both, [0, 2 * channels, rows, columns], f"{name}/cells")
  squares = emitter.real(both, f"{name}/squares", DIGITS)
  ones = np.ones(1, np.float32)
  ordered = digit_weights(channels).reshape(channels, 2).T.reshape(1, -1, 1, 1)
  total = None
  for i, level in enumerate(levels(grid, channels, node.attrs["epsilon"])):
    at = f"{name}/level{i}"
    weights = emitter.constant(f"{at}/weights", ordered, ones)
    bias = emitter.constant(f"{at}/bias", np.array([level.bias], np.int32), ones)
    sums = file.operator("Conv", [squares, weights, bias], f"{at}/sums")
    places = emitter.rounded(sums, f"{at}/codes", level.sums)
    found = _looked_up(emitter, places, level.table, f"{at}/factor")
    if len(shape) != 4:
      found = emitter.reshaped(found, [0, 1, *shape[1:-1]], f"{at}/flat")
    factor = emitter.real(found, f"{at}/root", level.factors)
    product = file.operator("Mul", [value, factor], f"{at}/product")
    product = emitter.real(
      emitter.rounded(product, f"{at}/product/codes", output), f"{at}/product/real", output
    )
    if total is None:
      total = product
      continue
    total = file.operator("Add", [total, product], f"{at}/total")
    if i < 2:
      total = emitter.real(
        emitter.rounded(total, f"{at}/total/codes", output), f"{at}/total/real", output
      )
  assert total is not None
  emitter.write(node.output, total)


def _looked_up(emitter: OnnxEmitter, codes: str, table: np.ndarray, name: str) -> str:
  places = emitter.file.operator("Cast", [codes], f"{name}/places", to=TensorProto.INT32)
  return emitter.file.operator(
    "Gather", [emitter.file.constant(np.ascontiguousarray(table)), places], name
  )
