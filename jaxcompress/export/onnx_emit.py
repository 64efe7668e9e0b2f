"""Leaf ops as ONNX operators: a table from a leaf op's name to the function that writes it.

Maps are NCHW. In an integer file each tensor of the graph is uint8, the codes plus 128, between a
QuantizeLinear after the operator that writes it and a DequantizeLinear before those that read it;
runtimes fuse the three into an integer operator. A signed file, for TensorRT, has the codes as they
are, activation functions before they are rounded, and biases in float.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from jaxcompress.export import onnx_borders, onnx_normalizing
from jaxcompress.export.onnx_emitter import ALONE, FUSED, OnnxEmitter
from jaxcompress.export.onnx_spaces import depth_to_space, resize, space_to_depth, transposed
from jaxcompress.nn import INPUT, Node, kernel_shape
from jaxcompress.nn.layers import reads_rows
from jaxcompress.nn.operations import channel_groups, slide_of, window_of
from jaxcompress.quantize.integer.grid import LOWEST
from jaxcompress.quantize.integer.pools import counts_padding, covers


def emit(emitter: OnnxEmitter, source: str) -> None:
  """Writes all nodes of a graph; its float outputs get their names.

  Args:
    emitter: the file in the making.
    source: name of the float input.

  Raises:
    ValueError: for a node that has no ONNX operator here, or an output that is called as something
      else in the file; it names the layer or output.
  """
  emitter.write(INPUT, source)
  for node in emitter.graph.nodes:
    if node.op not in EMITTERS:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no ONNX operator here; it can be"
        f" one of {', '.join(EMITTERS)}."
      )
    act = node.attrs.get("act")
    is_alone = act in ALONE or (emitter.numbers.table(node) is not None and not emitter.signed)
    if act not in FUSED and not (node.op == "Activation" and is_alone):
      raise ValueError(
        f"model: layer {node.name!r} has the activation function {act!r}; ONNX files of jaxcompress"
        f" hold {', '.join(filter(None, FUSED))} in layers, and {', '.join(ALONE)} as an"
        " Activation of its own."
      )
    EMITTERS[node.op](emitter, node)
  for name, tensor in emitter.graph.outputs:
    emitter.name_output(name, tensor)


def _window(node: Node) -> dict[str, list[int]]:
  """Attributes of what slides over a map."""
  stride, ((top, bottom), (left, right)), dilation = slide_of(node)
  found = {
    "kernel_shape": [*window_of(node)],
    "strides": [*stride],
    "pads": [top, left, bottom, right],
  }
  return found if dilation == (1, 1) else {**found, "dilations": [*dilation]}


def _convolution(emitter: OnnxEmitter, node: Node) -> None:
  groups = node.input_shapes[0][-1] if kernel_shape(node) is None else channel_groups(node)
  constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 2, 0, 1))
  value = emitter.compute(node, "Conv", *constants, group=groups, **_window(node))
  emitter.write(node.output, value, node.attrs.get("act"))


def _pointwise(emitter: OnnxEmitter, node: Node) -> None:
  """A normalization, or constants, of each channel; of vectors on maps of one column."""
  shape = node.input_shapes[0]
  if len(shape) == 4:
    _convolution(emitter, node)
    return
  (value,), tensor, channels = emitter.inputs(node), node.output, shape[-1]
  value = emitter.reshaped(value, [0, channels, -1, 1], f"{node.name}/cells")
  value = emitter.copied(value, node.inputs[0])
  constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 2, 0, 1))
  name, inputs = f"{node.name}/out", [value, *constants]
  value = emitter.file.operator("Conv", inputs, name, group=channels, kernel_shape=[1, 1])
  emitter.write(tensor, value, node.attrs.get("act"))
  flat = emitter.reshaped(
    emitter.readable(tensor), [0, channels, *shape[1:-1]], f"{node.name}/flat"
  )
  emitter.alias(tensor, emitter.copied(flat, tensor))


def _dense(emitter: OnnxEmitter, node: Node) -> None:
  if reads_rows(node):
    raise ValueError(
      f"model: layer {node.name!r} is a linear layer of rows, which has no ONNX operator here; a"
      " .tflite file of another tool has it."
    )
  shape, (value,) = node.input_shapes[0], emitter.inputs(node)
  if len(shape) > 2:
    value = emitter.reshaped(value, [0, -1], f"{node.name}/flat")
    value = emitter.copied(value, node.inputs[0])

  def layout(kernel: np.ndarray) -> np.ndarray:
    """The rows, in the order in which the model flattens NHWC, in that of NCHW; transposed."""
    kernel = kernel.reshape(*shape[1:], -1)
    return np.moveaxis(kernel, -2, 0).reshape(-1, kernel.shape[-1]).T

  inputs = [value, *emitter.weights(node, layout)]
  value = emitter.file.operator("Gemm", inputs, f"{node.name}/out", transB=1)
  emitter.write(node.output, value, node.attrs.get("act"))


def _plain(kind: str, **attributes: Any) -> Callable[[OnnxEmitter, Node], None]:
  """One operator without constants."""

  def write(emitter: OnnxEmitter, node: Node) -> None:
    value = emitter.compute(node, kind, **attributes)
    emitter.write(node.output, value, node.attrs.get("act"))

  return write


def _leaky_relu(emitter: OnnxEmitter, node: Node) -> None:
  emitter.write(node.output, emitter.compute(node, "LeakyRelu", alpha=float(node.attrs["slope"])))


def _activation(emitter: OnnxEmitter, node: Node) -> None:
  table = emitter.numbers.table(node)
  if table is None or emitter.signed:
    (value,) = emitter.inputs(node)
    emitter.write(node.output, emitter.activated(value, f"{node.name}/out", node.attrs["act"]))
    return
  places = emitter.file.operator(
    "Cast", [emitter.codes(node.inputs[0])], f"{node.name}/places", to=TensorProto.INT32
  )
  codes = emitter.file.constant((table.astype(np.int16) - LOWEST).astype(np.uint8))
  emitter.write_codes(
    node.output, emitter.file.operator("Gather", [codes, places], f"{node.output}/codes")
  )


def _requantize(emitter: OnnxEmitter, node: Node) -> None:
  """Rounds to another grid what is on one already: after what reads it, where that rounds each number.

  Runtimes make one of two pairs in a row, so that an operator that changes nothing is between them.
  """
  (value,), grid = emitter.inputs(node), emitter.grid(node.output)
  readers = emitter.graph.consumers(node.output)
  joins = (reader.op in _MONOTONE and emitter.grid(reader.output) == grid for reader in readers)
  if all(joins) and not emitter.graph.is_output(node.output):
    emitter.alias(node.output, value)
    return
  if not emitter.signed:
    lowest = emitter.file.constant(np.finfo(np.float32).min)
    value = emitter.file.operator("Max", [value, lowest], f"{node.name}/apart")
  emitter.write(node.output, value)


_MONOTONE = ("Concat", "Maximum", "Minimum")  # what they choose may be rounded before or after


def _mean(emitter: OnnxEmitter, node: Node) -> None:
  value = emitter.compute(node, "GlobalAveragePool")
  if not node.attrs["keepdims"]:
    value = emitter.reshaped(emitter.copied(value, node.output), [0, -1], f"{node.name}/flat")
  emitter.write(node.output, value)


def _max_pool(emitter: OnnxEmitter, node: Node) -> None:
  emitter.write(node.output, emitter.compute(node, "MaxPool", **_window(node)))


def _average_pool(emitter: OnnxEmitter, node: Node) -> None:
  if counts_padding(node):
    _convolution(emitter, node)
  elif covers(node):  # in whatever order onnxruntime adds up; a mean is a sum of integers
    emitter.write(node.output, emitter.compute(node, "GlobalAveragePool"))
  else:
    emitter.write(node.output, emitter.compute(node, "AveragePool", **_window(node)))


def _split(emitter: OnnxEmitter, node: Node) -> None:
  """A Split, or slices of the parts that are read where some are not."""
  if not all(map(emitter.graph.is_read, node.outputs)):
    _slices(emitter, node)
    return
  sizes = emitter.file.constant(np.array(node.attrs["sizes"], np.int64))
  values = [f"{tensor}/out" for tensor in node.outputs]
  emitter.file.operator("Split", [*emitter.inputs(node), sizes], values, axis=1)
  for tensor, value in zip(node.outputs, values, strict=True):
    emitter.write(tensor, value)


def _slices(emitter: OnnxEmitter, node: Node) -> None:
  edges = np.cumsum([0, *node.attrs["sizes"]])
  for tensor, *ends in zip(node.outputs, edges, edges[1:], strict=False):
    if emitter.graph.is_read(tensor):
      constants = [emitter.file.constant(np.array([n], np.int64)) for n in (*ends, 1)]
      inputs = [*emitter.inputs(node), *constants]
      emitter.write(tensor, emitter.file.operator("Slice", inputs, f"{tensor}/out"))


def _channel_max(emitter: OnnxEmitter, node: Node) -> None:
  axes = emitter.file.constant(np.array([1], np.int64))
  emitter.write(node.output, emitter.compute(node, "ReduceMax", axes, keepdims=1))


def _reshape(emitter: OnnxEmitter, node: Node) -> None:
  """A Reshape of channels that are last, as those of the model are, between Transposes."""
  (value,), (before, after) = emitter.inputs(node), (node.input_shapes[0], node.output_shapes[0])
  name, tensor = node.name, node.output

  def turned(value: str, order: list[int], name: str) -> str:
    if order == [*range(len(order))]:
      return value
    value = emitter.file.operator("Transpose", [value], name, perm=order)
    return emitter.copied(value, tensor)

  last = [0, *range(2, len(before)), 1]
  first = [0, len(after) - 1, *range(1, len(after) - 1)]
  value = turned(value, last, f"{name}/last")
  value = emitter.copied(emitter.reshaped(value, [0, *after[1:]], f"{name}/reshaped"), tensor)
  emitter.alias(tensor, turned(value, first, f"{name}/first"))


def _matrix_product(emitter: OnnxEmitter, node: Node) -> None:
  """MatMul of the second array and the first, since channels, the model's last axis, are second."""
  left, right = emitter.inputs(node)
  if node.attrs["transpose_second"]:
    name = f"{node.name}/turned"
    right = emitter.file.operator("Transpose", [right], name, perm=[0, 2, 1])
    right = emitter.copied(right, node.inputs[1])
  emitter.write(node.output, emitter.file.operator("MatMul", [right, left], f"{node.name}/out"))


