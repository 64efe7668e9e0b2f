"""Every runtime and exact evaluation give the same integers, op by op."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.export import emit, onnx_emit
from jaxcompress.export.c99 import emit as c_emit
from jaxcompress.nn import (
  Activation,
  Add,
  Affine,
  AvgPool,
  BatchNorm,
  ChannelMax,
  ChannelMean,
  ChannelShuffle,
  Concat,
  ConvNorm,
  ConvTranspose,
  Dense,
  DepthToSpace,
  FourierPositions,
  GlobalAvgPool,
  Graph,
  LayerNorm,
  LeakyRelu,
  MatMul,
  Maximum,
  MaxPool,
  Minimum,
  Multiply,
  Node,
  Pad,
  PRelu,
  Reshape,
  Resize,
  RmsNorm,
  Slice,
  Softmax,
  SpaceToDepth,
  Split,
  Subtract,
)
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.execute import run_node
from jaxcompress.nn.operations import by_groups, kernel_shape
from jaxcompress.nn.structure import CONSTANT, OPERATIONS, REQUANTIZE
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.functions import FUNCTIONS, Function
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16
from jaxcompress.quantize.limits import widen_grids

pytestmark = pytest.mark.usefixtures("optimized")


class Lambda(nn.Module):
  """A function of (images, train) as a module."""

  function: object

  @nn.compact
  def __call__(self, x, *, train):
    return self.function(x, train)


def conv(**attributes):
  return lambda x, train: ConvNorm(name="conv", **attributes)(x, train=train)


def transposed(**attributes):
  return lambda x, train: ConvTranspose(name="conv", **attributes)(x, train=train)


def beside_conv(op):
  """An op on the images and a convolution of them."""
  return lambda x, train: op(name="op")(x, ConvNorm(x.shape[-1], name="conv")(x, train=train))


def behind_conv(*modules):
  """Ops after a convolution of the images."""

  def op(x, train):
    x = ConvNorm(16, kernel=3, name="conv")(x, train=train)
    for i, module in enumerate(modules):
      x = module.copy(name=f"op{i}")(x)
    return x

  return op


def rectified(op, act):
  return lambda x, train: Activation(act, name="act")(op(x, train))


def gate(act):
  def op(x, train):
    pooled = GlobalAvgPool(keepdims=True, name="pool")(x)
    conv = ConvNorm(x.shape[-1], act=act, norm=None, name="conv")
    return Multiply(name="gate")(x, conv(pooled, train=train))

  return op


def sigmoid_gate(x, train):
  y = ConvNorm(x.shape[-1], name="conv")(GlobalAvgPool(keepdims=True, name="pool")(x), train=train)
  return Multiply(name="gate")(x, Activation("sigmoid", name="act")(y))


def swap(sizes):
  return lambda x, train: Concat(name="cat")(*reversed(Split(sizes, name="split")(x)))


def meeting(op, *, swapped=False):
  """An op on a convolution and what its axes of one meet: means, and a map of one channel."""

  def network(x, train):
    x = ConvNorm(6, name="conv")(x, train=train)
    means = GlobalAvgPool(keepdims=True, name="pool")(x)
    mask = ConvNorm(1, kernel=3, name="mask")(x, train=train)
    pairs = ((x, means), (x, mask))
    first, second = (tuple(reversed(pair)) if swapped else pair for pair in pairs)
    return Concat(name="cat")(op(name="by_means")(*first), op(name="by_mask")(*second))

  return network


def decoded(x, train):
  """A vector that becomes a map again, one of a single cell, and a map that becomes a vector."""
  y = Dense(24, name="dense")(GlobalAvgPool(name="pool")(x))
  one = Reshape((1, 1, 24), name="one")(y)
  y = ConvNorm(6, kernel=3, name="conv")(Reshape((2, 3, 4), name="map")(y), train=train)
  y = Reshape((4, 9), name="rows")(Reshape((3, 4, 3), name="other")(y))
  return Concat(name="cat")(Reshape((36,), name="flat")(y), Reshape((24,), name="back")(one))


def attended(x, train):
  """Spatial attention, as in CBAM."""
  x = ConvNorm(7, act="relu", name="conv")(x, train=train)
  both = Concat(name="cat")(ChannelMean(name="mean")(x), ChannelMax(name="max")(x))
  mask = ConvNorm(1, kernel=3, act="hard_sigmoid", norm=None, name="mask")(both, train=train)
  return Multiply(name="op")(x, mask)


def products(x, train):
  """Matrix products of tokens, of long rows, and of attention with two heads, whose way is a map's."""
  height, width, _ = x.shape[1:]
  x = ConvNorm(24, name="conv")(x, train=train)
  parts = Split((4,) * 6, name="split")(Reshape((height * width, 24), name="tokens")(x))
  heads = []
  for i in range(2):
    scores = MatMul(transpose_second=True, name=f"scores{i}")(parts[i], parts[2 + i])
    heads.append(MatMul(name=f"mix{i}")(Softmax(name=f"softmax{i}")(scores), parts[4 + i]))
  y = Reshape((height, width, 8), name="map")(Concat(name="heads")(*heads))
  return ConvNorm(6, kernel=3, name="last")(y, train=train)


