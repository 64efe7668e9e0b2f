"""LiteRT with XNNPACK and exact evaluation give the same integers, op by op and in whole networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export
from jaxcompress.models.mobilenet_v2 import InvertedResidual
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
  Norm,
  Split,
  fold,
  parameters,
)
from jaxcompress.quantize import Grid, QuantizedModel, absmax, affine, assemble, find_sites, levels


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


class RandomNet(nn.Module):
  """Blocks by name, one after the other."""

  blocks: tuple[str, ...]

  @nn.compact
  def __call__(self, x, *, train):
    for i, block in enumerate(self.blocks):
      x = BLOCKS[block](x, train, f"{i}_{block}")
    return Dense(7, name="classifier")(GlobalAvgPool(name="pool")(x))


def residual(act):
  def block(x, train, name):
    y = ConvNorm(x.shape[-1], kernel=3, act="relu", name=f"{name}/one")(x, train=train)
    y = ConvNorm(x.shape[-1], name=f"{name}/two")(y, train=train)
    y = Add(name=f"{name}/add")(x, y)
    return Activation(act, name=f"{name}/act")(y) if act else y

  return block


def preactivated(x, train, name):
  y = Activation("relu", name=f"{name}/act")(x)
  y = ConvNorm(x.shape[-1], kernel=3, name=f"{name}/conv")(y, train=train)
  return Add(name=f"{name}/add")(x, y)


def squeeze_excite(x, train, name):
  y = GlobalAvgPool(keepdims=True, name=f"{name}/pool")(x)
  y = ConvNorm(4, act="relu", norm=None, name=f"{name}/reduce")(y, train=train)
  y = ConvNorm(x.shape[-1], norm=None, name=f"{name}/expand")(y, train=train)
  return Multiply(name=f"{name}/multiply")(x, y)


def shuffled(x, train, name):
  left, right = Split((2, x.shape[-1] - 2), name=f"{name}/split")(x)
  right = ConvNorm(right.shape[-1], act="relu6", name=f"{name}/conv")(right, train=train)
  return ChannelShuffle(2, name=f"{name}/shuffle")(Concat(name=f"{name}/concat")(left, right))


def convolution(**attributes):
  return lambda x, train, name: ConvNorm(name=name, **attributes)(x, train=train)


def depthwise(x, train, name):
  options = {
    "kernel": 3,
    "stride": 2,
    "groups": "depthwise",
    "padding": "SYMMETRIC",
    "act": "relu6",
  }
  return ConvNorm(x.shape[-1], name=name, **options)(x, train=train)


BLOCKS = {
  "conv": convolution(features=8, kernel=3, act="relu6"),
  "wide": convolution(features=24, padding="SYMMETRIC", act="relu"),
  "grouped": convolution(features=12, kernel=3, groups=2, padding=((1, 0), (0, 1))),
  "depthwise": depthwise,
  "residual": residual(None),
  "residual_relu": residual("relu"),
  "preactivated": preactivated,
  "squeeze_excite": squeeze_excite,
  "shuffled": shuffled,
  "max_pool": lambda x, train, name: MaxPool(3, 1, padding="SYMMETRIC", name=name)(x),
  "average_pool": lambda x, train, name: AvgPool(2, 1, name=name)(x),
  "counting_pool": lambda x, train, name: AvgPool(3, 2, count_padding=True, name=name)(x),
}


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(
  blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
  size=st.tuples(st.integers(6, 11), st.integers(6, 11), st.sampled_from([4, 6])),
  seed=st.integers(0, 1000),
)
def test_networks_of_random_blocks_are_bit_equal(blocks, size, seed, networks, tmp_path_factory):
  quantized = networks.random_quantized(RandomNet(tuple(blocks)), size, seed)
  path = export.tflite(quantized, tmp_path_factory.mktemp("random") / "model.tflite")
  result = export.verify(path, quantized, networks.images_for(quantized, 16, seed))
  assert (result.bit_equal, result.max_steps, result.top1_agreement) == (1.0, 0, 1.0)


class SmallMobileNet(nn.Module):
  """Inverted residuals, with the padding of torchvision."""

  @nn.compact
  def __call__(self, x, *, train):
    options = {"padding": "SYMMETRIC", "norm": Norm(), "zero_residual": False}
    x = ConvNorm(8, kernel=3, stride=2, padding="SYMMETRIC", act="relu6", name="stem")(
      x, train=train
    )
    for i, (features, expand, stride) in enumerate(((8, 1, 1), (16, 6, 2), (16, 6, 1), (24, 6, 2))):
      x = InvertedResidual(features, expand, stride, **options, name=f"block{i}")(x, train=train)
    x = ConvNorm(64, act="relu6", name="head")(x, train=train)
    return Dense(10, name="classifier")(GlobalAvgPool(name="pool")(x))


class SmallResNet(nn.Module):
  """Basic blocks with projections, a first max pool, and a rectifier that two layers read."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    x = MaxPool(3, 2, padding="SYMMETRIC", name="max_pool")(x)
    for i, (features, stride) in enumerate(((8, 1), (16, 2), (16, 1))):
      y = ConvNorm(features, kernel=3, stride=stride, act="relu", name=f"conv1_{i}")(x, train=train)
      y = ConvNorm(features, kernel=3, name=f"conv2_{i}")(y, train=train)
      if stride > 1:
        x = ConvNorm(features, stride=stride, name=f"shortcut_{i}")(x, train=train)
      x = Activation("relu", name=f"relu_{i}")(Add(name=f"add_{i}")(x, y))
    return Dense(10, name="classifier")(GlobalAvgPool(name="pool")(x))


