"""Networks whose files read uint8 images, whatever their normalization."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxcompress import export, quantize
from jaxcompress.data import Preprocess
from jaxcompress.export.contents import read_operators
from jaxcompress.nn import ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize import Rule
from jaxcompress.training import Recipe, init_state, train_step

SHAPE = (8, 8, 3)
RGB = Preprocess(center=(123.7, 116.3, 103.5), scale=(58.4, 57.1, 57.4), per_image=False)
GREY = Preprocess(center=100.0, scale=50.0, per_image=False)
PLAN = {"method": "minmax", "progress": False}


class Net(nn.Module):
  """Its first convolution pads with zeros, which are the channels' means."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).integers(40, 200, (64, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def variables(networks):
  return networks.trained_like(Net(), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_a_normalization_per_channel_becomes_a_layer(bits, images, variables, tmp_path):
  model, moved, pixels = export.read_pixels(Net(), variables, RGB)
  plain = Net().apply(variables, RGB(images), train=False)
  np.testing.assert_allclose(
    model.apply(moved, pixels(images), train=False), plain, rtol=1e-4, atol=1e-4
  )
  span = export.pixel_range(pixels)
  quantized = quantize.post_training(
    model, moved, images, bits=bits, preprocess=pixels, input_range=span, **PLAN
  )
  levels = 2 ** (bits - 1) - 1
  assert (quantized.layers["normalize"].weights == levels).all()
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8")
  every = np.random.default_rng(1).integers(0, 256, images.shape, np.uint8)
  assert export.verify(path, quantized, every).bit_equal == 1.0
  assert np.corrcoef(quantized(images).ravel(), plain.ravel())[0, 1] > 0.9


def test_one_normalization_for_all_channels_needs_its_range_alone(images, variables, tmp_path):
  span = export.pixel_range(GREY)
  quantized = quantize.post_training(
    Net(), variables, images, preprocess=GREY, input_range=span, **PLAN
  )
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8")
  assert export.verify(path, quantized, images).bit_equal == 1.0
  narrow = quantize.post_training(Net(), variables, images, preprocess=GREY, **PLAN)
  export.tflite(narrow, path, input="uint8")  # looks codes up
  assert "GATHER" in {operator.name for operator in read_operators(path)}
  assert export.verify(path, narrow, images).bit_equal == 1.0


def test_training_keeps_the_range_of_pixels(images, tmp_path):
  rule = Rule(match="input", activations=quantize.fixed_range(*export.pixel_range(GREY)))
  recipe = Recipe(
    student=Net(),
    optimizer=optax.sgd(0.01),
    preprocess=GREY,
    quantize=quantize.int8(rules=(rule,)),
  )
  batch = {"image": images[:8], "label": np.arange(8) % 5}
  state, _ = train_step(init_state(recipe, jax.random.key(0), batch), batch)
  quantized = state.quantized()
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8")
  assert export.verify(path, quantized, images).bit_equal == 1.0


@pytest.mark.parametrize(
  ("preprocess", "message"),
  [
    (Preprocess(), "a file that reads pixels needs Preprocess"),
    (RGB, "one scale and one zero point for all channels.*export.read_pixels"),
    (Preprocess(center=127.5, per_image=False), "center 127.5 must be a whole pixel"),
    (Preprocess(center=300.0, per_image=False), "center 300.0 must be a whole pixel"),
  ],
)
def test_what_is_no_range_of_pixels_says_why_and_what_to_do(preprocess, message):
  with pytest.raises(ValueError, match=message):
    export.pixel_range(preprocess)


def test_normalization_of_each_image_is_no_layer(variables):
  with pytest.raises(ValueError, match="which depends on the whole image"):
    export.read_pixels(Net(), variables, Preprocess())


def test_a_fixed_range_must_hold_zero():
  for low, high in ((0.5, 1.0), (-1.0, -0.5), (0.0, 0.0)):
    with pytest.raises(ValueError, match="must hold zero and something else"):
      quantize.fixed_range(low, high)
