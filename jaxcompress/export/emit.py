"""Leaf ops as TFLite operators: a table from a leaf op's name to the function that writes it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emitter import FLOAT_BITS, Emitter
from jaxcompress.export.tensors import has_one_scale
from jaxcompress.nn import INPUT, Node, kernel_shape
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.operations import channel_groups, pads_of
from jaxcompress.ops.padding import resolve_padding
from jaxcompress.quantize.integer.arithmetic import counts_padding
from jaxcompress.quantize.integer.functions import GATES
from jaxcompress.quantize.integer.grid import LOWEST

INT4_BITS = 4
UNDILATED: dict[str, Any] = {"dilationHFactor": 1, "dilationWFactor": 1}
GROUPED_VERSION = 6  # of CONV_2D
DELEGATED_PARTS = 4  # XNNPACK splits into at most as many equal parts
VERSIONS: Mapping[str, Mapping[int, int]] = {  # lowest, by bits of activations or int4 weights
  "ADD": {8: 2, 16: 3, 32: 1},
  "AVERAGE_POOL_2D": {8: 2, 16: 3, 32: 1},
  "CONCATENATION": {8: 2, 16: 3, 32: 1},
  "CONV_2D": {4: 7, 8: 3, 16: 4, 32: 1},
  "DEPTHWISE_CONV_2D": {4: 6, 8: 3, 16: 5, 32: 1},  # LiteRT's reference kernels refuse 7
  "DEQUANTIZE": {32: 3},  # of float16
  "FULLY_CONNECTED": {4: 10, 8: 4, 32: 1},
  "HARD_SWISH": {8: 1, 32: 1},
  "LOGISTIC": {8: 2, 16: 3, 32: 1},
  "MAX_POOL_2D": {8: 2, 16: 3, 32: 1},
  "MEAN": {8: 2, 16: 3, 32: 1},
  "MUL": {8: 2, 16: 4, 32: 1},
  "PAD": {8: 2, 16: 3, 32: 1},
  "PADV2": {8: 2, 16: 3, 32: 1},
  "QUANTIZE": {8: 1, 16: 2},  # by bits of the output
  "SPLIT": {8: 2, 16: 4, 32: 1},
  "STRIDED_SLICE": {8: 2, 16: 1, 32: 1},
  "TRANSPOSE": {8: 2, 16: 5, 32: 1},
}
FUSED = {  # into the operator before; an int8 hard-sigmoid is in the weights and the output's grid
  None: schema.ActivationFunctionType.NONE,
  "hard_sigmoid": schema.ActivationFunctionType.NONE,
  "relu": schema.ActivationFunctionType.RELU,
  "relu6": schema.ActivationFunctionType.RELU6,
}


ALONE = {"hard_swish": "HARD_SWISH", "sigmoid": "LOGISTIC"}  # as operators of their own


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


def pixels(emitter: Emitter) -> int:
  """A new uint8 tensor that the graph's int8 input is read from, by a shift of the codes."""
  codes = emitter.tensors[INPUT]
  zero_point = emitter.numbers.zero_point(INPUT) - LOWEST
  quantization = emitter.file.quantization(
    cast(Any, emitter.numbers).model.grids[INPUT].scale, zero_point
  )
  shape = (1, *emitter.graph.input_shape[1:])
  pixels = emitter.file.tensor("pixels", shape, np.uint8, quantization)
  operator(emitter, "QUANTIZE", [pixels], [codes], INPUT)
  return pixels


def floats(emitter: Emitter) -> int:
  """A new float32 tensor that is rounded to the graph's int8 input."""
  shape = (1, *emitter.graph.input_shape[1:])
  floats = emitter.file.tensor("floats", shape, np.float32)
  operator(emitter, "QUANTIZE", [floats], [emitter.tensors[INPUT]], INPUT)
  return floats


