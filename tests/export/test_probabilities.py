"""A network that ends in a softmax: probabilities beside the logits, which losses take."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.nn import (
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  Graph,
  Node,
  Softmax,
  init_variables,
)
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.functions import FIXED
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS

SHAPE = (8, 8, 3)

pytestmark = pytest.mark.usefixtures("optimized")


class Classifier(nn.Module):
  """Probabilities of the classes, of the whole image or of each place."""

  returns: str = "both"
  maps: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    if self.maps:
      logits = ConvNorm(5, norm=None, name="head")(x, train=train)
    else:
      logits = Dense(5, name="head")(GlobalAvgPool(name="mean")(x))
    probabilities = Softmax(name="softmax")(logits)
    if self.returns == "probabilities":
      return probabilities
    return Endpoints(logits, outputs={"probabilities": probabilities})


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)


@pytest.mark.slow
def test_a_trained_network_has_logits_and_probabilities(images, check):
  recipe = jc.Recipe(student=Classifier(), optimizer=optax.sgd(0.1), quantize=jc.quantize.int8())
  batch = {"image": images, "label": np.arange(8) % 5}
  state = jc.init_state(recipe, jax.random.key(0), batch)
  state, metrics = jc.train_step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  assert quantized.grids["softmax"] == FIXED["Softmax"][8]
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("maps", [False, True])
def test_probabilities_alone_are_calibrated_and_exported(maps, images, check, tmp_path):
  model = Classifier(returns="probabilities", maps=maps)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  quantized = jc.quantize.post_training(model, variables, images, method="minmax", progress=False)
  expected = np.asarray(model.apply(variables, images, train=False))
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
    found = np.asarray(quantized.with_kernels(kernels)(images))
    np.testing.assert_allclose(found, expected, atol=0.02)
    path = jc.export.stablehlo(quantized.with_kernels(kernels), tmp_path / "net.stablehlo")
    codes = quantized.quantize_input(images)
    lowered = jc.export.load_stablehlo(path)(codes)
    np.testing.assert_array_equal(lowered, quantized.with_kernels(kernels).run(codes))


def test_a_student_whose_logits_are_probabilities_is_refused(images):
  recipe = jc.Recipe(student=Classifier(returns="probabilities"), optimizer=optax.sgd(0.1))
  batch = {"image": images, "label": np.arange(8) % 5}
  with pytest.raises(
    ValueError, match="student: its logits are the probabilities of layer 'softmax'"
  ):
    jc.init_state(recipe, jax.random.key(0), batch)


def test_channels_that_a_softmax_joins_stay():
  class Middle(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = ConvNorm(8, act="relu", name="stem")(x, train=train)
      x = Softmax(name="softmax")(ConvNorm(8, name="conv")(x, train=train))
      return Dense(5, name="head")(GlobalAvgPool(name="mean")(x))

  variables = init_variables(Middle(), jax.random.key(0), SHAPE)
  importance = jc.prune.channel_importance(Middle(), variables, np.ones((1, *SHAPE)))
  small, _ = jc.prune.remove_channels(
    Middle(), variables, jc.prune.choose_channels(importance, 0.5, divisor=4)
  )
  features = {layer.name: layer.fields.get("features") for layer in small.layers}
  assert (features["stem"], features["conv"]) == (4, 8)


def test_micro_files_with_too_many_channels_for_a_softmax_are_refused(tmp_path):
  shape = (1, 600)
  node = Node("end", "Softmax", {}, ("input",), ("end",), (shape,), (shape,))
  grids = {"input": Grid(np.float32(0.1), 0), "end": FIXED["Softmax"][8]}
  quantized = QuantizedModel(Graph((node,), shape, "end"), grids, {})
  jc.export.tflite(quantized, tmp_path / "any.tflite")
  with pytest.raises(ValueError, match=r"SOFTMAX of layer 'end': .* aborts .*600 channels"):
    jc.export.tflite(quantized, tmp_path / "micro.tflite", target="tflm")
