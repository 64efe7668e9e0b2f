"""Operators of TFLite: their lowest versions, and those that several leaf ops are written with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emitter import FLOAT_BITS, Emitter
from jaxcompress.nn import Node
from jaxcompress.nn.operations import slide_of, window_of
from jaxcompress.ops.padding import Pads, Sides, both, resolve_padding, spans
from jaxcompress.quantize.integer.functions import GATES
from jaxcompress.quantize.integer.grid import LOWEST

INT4_BITS = 4


VERSIONS: Mapping[str, Mapping[int, int]] = {  # lowest, by bits of activations or int4 weights
  "ADD": {8: 2, 16: 3, 32: 1},
  "AVERAGE_POOL_2D": {8: 2, 16: 3, 32: 1},
  "BATCH_MATMUL": {8: 2, 32: 1},
  "CONCATENATION": {8: 2, 16: 3, 32: 1},
  "CONV_2D": {4: 7, 8: 3, 16: 4, 32: 1},
  "DEPTHWISE_CONV_2D": {4: 6, 8: 3, 16: 5, 32: 1},  # LiteRT's reference kernels refuse 7
  "DEQUANTIZE": {32: 3},  # of float16
  "ELU": {8: 1, 32: 1},
  "FULLY_CONNECTED": {4: 10, 8: 4, 16: 7, 32: 1},
  "GELU": {8: 2, 32: 1},
  "HARD_SWISH": {8: 1, 32: 1},
  "LEAKY_RELU": {8: 2, 16: 2, 32: 1},
  "LOGISTIC": {8: 2, 16: 3, 32: 1},
  "MAX_POOL_2D": {8: 2, 16: 3, 32: 1},
  "MAXIMUM": {8: 2, 16: 4, 32: 1},
  "MEAN": {8: 2, 16: 3, 32: 1},
  "MINIMUM": {8: 2, 16: 4, 32: 1},
  "MUL": {8: 2, 16: 4, 32: 1},
  "PAD": {8: 2, 16: 3, 32: 1},
  "PADV2": {8: 2, 16: 3, 32: 1},
  "QUANTIZE": {8: 1, 16: 2},  # by bits of the output
  "RESIZE_BILINEAR": {8: 2, 16: 4, 32: 1},
  "RESIZE_NEAREST_NEIGHBOR": {8: 2, 16: 4, 32: 1},
  "RELU": {8: 2},
  "RELU6": {8: 2},
  "RELU_N1_TO_1": {32: 1},
  "SOFTMAX": {8: 2, 16: 3, 32: 1},
  "RSQRT": {32: 1},
  "SPLIT": {8: 2, 16: 4, 32: 1},
  "STRIDED_SLICE": {8: 2, 16: 1, 32: 1},
  "TANH": {8: 2, 16: 3, 32: 1},
  "SUB": {8: 2, 16: 5, 32: 1},
  "TRANSPOSE_CONV": {8: 3, 16: 3, 32: 3},  # of a bias
  "TRANSPOSE": {8: 2, 16: 5, 32: 1},
}


FUSED = {  # into the operator before; an int8 hard-sigmoid is in the weights and the output's grid
  None: schema.ActivationFunctionType.NONE,
  "hard_sigmoid": schema.ActivationFunctionType.NONE,
  "relu": schema.ActivationFunctionType.RELU,
  "relu6": schema.ActivationFunctionType.RELU6,
}


ALONE: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # operators of their own, with options
  "hard_swish": ("HARD_SWISH", {}),
  "sigmoid": ("LOGISTIC", {}),
  "tanh": ("TANH", {}),
  "gelu": ("GELU", {}),
  "gelu_tanh": ("GELU", {"approximate": True}),
  "elu": ("ELU", {}),
  "hard_tanh": ("RELU_N1_TO_1", {}),
}


def operator(
  emitter: Emitter,
  code: str,
  inputs: list[int],
  outputs: list[int],
  like: str,
  options: str | None = None,
  least_version: int = 1,
  **fields: Any,
) -> None:
  """Adds an operator, of the lowest version that has the types of its tensors.

  Args:
    emitter: the file in the making.
    code: as for :meth:`~jaxcompress.export.flatbuffer.ModelFile.operator`.
    inputs: indices of tensors.
    outputs: indices of tensors.
    like: the activation tensor, whose type the operator computes with.
    options: as for the file's.
    least_version: that has what else the operator uses.
    **fields: of the options.
  """
  bits = INT4_BITS if emitter.file.has_int4(inputs) else emitter.bits(like)
  version = max(VERSIONS[code][bits], least_version)
  emitter.file.operator(code, version, inputs, outputs, options, **fields)


def elementwise(
  emitter: Emitter, code: str, inputs: list[int], output: int, like: str, act: str | None = None
) -> None:
  """ADD, SUB or MUL of tensors that exist, with an activation function fused into it."""
  fields: dict[str, Any] = {"fusedActivationFunction": FUSED[act]}
  if code in ("ADD", "SUB") and emitter.bits(like) == 16:
    fields["potScaleInt16"] = False  # the rule of all scales, also where they are powers of two
  operator(emitter, code, inputs, [output], like, **fields)


def reshape(emitter: Emitter, source: int, target: int, shape: list[int]) -> None:
  """The same values in another shape; -1 takes what is left."""
  constant = emitter.file.constant(np.array(shape, np.int32))
  emitter.file.operator("RESHAPE", 1, [source, constant], [target], newShape=shape)


def hard_sigmoid(emitter: Emitter, node: Node, source: int, output: int) -> None:
  """The sum with three, between 0 and 6, which are the ends of its grid; then a sixth of it."""
  shape, bits = (1, *node.output_shapes[0][1:]), emitter.bits(node.output)
  relu6, three, sixth = GATES[bits][1:] if bits < FLOAT_BITS else (None, None, None)
  quantization = relu6 and emitter.file.quantization(relu6.scale, relu6.zero_point)
  dtype = emitter.numbers.dtype(node.output)
  shifted = emitter.file.tensor(f"{node.name}/relu6", shape, dtype, quantization)
  act = {8: None, 16: "relu", FLOAT_BITS: "relu6"}[bits]  # what the ends of the grid do not clip
  shift, factor = emitter.real(3.0, three), emitter.real(1 / 6, sixth)
  elementwise(emitter, "ADD", [source, shift], shifted, node.output, act)
  elementwise(emitter, "MUL", [shifted, factor], output, node.output)


def stored(emitter: Emitter, node: Node, source: int, output: int, table: np.ndarray) -> None:
  """A table that the file holds: the codes, counted from 0, are the places in it that are read."""
  shape, int32 = node.output_shapes[0], schema.TensorType.INT32
  codes, places = (
    emitter.file.tensor(f"{node.name}/{name}", (1, *shape[1:]), np.int32)
    for name in ("codes", "places")
  )
  quantization = emitter.numbers.quantization(emitter.file, node.output)
  types = {"inDataType": schema.TensorType.INT8, "outDataType": int32}
  emitter.file.operator("CAST", 1, [source], [codes], **types)
  first = emitter.file.constant(np.array([-LOWEST], np.int32))
  emitter.file.operator("ADD", 1, [codes, first], [places])
  inputs = [emitter.file.constant(table, quantization), places]
  emitter.file.operator("GATHER", 2, inputs, [output], axis=0)


def steps(padding: int, stride: Sides, act: int = FUSED[None]) -> dict[str, Any]:
  """Options of what slides over a map."""
  down, right = both(stride)
  return {
    "padding": padding,
    "strideH": down,
    "strideW": right,
    "fusedActivationFunction": act,
  }


def padded(emitter: Emitter, node: Node, fill: int | None = None) -> tuple[int, int]:
  """A node's input, padded by an operator where TFLite's names do not say it, and TFLite's name.

  Args:
    emitter: the file in the making.
    node: a convolution or pool.
    fill: code to pad with; None: the one that stands for zero.

  Returns:
    ``(tensor, padding)``.
  """
  (source,), (pads, padding) = emitter.inputs(node), padding_name(node)
  if padding is None:
    return _padded(emitter, node, source, pads, fill), schema.Padding.VALID
  return source, padding


def padding_name(node: Node) -> tuple[Pads, int | None]:
  """The padded cells that windows of a node reach, and TFLite's name of such padding or None."""
  size, output, slide = node.input_shapes[0][1:3], node.output_shapes[0][1:3], slide_of(node)
  sides = spans(window_of(node), slide.dilation)
  top_and_bottom, left_and_right = (
    (before, max((out - 1) * step + side - cells - before, 0))
    for (before, _), out, step, side, cells in zip(
      slide.pads, output, slide.stride, sides, size, strict=True
    )
  )
  pads = top_and_bottom, left_and_right
  if not any(map(any, pads)):
    return pads, schema.Padding.VALID
  same_size = all(
    out == -(-cells // step) for out, cells, step in zip(output, size, slide.stride, strict=True)
  )
  if same_size and pads == resolve_padding("SAME", size, sides, slide.stride):
    return pads, schema.Padding.SAME
  return pads, None


def _padded(emitter: Emitter, node: Node, source: int, pads: Any, fill: int | None) -> int:
  tensor = node.inputs[0]
  height, width, channels = node.input_shapes[0][1:]
  shape = (1, height + sum(pads[0]), width + sum(pads[1]), channels)
  padded = emitter.scratch(f"{node.name}/pad", shape, tensor)
  pad(emitter, tensor, source, padded, pads, fill)
  return padded


def pad(
  emitter: Emitter, tensor: str, source: int, padded: int, pads: Any, fill: float | None
) -> None:
  """PAD, or PADV2 where another code than zero's surrounds a tensor."""
  amounts = emitter.file.constant(np.array([(0, 0), *pads, (0, 0)], np.int32))
  if fill is None or fill == emitter.numbers.zero_point(tensor):
    operator(emitter, "PAD", [source, amounts], [padded], tensor)
  else:
    value = emitter.number(fill, tensor)
    operator(emitter, "PADV2", [source, amounts, value], [padded], tensor, "PadV2Options")