def long_products(x, train):
  """A sum of 600 products, and one of a tensor with itself."""
  rows = Reshape((3, 600), name="rows")(ConvNorm(60, name="conv")(x, train=train))
  scores = MatMul(transpose_second=True, name="square")(rows, rows)
  return Reshape((5, 6, 60), name="map")(MatMul(name="op")(scores, rows))


def pooled(module):
  """A module on the means of the images."""
  return lambda x, train: module.copy(name="op")(GlobalAvgPool(name="pool")(x))


def behind(op, **attributes):
  """An op behind a convolution, whose weights it becomes part of."""
  return lambda x, train: op.copy(name="op")(conv(**attributes)(x, train))


def normalised(x, train):
  return BatchNorm(name="op")(GlobalAvgPool(name="pool")(x), train=train)


def normalised_dense(x, train):
  y = BatchNorm(act="relu", name="op")(Dense(9, name="dense")(x), train=train)
  return Dense(5, name="last")(y)


def padded(x, train):
  """Zeros, as padding of convolutions and around what a pool reads; other numbers."""
  y = Pad(((0, 1), (2, 1)), name="pad")(x)
  left = ConvNorm(4, kernel=3, stride=2, padding="VALID", act="relu", name="left")(y, train=train)
  right = ConvNorm(4, kernel=3, stride=2, padding="VALID", name="right")(y, train=train)
  left = MaxPool(2, 2, padding="VALID", name="pool")(Pad(((1, 0), (0, 1)), name="around")(left))
  right = MaxPool(2, 2, padding="VALID", name="other")(
    Pad(((1, 0), (0, 1)), -1.5, name="low")(right)
  )
  return Concat(name="cat")(left, right)


def cut(sizes, part):
  """Some channels, of which others are not read."""
  return lambda x, train: Split(sizes, name="split")(x)[part]


def after_mean(op):
  return lambda x, train: op.copy(name="op")(GlobalAvgPool(name="pool")(x))


def plain(module):
  return lambda x, train: module.copy(name="op")(x)


