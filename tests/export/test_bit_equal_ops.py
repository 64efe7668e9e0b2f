"""LiteRT with XNNPACK and exact evaluation give the same integers, op by op."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Graph,
  MaxPool,
  Multiply,
  Node,
  Split,
)
from jaxcompress.quantize import Grid, QuantizedModel


class Lambda(nn.Module):
  """A function of (images, train) as a module."""

  function: object

  @nn.compact
  def __call__(self, x, *, train):
    return self.function(x, train)


def conv(**attributes):
  return lambda x, train: ConvNorm(name="conv", **attributes)(x, train=train)


def beside_conv(op):
  """An op on the images and a convolution of them."""
  return lambda x, train: op(name="op")(x, ConvNorm(x.shape[-1], name="conv")(x, train=train))


def rectified(op, act):
  return lambda x, train: Activation(act, name="act")(op(x, train))


def gate(x, train):
  pooled = GlobalAvgPool(keepdims=True, name="pool")(x)
  return Multiply(name="gate")(
    x, ConvNorm(x.shape[-1], norm=None, name="conv")(pooled, train=train)
  )


def swap(sizes):
  return lambda x, train: Concat(name="cat")(*reversed(Split(sizes, name="split")(x)))


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
  "dense": (lambda x, _: Dense(33, name="dense")(GlobalAvgPool(name="pool")(x)), (3, 3, 40)),
  "add": (beside_conv(Add), (8, 8, 12)),
  "add, relu": (rectified(beside_conv(Add), "relu"), (8, 8, 12)),
  "add, relu6": (rectified(beside_conv(Add), "relu6"), (8, 8, 12)),
  "multiply": (beside_conv(Multiply), (8, 8, 12)),
  "multiply, relu6": (rectified(beside_conv(Multiply), "relu6"), (8, 8, 12)),
  "squeeze-excite": (gate, (8, 8, 12)),
  "mean": (plain(GlobalAvgPool()), (7, 7, 64)),
  "mean, kept axes": (plain(GlobalAvgPool(keepdims=True)), (5, 3, 64)),
  "relu": (plain(Activation("relu")), (5, 3, 64)),
  "relu6": (plain(Activation("relu6")), (5, 3, 64)),
  "max pool": (plain(MaxPool(2, 2)), (9, 8, 8)),
  "max pool, symmetric": (plain(MaxPool(3, 2, padding="SYMMETRIC")), (8, 8, 8)),
  "average pool": (plain(AvgPool(3, 2)), (8, 9, 8)),
  "average pool that counts": (
    plain(AvgPool(3, 2, padding="SYMMETRIC", count_padding=True)),
    (8, 8, 8),
  ),
  "halves": (swap((6, 6)), (4, 4, 12)),
  "parts": (swap((3, 8, 1)), (4, 4, 12)),
  "six parts": (swap((2,) * 6), (4, 4, 12)),
  "shuffle": (plain(ChannelShuffle(3)), (4, 4, 12)),
}
NOT_DELEGATED = {
  "max pool, symmetric": {"PADV2"},
  "average pool": {"AVERAGE_POOL_2D"},
  "six parts": {"CONCATENATION"},
}


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_bit_equal(name, networks, check):
  function, shape = OPS[name]
  left_out = set()
  for seed in range(6):
    result = check(networks.random_quantized(Lambda(function), shape, seed), images=8, seed=seed)
    assert (result.bit_equal, result.max_steps, result.images) == (1.0, 0, 8)
    left_out |= set(result.left_out)
  assert left_out == NOT_DELEGATED.get(name, set())


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


@pytest.mark.parametrize("left", [2**-10, 0.3, BELOW_256])
@pytest.mark.parametrize("right", [2**-10, 1.0, BELOW_256])
def test_additions_at_the_limits_of_their_ratios_are_bit_equal(left, right, networks, check):
  graph, grids = two_inputs("Add", left * 0.0625, right * 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), left, right)
  result = check(QuantizedModel(graph, grids, {"conv": layer}))
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("ratio", [2**-16, 1 / 300, 1.0, BELOW_256])
def test_products_at_the_limits_of_their_ratios_are_bit_equal(ratio, networks, check):
  graph, grids = two_inputs("Multiply", 0.125, ratio * 0.5, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 0.125, ratio * 0.5)
  result = check(QuantizedModel(graph, grids, {"conv": layer}))
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("multiplier", [2**-32, 2**-24, 1.0, BELOW_256])
def test_convolutions_at_the_limits_of_their_factors_are_bit_equal(multiplier, networks, check):
  graph, grids = two_inputs("Add", 0.0625, 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 1.0, 1.0)
  rng = np.random.default_rng(0)
  high = min(int(100 / multiplier) + 1, 2**30)
  layer = layer._replace(
    scales=np.full(8, multiplier, np.float32),
    bias=rng.integers(-high, high, 8).astype(np.int32),
    weights=np.minimum(layer.weights, 3) if multiplier > 1 else layer.weights,
  )
  result = check(QuantizedModel(graph, grids, {"conv": layer}))
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("zero_point", [-128, -127, -64])
def test_a_ceiling_that_falls_between_two_codes_is_bit_equal(zero_point, networks, check):
  quantized = networks.random_quantized(Lambda(OPS["3x3, relu6"][0]), (9, 8, 12))
  scale = np.float32(6 / 100.5)
  assert np.float32(6) / scale == 100.5
  layer = quantized.layers["conv"]
  ratio = scale / quantized.grids["conv"].scale
  layer = layer._replace(scales=layer.scales * ratio, bias=layer.bias + np.int32(20_000))
  grids = {**quantized.grids, "conv": Grid(scale, zero_point)}
  quantized = QuantizedModel(quantized.graph, grids, {"conv": layer})
  ceiling = np.rint(np.float32(100.5) + zero_point)
  assert quantized.integers(networks.images_for(quantized, 8)).max() == ceiling
  assert check(quantized).bit_equal == 1.0
