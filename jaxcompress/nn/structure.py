"""The table of leaf ops, and the record of each operation of a graph."""

from collections.abc import Mapping

from jaxcompress.nn.affine import Affine
from jaxcompress.nn.arrangement import ChannelShuffle, Concat, Split
from jaxcompress.nn.borders import Pad, Slice
from jaxcompress.nn.channels import ChannelMax, ChannelMean
from jaxcompress.nn.elementwise import Activation, Add, Maximum, Minimum, Multiply, Subtract
from jaxcompress.nn.graph import Operation, alike
from jaxcompress.nn.layers import BatchNorm, ConvNorm, Dense, LeafOp
from jaxcompress.nn.normalizing import RmsNorm
from jaxcompress.nn.pools import AvgPool, GlobalAvgPool, MaxPool
from jaxcompress.nn.positions import FourierPositions
from jaxcompress.nn.probabilities import Softmax
from jaxcompress.nn.products import MatMul
from jaxcompress.nn.rectifiers import LeakyRelu
from jaxcompress.nn.reshaping import Reshape
from jaxcompress.nn.resizing import DepthToSpace, Resize, SpaceToDepth
from jaxcompress.nn.transposed import ConvTranspose

LEAF_OPS: Mapping[str, type[LeafOp]] = {
  op.__name__: op
  for op in (
    *(ConvNorm, BatchNorm, Affine, FourierPositions, Dense),
    *(Add, Subtract, Multiply, Maximum, Minimum),
    *(ChannelMean, ChannelMax, Reshape, MatMul),
    *(Concat, Split, ChannelShuffle, MaxPool, AvgPool, GlobalAvgPool, Activation),
    *(Slice, Pad, Resize, LeakyRelu, ConvTranspose, Softmax, DepthToSpace, SpaceToDepth, RmsNorm),
  )
}
"""The leaf ops by the name of their class."""


REQUANTIZE = "Requantize"
"""An operation of graphs of integers alone: the same numbers on another grid."""
OPERATOR = "operator"
"""The attribute of a node with TFLite's name of its operator, where another one is the usual one."""
CONSTANT = "Constant"
"""An operation of graphs of integers alone: an array that the file holds, of the codes in ``"codes"``."""


OPERATIONS: Mapping[str, Operation] = {
  **{name: op.operation for name, op in LEAF_OPS.items()},
  REQUANTIZE: Operation(route=alike, within=True, linear=True),
  CONSTANT: Operation(route=lambda node: ((),)),
}
"""The record of each operation of a graph, by its name there."""