OPS = {
  "pointwise": (conv(features=16), (8, 8, 12)),
  "pointwise, stride 2": (conv(features=16, stride=2), (7, 8, 12)),
  "3x3, relu6": (conv(features=16, kernel=3, stride=2, act="relu6"), (9, 8, 12)),
  "3x3, symmetric": (conv(features=16, kernel=3, stride=2, padding="SYMMETRIC"), (8, 8, 3)),
  "3x3, valid, relu": (conv(features=5, kernel=3, act="relu", padding="VALID"), (9, 8, 12)),
  "2x3 pads": (conv(features=5, kernel=3, padding=((2, 0), (0, 3))), (6, 8, 4)),
  "grouped": (conv(features=24, kernel=3, groups=4, act="relu"), (9, 8, 12)),
  "depthwise": (
    conv(features=12, kernel=3, stride=2, groups="depthwise", act="relu6"),
    (9, 8, 12),
  ),
  "depthwise 5x5": (conv(features=12, kernel=5, groups="depthwise"), (9, 8, 12)),
  "depthwise, two each": (conv(features=24, kernel=3, groups="depthwise"), (9, 8, 12)),
  "depthwise, symmetric": (
    conv(features=12, kernel=3, stride=2, groups="depthwise", padding="SYMMETRIC"),
    (8, 8, 12),
  ),
  "1x7": (conv(features=5, kernel=(1, 7), act="relu"), (6, 9, 4)),
  "7x1, symmetric": (conv(features=5, kernel=(7, 1), padding="SYMMETRIC"), (6, 9, 4)),
  "3x5, stride 2x1": (conv(features=5, kernel=(3, 5), stride=(2, 1), act="relu6"), (8, 9, 4)),
  "dilated": (conv(features=5, kernel=3, dilation=2), (9, 8, 4)),
  "dilated 3x2, valid": (
    conv(features=5, kernel=(3, 2), dilation=(1, 4), padding="VALID"),
    (9, 8, 4),
  ),
  "dilated, pads": (conv(features=5, kernel=3, dilation=2, padding=((2, 1), (0, 4))), (6, 8, 4)),
  "grouped, 5x3, dilated": (
    conv(features=12, kernel=(5, 3), dilation=(1, 2), groups=4, stride=(1, 2)),
    (9, 8, 12),
  ),
  "depthwise, 1x5, stride 1x2": (
    conv(features=12, kernel=(1, 5), stride=(1, 2), groups="depthwise"),
    (9, 8, 12),
  ),
  "depthwise, dilated": (conv(features=12, kernel=3, dilation=2, groups="depthwise"), (9, 8, 12)),
  "depthwise, dilated, two each": (
    conv(features=24, kernel=(3, 2), dilation=(3, 1), groups="depthwise", padding="SYMMETRIC"),
    (9, 8, 12),
  ),
  "dense": (lambda x, _: Dense(33, name="dense")(GlobalAvgPool(name="pool")(x)), (3, 3, 40)),
  "add": (beside_conv(Add), (8, 8, 12)),
  "add, relu": (rectified(beside_conv(Add), "relu"), (8, 8, 12)),
  "add, relu6": (rectified(beside_conv(Add), "relu6"), (8, 8, 12)),
  "add to itself": (lambda x, _: Add(name="op")(x, x), (4, 4, 8)),
  "add what meets": (meeting(Add), (5, 4, 3)),
  "subtract": (beside_conv(Subtract), (8, 8, 12)),
  "subtract, relu": (rectified(beside_conv(Subtract), "relu"), (8, 8, 12)),
  "subtract, relu6": (rectified(beside_conv(Subtract), "relu6"), (8, 8, 12)),
  "subtract what meets": (meeting(Subtract), (5, 4, 3)),
  "subtract from what meets": (meeting(Subtract, swapped=True), (5, 4, 3)),
  "multiply by itself": (lambda x, _: Multiply(name="op")(x, x), (4, 4, 8)),
  "multiply what meets": (meeting(Multiply), (5, 4, 3)),
  "multiply by what meets": (meeting(Multiply, swapped=True), (5, 4, 3)),
  "maximum": (beside_conv(Maximum), (8, 8, 12)),
  "maximum of what meets": (meeting(Maximum), (5, 4, 3)),
  "minimum": (beside_conv(Minimum), (8, 8, 12)),
  "minimum of what meets": (meeting(Minimum, swapped=True), (5, 4, 3)),
  "multiply": (beside_conv(Multiply), (8, 8, 12)),
  "multiply, relu6": (rectified(beside_conv(Multiply), "relu6"), (8, 8, 12)),
  "squeeze-excite": (gate(None), (8, 8, 12)),
  "squeeze-excite, hard": (gate("hard_sigmoid"), (8, 8, 12)),
  "normalization": (lambda x, train: BatchNorm(act="relu", name="op")(x, train=train), (4, 4, 9)),
  "normalization of a vector": (normalised, (3, 3, 24)),
  "normalization behind a dense layer": (normalised_dense, (3, 3, 8)),
  "affine": (plain(Affine(0.5, -1.0)), (4, 5, 9)),
  "affine, relu6": (plain(Affine("trained", "fixed", act="relu6")), (4, 5, 9)),
  "affine of one channel": (plain(Affine(2.0)), (4, 5, 1)),
  "affine of a vector": (pooled(Affine("scalar", "trained", act="relu")), (3, 3, 24)),
  "affine of a vector of one": (pooled(Affine(3.0)), (3, 3, 1)),
  "affine of a vector, hard-sigmoid": (pooled(Affine(2.0, act="hard_sigmoid")), (3, 3, 24)),
  "affine behind a convolution": (behind(Affine("trained", 1.0), features=16), (5, 3, 8)),
  "affine behind a transposed convolution": (
    lambda x, train: Affine("trained", 1.0, act="relu", name="op")(
      ConvTranspose(6, kernel=3, stride=2, name="conv")(x, train=train)
    ),
    (3, 4, 5),
  ),
  "affine behind a normalization": (
    lambda x, train: Affine(2.0, act="relu6", name="op")(BatchNorm(name="norm")(x, train=train)),
    (3, 4, 5),
  ),
  "constant of each value": (
    lambda x, _: Reshape((3, 4, 5), name="back")(
      Affine(bias="trained", name="op")(Reshape((60,), name="flat")(x))
    ),
    (3, 4, 5),
  ),
  "positions": (
    lambda x, _: Reshape((3, 4, 5), name="back")(
      FourierPositions((3, 4), name="op")(Reshape((60,), name="flat")(x))
    ),
    (3, 4, 5),
  ),
  "mean": (plain(GlobalAvgPool()), (7, 7, 64)),
  "mean, kept axes": (plain(GlobalAvgPool(keepdims=True)), (5, 3, 64)),
  "relu": (plain(Activation("relu")), (5, 3, 64)),
  "relu6": (plain(Activation("relu6")), (5, 3, 64)),
  "hard-sigmoid": (rectified(conv(features=16, kernel=3), "hard_sigmoid"), (5, 3, 8)),
  "hard-swish": (rectified(conv(features=16, kernel=3), "hard_swish"), (5, 3, 8)),
  "hard-swish of a vector": (rectified(plain(GlobalAvgPool()), "hard_swish"), (5, 3, 64)),
  "sigmoid": (rectified(conv(features=16, kernel=3), "sigmoid"), (5, 3, 8)),
  "sigmoid of a vector": (rectified(plain(GlobalAvgPool()), "sigmoid"), (5, 3, 64)),
  "squeeze-excite, sigmoid": (sigmoid_gate, (8, 8, 12)),
  "silu": (rectified(conv(features=16, kernel=3), "silu"), (5, 3, 8)),
  "tanh": (rectified(conv(features=16, kernel=3), "tanh"), (5, 3, 8)),
  "tanh of a vector": (rectified(plain(GlobalAvgPool()), "tanh"), (5, 3, 64)),
  "gelu of a vector": (rectified(plain(GlobalAvgPool()), "gelu"), (5, 3, 64)),
  **{
    act: (rectified(conv(features=16, kernel=3), act), (5, 3, 8))
    for act, function in FUNCTIONS.items()
    if function.stored
  },
  "attention": (products, (3, 5, 8)),
  "long matrix products": (long_products, (5, 6, 8)),
  "softmax": (behind_conv(Softmax()), (5, 3, 8)),
  "softmax of a vector": (behind_conv(GlobalAvgPool(), Softmax()), (5, 3, 8)),
  "prelu": (behind_conv(PRelu()), (5, 3, 8)),
  "prelu of a vector": (behind_conv(GlobalAvgPool(), PRelu(shared=True)), (5, 3, 8)),
  "leaky": (behind_conv(LeakyRelu(0.1)), (5, 3, 8)),
  "leaky, flat": (behind_conv(LeakyRelu(0.001)), (5, 3, 8)),
  "leaky of a vector": (behind_conv(LeakyRelu(0.3), GlobalAvgPool()), (5, 3, 64)),
  "silu of a vector": (rectified(plain(GlobalAvgPool()), "silu"), (5, 3, 64)),
  "max pool": (plain(MaxPool(2, 2)), (9, 8, 8)),
  "max pool, symmetric": (plain(MaxPool(3, 2, padding="SYMMETRIC")), (8, 8, 8)),
  "average pool": (plain(AvgPool(3, 2)), (8, 9, 8)),
  "average pool of the whole map": (plain(AvgPool(8, 8)), (8, 8, 8)),
  "average pool that counts": (
    plain(AvgPool(3, 2, padding="SYMMETRIC", count_padding=True)),
    (8, 8, 8),
  ),
  "max pool, 1x3": (plain(MaxPool((1, 3), (1, 2))), (9, 8, 8)),
  "max pool, 3x2, pads": (plain(MaxPool((3, 2), (2, 1), ((2, 0), (1, 0)))), (9, 8, 8)),
  "average pool, 2x3": (plain(AvgPool((2, 3), (1, 2))), (8, 9, 8)),
  "average pool, symmetric": (plain(AvgPool(3, 2, padding="SYMMETRIC")), (8, 9, 8)),
  "average pool, 5x2, pads": (plain(AvgPool((5, 2), (3, 2), ((2, 1), (0, 1)))), (8, 9, 8)),
  "average pool, 1x5, that counts": (
    plain(AvgPool((1, 5), (1, 2), padding="SYMMETRIC", count_padding=True)),
    (8, 8, 8),
  ),
  "channel mean": (plain(ChannelMean()), (5, 4, 9)),
  "channel mean of a vector": (after_mean(ChannelMean()), (3, 2, 40)),
  "root mean square": (plain(RmsNorm()), (5, 4, 16)),
  "root mean square of 600": (plain(RmsNorm(1e-3)), (2, 3, 600)),
  "root mean square of a vector": (after_mean(RmsNorm()), (3, 2, 40)),
  "layer norm": (plain(LayerNorm()), (4, 5, 24)),
  "layer norm of tokens": (
    lambda x, _: Reshape((4, 5, 24), name="map")(
      LayerNorm(name="op")(Reshape((20, 24), name="tokens")(x))
    ),
    (4, 5, 24),
  ),
  "slice": (plain(Slice((1, 0), (None, -2))), (5, 6, 8)),
  "slice at steps": (plain(Slice(1, None, (2, 3))), (6, 8, 8)),
  "pad": (plain(Pad(((1, 0), (2, 3)))), (4, 5, 8)),
  "pad with a number": (plain(Pad(((1, 0), (2, 3)), 0.7)), (4, 5, 8)),
  "pad, mirrored": (plain(Pad(((1, 2), (3, 0)), mode="reflect")), (4, 5, 8)),
  "pad, mirrored to the side": (plain(Pad(((0, 0), (0, 1)), mode="reflect")), (4, 5, 8)),
  "pad, repeated": (plain(Pad(((2, 0), (1, 1)), mode="edge")), (4, 5, 8)),
  "pads of convolutions and pools": (padded, (9, 8, 3)),
  "mean of channels": (plain(ChannelMean()), (5, 4, 12)),
  "mean of some channels": (plain(ChannelMean(20)), (5, 4, 12)),
  "largest channel": (plain(ChannelMax()), (5, 4, 12)),
  "spatial attention": (attended, (6, 5, 3)),
  "global max pool": (plain(MaxPool((5, 4), 1, padding="VALID")), (5, 4, 8)),
  "reshapes": (decoded, (3, 4, 5)),
  "first half": (cut((6, 6), 0), (4, 4, 12)),
  "channels in between": (cut((3, 8, 1), 1), (4, 4, 12)),
  "halves": (swap((6, 6)), (4, 4, 12)),
  "parts": (swap((3, 8, 1)), (4, 4, 12)),
  "six parts": (swap((2,) * 6), (4, 4, 12)),
  "shuffle": (plain(ChannelShuffle(3)), (4, 4, 12)),
  "transposed 2x2": (transposed(features=5, kernel=2, stride=2), (5, 3, 12)),
  "transposed 3x3, relu": (transposed(features=7, kernel=3, stride=2, act="relu"), (5, 4, 12)),
  "transposed 4x4, relu6": (transposed(features=8, kernel=4, stride=2, act="relu6"), (4, 3, 9)),
  "transposed, valid": (transposed(features=4, kernel=3, stride=2, padding="VALID"), (4, 3, 6)),
  "transposed, wide steps": (transposed(features=4, kernel=(2, 1), stride=(3, 2)), (4, 3, 6)),
  "transposed, 3x5 pads": (
    transposed(features=4, kernel=(3, 5), stride=(2, 1), padding=((1, 2), (3, 2))),
    (4, 6, 6),
  ),
  "transposed, no steps": (transposed(features=6, kernel=3), (4, 5, 6)),
  "depth to space": (plain(DepthToSpace(2)), (3, 4, 12)),
  "depth to space, by three": (plain(DepthToSpace(3)), (2, 1, 18)),
  "space to depth": (plain(SpaceToDepth(2)), (6, 4, 5)),
  "nearest, doubled": (plain(Resize((10, 6))), (5, 3, 8)),
  "nearest, shrunk": (plain(Resize((3, 7), sampling="asymmetric")), (5, 9, 8)),
  "bilinear, doubled": (plain(Resize((10, 6), "bilinear")), (5, 3, 8)),
  "bilinear, shrunk": (plain(Resize((4, 11), "bilinear")), (7, 5, 8)),
  "bilinear, asymmetric": (plain(Resize((10, 7), "bilinear", "asymmetric")), (5, 3, 8)),
  "bilinear, corners": (plain(Resize((9, 6), "bilinear", "align_corners")), (5, 3, 8)),
}
STORED = {name for name in OPS if FUNCTIONS.get(name.split()[0], FUNCTIONS["relu"]).stored}
NARROW = ["attention", "long matrix products"]
ROOTS = [name for name in OPS if name.startswith(("root", "layer"))]
LEFT_OUT = {
  "xnnpack": {
    "nearest, doubled": {"RESIZE_NEAREST_NEIGHBOR"},
    "nearest, shrunk": {"RESIZE_NEAREST_NEIGHBOR"},
    **{name: {"CAST", "ADD", "GATHER"} for name in (*STORED, *ROOTS)},
    "max pool, symmetric": {"PADV2"},
    "max pool, 3x2, pads": {"PADV2"},
    "average pool": {"AVERAGE_POOL_2D"},
    "average pool of the whole map": {"AVERAGE_POOL_2D"},
    "average pool, 2x3": {"AVERAGE_POOL_2D"},
    "average pool, symmetric": {"AVERAGE_POOL_2D", "STRIDED_SLICE"},
    "average pool, 5x2, pads": {"AVERAGE_POOL_2D", "STRIDED_SLICE"},
    "six parts": {"CONCATENATION"},
    "slice at steps": {"STRIDED_SLICE"},
    "maximum": {"MAXIMUM"},
    "maximum of what meets": {"MAXIMUM"},
    "minimum": {"MINIMUM"},
    "minimum of what meets": {"MINIMUM"},
    "pad with a number": {"PADV2"},
    "pads of convolutions and pools": {"PADV2"},
    "leaky, flat": {"LEAKY_RELU"},
    "attention": {"BATCH_MATMUL", "SOFTMAX"},
    "long matrix products": {"BATCH_MATMUL"},
    **{name: {"SOFTMAX"} for name in OPS if name.startswith("softmax")},
  },
  "onnxruntime": {
    **{
      key: {"Pad"}
      for key in (
        *("pad", "pad with a number", "pads of convolutions and pools"),
        *("pad, mirrored", "pad, repeated", "pad, mirrored to the side"),
      )
    },
    "subtract": {"Sub"},
    "subtract, relu": {"Sub"},
    "subtract, relu6": {"Sub"},
    "subtract what meets": {"Sub"},
    "subtract from what meets": {"Sub"},
    "maximum": {"Max"},
    "maximum of what meets": {"Max"},
    "minimum": {"Min"},
    "minimum of what meets": {"Min"},
    "layer norm": {"Sub", "Transpose"},
    "layer norm of tokens": {"Sub"},
    **{name: {"Relu"} for name in ("relu", "prelu", "prelu of a vector")},
    "relu6": {"Clip"},
    "hard-sigmoid": {"HardSigmoid"},
    "hard-swish": {"HardSigmoid"},
    "hard-swish of a vector": {"HardSigmoid"},
    "space to depth": {"SpaceToDepth"},
    **{name: {"MatMul"} for name in OPS if name.startswith("bilinear")},
    **{name: {"Tanh"} for name in ("tanh", "tanh of a vector")},
  },
}

