"""Convolutions, linear layers, means and pools as TFLite operators."""

from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emit_elementwise import FUSED, hard_sigmoid
from jaxcompress.export.emit_moves import reshape
from jaxcompress.export.emitter import Emitter
from jaxcompress.export.tensors import has_one_scale
from jaxcompress.nn import Node
from jaxcompress.nn.operations import channel_groups, pads_of
from jaxcompress.ops.padding import resolve_padding
from jaxcompress.quantize.integer.arithmetic import counts_padding

GROUPED_VERSION = 6  # of CONV_2D


def convolution(emitter: Emitter, node: Node) -> None:
  """CONV_2D or DEPTHWISE_CONV_2D, also for a normalization or an average of its own."""
  source, padding = _padded(emitter, node)
  channels = node.input_shapes[0][-1]
  groups = channels if node.op == "AvgPool" else channel_groups(node)
  fields: dict[str, Any] = {
    "padding": padding,
    "strideH": node.attrs["stride"],
    "strideW": node.attrs["stride"],
    "dilationHFactor": 1,
    "dilationWFactor": 1,
    "fusedActivationFunction": _fused(emitter, node),
  }
  if groups == channels > 1:
    code = "DEPTHWISE_CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(2, 0, 1, 3), 3)
    fields["depthMultiplier"] = node.output_shapes[0][-1] // channels
  else:
    code = "CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 0, 1, 2), 0)
  version = 1 if groups in (1, channels) else GROUPED_VERSION
  write = partial(emitter.operator, like=node.output, least_version=version)
  outputs = emitter.outputs(node)
  if node.attrs.get("act") == "hard_sigmoid" and not emitter.is_integer:
    affine = emitter.scratch(f"{node.name}/affine", (1, *node.output_shapes[0][1:]), node.output)
    write(code, inputs=[source, *constants], outputs=[affine], **fields)
    hard_sigmoid(emitter, node, affine, *outputs)
  else:
    write(code, inputs=[source, *constants], outputs=outputs, **fields)


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
  emitter.operator(
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
  emitter.operator(
    "CONV_2D",
    [cell, *constants],
    [result],
    node.output,
    padding=schema.Padding.VALID,
    strideH=1,
    strideW=1,
    dilationHFactor=1,
    dilationWFactor=1,
    fusedActivationFunction=FUSED[None],
  )
  reshape(emitter, result, emitter.outputs(node)[0], [-1, count])


def mean(emitter: Emitter, node: Node) -> None:
  """The mean over height and width."""
  axes = emitter.file.constant(np.array([1, 2], np.int32))
  emitter.operator(
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
  acts = {maker.attrs.get("act") for maker in makers}
  fill = None if acts and acts <= {"relu", "relu6"} else lowest
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
  emitter.operator(
    code,
    [source],
    emitter.outputs(node),
    node.output,
    "Pool2DOptions",
    padding=padding,
    strideH=node.attrs["stride"],
    strideW=node.attrs["stride"],
    filterHeight=node.attrs["kernel"],
    filterWidth=node.attrs["kernel"],
    fusedActivationFunction=FUSED[None],
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
    emitter.operator("PAD", [source, amounts], [padded], tensor)
  else:
    value = emitter.number(fill, tensor)
    emitter.operator("PADV2", [source, amounts, value], [padded], tensor, "PadV2Options")
  return padded