def pair(code: str, emitter: Emitter, node: Node) -> None:
  """The sum or the product of two tensors."""
  inputs, (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs.get("act")
  elementwise(emitter, code, inputs, output, node.output, act)


def requantize(emitter: Emitter, node: Node) -> None:
  """A change of the grid: added to zero, where that is more precise than QUANTIZE in XNNPACK."""
  (source,), (output,), tensor = emitter.inputs(node), emitter.outputs(node), node.inputs[0]
  if emitter.numbers.adds_zero(node):
    zero = emitter.number(emitter.numbers.zero_point(tensor), tensor)
    elementwise(emitter, "ADD", [source, zero], output, node.output)
  else:
    operator(emitter, "QUANTIZE", [source], [output], node.output)


def activation(emitter: Emitter, node: Node) -> None:
  """An activation function on its own."""
  (source,), (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs["act"]
  if act in ALONE:
    operator(emitter, ALONE[act], [source], [output], node.output)
  elif act == "hard_sigmoid":
    hard_sigmoid(emitter, node, source, output)
  else:  # added to zero, which XNNPACK runs, as it does not run int8 RELU
    zero = emitter.number(emitter.numbers.zero_point(node.inputs[0]), node.inputs[0])
    elementwise(emitter, "ADD", [source, zero], output, node.output, act)


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


def elementwise(
  emitter: Emitter, code: str, inputs: list[int], output: int, like: str, act: str | None = None
) -> None:
  """ADD or MUL of tensors that exist, with an activation function fused into it."""
  fields: dict[str, Any] = {"fusedActivationFunction": FUSED[act]}
  if code == "ADD" and emitter.bits(like) == 16:
    fields["potScaleInt16"] = False  # the rule of all scales, also where they are powers of two
  operator(emitter, code, inputs, [output], like, **fields)


def concat(emitter: Emitter, node: Node) -> None:
  """Channels side by side."""
  axis = len(node.output_shapes[0]) - 1
  operator(
    emitter,
    "CONCATENATION",
    emitter.inputs(node),
    emitter.outputs(node),
    node.output,
    axis=axis,
    fusedActivationFunction=FUSED[None],
  )


def split(emitter: Emitter, node: Node) -> None:
  """Parts of the channels: SPLIT where XNNPACK has it, slices elsewhere."""
  sizes, rank = list(node.attrs["sizes"]), len(node.input_shapes[0])
  (source,), parts = emitter.inputs(node), emitter.outputs(node)
  if len(set(sizes)) == 1 and 1 < len(sizes) <= DELEGATED_PARTS:
    axis = emitter.file.constant(np.array(rank - 1, np.int32))
    operator(emitter, "SPLIT", [axis, source], parts, node.output, numSplits=len(sizes))
    return
  all_but_last = 2 ** (rank - 1) - 1  # masks: these axes are taken whole
  steps = emitter.file.constant(np.ones(rank, np.int32))
  for part, start, size in zip(parts, np.cumsum([0, *sizes]), sizes, strict=False):
    edges = [
      emitter.file.constant(np.array([0] * (rank - 1) + [at], np.int32))
      for at in (start, start + size)
    ]
    operator(
      emitter,
      "STRIDED_SLICE",
      [source, *edges, steps],
      [part],
      node.output,
      beginMask=all_but_last,
      endMask=all_but_last,
    )


def shuffle(emitter: Emitter, node: Node) -> None:
  """Reshape, transpose, reshape; the first axis is free, so that batches can be resized."""
  groups, shape = node.attrs["groups"], node.input_shapes[0]
  cells, parts = int(np.prod(shape[1:-1])), shape[-1] // groups
  grouped = emitter.scratch(f"{node.name}/grouped", (cells, groups, parts), node.inputs[0])
  swapped = emitter.scratch(f"{node.name}/swapped", (cells, parts, groups), node.inputs[0])
  order = emitter.file.constant(np.array([0, 2, 1], np.int32))
  reshape(emitter, emitter.inputs(node)[0], grouped, [-1, groups, parts])
  operator(emitter, "TRANSPOSE", [grouped, order], [swapped], node.output)
  reshape(emitter, swapped, emitter.outputs(node)[0], [-1, *shape[1:]])


def reshape(emitter: Emitter, source: int, target: int, shape: list[int]) -> None:
  """The same values in another shape; -1 takes what is left."""
  constant = emitter.file.constant(np.array(shape, np.int32))
  emitter.file.operator("RESHAPE", 1, [source, constant], [target], newShape=shape)


def convolution(emitter: Emitter, node: Node) -> None:
  """CONV_2D or DEPTHWISE_CONV_2D, also for a normalization or an average of its own."""
  source, padding = _padded(emitter, node)
  channels = node.input_shapes[0][-1]
  groups = channels if kernel_shape(node) is None else channel_groups(node)
  fields = _steps(padding, node.attrs["stride"], _fused(emitter, node)) | UNDILATED
  if groups == channels > 1:
    code = "DEPTHWISE_CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(2, 0, 1, 3), 3)
    fields["depthMultiplier"] = node.output_shapes[0][-1] // channels
  else:
    code = "CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 0, 1, 2), 0)
  version = 1 if groups in (1, channels) else GROUPED_VERSION
  write = partial(operator, emitter, like=node.output, least_version=version)
  outputs = emitter.outputs(node)
  if node.attrs.get("act") == "hard_sigmoid" and not emitter.is_integer:
    affine = emitter.scratch(f"{node.name}/affine", (1, *node.output_shapes[0][1:]), node.output)
    write(code, inputs=[source, *constants], outputs=[affine], **fields)
    hard_sigmoid(emitter, node, affine, *outputs)
  else:
    write(code, inputs=[source, *constants], outputs=outputs, **fields)


def _steps(padding: int, stride: int, act: int = FUSED[None]) -> dict[str, Any]:
  """Options of what slides over a map."""
  return {
    "padding": padding,
    "strideH": stride,
    "strideW": stride,
    "fusedActivationFunction": act,
  }


def _fused(emitter: Emitter, node: Node) -> int:
  """TFLite's activation function in a layer; the zero of an int16 gate is not the end of its grid."""
  act = node.attrs.get("act")
  return FUSED["relu" if act == "hard_sigmoid" and emitter.bits(node.output) == 16 else act]


def dense(emitter: Emitter, node: Node) -> None:
  """FULLY_CONNECTED, or a 1x1 convolution where that is what runs."""
  scales = emitter.numbers.weights(node).kernel_scales
  as_convolution = emitter.dense_per_tensor and not (scales is None or has_one_scale(scales))
  if emitter.bits(node.output) == 16 or as_convolution:
    _pointwise_dense(emitter, node)
    return
  constants = emitter.weights(node, np.transpose, 0)
  operator(
    emitter,
    "FULLY_CONNECTED",
    [*emitter.inputs(node), *constants],
    emitter.outputs(node),
    node.output,
    fusedActivationFunction=FUSED[None],
  )


def _pointwise_dense(emitter: Emitter, node: Node) -> None:
  """A linear layer as a 1x1 convolution.

  Runtimes round int16 FULLY_CONNECTED differently, and older ones read one scale for all outputs.
  """
  features, count = int(np.prod(node.input_shapes[0][1:])), node.output_shapes[0][-1]
  cell = emitter.scratch(f"{node.name}/cell", (1, 1, 1, features), node.inputs[0])
  result = emitter.scratch(f"{node.name}/result", (1, 1, 1, count), node.output)
  reshape(emitter, emitter.inputs(node)[0], cell, [-1, 1, 1, features])
  constants = emitter.weights(node, lambda kernel: kernel.T[:, None, None], 0)
  operator(
    emitter,
    "CONV_2D",
    [cell, *constants],
    [result],
    node.output,
    **_steps(schema.Padding.VALID, 1),
    **UNDILATED,
  )
  reshape(emitter, result, emitter.outputs(node)[0], [-1, count])


def mean(emitter: Emitter, node: Node) -> None:
  """The mean over height and width."""
  axes = emitter.file.constant(np.array([1, 2], np.int32))
  operator(
    emitter,
    "MEAN",
    [*emitter.inputs(node), axes],
    emitter.outputs(node),
    node.output,
    "ReducerOptions",
    keepDims=node.attrs["keepdims"],
  )


def max_pool(emitter: Emitter, node: Node) -> None:
  """MAX_POOL_2D."""
  dtype = np.dtype(emitter.numbers.dtype(node.output))
  lowest = np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min
  makers = (maker for maker in emitter.graph.nodes if node.inputs[0] in maker.outputs)
  # where nothing is below zero, zeros lose too, and all targets have PAD
  acts = [ACTIVATIONS[maker.attrs.get("act")] for maker in makers]
  fill = None if acts and all(act.fuses for act in acts) else lowest
  _pool(emitter, node, "MAX_POOL_2D", *_padded(emitter, node, fill))


def average_pool(emitter: Emitter, node: Node) -> None:
  """AVERAGE_POOL_2D, or a convolution where padded cells count."""
  if counts_padding(node):
    convolution(emitter, node)
    return
  source, padding = _padded(emitter, node)
  if source not in emitter.inputs(node):
    raise ValueError(
      f"model: layer {node.name!r} averages without its padding {node.attrs['padding']!r}, which"
      " TFLite only has for 'SAME'; use that or count_padding=True."
    )
  _pool(emitter, node, "AVERAGE_POOL_2D", source, padding)


def _pool(emitter: Emitter, node: Node, code: str, source: int, padding: int) -> None:
  operator(
    emitter,
    code,
    [source],
    emitter.outputs(node),
    node.output,
    "Pool2DOptions",
    filterHeight=node.attrs["kernel"],
    filterWidth=node.attrs["kernel"],
    **_steps(padding, node.attrs["stride"]),
  )


def _padded(emitter: Emitter, node: Node, fill: int | None = None) -> tuple[int, int]:
  """A node's input, padded by an operator where TFLite's names do not say it, and TFLite's name.

  Args:
    emitter: the file in the making.
    node: a convolution or pool.
    fill: code to pad with; None: the one that stands for zero.

  Returns:
    ``(tensor, padding)``.
  """
  (source,) = emitter.inputs(node)
  shape, output = node.input_shapes[0], node.output_shapes[0]
  kernel, stride = node.attrs["kernel"], node.attrs["stride"]
  pads = tuple(
    (before, max((out - 1) * stride + kernel - size - before, 0))
    for (before, _), out, size in zip(pads_of(node), output[1:3], shape[1:3], strict=True)
  )
  if not any(map(any, pads)):
    return source, schema.Padding.VALID
  same_size = all(
    out == -(-size // stride) for out, size in zip(output[1:3], shape[1:3], strict=True)
  )
  if same_size and pads == resolve_padding("SAME", shape[1:3], kernel, stride):
    return source, schema.Padding.SAME
  return _pad(emitter, node, source, pads, fill), schema.Padding.VALID


def _pad(emitter: Emitter, node: Node, source: int, pads, fill: int | None) -> int:
  tensor = node.inputs[0]
  height, width, channels = node.input_shapes[0][1:]
  shape = (1, height + sum(pads[0]), width + sum(pads[1]), channels)
  padded = emitter.scratch(f"{node.name}/pad", shape, tensor)
  amounts = emitter.file.constant(np.array([(0, 0), *pads, (0, 0)], np.int32))
  if fill is None or fill == emitter.numbers.zero_point(tensor):
    operator(emitter, "PAD", [source, amounts], [padded], tensor)
  else:
    value = emitter.number(fill, tensor)
    operator(emitter, "PADV2", [source, amounts, value], [padded], tensor, "PadV2Options")
  return padded


EMITTERS: Mapping[str, Callable[[Emitter, Node], None]] = {
  "ConvNorm": convolution,
  "BatchNorm": convolution,
  "Dense": dense,
  "Add": partial(pair, "ADD"),
  "Multiply": partial(pair, "MUL"),
  "Activation": activation,
  "Requantize": requantize,
  "GlobalAvgPool": mean,
  "AvgPool": average_pool,
  "MaxPool": max_pool,
  "Concat": concat,
  "Split": split,
  "ChannelShuffle": shuffle,
}


def emit(emitter: Emitter) -> None:
  """Writes all nodes of a graph.

  Raises:
    ValueError: for a node that TFLite cannot hold; it names the layer.
  """
  for node in emitter.graph.nodes:
    if node.op not in EMITTERS:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no TFLite operator here; it can be"
        f" one of {', '.join(EMITTERS)}."
      )
    act = node.attrs.get("act")
    if act not in FUSED and not (node.op == "Activation" and act in ALONE):
      raise ValueError(
        f"model: layer {node.name!r} has the activation function {act!r}; TFLite files of"
        f" jaxcompress hold {', '.join(filter(None, FUSED))} in layers, and"
        f" {' and '.join(ALONE)} as an Activation of its own."
      )
    EMITTERS[node.op](emitter, node)