WITHOUT_16_BITS = {"tflm": {name for name in OPS if name.startswith("bilinear")}}

MIXED = {  # seeds of the widths of ops that are not all 16 bits in the test of these
  "affine of a vector": 1,
  "subtract": 7,
  "subtract from what meets": 3,
  "maximum of what meets": 2,
  "pads of convolutions and pools": 5,
  "spatial attention": 0,
  "reshapes": 4,
  "add, relu": 0,
  "multiply": 1,
  "squeeze-excite, hard": 2,
  "squeeze-excite, sigmoid": 6,
  "mean": 4,
  "hard-swish": 3,
  "average pool that counts": 5,
}


@pytest.fixture(scope="module")
def nodes(networks):
  """Every node of the ops' graphs."""
  graphs = [networks.graph_of(Lambda(function), shape)[0] for function, shape in OPS.values()]
  return [node for graph in graphs for node in graph.nodes]


@pytest.mark.parametrize(
  "name", [name for name in OPERATIONS if name not in (REQUANTIZE, CONSTANT)]
)
def test_every_operation_is_complete(name, nodes):
  """Each operation has an entry in every table; test_bit_equal_grids has the case of a Requantize.

  A Constant, which only files of others have, is no layer; ONNX refuses it by its name.
  """
  tables = {
    "quantize.integer.arithmetic.ARITHMETIC": ARITHMETIC,
    "export.emit.EMITTERS": emit.EMITTERS,
    "export.onnx_emit.EMITTERS": onnx_emit.EMITTERS,
    "export.c99.emit.EMITTERS": c_emit.EMITTERS,
    "OPS of this test": {node.op for node in nodes},
  }
  missing = [place for place, table in tables.items() if name not in table]
  assert not missing, f"{name} is missing in {', '.join(missing)}"
  operation, float32 = OPERATIONS[name], jnp.float32
  for node in (node for node in nodes if node.op == name):
    channels = [np.arange(shape[-1]) for shape in node.input_shapes]
    for sources, shape in zip(operation.route(node, *channels), node.output_shapes, strict=True):
      assert {len(source) for source in sources} <= {shape[-1]}, f"{name}: operation.route"
    kernel = kernel_shape(node)
    layer = kernel and tuple(jax.ShapeDtypeStruct(s, float32) for s in (kernel, kernel[-1:]))
    inputs = [jax.ShapeDtypeStruct(shape, float32) for shape in node.input_shapes]
    made = jax.eval_shape(lambda layer, *xs, node=node: run_node(node, layer, *xs), layer, *inputs)
    shapes = tuple(y.shape for y in made)
    assert shapes == node.output_shapes, f"{name}: operation.evaluate or the module's call"
    counts = [shape[-1] for shape in node.input_shapes], [s[-1] for s in node.output_shapes]
    fields = operation.resized(node, *counts)
    assert {**node.attrs, **fields} == dict(node.attrs), f"{name}: operation.resized"
    assert by_groups(node, np.zeros(kernel)).size if kernel else operation.macs(node) >= 0, (
      f"{name}: operation.groups or operation.macs"
    )


