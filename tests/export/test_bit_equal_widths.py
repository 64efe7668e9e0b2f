"""Whole networks of 16-bit and of mixed activations, by rule, in every runtime."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxcompress import export, quantize
from jaxcompress.export.contents import read_operators
from jaxcompress.models.blocks import SqueezeExcite, convolved
from jaxcompress.nn import Activation, Add, ConvNorm, Dense, GlobalAvgPool, MaxPool, init_variables
from jaxcompress.nn.tracing import is_leaf_call, module_path
from jaxcompress.quantize import Rule, ema_range
from jaxcompress.quantize.integer.runtimes import KERNELS_16
from jaxcompress.training import Recipe, init_state, train_step

pytestmark = pytest.mark.usefixtures("optimized")

SHAPE = (12, 12, 3)


class Attentive(nn.Module):
  """A residual block of MobileNetV3 with squeeze-and-excitation."""

  @nn.compact
  def __call__(self, x, *, train):
    x = convolved(x, 8, kernel=3, stride=2, act="hard_swish", name="stem", train=train)
    y = convolved(x, 16, act="hard_swish", name="expand", train=train)
    y = convolved(
      y, 16, kernel=3, groups="depthwise", act="hard_swish", name="depthwise", train=train
    )
    y = SqueezeExcite(8, name="se")(y, train=train)
    x = Add(name="add")(x, ConvNorm(8, name="project")(y, train=train))
    return Dense(4, name="classifier")(GlobalAvgPool(name="pool")(x))


class Residual(nn.Module):
  """A basic block behind a max pool."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu6", name="stem")(x, train=train)
    x = MaxPool(2, 2, name="max_pool")(x)
    y = ConvNorm(8, kernel=3, act="relu", name="conv1")(x, train=train)
    y = ConvNorm(8, kernel=3, name="conv2")(y, train=train)
    x = Activation("relu", name="relu")(Add(name="add")(x, y))
    return Dense(4, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(32, *SHAPE)).astype(np.float32)
  return {"image": image, "label": rng.integers(0, 4, 32).astype(np.int32)}


def trained(model, plan, batch, steps=3):
  recipe = Recipe(student=model, optimizer=optax.sgd(0.05), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(steps):
    state, _ = train_step(state, batch)
  return state


def bits_of(quantized):
  return {name: grid.bits for name, grid in quantized.grids.items()}


def check_everywhere(quantized, images, path):
  export.tflite(quantized, path)
  for kernels in KERNELS_16:
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)
  assert not any(operator.is_float for operator in read_operators(path))
  return result


@pytest.mark.slow
def test_attention_in_16_bits_by_the_helper_is_bit_equal(batch, tmp_path):
  plan = quantize.int8(rules=quantize.squeeze_excite_16bit())
  state = trained(Attentive(), plan, batch)
  quantized = state.quantized()
  wide = {name for name, bits in bits_of(quantized).items() if bits == 16}
  assert wide == {"depthwise_act/int16", "se/pool", "se/reduce", "se/expand"}
  assert [n.name for n in quantized.graph.nodes if n.op == "Requantize"] == [
    "depthwise_act/int16",
    "se/expand/int8",
  ]
  check_everywhere(quantized, batch["image"], tmp_path / "a.tflite")
  names = {(operator.name, operator.version) for operator in read_operators(tmp_path / "a.tflite")}
  assert {("QUANTIZE", 1), ("QUANTIZE", 2), ("MEAN", 3), ("CONV_2D", 4), ("MUL", 2)} <= names


def simulated(state, images):
  """Logits of the training pass, and what each leaf op reads in it."""
  recipe, reads = state.recipe, {}

  def spy(next_fun, args, kwargs, context):
    if is_leaf_call(context):
      reads[module_path(context.module)] = args
    return next_fun(*args, **kwargs)

  def call(variables, images):
    with nn.intercept_methods(spy):
      return recipe.student.apply(variables, images, train=False), {}

  quantized = quantize.transform(recipe.student, recipe.quantize)
  output, _, _ = quantized.apply(*state.quantizer, state.variables, images, train=False, call=call)
  return output, reads


@pytest.mark.slow
def test_training_sees_what_layers_of_8_bits_read_of_16(batch, tmp_path):
  rules = (Rule(match="input|stem|conv1|add", activations=ema_range(16)),)
  state = trained(Residual(), quantize.int8(rules=rules), batch)
  quantized = state.quantized()
  check_everywhere(quantized, batch["image"], tmp_path / "a.tflite")
  wide = {name for name, bits in bits_of(quantized).items() if bits == 16}
  assert wide == {"input", "stem", "max_pool", "conv1", "conv2/int16", "relu"}
  logits, reads = simulated(state, batch["image"][:4])
  for reader, tensor in (("conv2", "conv1/int8"), ("pool", "relu/int8")):
    grid = quantized.grids[tensor]
    assert grid.zero_point == -128  # nothing lies below zero
    codes = np.asarray(reads[reader][0]) / grid.scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=0.01)
    assert 128 < codes.max() < 256
  steps = (logits - quantized(batch["image"][:4])) / quantized.grids["classifier"].scale
  assert np.abs(steps).max() < 2.5


@pytest.mark.slow
def test_16_bits_after_training_are_bit_equal_and_nearer_to_float(batch, tmp_path):
  model = Attentive()
  variables = init_variables(model, jax.random.key(1), SHAPE)
  weights = quantize.absmax(8)  # the kernels that files hold, so that only activations are rounded
  variables["params"] = jax.tree.map(
    lambda w: weights.apply((), (), w)[0] if w.ndim > 1 else w, variables["params"]
  )
  images = batch["image"][:8]  # so few that all of them calibrate
  logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
  errors = {}
  for bits in (8, 16):
    quantized = quantize.post_training(
      model, variables, images, method="minmax", activation_bits=bits, progress=False
    )
    errors[bits] = np.abs(quantized(images) - logits).max()
  assert set(bits_of(quantized).values()) == {16}
  assert errors[16] < errors[8] / 30
  check_everywhere(quantized, images, tmp_path / "a.tflite")
  assert quantized.integers(images[:1]).dtype == np.int16
  with pytest.raises(
    ValueError, match="activation_bits: 12 is out of range; it must be 2 to 8, or 16"
  ):
    quantize.post_training(model, variables, images, activation_bits=12)