def _shuffle(emitter: OnnxEmitter, node: Node) -> None:
  groups, (_, *sides, channels) = node.attrs["groups"], node.input_shapes[0]
  (value,) = emitter.inputs(node)
  value = emitter.reshaped(value, [0, groups, channels // groups, *sides], f"{node.name}/grouped")
  order, name = [0, 2, 1, *range(3, 3 + len(sides))], f"{node.name}/swapped"
  value = emitter.copied(value, node.output)
  value = emitter.copied(emitter.file.operator("Transpose", [value], name, perm=order), node.output)
  emitter.write(node.output, emitter.reshaped(value, [0, channels, *sides], f"{node.name}/out"))


EMITTERS: Mapping[str, Callable[[OnnxEmitter, Node], None]] = {
  "ConvNorm": _convolution,
  "BatchNorm": _pointwise,
  "Affine": _pointwise,
  "FourierPositions": _pointwise,
  "Dense": _dense,
  "Add": _plain("Add"),
  "Subtract": _plain("Sub"),
  "Maximum": _plain("Max"),
  "Minimum": _plain("Min"),
  "Multiply": _plain("Mul"),
  "Activation": _activation,
  "LeakyRelu": _leaky_relu,
  "MatMul": _matrix_product,
  "Softmax": _plain("Softmax", axis=1),
  "ChannelMean": onnx_normalizing.channel_mean,
  "RmsNorm": onnx_normalizing.rms_norm,
  "Requantize": _requantize,
  "GlobalAvgPool": _mean,
  "AvgPool": _average_pool,
  "MaxPool": _max_pool,
  "Slice": onnx_borders.cut,
  "Pad": onnx_borders.border,
  "ChannelMax": _channel_max,
  "Reshape": _reshape,
  "Concat": _plain("Concat", axis=1),
  "Split": _split,
  "ChannelShuffle": _shuffle,
  "ConvTranspose": transposed,
  "Resize": resize,
  "DepthToSpace": depth_to_space,
  "SpaceToDepth": space_to_depth,
}
