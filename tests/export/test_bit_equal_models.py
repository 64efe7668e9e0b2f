"""Every runtime and exact evaluation give the same integers, in architectures of the library."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export, models
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.nn import Activation, Add, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize.integer.runtimes import KERNELS

pytestmark = pytest.mark.usefixtures("optimized")


class SmallSwish(nn.Module):
  """Squeeze-excite and hard-swish, as in MobileNetV3."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, padding="SYMMETRIC", name="stem")(x, train=train)
    x = Activation("hard_swish", name="stem_act")(x)
    y = ConvNorm(24, name="expand")(x, train=train)
    y = Activation("hard_swish", name="expand_act")(y)
    y = SqueezeExcite(4, name="se")(y, train=train)
    y = ConvNorm(8, name="project")(y, train=train)
    x = GlobalAvgPool(keepdims=True, name="pool")(Add(name="add")(x, y))
    x = ConvNorm(32, norm=None, name="head")(x, train=train)
    return Dense(10, name="classifier")(Activation("hard_swish", name="head_act")(x))


@pytest.mark.slow
@pytest.mark.parametrize("hard_swish", ["gate", "operator"])
def test_a_network_with_gates_is_bit_equal_and_near_float(hard_swish, networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(100, 24, 24, 3)).astype(np.float32)
  variables = networks.trained_like(SmallSwish(), (24, 24, 3))
  logits, *_, quantized = networks.calibrated(
    SmallSwish(), variables, images, hard_swish=hard_swish
  )
  for kernels in KERNELS:
    path = networks.write(quantized, tmp_path, kernels)
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.images) == (1.0, 100)
    if kernels == "xnnpack":
      assert result.left_out == (() if hard_swish == "gate" else ("HARD_SWISH",) * 3)
  assert np.corrcoef(quantized(images).ravel(), logits.ravel())[0, 1] > 0.98


MODELS = {
  "mobilenet_v3": (lambda: models.mobilenet_v3_small(10, 0.35), ("xnnpack", "tflm")),
  "shufflenet_v2": (lambda: models.shufflenet_v2(10, 0.5), ("reference",)),
  "mlperf_resnet8": (models.mlperf_resnet8, ("xnnpack", "tflm", "reference")),
  "mlperf_mobilenet_v1": (models.mlperf_mobilenet_v1, ("xnnpack", "tflm", "reference")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_is_bit_equal(name, networks, tmp_path):
  make, runtimes = MODELS[name]
  images = np.random.default_rng(1).normal(size=(64, 32, 32, 3)).astype(np.float32)
  variables = networks.trained_like(make(), (32, 32, 3))
  logits, *_, quantized = networks.calibrated(make(), variables, images)
  for kernels in runtimes:
    path = networks.write(quantized, tmp_path, kernels)
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.max_steps) == (1.0, 0)
    assert set(result.left_out) <= {"HardSigmoid"}
  assert np.corrcoef(quantized(images).ravel(), logits.ravel())[0, 1] > 0.97
