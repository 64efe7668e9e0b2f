"""The report's facts about a file on small devices."""

import sys

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export, models, quantize
from jaxcompress.nn import Activation, ConvNorm, GlobalAvgPool, init_variables
from jaxcompress.pipeline.outcome import device_facts, environment
from jaxcompress.report import Run


class Wide(nn.Module):
  """A stride that the NPU has not."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(3, kernel=3, stride=4, groups="depthwise", name="far")(x, train=train)
    return GlobalAvgPool(name="pool")(Activation("relu", name="relu")(x))


def written(model, path):
  import jax

  variables = init_variables(model, jax.random.key(0), (16, 16, 3))
  images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
  quantized = quantize.post_training(model, variables, images, method="minmax", progress=False)
  return export.tflite(quantized, path)


@pytest.mark.slow
def test_a_whole_network_is_on_the_npu_and_its_arena_is_measured(tmp_path):
  pytest.importorskip("tflite_micro")
  pytest.importorskip("ethosu.vela")
  path = written(models.resnet8(3), tmp_path / "net.tflite")
  facts = device_facts(path)
  assert facts["arena_bytes"] == export.arena(path)
  placed, _, whole, *_ = facts["npu"].split()
  assert placed == whole and facts["npu"].endswith("operators on the NPU")


def test_what_the_cpu_computes_is_named_with_the_reason(tmp_path):
  pytest.importorskip("ethosu.vela")
  npu = device_facts(written(Wide(), tmp_path / "net.tflite"))["npu"]
  assert "2 of 3 operators on the NPU; on the CPU: DEPTHWISE_CONV_2D of relu (" in npu
  assert "at most three cells (stride 4)" in npu


def test_tools_that_are_not_installed_say_nothing(tmp_path, monkeypatch):
  path = written(Wide(), tmp_path / "net.tflite")
  for package in ("tflite_micro", "ethosu"):
    monkeypatch.setitem(sys.modules, package, None)
  assert device_facts(path) == {}


def test_the_environment_is_described():
  facts = environment()
  assert facts["version"] and facts["device"] and facts["packages"]["numpy"] == np.__version__
  Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200, **facts)