@pytest.mark.parametrize("act", [act for act in ACTIVATIONS if act is not None])
def test_every_activation_function_is_complete(act, nodes):
  function = FUNCTIONS.get(act, Function({}))
  tables = {
    "quantize.integer.functions.FUNCTIONS": FUNCTIONS,
    "OPS of this test": {node.attrs.get("act") for node in nodes},
  }
  if not function.stored and (function.tables or not function.gate):
    tables |= {
      "export.emit.FUSED or ALONE": {**emit.FUSED, **emit.ALONE},
      "export.onnx_emit.FUSED or ALONE": (*onnx_emit.FUSED, *onnx_emit.ALONE),
    }
  missing = [place for place, table in tables.items() if act not in table]
  missing += [
    f"the tables of {kernels.tables}"
    for kernels in KERNELS.values()
    if function.tables and not function.clips and kernels.tables not in function.tables
  ]
  assert not missing, f"{act} is missing in {', '.join(missing)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_an_op_is_bit_equal(name, kernels, networks, check):
  function, shape = OPS[name]
  left_out = set()
  for seed in range(4):
    quantized = networks.random_quantized(Lambda(function), shape, seed)
    result = check(quantized, images=8, seed=seed, kernels=kernels)
    assert (result.bit_equal, result.max_steps, result.images) == (1.0, 0, 8)
    numbers = jax.tree.leaves(quantized.with_kernels(kernels).program.arrays)
    assert all(np.asarray(n).dtype.itemsize <= 4 for n in numbers)  # JAX trains with no others
    left_out |= set(result.left_out)
  assert left_out == LEFT_OUT.get(kernels, {}).get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPS if name not in (*STORED, *ROOTS, *NARROW)])
