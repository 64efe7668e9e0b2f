"""ONNX files for TensorRT: signed codes around zero, and the same integers as everywhere."""

import flax.linen as nn
import jax
import numpy as np
import onnx
import optax
import pytest
from onnx import numpy_helper

from jaxcompress import export, quantize
from jaxcompress.nn import Activation, Add, ChannelShuffle, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.training import Recipe, init_state, train_step

SHAPE = (8, 8, 3)


class Net(nn.Module):
  """A residual, a shuffle and all activation functions that have no gate."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu6", name="stem")(x, train=train)
    y = ConvNorm(8, kernel=3, groups="depthwise", name="depthwise")(x, train=train)
    x = Activation("relu", name="relu")(Add(name="add")(x, y))
    x = ConvNorm(8, name="project")(ChannelShuffle(2, name="shuffle")(x), train=train)
    return Dense(5, name="logits")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(networks, images):
  variables = networks.trained_like(Net(), SHAPE)
  return quantize.post_training(
    Net(), variables, images[:16], method="minmax", symmetric=True, progress=False
  )


@pytest.fixture(scope="module")
def path(quantized, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tensorrt")
  return export.onnx(quantized, folder / "net.onnx", target="tensorrt", batch=1)


def test_the_target_takes_the_file_and_onnx_finds_it_sound(path, quantized):
  onnx.checker.check_model(onnx.load(path), full_check=True)
  assert export.lint(path, "tensorrt") == ()
  assert {grid.zero_point for grid in quantized.grids.values()} == {0}


def test_the_file_holds_the_integers_of_the_model_and_float_biases(path, quantized):
  graph = onnx.load(path).graph
  constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
  makers = {name: node for node in graph.node for name in node.output}
  sources, seen = {node.name: node.inputs[0] for node in quantized.graph.nodes}, 0
  for node in graph.node:
    if node.op_type == "QuantizeLinear":
      scale, zero = (constants[name] for name in node.input[1:])
      assert (zero.dtype, zero) == (np.int8, 0) and scale > 0
    if node.op_type == "Conv":
      seen += 1
      name = node.name.removesuffix("/out")
      layer, source = quantized.layers[name], quantized.grids[sources[name]]
      weights = constants[makers[node.input[1]].input[0]]
      np.testing.assert_array_equal(weights, layer.weights.transpose(3, 2, 0, 1))
      bias = layer.bias * np.float64(np.float32(source.scale) * layer.scales)
      np.testing.assert_allclose(constants[node.input[2]], bias, rtol=1e-6)
  assert seen == 3


def test_it_computes_what_the_device_does_but_for_the_edges_of_rounding(
  path, quantized, images, tmp_path
):
  found = export.verify(path, quantized, images)  # onnxruntime sums in float here
  assert found.max_steps <= 1 and found.bit_equal > 0.95
  for file in (
    export.onnx(quantized, tmp_path / "a.onnx"),
    export.tflite(quantized, tmp_path / "a.tflite"),
  ):
    assert export.verify(file, quantized, images).bit_equal == 1.0


@pytest.mark.slow
def test_training_keeps_zero_in_the_middle(images):
  plan = quantize.int8(symmetric=True)
  recipe = Recipe(student=Net(), optimizer=optax.sgd(0.01), quantize=plan)
  batch = {"image": images[:8], "label": np.arange(8) % 5}
  state, _ = train_step(init_state(recipe, jax.random.key(0), batch), batch)
  grids = state.quantized().grids
  assert {grid.zero_point for grid in grids.values()} == {0}
  np.testing.assert_allclose(grids["input"].scale, np.abs(images[:8]).max() / 127, rtol=1e-6)


class Gated(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = Activation("hard_swish", name="swish")(ConvNorm(4, name="conv")(x, train=train))
    return GlobalAvgPool(name="pool")(x)


class Functions(nn.Module):
  act: str

  @nn.compact
  def __call__(self, x, *, train):
    x = Activation(self.act, name="act")(ConvNorm(4, kernel=3, name="conv")(x, train=train))
    return GlobalAvgPool(name="pool")(x)


@pytest.mark.parametrize("act", ["gelu", "tanh", "mish", "log_sigmoid"])
def test_functions_are_computed_in_float_before_they_are_rounded(act, networks, images, tmp_path):
  model = Functions(act)
  quantized = quantize.post_training(
    model, networks.trained_like(model, SHAPE), images[:8], method="minmax",
    symmetric=True, progress=False,
  )  # fmt: skip
  if act == "log_sigmoid":
    with pytest.raises(
      ValueError, match=r"layer 'act' .* 'log_sigmoid'; ONNX files of jaxcompress hold"
    ):
      export.onnx(quantized, tmp_path / "net.onnx", target="tensorrt")
    return
  path = export.onnx(quantized, tmp_path / "net.onnx", target="tensorrt")
  found = export.verify(path, quantized, images[:8])  # other floats in the last bits
  assert found.max_steps <= 1


def test_what_the_target_does_not_take_is_refused_with_the_way_out(networks, images, tmp_path):
  path = tmp_path / "net.onnx"
  plain = networks.random_quantized(Net(), SHAPE)
  with pytest.raises(
    ValueError, match=r"'tensorrt' has activations with zero point 0.*symmetric=True"
  ):
    export.onnx(plain, path, target="tensorrt")
  with pytest.raises(ValueError, match="target: 'tflm' takes"):
    export.onnx(plain, path, target="tflm")
  gated = quantize.post_training(
    Gated(), networks.trained_like(Gated(), SHAPE), images[:8], method="minmax",
    symmetric=True, progress=False,
  )  # fmt: skip
  with pytest.raises(ValueError, match="'swish/gate' has -128; that is a gate"):
    export.onnx(gated, path, target="tensorrt")
  assert not path.exists()
