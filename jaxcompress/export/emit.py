"""Leaf ops as TFLite operators: a table from a leaf op's name to the function that writes it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np

from jaxcompress.export.emit_borders import border, cut
from jaxcompress.export.emit_elementwise import (
  activation,
  choice,
  constant,
  leaky_relu,
  pair,
  requantize,
  softmax,
)
from jaxcompress.export.emit_layers import convolution, dense, pointwise
from jaxcompress.export.emit_normalizing import channel_mean, rms_norm
from jaxcompress.export.emit_operators import ALONE, FUSED, operator
from jaxcompress.export.emit_pools import average_pool, channel_max, max_pool, mean
from jaxcompress.export.emit_products import matrix_product
from jaxcompress.export.emit_shapes import concat, reshaped, shuffle, split
from jaxcompress.export.emit_spaces import depth_to_space, resize, space_to_depth, transposed
from jaxcompress.export.emitter import Emitter
from jaxcompress.export.flatbuffer import TENSOR_TYPES
from jaxcompress.export.pixels import is_shift
from jaxcompress.nn import INPUT, Node
from jaxcompress.quantize.integer.grid import LOWEST

INT8, INT32 = (TENSOR_TYPES[np.dtype(kind)] for kind in (np.int8, np.int32))


def pixels(emitter: Emitter, codes: np.ndarray) -> int:
  """A new uint8 tensor that the graph's int8 input is read from: by a shift, or by a table of codes.

  Args:
    emitter: of the file.
    codes: of every pixel in every channel, (256, channels) int8.
  """
  grid = cast(Any, emitter.numbers).model.grids[INPUT]
  shape, target = (1, *emitter.graph.input_shape[1:]), emitter.tensors[INPUT]
  file, shifts = emitter.file, is_shift(codes)
  scale, zero_point = (grid.scale, grid.zero_point - LOWEST) if shifts else (1.0, 0)
  pixels = file.tensor("pixels", shape, np.uint8, file.quantization(scale, zero_point))
  if shifts:
    operator(emitter, "QUANTIZE", [pixels], [target], INPUT)
    return pixels
  # by way of int8, since TFLite-Micro casts no uint8
  signed = file.tensor("pixels/int8", shape, np.int8, file.quantization(scale, LOWEST))
  whole, places = (file.tensor(f"pixels/{name}", shape, np.int32) for name in ("whole", "places"))
  first = np.arange(0, codes.size, len(codes), dtype=np.int32) - LOWEST  # of each channel's codes
  file.operator("QUANTIZE", 1, [pixels], [signed])
  file.operator("CAST", 1, [signed], [whole], inDataType=INT8, outDataType=INT32)
  file.operator("ADD", 1, [whole, file.constant(first.reshape(1, 1, 1, -1))], [places])
  table = file.constant(codes.T.ravel(), emitter.numbers.quantization(file, INPUT))
  file.operator("GATHER", 2, [table, places], [target], axis=0)
  return pixels


def floats(emitter: Emitter) -> int:
  """A new float32 tensor that is rounded to the graph's int8 input."""
  shape = (1, *emitter.graph.input_shape[1:])
  floats = emitter.file.tensor("floats", shape, np.float32)
  operator(emitter, "QUANTIZE", [floats], [emitter.tensors[INPUT]], INPUT)
  return floats


def unsigned(emitter: Emitter, name: str, tensor: str) -> int:
  """A new uint8 tensor of an int8 output: the codes plus 128."""
  grid = cast(Any, emitter.numbers).model.grids[tensor]
  quantization = emitter.file.quantization(grid.scale, grid.zero_point - LOWEST)
  shape = (1, *emitter.graph.shape(tensor)[1:])
  output = emitter.file.tensor(f"{name}/uint8", shape, np.uint8, quantization)
  operator(emitter, "QUANTIZE", [emitter.tensors[tensor]], [output], tensor)
  return output


EMITTERS: Mapping[str, Callable[[Emitter, Node], None]] = {
  "ConvNorm": convolution,
  "BatchNorm": pointwise,
  "Affine": pointwise,
  "FourierPositions": pointwise,
  "Dense": dense,
  "Add": partial(pair, "ADD"),
  "Subtract": partial(pair, "SUB"),
  "Maximum": partial(choice, "MAXIMUM"),
  "Minimum": partial(choice, "MINIMUM"),
  "Multiply": partial(pair, "MUL"),
  "Activation": activation,
  "LeakyRelu": leaky_relu,
  "MatMul": matrix_product,
  "Softmax": softmax,
  "ChannelMean": channel_mean,
  "RmsNorm": rms_norm,
  "Requantize": requantize,
  "Constant": constant,
  "GlobalAvgPool": mean,
  "AvgPool": average_pool,
  "MaxPool": max_pool,
  "Slice": cut,
  "Pad": border,
  "ChannelMax": channel_max,
  "Reshape": reshaped,
  "Concat": concat,
  "Split": split,
  "ChannelShuffle": shuffle,
  "ConvTranspose": transposed,
  "Resize": resize,
  "DepthToSpace": depth_to_space,
  "SpaceToDepth": space_to_depth,
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
    is_alone = act in ALONE or emitter.numbers.table(node) is not None
    if act not in FUSED and not (node.op == "Activation" and is_alone):
      raise ValueError(
        f"model: layer {node.name!r} has the activation function {act!r}; TFLite files of"
        f" jaxcompress hold {', '.join(filter(None, FUSED))} in layers, and"
        f" {', '.join(ALONE)} as an Activation of its own."
      )
    EMITTERS[node.op](emitter, node)