def test_an_op_with_16_bit_activations_is_bit_equal(name, networks, check):
  function, shape = OPS[name]
  narrow = networks.random_quantized(Lambda(function), shape)
  bits = dict.fromkeys(narrow.grids, 16)
  if name in MIXED:
    drawn = np.random.default_rng(MIXED[name]).choice([8, 16], len(bits))
    bits = dict(zip(bits, drawn, strict=True))
  quantized = networks.with_widths(narrow, bits.get)
  images = networks.images_for(quantized, 4)
  for kernels in KERNELS_16:
    if name in WITHOUT_16_BITS.get(kernels, ()):
      with pytest.raises(ValueError, match=r"layer 'op'.*8 bits only"):
        quantized.with_kernels(kernels)
    else:
      result = check(quantized, images, kernels=kernels)
      assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_matrix_products_whose_second_array_has_zero_at_code_0_are_bit_equal(
  seed, kernels, networks, check
):
  """XNNPACK takes these, and rounds by its own rule."""
  quantized = networks.random_quantized(Lambda(OPS["attention"][0]), OPS["attention"][1], seed)
  grids = {
    tensor: grid if tensor.startswith("softmax") else grid._replace(zero_point=0)
    for tensor, grid in quantized.grids.items()
  }
  result = check(QuantizedModel(quantized.graph, grids, quantized.layers), 32, seed, kernels)
  left_out = {"xnnpack": ("SOFTMAX",) * 2}.get(kernels, ())
  assert (result.bit_equal, result.left_out) == (1.0, left_out)


