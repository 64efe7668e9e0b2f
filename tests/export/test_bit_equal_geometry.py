"""Every runtime and exact evaluation give the same integers, whatever shape a kernel has and moves by."""

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export, quantize
from jaxcompress.nn import AvgPool, BatchNorm, Concat, ConvNorm, Dense, GlobalAvgPool, MaxPool
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16

pytestmark = pytest.mark.usefixtures("optimized")


class One(nn.Module):
  """One layer, and the mean of what it makes."""

  layer: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    return self.layer(
      x, **({"train": train} if isinstance(self.layer, ConvNorm | BatchNorm) else {})
    )


class Factorized(nn.Module):
  """An Inception block: 1x1, 1x7 and 7x1, two stacked, and a pool, side by side."""

  @nn.compact
  def __call__(self, x, *, train):
    def conv(x, name, features=6, **fields):
      return ConvNorm(features, act="relu", name=name, **fields)(x, train=train)

    x = conv(x, "stem", 8, kernel=(3, 5), stride=(2, 1), padding="VALID")
    tall = conv(conv(conv(x, "reduce"), "wide", kernel=(1, 7)), "tall", kernel=(7, 1))
    down = conv(conv(x, "cross"), "down", kernel=(3, 1), stride=(1, 2))
    pooled = AvgPool(3, (1, 2), "SYMMETRIC", name="pool")(x)
    longest = MaxPool((1, 3), (1, 2), "SYMMETRIC", name="longest")(tall)
    y = Concat(name="cat")(down, pooled, longest)
    y = conv(y, "last", kernel=(1, 3), groups=2)
    return Dense(5, name="classifier")(GlobalAvgPool(name="mean")(y))


class Atrous(nn.Module):
  """Atrous spatial pyramid pooling: kernels of several rates side by side, two of them depthwise."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    branches = [ConvNorm(4, act="relu", name="rate1")(x, train=train)]
    for rate in (2, 3):
      options = {"kernel": 3, "dilation": rate, "act": "relu"}
      branches.append(ConvNorm(4, name=f"rate{rate}", **options)(x, train=train))
      y = ConvNorm(8, groups="depthwise", name=f"depthwise{rate}", **options)(x, train=train)
      branches.append(ConvNorm(4, name=f"pointwise{rate}")(y, train=train))
    y = ConvNorm(6, act="relu", name="project")(Concat(name="cat")(*branches), train=train)
    return Dense(5, name="classifier")(GlobalAvgPool(name="mean")(y))


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def layers(draw):
  """A layer of any kernel, step, dilation and padding, and images that are large enough for it."""
  kernel, stride = draw(pairs), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
  kind = draw(st.sampled_from(["plain", "grouped", "depthwise", "twice", "max", "average"]))
  dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
  if kind in ("max", "average"):
    dilation = (1, 1)
  spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
  if kind == "average":  # what TFLite leaves out
    ends = [((k - 1) // 2, k // 2) for k in kernel]
  else:
    ends = [(side - 1, side - 1) for side in spans]
  explicit = tuple(tuple(draw(st.integers(0, end)) for end in pair) for pair in ends)
  names = ["SAME", "VALID"] + (["SYMMETRIC"] if kind != "average" or kernel[0] % 2 else [])
  padding = draw(st.one_of(st.sampled_from(names), st.just(explicit)))
  size = tuple(draw(st.integers(side, side + 6)) for side in spans)
  window = {"kernel": kernel, "stride": stride, "padding": padding}
  if kind == "max":
    return MaxPool(**window), size
  if kind == "average":
    counts = draw(st.booleans()) or (padding == "SYMMETRIC" and kernel[1] % 2 == 0)
    return AvgPool(**window, count_padding=counts), size
  groups = {"plain": 1, "grouped": 2, "depthwise": "depthwise", "twice": "depthwise"}[kind]
  features = {"plain": 5, "grouped": 6, "depthwise": 4, "twice": 8}[kind]
  return ConvNorm(features, **window, groups=groups, dilation=dilation), size


@pytest.mark.slow
@settings(max_examples=24, deadline=None, derandomize=True, database=None)
@given(case=layers(), seed=st.integers(0, 1000))
def test_layers_of_random_geometry_are_bit_equal(case, seed, networks, tmp_path_factory):
  layer, size = case
  quantized = networks.random_quantized(One(layer), (*size, 4), seed)
  folder = tmp_path_factory.mktemp("geometry")
  for kernels in KERNELS:
    path = networks.write(quantized, folder, kernels)
    images = networks.images_for(quantized, 4, seed)
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.max_steps) == (1.0, 0), (kernels, layer)
    if isinstance(layer, ConvNorm):
      assert not result.left_out


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(case=layers(), seed=st.integers(0, 1000))
def test_layers_of_random_geometry_are_bit_equal_with_16_bits(
  case, seed, networks, tmp_path_factory
):
  layer, size = case
  narrow = networks.random_quantized(One(layer), (*size, 4), seed)
  quantized = networks.with_widths(narrow, dict.fromkeys(narrow.grids, 16).get)
  path = networks.write(quantized, tmp_path_factory.mktemp("geometry"), "tflm")
  images = networks.images_for(quantized, 4, seed)
  for kernels in KERNELS_16:
    result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (result.bit_equal, result.max_steps) == (1.0, 0), (kernels, layer)


@pytest.fixture(scope="module", params=[Factorized, Atrous])
def trained(request, networks):
  """A network, its variables, and images."""
  model, rng = request.param(), np.random.default_rng(0)
  images = rng.normal(size=(12, 12, 11, 3)).astype(np.float32)
  return model, networks.trained_like(model, images.shape[1:]), images


OPTIONS = {
  "8 bits": {"method": "minmax"},
  "rounding learned": {"method": "adaround"},
  "weights of 4 bits": {"method": "minmax", "bits": 4},
  "16 bits": {"method": "minmax", "activation_bits": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_networks_of_other_kernels_are_bit_equal_everywhere(name, trained, tmp_path, check):
  model, variables, images = trained
  quantized = quantize.post_training(model, variables, images, progress=False, **OPTIONS[name])
  for kernels in KERNELS_16 if name == "16 bits" else KERNELS:
    if kernels != "xnnpack-int4":
      assert check(quantized, images, kernels=kernels).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "a.jcz"))
  assert loaded.graph == quantized.graph
  np.testing.assert_array_equal(loaded.integers(images), quantized.integers(images))
  written = export.tflite(quantized, tmp_path / "a.tflite")
  assert (
    export.unpack(tmp_path / "a.jcz", tmp_path / "b.tflite").read_bytes() == written.read_bytes()
  )
  run = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "a.stablehlo"))
  found = run(quantized.quantize_input(images))
  np.testing.assert_array_equal(found, quantized.integers(images))
  if name == "weights of 4 bits":
    path = export.tflite(quantized, tmp_path / "c.tflite", weights="int4")
    for kernels in ("xnnpack-int4", "reference"):
      assert export.verify(path, quantized.with_kernels(kernels), images).bit_equal == 1.0
