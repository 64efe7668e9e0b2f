"""A network with a logistic gate goes through everything: training, calibration, pruning, files."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.nn import (
  Activation,
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  Multiply,
  init_variables,
)
from jaxcompress.quantize.integer.runtimes import KERNELS

SHAPE = (12, 12, 3)

pytestmark = pytest.mark.usefixtures("optimized")


class Gated(nn.Module):
  num_classes: int = 5

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(16, kernel=3, act="relu", name="stem")(x, train=train)
    y = GlobalAvgPool(keepdims=True, name="pool")(x)
    y = ConvNorm(16, norm=None, name="expand")(y, train=train)
    x = Multiply(name="scale")(x, Activation("sigmoid", name="gate")(y))
    x = ConvNorm(16, kernel=3, act="relu6", name="conv")(x, train=train)
    pooled = GlobalAvgPool(name="mean")(x)
    return Endpoints(Dense(self.num_classes, name="head")(pooled), pooled)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)


@pytest.mark.slow
def test_a_trained_network_with_a_sigmoid_is_bit_equal(images, kernels, check):
  plan = jc.quantize.int8()
  recipe = jc.Recipe(student=Gated(), optimizer=optax.sgd(0.01), quantize=plan)
  batch = {"image": images, "label": np.arange(16) % 5}
  state = jc.init_state(recipe, jax.random.key(0), batch)
  state, metrics = jc.train_step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
def test_a_smaller_network_with_a_sigmoid_is_calibrated_and_analyzed(images, check):
  model, variables = Gated(), init_variables(Gated(), jax.random.key(0), SHAPE)
  importance = jc.prune.channel_importance(model, variables, images[:1])
  small, variables = jc.prune.remove_channels(
    model, variables, jc.prune.choose_channels(importance, 0.5, divisor=4)
  )
  quantized = jc.quantize.post_training(small, variables, images, progress=False)
  sizes = {node.name: node.output_shapes[0][-1] for node in quantized.graph.nodes}
  assert sizes["gate"] == sizes["scale"] == sizes["stem"] < 16
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
  found = jc.quantize.analyze(quantized, small, variables, images, progress=False)
  assert "gate" in str(found)