def test_matrix_products_of_16_bit_activations_are_refused_by_the_layer(networks):
  narrow = networks.random_quantized(Lambda(OPS["attention"][0]), OPS["attention"][1])
  with pytest.raises(ValueError, match=r"layer 'scores0': .*MatMul runs on 8-bit integers only"):
    assert networks.with_widths(narrow, lambda name: 16).program


def test_the_hard_swish_operator_is_bit_equal(kernels, networks, check):
  function, shape = OPS["hard-swish"]
  for seed in range(4):
    quantized = networks.random_quantized(Lambda(function), shape, seed, lower=False)
    result = check(quantized, images=8, seed=seed, kernels=kernels)
    assert result.bit_equal == 1.0
    operators = {"xnnpack": ("HARD_SWISH",), "onnxruntime": ("HardSigmoid", "Mul")}
    assert result.left_out == operators.get(kernels, ())


def test_runtimes_round_differently(networks):
  """So that the tests above tell their arithmetics apart."""
  differing = {("xnnpack", "reference"): 0, ("reference", "tflm"): 0}
  for seed in range(20):
    quantized = networks.random_quantized(Lambda(OPS["dense"][0]), (3, 3, 40), seed)
    images = networks.images_for(quantized, 200, seed)
    for pair in differing:
      one, other = (quantized.with_kernels(name).integers(images) for name in pair)
      differing[pair] += int((one != other).sum())
  assert all(differing.values())


