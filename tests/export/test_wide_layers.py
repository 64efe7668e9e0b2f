"""Layers whose sums come near to what the runtimes' accumulators hold, in the runtimes."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export, quantize
from jaxcompress.export.runtime import Runtime
from jaxcompress.nn import INPUT, AvgPool, Concat, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize import QuantizedModel, Rule, ema_range
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.runtimes import KERNELS_16


class Lone(nn.Module):
  """One layer."""

  layer: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    return self.layer(x, train=train) if isinstance(self.layer, ConvNorm) else self.layer(x)


def of_layer(networks, layer, shape, integers, scale, bits, zero_point=0):
  """A network of one layer, whose input has scale 1."""
  graph, _ = networks.graph_of(Lone(layer), shape)
  grids = {INPUT: Grid(np.float32(1), zero_point, bits)}
  grids[graph.output] = Grid(np.float32(scale), zero_point if scale == 1 else 0, bits)
  return QuantizedModel(graph, grids, {graph.nodes[0].name: integers} if integers else {})


def extremes(quantized, seed=0):
  """Codes at both ends of their grid, and between."""
  grid, shape = quantized.grids[INPUT], quantized.graph.input_shape[1:]
  low, high = grid.low + grid.zero_point, grid.high + grid.zero_point
  rng = np.random.default_rng(seed)
  codes = [np.full(shape, value) for value in (high, low, -1, 1)]
  codes += [rng.integers(low, high + 1, shape), rng.choice([low, high], shape)]
  return np.stack(codes).astype(grid.dtype)


def check_codes(quantized, codes, tmp_path, names):
  """Every runtime against exact evaluation; gives the integers."""
  for name in names:
    model = quantized.with_kernels(name)
    path = export.tflite(model, tmp_path / "net.tflite")
    runtime, expected = Runtime(path, kernels=name), model.run(codes)
    found = np.concatenate([np.array(runtime(image[None])) for image in codes])
    np.testing.assert_array_equal(found, expected)
  return expected


@pytest.mark.slow
def test_16_bit_dense_layers_are_bit_equal_beyond_int32(networks, tmp_path):
  inputs = 90_000
  weights = np.full((inputs, 3), 127, np.int8)
  weights[:, 1] = -127
  weights[::2, 2] = -126
  scales = np.full(3, 1 / (127 * inputs), np.float32)
  integers = Integers(weights, scales, np.int64([5, -(2**33), 2**20]))
  quantized = of_layer(networks, Dense(3, name="layer"), (1, 1, inputs), integers, 1, 16)
  logits = check_codes(quantized, extremes(quantized), tmp_path, KERNELS_16)
  assert logits[0, 0] == 32767 and logits[1, 0] == -32768 and (logits[2:4, 0] == [-1, 1]).all()


@pytest.mark.slow
def test_16_bit_convolutions_are_bit_equal_beyond_int32(networks, tmp_path):
  weights = np.full((3, 3, 7_500, 2), 125, np.int8)
  weights[..., 1] = -127
  integers = Integers(weights, np.full(2, 2.0**-23, np.float32), np.int64([-(2**34), 9]))
  layer = ConvNorm(2, kernel=3, norm=None, name="layer")
  quantized = of_layer(networks, layer, (3, 2, 7_500), integers, 1, 16)
  check_codes(quantized, extremes(quantized), tmp_path, KERNELS_16)


def test_8_bit_sums_up_to_the_last_int32_are_bit_equal(networks, tmp_path):
  inputs = 66_000
  weights = np.stack([np.full(inputs, 127), np.full(inputs, -127)], 1).astype(np.int8)
  room = 2**31 - 2**8 - 1 - 127 * 255 * inputs
  integers = Integers(weights, np.full(2, 2.0**-24, np.float32), np.int32([room, -room]))
  layer = Dense(2, name="layer")
  quantized = of_layer(networks, layer, (1, 1, inputs), integers, 1, 8, zero_point=-128)
  check_codes(quantized, extremes(quantized), tmp_path, ("xnnpack", "reference", "tflm"))


@pytest.mark.parametrize(
  ("bits", "shape", "names"),
  [(16, (254, 258, 2), KERNELS_16), (8, (700, 600, 2), ("xnnpack", "reference", "tflm"))],
)
def test_means_over_large_maps_are_bit_equal(bits, shape, names, networks, tmp_path):
  quantized = of_layer(networks, GlobalAvgPool(name="layer"), shape, None, 0.75, bits)
  logits = check_codes(quantized, extremes(quantized), tmp_path, names)
  assert logits[0, 0] == 2 ** (bits - 1) - 1 and logits[1, 0] == -(2 ** (bits - 1))


@pytest.mark.parametrize("kernel", [2, 9])
def test_16_bit_averages_with_padding_counted_are_bit_equal(kernel, networks, tmp_path):
  layer = AvgPool(kernel, 2, padding="SYMMETRIC", count_padding=True, name="layer")
  quantized = of_layer(networks, layer, (10, 9, 3), None, 1, 16)
  averages = check_codes(quantized, extremes(quantized), tmp_path, KERNELS_16)
  assert averages.max() == 32767


class Averages(nn.Module):
  """Averages of noise, which are far smaller than what is averaged."""

  kernel: int

  @nn.compact
  def __call__(self, x, *, train):
    low = AvgPool(self.kernel, self.kernel, padding="VALID", name="average")(x)
    large = ConvNorm(2, norm=None, act="relu", name="large")(low, train=train)
    return Dense(3, name="head")(GlobalAvgPool(name="mean")(Concat(name="cat")(low, large)))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kernel", [22, 23, 40])
def test_averages_too_wide_for_a_convolution_stay_pools(kernel, bits, networks, tmp_path):
  shape = (2 * kernel, 2 * kernel + 1, 2)
  variables = networks.trained_like(Averages(kernel), shape)
  images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
  options = {"method": "minmax", "activation_bits": bits, "progress": False}
  quantized = quantize.post_training(Averages(kernel), variables, images, **options)
  assert quantized.graph.nodes[0].op == ("AvgPool" if kernel > 22 else "ConvNorm")
  for name in ("xnnpack", "tflm"):
    path = networks.write(quantized, tmp_path, name)
    assert export.verify(path, quantized.with_kernels(name), images).bit_equal == 1.0


class Pool(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(2, norm=None, name="stem")(x, train=train)
    return GlobalAvgPool(name="pool")(x)


def test_what_a_refused_mean_advises_helps(networks, tmp_path):
  shape = (256, 256, 1)
  variables = networks.trained_like(Pool(), shape)
  images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
  options = {"method": "minmax", "activation_bits": 16, "progress": False}
  with pytest.raises(
    ValueError, match=r"layer 'pool': .* 65536 cells .* at most 65534 cells .*ema_range\(8\)"
  ):
    quantize.post_training(Pool(), variables, images, **options)
  rules = (Rule(match="pool", activations=ema_range(8)),)
  quantized = quantize.post_training(Pool(), variables, images, rules=rules, **options)
  assert quantized.grids["stem"].bits == 16
  path = export.tflite(quantized, tmp_path / "net.tflite")
  assert export.verify(path, quantized, images).bit_equal == 1.0


class Wide(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return Dense(2, name="layer")(x)


def test_wide_dense_layers_are_quantized_after_training(tmp_path, networks):
  inputs = 75_000
  kernel = np.stack([np.full(inputs, 1 / inputs), np.linspace(-2, -0.5, inputs) / inputs], 1)
  bias = np.float32([0.2, 0.4])
  variables = {"params": {"layer": {"kernel": kernel.astype(np.float32), "bias": bias}}}
  images = np.random.default_rng(0).uniform(0, 1, (8, 1, 1, inputs)).astype(np.float32)
  images[-1] = 1
  wanted = images.reshape(8, -1) @ kernel + bias
  quantized = quantize.post_training(Wide(), variables, images, method="minmax", progress=False)
  assert np.abs(quantized(images) - wanted).max() < 0.02
  for name in ("xnnpack", "onnxruntime"):
    path = networks.write(quantized, tmp_path, name)
    assert export.verify(path, quantized.with_kernels(name), images).bit_equal == 1.0