def trained_like(model, shape, seed=0):
  """Variables with negative and zero gammas, and channels whose weights are all zero."""
  rng = np.random.default_rng(seed)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)  # noqa: E731

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind == "kernel":
      kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
      return np.where(rng.random(shape[-1]) < 0.1, 0.0, kernel).astype(np.float32)
    if kind == "scale":
      gamma = rng.normal(1.0, 0.3, shape) * rng.choice([1, 1, 1, 1, -1], shape)
      return np.where(rng.random(shape) < 0.1, 0.0, gamma).astype(np.float32)
    other = rng.uniform(0.3, 2.0, shape) if kind == "var" else rng.normal(0, 0.3, shape)
    return other.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def calibrated(model, variables, images, networks):
  """Float logits, and the quantized model with the ranges of the images."""
  graph, key_of = networks.graph_of(model, images.shape[1:])

  @jax.jit
  def forward(variables, images):
    seen = {"input": images}

    def remember(next_fun, args, kwargs, context):
      result = next_fun(*args, **kwargs)
      if context.method_name == "__call__" and context.module.path:
        seen["/".join(context.module.path)] = result
      return result

    with nn.intercept_methods(remember):
      return model.apply(variables, images, train=False), seen

  logits, seen = forward(variables, images)
  grids = {}
  for tensor, key in key_of.items():
    low, high = np.min(seen[key]), np.max(seen[key])
    scale, zero_point = affine(low, high, levels(8, symmetric=False))
    grids[tensor] = Grid(np.float32(scale), int(zero_point))
  layers = fold(graph, variables)
  scales = {
    name: np.asarray(absmax(8).grid((), (), parameters(variables["params"], name)["kernel"])[0])
    for name in layers
  }
  scales = {name: value.reshape(-1) for name, value in scales.items()}
  return np.asarray(logits), graph, layers, assemble(graph, layers, scales, grids)


@pytest.mark.parametrize("model", [SmallMobileNet(), SmallResNet()], ids=["mobilenet", "resnet"])
def test_a_whole_network_is_bit_equal_on_every_image(model, networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(300, 24, 24, 3)).astype(np.float32)
  variables = trained_like(model, (24, 24, 3))
  logits, graph, layers, quantized = calibrated(model, variables, images, networks)
  path = export.tflite(quantized, tmp_path / "int8.tflite")
  result = export.verify(path, quantized, images)
  assert (result.bit_equal, result.max_steps, result.top1_agreement) == (1.0, 0, 1.0)
  assert (result.images, result.left_out) == (300, ())
  assert np.corrcoef(quantized(images).ravel(), logits.ravel())[0, 1] > 0.97
  assert not any(operator.is_float for operator in export.read_operators(path))
  whole = export.tflite_float(graph, layers, tmp_path / "float.tflite")
  runtime = export.Runtime(whole)
  device = np.concatenate([runtime(image[None]) for image in images[:20]])
  np.testing.assert_allclose(device, logits[:20], rtol=1e-3, atol=1e-3)
  assert path.stat().st_size < whole.stat().st_size / 2


def test_a_graph_whose_branch_is_still_zero_is_bit_equal(networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(40, 16, 16, 3)).astype(np.float32)
  variables = trained_like(SmallResNet(), (16, 16, 3))
  norm, stats = variables["params"]["conv2_0"], variables["batch_stats"]["conv2_0"]
  norm["scale"], norm["bias"], stats["mean"] = (1e-9 * np.ones(8, np.float32) for _ in range(3))
  *_, quantized = calibrated(SmallResNet(), variables, images, networks)
  result = export.verify(export.tflite(quantized, tmp_path / "a.tflite"), quantized, images)
  assert (result.bit_equal, result.left_out) == (1.0, ())


def test_fusing_is_what_the_device_runs(networks):
  graph, _ = networks.graph_of(SmallResNet(), (16, 16, 3))
  assert graph == find_sites(graph).graph
  assert [n.attrs["act"] for n in graph.nodes if n.op == "Add"] == ["relu"] * 3