def two_inputs(op, left, right, output):
  """An op on the images and on their copy on another grid, both exact."""
  shape = (1, 4, 4, 8)
  conv = {"features": 8, "kernel": 1, "stride": 1, "groups": 1, "padding": "SAME", "act": None}
  graph = Graph(
    (
      Node("conv", "ConvNorm", conv, ("input",), ("conv",), (shape,), (shape,)),
      Node("op", op, {}, ("input", "conv"), ("op",), (shape, shape), (shape,)),
    ),
    shape,
    "op",
  )
  grids = {
    "input": Grid(np.float32(left), 3),
    "conv": Grid(np.float32(right), -7),
    "op": Grid(np.float32(output), 11),
  }
  return graph, grids


BELOW_256 = float(np.nextafter(np.float32(256), np.float32(0)))


@pytest.mark.slow
@pytest.mark.parametrize("op", ["Add", "Subtract"])
@pytest.mark.parametrize("left", [2**-10, 0.3, BELOW_256])
@pytest.mark.parametrize("right", [2**-10, 1.0, BELOW_256])
def test_sums_at_the_limits_of_their_ratios_are_bit_equal(
  op, left, right, kernels, networks, check
):
  graph, grids = two_inputs(op, left * 0.0625, right * 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), left, right)
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  left_out = {("Subtract", "onnxruntime"): ("Sub",)}.get((op, kernels), ())
  assert (result.bit_equal, result.left_out) == (1.0, left_out)


@pytest.mark.parametrize("ratio", [2**-16, 1 / 300, 1.0, BELOW_256])
def test_products_at_the_limits_of_their_ratios_are_bit_equal(ratio, kernels, networks, check):
  graph, grids = two_inputs("Multiply", 0.125, ratio * 0.5, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 0.125, ratio * 0.5)
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("ratio", [1e-15, 1e15])
def test_means_whose_grids_are_far_apart_are_bit_equal_once_they_are_widened(
  ratio, side, kernels, networks, check
):
  graph, _ = networks.graph_of(Lambda(OPS["mean"][0]), (side, side, 8))
  grids = {"input": Grid(np.float32(ratio), -100), "op": Grid(np.float32(1), 27)}
  widened = widen_grids(graph, grids, {})
  between = float(widened["input"].scale) / float(widened["op"].scale) / side**2
  assert 2.0**-32 <= between < 2.0**-31 or 2.0**7 < between < 2.0**8
  assert check(QuantizedModel(graph, widened, {}), kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-10, 3e-6, 2e7])
@pytest.mark.parametrize("ratio", [100.0, 1e-3, 1e-7])
def test_the_hard_swish_operator_is_bit_equal_where_its_shifts_leave_16_bits(
  scale, ratio, kernels, networks, check
):
  shape = (1, 16, 16, 1)
  node = Node("act", "Activation", {"act": "hard_swish"}, ("input",), ("act",), (shape,), (shape,))
  source, output = Grid(np.float32(scale), 123), Grid(np.float32(scale / ratio), 47)
  quantized = QuantizedModel(Graph((node,), shape, "act"), {"input": source, "act": output}, {})
  images = ((np.arange(-128, 128).reshape(shape) - 123) * source.scale).astype(np.float32)
  assert check(quantized, kernels=kernels, images=images).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [2**-32, 2**-24, 1.0, BELOW_256])
def test_convolutions_at_the_limits_of_their_factors_are_bit_equal(
  multiplier, kernels, networks, check
):
  graph, grids = two_inputs("Add", 0.0625, 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 1.0, 1.0)
  rng = np.random.default_rng(0)
  high = min(int(100 / multiplier) + 1, 2**30)
  layer = layer._replace(
    scales=np.full(8, multiplier, np.float32),
    bias=rng.integers(-high, high, 8).astype(np.int32),
    weights=np.minimum(layer.weights, 3) if multiplier > 1 else layer.weights,
  )
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.slow
@pytest.mark.parametrize("zero_point", [-128, -127, -64])
def test_a_ceiling_that_falls_between_two_codes_is_bit_equal(zero_point, kernels, networks, check):
  quantized = networks.random_quantized(Lambda(OPS["3x3, relu6"][0]), (9, 8, 12))
  scale = np.float32(6 / 100.5)
  assert np.float32(6) / scale == 100.5
  layer = quantized.layers["conv"]
  ratio = scale / quantized.grids["conv"].scale
  layer = layer._replace(scales=layer.scales * ratio, bias=layer.bias + np.int32(20_000))
  grids = {**quantized.grids, "conv": Grid(scale, zero_point)}
  quantized = QuantizedModel(quantized.graph, grids, {"conv": layer})
  even = np.rint(np.float32(100.5) + zero_point)
  quantized = quantized.with_kernels(kernels)
  highest = quantized.integers(networks.images_for(quantized, 8)).max()
  assert highest == (even if kernels in ("xnnpack", "onnxruntime") else 101 + zero_point)
  assert check(quantized, kernels=kernels).bit_equal == 1.0
