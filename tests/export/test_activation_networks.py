"""A network with an activation function goes through everything: training, calibration, files."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.export.interpreters import open_file
from jaxcompress.nn import (
  Activation,
  Add,
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  LeakyRelu,
  PRelu,
  fold,
  init_variables,
  trace,
)
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16

SHAPE = (8, 8, 3)
ACTS = ("silu", "tanh", "gelu", "leaky", "prelu")

pytestmark = pytest.mark.usefixtures("optimized")


def activation(act, name):
  """An activation function as a module."""
  own = {"leaky": partial(LeakyRelu, 0.1), "prelu": PRelu}
  return own.get(act, partial(Activation, act))(name=name)


class Activated(nn.Module):
  """Activation functions of a convolution, of a sum and of a vector."""

  act: str
  num_classes: int = 5

  @nn.compact
  def __call__(self, x, *, train):
    x = activation(self.act, name="stem_act")(ConvNorm(8, kernel=3, name="stem")(x, train=train))
    y = activation(self.act, name="act")(ConvNorm(8, kernel=3, name="conv")(x, train=train))
    x = activation(self.act, name="last_act")(Add(name="add")(x, y))
    pooled = activation(self.act, name="pooled_act")(GlobalAvgPool(name="mean")(x))
    return Endpoints(Dense(self.num_classes, name="head")(pooled), pooled)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_a_network_that_was_distilled_in_integers_is_bit_equal(act, images, check):
  teacher = Activated("relu")
  recipe = jc.Recipe(
    student=Activated(act),
    teachers=(teacher,),
    loss=jc.distill.kd(),
    optimizer=optax.sgd(0.01),
    quantize=jc.quantize.int8(),
  )
  batch = {"image": images, "label": np.arange(16) % 5}
  state = jc.init_state(
    recipe,
    jax.random.key(0),
    batch,
    teacher_variables=(init_variables(teacher, jax.random.key(1), SHAPE),),
  )
  for _ in range(2):
    state, metrics = jc.distill_step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("act", ["silu", "tanh", "gelu", "leaky"])
def test_a_network_trains_in_the_arithmetic_of_a_device(act, images):
  plan = jc.quantize.int8(freeze_norm_step=1, exact_step=2, kernels="tflm")
  recipe = jc.Recipe(student=Activated(act), optimizer=optax.sgd(0.01), quantize=plan)
  batch = {"image": images, "label": np.arange(16) % 5}
  state = jc.init_state(recipe, jax.random.key(0), batch)
  for _ in range(3):
    state, metrics = jc.train_step(state, batch)
  assert np.isfinite(metrics["loss"]) and state.skipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_a_calibrated_network_is_bit_equal_and_near_to_float(act, images, check):
  model = Activated(act)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  quantized = jc.quantize.post_training(model, variables, images, progress=False)
  expected = np.asarray(model.apply(variables, images, train=False).logits)
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
    error = np.asarray(quantized.with_kernels(kernels)(images)) - expected
    assert np.square(error).mean() < 0.01 * expected.var()
  found = jc.quantize.analyze(quantized, model, variables, images, progress=False)
  assert "stem_act" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_a_smaller_network_is_saved_packed_and_lowered(act, images, tmp_path):
  model = Activated(act)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  importance = jc.prune.channel_importance(model, variables, images[:1])
  chosen = jc.prune.choose_channels(importance, 0.5, divisor=2)
  small, variables = jc.prune.remove_channels(model, variables, chosen)
  expected = small.apply(variables, images, train=False).logits
  jc.models.save(tmp_path / "small.safetensors", small, variables)
  loaded, read = jc.models.load(tmp_path / "small.safetensors")
  actual = loaded.apply(read, images, train=False).logits
  np.testing.assert_array_equal(actual, expected)
  quantized = jc.quantize.post_training(small, variables, images, method="minmax", progress=False)
  assert quantized.graph.nodes[0].output_shapes[0][-1] < 8
  packed = jc.export.load_packed(jc.export.packed(quantized, tmp_path / "small.jcz"))
  np.testing.assert_array_equal(packed(images), quantized(images))
  program = jc.export.load_stablehlo(jc.export.stablehlo(quantized, tmp_path / "small.stablehlo"))
  codes = quantized.quantize_input(images)
  np.testing.assert_array_equal(program(codes), quantized.run(codes))


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_float_files_compute_the_float_network(act, images, tmp_path):
  model = Activated(act)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  graph = trace(model, variables, images[:1])
  expected = np.asarray(model.apply(variables, images[:1], train=False).logits)
  onnx = jc.export.onnx_float(graph, fold(graph, variables), tmp_path / "float.onnx")
  tflite = jc.export.tflite_float(graph, fold(graph, variables), tmp_path / "float.tflite")
  opened = {
    open_file("onnxruntime", str(onnx)): images[:1].transpose(0, 3, 1, 2),
    open_file("xnnpack", str(tflite)): images[:1],
  }
  for interpreter, fed in opened.items():
    interpreter.allocate()
    interpreter.feed(fed)
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.read()[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["silu", "tanh", "leaky", "prelu"])
def test_a_network_of_16_bits_is_bit_equal_and_near_to_float(act, images, check):
  model = Activated(act)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  quantized = jc.quantize.post_training(
    model, variables, images, method="minmax", activation_bits=16, progress=False
  )
  expected = np.asarray(model.apply(variables, images, train=False).logits)
  for kernels in KERNELS_16:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
    error = np.asarray(quantized.with_kernels(kernels)(images)) - expected
    assert np.square(error).mean() < 0.01 * expected.var()


@pytest.mark.slow
def test_tables_of_files_have_8_bits_among_16(images, check):
  model = Activated("gelu")
  variables = init_variables(model, jax.random.key(0), SHAPE)
  options = {"method": "minmax", "activation_bits": 16, "progress": False}
  with pytest.raises(
    ValueError, match=r"layer 'stem_act': act: 'gelu' runs on 8-bit .* Rule\(match="
  ):
    jc.quantize.post_training(model, variables, images, **options)
  rule = jc.quantize.Rule(match="act", activations=jc.quantize.ema_range(8))
  quantized = jc.quantize.post_training(model, variables, images, rules=(rule,), **options)
  bits = {name: grid.bits for name, grid in quantized.grids.items()}
  assert (bits["stem"], bits["stem_act"], bits["add"]) == (16, 8, 16)
  for kernels in KERNELS_16:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
