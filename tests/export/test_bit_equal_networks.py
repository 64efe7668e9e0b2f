"""Every runtime and exact evaluation give the same integers, in whole networks."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export
from jaxcompress.export.contents import read_operators
from jaxcompress.models.blocks import InvertedResidual
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  MaxPool,
  Multiply,
  Norm,
  Split,
  fold,
)
from jaxcompress.nn.replay import replay
from jaxcompress.nn.tracing import trace_init
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.quantize.sites import find_sites

pytestmark = pytest.mark.usefixtures("optimized")


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


def squeeze_excite(act):
  def block(x, train, name):
    y = GlobalAvgPool(keepdims=True, name=f"{name}_pool")(x)
    y = ConvNorm(4, act="relu", norm=None, name=f"{name}_reduce")(y, train=train)
    y = ConvNorm(x.shape[-1], act=act, norm=None, name=f"{name}_expand")(y, train=train)
    return Multiply(name=f"{name}_multiply")(x, y)

  return block


def swished(x, train, name):
  x = ConvNorm(x.shape[-1], kernel=3, name=f"{name}_conv")(x, train=train)
  return Activation("hard_swish", name=f"{name}_act")(x)


def gated(act):
  def block(x, train, name):
    return Multiply(name=f"{name}_multiply")(x, Activation(act, name=f"{name}_act")(x))

  return block


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
  "squeeze_excite": squeeze_excite(None),
  "hard_excite": squeeze_excite("hard_sigmoid"),
  "swished": swished,
  "gated": gated("hard_sigmoid"),
  "logistic": gated("sigmoid"),
  "shuffled": shuffled,
  "max_pool": lambda x, train, name: MaxPool(3, 1, padding="SYMMETRIC", name=name)(x),
  "average_pool": lambda x, train, name: AvgPool(2, 1, name=name)(x),
  "counting_pool": lambda x, train, name: AvgPool(3, 2, count_padding=True, name=name)(x),
}


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
  blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3),
  size=st.tuples(st.integers(6, 11), st.integers(6, 11), st.sampled_from([4, 6])),
  seed=st.integers(0, 1000),
)
def test_networks_of_random_blocks_are_bit_equal(blocks, size, seed, networks, tmp_path_factory):
  quantized = networks.random_quantized(RandomNet(tuple(blocks)), size, seed)
  folder = tmp_path_factory.mktemp("random")
  images = networks.images_for(quantized, 16, seed)
  for kernels in KERNELS:
    path = networks.write(quantized, folder, kernels)
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.max_steps, result.top1_agreement) == (1.0, 0, 1.0)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
  blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3),
  picks=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
  seed=st.integers(0, 1000),
)
def test_any_tensors_of_a_network_can_be_its_outputs(
  blocks, picks, seed, networks, tmp_path_factory
):
  whole = RandomNet(tuple(blocks))
  shape = jax.ShapeDtypeStruct((1, 9, 8, 6), np.float32)
  graph, _ = trace_init(whole, shape)
  tensors = [tensor for node in graph.nodes for tensor in node.outputs]
  picked = {f"part/{i}": tensors[pick % len(tensors)] for i, pick in enumerate(picks)}
  outputs = {"logits": "classifier", **picked}
  model = replay(graph, Endpoints("classifier", outputs=FrozenDict(outputs)))
  quantized = networks.random_quantized(model, shape.shape[1:], seed)
  assert dict(quantized.graph.outputs) == outputs
  folder = tmp_path_factory.mktemp("outputs")
  images = networks.images_for(quantized, 8, seed)
  for kernels in KERNELS:
    path = networks.write(quantized, folder, kernels)
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.max_steps) == (1.0, 0)
    assert result.outputs == dict.fromkeys(outputs, 1.0)
  path = export.stablehlo(quantized, folder / "exact.stablehlo")
  found = export.load_stablehlo(path)(quantized.quantize_input(images))
  again = export.load_packed(export.packed(quantized, folder / "small.jcz"))
  assert again.graph.outputs == quantized.graph.outputs
  for name, integers in again.integers(images).items():
    np.testing.assert_array_equal(found[name], integers)


@pytest.mark.slow
def test_a_network_of_all_blocks_computes_the_same_in_float(networks, tmp_path):
  model, shape = RandomNet(tuple(sorted(BLOCKS))), (12, 12, 6)
  images = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
  variables = networks.trained_like(model, shape)
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
      expanded = expand * x.shape[-1]
      x = InvertedResidual(features, expanded, stride, **options, name=f"block{i}")(x, train=train)
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


@pytest.mark.slow
@pytest.mark.parametrize("model", [SmallMobileNet(), SmallResNet()], ids=["mobilenet", "resnet"])
def test_a_whole_network_is_bit_equal_on_every_image(model, networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(300, 24, 24, 3)).astype(np.float32)
  variables = networks.trained_like(model, (24, 24, 3))
  logits, graph, layers, quantized = networks.calibrated(model, variables, images)
  path = export.tflite(quantized, tmp_path / "int8.tflite")
  result = export.verify(path, quantized, images)
  assert (result.bit_equal, result.max_steps, result.top1_agreement) == (1.0, 0, 1.0)
  assert (result.images, result.left_out) == (300, ())
  for kernels in ("reference", "tflm", "onnxruntime"):
    path = networks.write(quantized, tmp_path, kernels)
    assert export.verify(path, quantized.with_kernels(kernels), images[:100]).bit_equal == 1.0
  assert np.corrcoef(quantized(images).ravel(), logits.ravel())[0, 1] > 0.97
  path = tmp_path / "int8.tflite"
  assert not any(operator.is_float for operator in read_operators(path))
  whole = export.tflite_float(graph, layers, tmp_path / "float.tflite")
  runtime = export.Runtime(whole)
  device = np.concatenate([runtime(image[None]) for image in images[:20]])
  np.testing.assert_allclose(device, logits[:20], rtol=1e-3, atol=1e-3)
  assert path.stat().st_size < whole.stat().st_size / 2


@pytest.mark.slow
def test_a_graph_whose_branch_is_still_zero_is_bit_equal(networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(40, 16, 16, 3)).astype(np.float32)
  variables = networks.trained_like(SmallResNet(), (16, 16, 3))
  norm, stats = variables["params"]["conv2_0"], variables["batch_stats"]["conv2_0"]
  norm["scale"], norm["bias"], stats["mean"] = (1e-9 * np.ones(8, np.float32) for _ in range(3))
  *_, quantized = networks.calibrated(SmallResNet(), variables, images)
  result = export.verify(export.tflite(quantized, tmp_path / "a.tflite"), quantized, images)
  assert (result.bit_equal, result.left_out) == (1.0, ())


def test_fusing_is_what_the_device_runs(networks):
  graph, _ = networks.graph_of(SmallResNet(), (16, 16, 3))
  assert graph == find_sites(graph).graph
  assert [n.attrs["act"] for n in graph.nodes if n.op == "Add"] == ["relu"] * 3
