"""Integer arithmetic of every operation: a table from its name to what it is on integers."""

from collections.abc import Mapping

from jaxcompress.quantize.integer import (
  borders,
  copies,
  elementwise,
  normalizing,
  pools,
  products,
  rectifiers,
  resizing,
  rows,
  transposed,
  weighted,
)
from jaxcompress.quantize.integer.leaf import LeafArithmetic

ARITHMETIC: Mapping[str, LeafArithmetic] = {
  "ConvNorm": weighted.CONVOLUTION,
  "BatchNorm": weighted.POINTWISE,
  "Affine": weighted.POINTWISE,
  "FourierPositions": weighted.POINTWISE,
  "Dense": weighted.DENSE,
  "Add": elementwise.ADD,
  "Subtract": elementwise.SUBTRACT,
  "Maximum": elementwise.MAXIMUM,
  "Minimum": elementwise.MINIMUM,
  "Multiply": elementwise.MULTIPLY,
  "Activation": elementwise.ACTIVATION,
  "LeakyRelu": rectifiers.LEAKY_RELU,
  "MatMul": products.MATMUL,
  "Softmax": rows.SOFTMAX,
  "ChannelMean": weighted.POINTWISE,
  "RmsNorm": normalizing.RMS,
  "Requantize": elementwise.REQUANTIZE,
  "Constant": copies.CONSTANT,
  "GlobalAvgPool": pools.MEAN,
  "AvgPool": pools.AVERAGE_POOL,
  "MaxPool": pools.MAX_POOL,
  "Slice": borders.SLICE,
  "Pad": borders.PAD,
  "ChannelMax": copies.CHANNEL_MAX,
  "Reshape": copies.RESHAPE,
  "Concat": copies.CONCAT,
  "Split": copies.SPLIT,
  "ChannelShuffle": copies.SHUFFLE,
  "ConvTranspose": transposed.TRANSPOSED,
  "Resize": resizing.RESIZE,
  "DepthToSpace": resizing.DEPTH_TO_SPACE,
  "SpaceToDepth": resizing.SPACE_TO_DEPTH,
}
"""The integer arithmetic of operations by their names."""
