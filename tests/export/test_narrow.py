"""Files whose weights take fewer bytes: integers of 4 bits, and float16."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress import export, quantize
from jaxcompress.export.contents import read_operators
from jaxcompress.export.runtime import Runtime
from jaxcompress.nn import ConvNorm, Dense, GlobalAvgPool, fold

pytestmark = pytest.mark.usefixtures("optimized")
SHAPE = (11, 9, 6)


class Net(nn.Module):
  """One of each kind of layer that has weights."""

  features: int = 24

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu6", name="standard")(x, train=train)
    x = ConvNorm(12, kernel=3, groups=2, name="grouped")(x, train=train)
    x = ConvNorm(12, kernel=3, stride=2, groups="depthwise", name="depthwise")(x, train=train)
    x = ConvNorm(self.features, act="relu", name="pointwise")(x, train=train)
    return Dense(10, name="classifier")(GlobalAvgPool(name="pool")(x))


def narrowed(quantized, *names):
  """The same network with weights of 4 bits in some layers."""
  layers = dict(quantized.layers)
  for name in names or layers:
    codes = np.rint(layers[name].weights / 18).astype(np.int8)
    layers[name] = layers[name]._replace(
      weights=codes, bias=layers[name].bias // 18, scales=layers[name].scales * np.float32(18)
    )
  return dataclasses.replace(quantized, layers=layers)


@pytest.fixture(scope="module")
def wide(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture(scope="module")
def narrow(wide):
  return narrowed(wide)


def kinds(path):
  """Type of the weights and version of each operator that has some, by the layer's name."""
  weighted = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
  found = [operator for operator in read_operators(path) if operator.name in weighted]
  return {each.outputs[0].name: (each.inputs[1].type, each.version) for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
def test_int4_weights_are_bit_equal_in_every_runtime(kernels, narrow, networks, tmp_path):
  if kernels == "tflm":
    pytest.importorskip("tflite_micro")
  quantized = narrow.with_kernels(kernels)
  path = export.tflite(quantized, tmp_path / "net.tflite", weights="int4")
  images = networks.images_for(quantized, 200)
  result = export.verify(path, quantized, images)
  assert (result.bit_equal, result.max_steps) == (1.0, 0)
  if kernels == "xnnpack":  # it leaves the convolutions out, and their rounding shows
    assert set(result.left_out) == {"CONV_2D", "DEPTHWISE_CONV_2D"}
    codes = quantized.quantize_input(images)
    others = [quantized.with_kernels(name).run(codes) for name in ("xnnpack", "xnnpack-int4")]
    assert (others[0] != others[1]).any()
    plain = export.tflite(quantized, tmp_path / "plain.tflite")
    named = quantized.with_kernels("xnnpack-int4")
    for file in (path, plain):  # the file says which it is
      assert export.verify(file, named, images).bit_equal == 1.0


def test_the_file_holds_two_weights_in_a_byte(wide, narrow, tmp_path):
  paths = [tmp_path / "int8.tflite", tmp_path / "int4.tflite"]
  export.tflite(narrow, paths[0])
  export.tflite(narrow, paths[1], weights="int4")
  weights = sum(layer.weights.size for layer in narrow.layers.values())
  eight, four = (path.stat().st_size for path in paths)
  assert abs(eight - four - weights // 2) < 200  # alignment
  types = kinds(paths[1])
  assert types.pop("standard") == types.pop("grouped") == types.pop("pointwise") == ("INT4", 7)
  assert types == {"depthwise": ("INT4", 6), "classifier": ("INT4", 10)}
  stored = {o.outputs[0].name: o.inputs[1].values for o in read_operators(paths[1])}
  np.testing.assert_array_equal(
    stored["pointwise"][:, 0, 0].T, narrow.layers["pointwise"].weights[0, 0]
  )
  assert export.read_metadata(paths[1])["kernels"] == "xnnpack-int4"


@pytest.mark.slow
def test_layers_that_do_not_fit_stay_int8(wide, networks, tmp_path):
  quantized = narrowed(wide, "pointwise")
  path = export.tflite(quantized, tmp_path / "net.tflite", weights="int4")
  assert {name for name, kind in kinds(path).items() if kind[0] == "INT4"} == {"pointwise"}
  assert export.verify(path, quantized, networks.images_for(quantized, 50)).bit_equal == 1.0
  odd = narrowed(networks.random_quantized(Net(features=7), SHAPE))  # XNNPACK takes pairs
  assert kinds(export.tflite(odd, path, weights="int4"))["classifier"] == ("INT8", 4)
  assert export.verify(path, odd, networks.images_for(odd, 50)).bit_equal == 1.0


def test_targets_get_the_weights_that_they_take(wide, narrow, tmp_path):
  path = tmp_path / "net.tflite"
  export.tflite(narrow, path, weights="int4", target="tflm")
  assert kinds(path)["standard"][0] == "INT4" and "classifier" not in kinds(path)
  reasons = {"ethos-u": "8 bits .*INT4", "edgetpu": "newer versions of an operator .version 7"}
  for target, reason in reasons.items():
    with pytest.raises(ValueError, match=f"target: '{target}' does not take CONV_2D .*{reason}"):
      export.tflite(narrow, path, weights="int4", target=target)
  with pytest.raises(ValueError, match="weights: 'int4' needs a layer with weights of at most"):
    export.tflite(wide, path, weights="int4")
  with pytest.raises(ValueError, match=r"\('standard' has integers up to 127, .*bits=4\)"):
    export.tflite(wide, path, weights="int4")
  with pytest.raises(ValueError, match="weights: 'int2' is unknown; it must be one of int8, int4"):
    export.tflite(narrow, path, weights="int2")


@pytest.mark.slow
def test_float16_weights_compute_as_rounded_ones_do(networks, tmp_path):
  graph, _ = networks.graph_of(Net(), SHAPE)
  layers = fold(graph, networks.trained_like(Net(), SHAPE))
  write = lambda layers, name, **options: export.tflite_float(  # noqa: E731
    graph, layers, tmp_path / f"{name}.tflite", **options
  )
  half = lambda array: np.asarray(array, np.float16).astype(np.float64)  # noqa: E731
  rounded = {
    name: layer._replace(
      kernel=half(layer.weights), factor=np.ones_like(layer.factor), bias=half(layer.bias)
    )
    for name, layer in layers.items()
  }
  paths = [
    write(layers, "float32"),
    write(layers, "float16", weights="float16"),
    write(rounded, "rounded"),
  ]
  image = np.asarray(jax.random.normal(jax.random.key(0), (1, *SHAPE)))
  whole, small, expected = (Runtime(path)(image) for path in paths)
  np.testing.assert_array_equal(small, expected)
  assert 0 < np.abs(small - whole).max() < 0.01 * np.abs(whole).max()
  dequantized = [o for o in read_operators(paths[1]) if o.name == "DEQUANTIZE"]
  assert {(o.version, o.inputs[0].type) for o in dequantized} == {(3, "FLOAT16")}
  numbers = sum(layer.weights.size for layer in layers.values())
  assert paths[0].stat().st_size - paths[1].stat().st_size > 2 * numbers - 3000  # of operators
  with pytest.raises(ValueError, match="weights: 'bfloat16' is unknown"):
    write(layers, "other", weights="bfloat16")


class Layer(nn.Module):
  """A single layer that is wide enough for vector instructions."""

  op: str

  @nn.compact
  def __call__(self, x, *, train):
    if self.op == "Dense":
      return Dense(16, name="layer")(GlobalAvgPool(name="pool")(x))
    return ConvNorm(16, name="layer")(x, train=train)


@pytest.mark.parametrize(("bias", "is_int4"), [(2**27 - 2**20, True), (2**27, False)])
def test_dense_layers_whose_sums_xnnpack_cannot_hold_stay_int8(bias, is_int4, networks, tmp_path):
  """It computes with 16 times the integers; a channel that is zero has the largest bias."""
  quantized = narrowed(networks.random_quantized(Layer("Dense"), SHAPE))
  dense = quantized.layers["layer"]
  weights = np.where(np.arange(16) % 2, dense.weights, 0).astype(np.int8)
  biases = np.where(np.arange(16) % 2, dense.bias, bias).astype(np.int32)
  layers = {"layer": dense._replace(weights=weights, bias=biases)}
  quantized = dataclasses.replace(quantized, layers=layers)
  if not is_int4:
    with pytest.raises(ValueError, match="no layer can be written so"):
      export.tflite(quantized, tmp_path / "net.tflite", weights="int4")
    return
  path = export.tflite(quantized, tmp_path / "net.tflite", weights="int4")
  assert kinds(path)["layer"][0] == "INT4"
  assert export.verify(path, quantized, networks.images_for(quantized, 50)).bit_equal == 1.0


def test_steps_of_a_convolution_that_are_2_to_the_31_below_its_outputs(networks, tmp_path):
  """The second rounding then shifts by all bits of an int32."""
  quantized = narrowed(networks.random_quantized(Layer("ConvNorm"), SHAPE))
  source, layer = quantized.grids["input"], quantized.layers["layer"]
  output = quantized.grids["layer"]._replace(zero_point=0)
  factors = np.float32(2.0 ** -np.linspace(28.1, 31.9, 16))  # right shifts of 28 to 31
  scales = (factors * float(output.scale) / float(source.scale)).astype(np.float32)
  biases = np.linspace(-(2**30), 2**30, 16).astype(np.int32)
  layers = {"layer": layer._replace(scales=scales, bias=biases)}
  grids = {**quantized.grids, "layer": output}
  quantized = dataclasses.replace(quantized, layers=layers, grids=grids)
  path = export.tflite(quantized, tmp_path / "net.tflite", weights="int4")
  assert export.verify(path, quantized, networks.images_for(quantized, 20)).bit_equal == 1.0


class Classifier(nn.Module):
  features: int = 2

  @nn.compact
  def __call__(self, x, *, train):
    return Dense(self.features, name="classifier")(x)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4])
def test_dense_layers_whose_sums_int4_kernels_do_not_hold_stay_int8(bits, tmp_path):
  """Without advice that was followed already."""
  inputs, top = 100_000, 2 ** (bits - 1) - 1
  kernel = np.full((inputs, 2), 1 / inputs, np.float32)
  variables = {"params": {"classifier": {"kernel": kernel, "bias": np.float32([0.1, -0.1])}}}
  images = np.random.default_rng(0).uniform(0, 1, (8, 1, 1, inputs)).astype(np.float32)
  quantized = quantize.post_training(
    Classifier(), variables, images, method="minmax", bits=bits, progress=False
  )
  assert np.abs(quantized.layers["classifier"].weights).max() == top
  path = tmp_path / "net.tflite"
  if bits == 3:
    export.tflite(quantized, path, weights="int4")
    assert export.verify(path, quantized, images).bit_equal == 1.0
    return
  with pytest.raises(ValueError, match=r"sums up to .*, which fewer bits make smaller") as caught:
    export.tflite(quantized, path, weights="int4")
  assert str(caught.value).endswith("write 'int8'.")
