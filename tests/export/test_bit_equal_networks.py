"""LiteRT with XNNPACK and exact evaluation give the same integers, in whole networks."""

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
  MaxPool,
  Multiply,
  Norm,
  Split,
  fold,
  parameters,
)
from jaxcompress.quantize import Grid, absmax, affine, assemble, find_sites, levels


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
    y = ConvNorm(x.shape[-1], kernel=3, act="relu", name=f"{name}_one")(x, train=train)
    y = ConvNorm(x.shape[-1], name=f"{name}_two")(y, train=train)
    y = Add(name=f"{name}_add")(x, y)
    return Activation(act, name=f"{name}_act")(y) if act else y

  return block


def preactivated(x, train, name):
  y = Activation("relu", name=f"{name}_act")(x)
  y = ConvNorm(x.shape[-1], kernel=3, name=f"{name}_conv")(y, train=train)
  return Add(name=f"{name}_add")(x, y)


def squeeze_excite(x, train, name):
  y = GlobalAvgPool(keepdims=True, name=f"{name}_pool")(x)
  y = ConvNorm(4, act="relu", norm=None, name=f"{name}_reduce")(y, train=train)
  y = ConvNorm(x.shape[-1], norm=None, name=f"{name}_expand")(y, train=train)
  return Multiply(name=f"{name}_multiply")(x, y)


def shuffled(x, train, name):
  left, right = Split((2, x.shape[-1] - 2), name=f"{name}_split")(x)
  right = ConvNorm(right.shape[-1], act="relu6", name=f"{name}_conv")(right, train=train)
  return ChannelShuffle(2, name=f"{name}_shuffle")(Concat(name=f"{name}_concat")(left, right))


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


def test_a_network_of_all_blocks_computes_the_same_in_float(networks, tmp_path):
  model, shape = RandomNet(tuple(sorted(BLOCKS))), (12, 12, 6)
  images = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
  variables = trained_like(model, shape)
  graph, _ = networks.graph_of(model, shape)
  path = export.tflite_float(graph, fold(graph, variables), tmp_path / "float.tflite")
  runtime = export.Runtime(path)
  device = np.concatenate([runtime(image[None]) for image in images])
  expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
  np.testing.assert_allclose(device, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


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
