"""Vela gives an Ethos-U the numbers by which TFLite-Micro rounds."""

import flax.linen as nn
import pytest

from jaxcompress import export
from jaxcompress.nn import Add, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize import QuantizedModel

pytest.importorskip("ethosu.mlw_codec", reason="Vela, of the targets extra, is not installed")
from benchmarks import npu_stream


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    y = ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depthwise")(x, train=train)
    x = Add(name="add")(x, ConvNorm(8, name="project")(y, train=train))
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def made(networks, tmp_path_factory):
  quantized = networks.random_quantized(Net(), (16, 16, 3))
  return quantized, export.tflite(quantized, tmp_path_factory.mktemp("npu") / "net.tflite")


@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u55-32"])
def test_biases_factors_shifts_weights_and_rounding_are_those_of_tflite_micro(made, accelerator):
  channels, weights, others, roundings = npu_stream.compare(*made, accelerator)
  count, _, total = channels.split()
  assert count == total and int(total) > 20
  count, _, total = weights.split()
  assert count == total and others == "0"
  assert "convolution double" in roundings and "convolution n" not in roundings


def test_another_bias_and_another_weight_are_found(made):
  quantized, path = made
  name = next(iter(quantized.layers))
  layer = quantized.layers[name]

  def found(**changed):
    layers = {**quantized.layers, name: layer._replace(**changed)}
    other = QuantizedModel(quantized.graph, quantized.grids, layers)
    return npu_stream.compare(other, path, "ethos-u55-128")

  count, _, total = found(bias=layer.bias + 1)[0].split()
  assert int(total) - int(count) == len(layer.bias)
  weights = layer.weights.copy()
  weights[weights == weights.max()] = 0
  channels, kept, others, _ = found(weights=weights)
  assert len(set(channels.split(" of "))) == len(set(kept.split(" of "))) == 1
  assert int(others) == (layer.weights == layer.weights.max()).sum()


def test_what_vela_makes_runs_in_no_runtime_here(made):
  compiled = npu_stream.compiled(made[1], "ethos-u55-128")
  for kernels in ("xnnpack", "reference"):
    with pytest.raises(ValueError, match="does not run in LiteRT"):
      export.Runtime(compiled, kernels=kernels)
