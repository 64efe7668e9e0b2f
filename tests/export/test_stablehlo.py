"""StableHLO files are read back and compute the same, for any number of images."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import export as jax_export

from jaxcompress import export
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.nn import INPUT, Activation, Add, ConvNorm, Dense, GlobalAvgPool, Multiply
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid, Integers

SHAPE = (6, 6, 4)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    y = ConvNorm(8, kernel=3, groups="depthwise", name="depthwise")(x, train=train)
    x = Add(name="add")(x, SqueezeExcite(4, name="se")(y, train=train))
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture(scope="module")
def path(quantized, tmp_path_factory):
  return export.stablehlo(quantized, tmp_path_factory.mktemp("hlo") / "net.stablehlo")


def test_a_float_model_computes_the_same(networks, tmp_path):
  variables = networks.trained_like(Net(), SHAPE)
  path = export.stablehlo_float(Net(), variables, tmp_path / "net.stablehlo", SHAPE)
  images = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)
  expected = jax.jit(lambda v, x: Net().apply(v, x, train=False))(variables, images)
  program = export.load_stablehlo(path)
  for count in (7, 2):
    np.testing.assert_allclose(program(images[:count]), expected[:count], rtol=1e-5, atol=1e-5)


def test_integers_are_those_of_exact_evaluation(path, quantized, networks):
  codes = quantized.quantize_input(networks.images_for(quantized, 9))
  program = export.load_stablehlo(path)
  np.testing.assert_array_equal(program(codes), quantized.run(codes))


def test_one_file_is_for_all_platforms_and_any_number_of_images(path):
  exported = jax_export.deserialize(bytearray(path.read_bytes()))
  assert exported.platforms == ("cpu", "cuda", "tpu")
  assert str(exported.in_avals[0].shape[0]) == "batch"
  assert exported.in_avals[0].shape[1:] == SHAPE


def test_a_file_depends_on_the_network_alone(path, quantized, tmp_path, monkeypatch):
  """Neither on the machine that writes it nor on where the code lies there."""
  for host in ("gpu", "tpu"):
    monkeypatch.setattr(jax, "default_backend", lambda host=host: host)
    other = export.stablehlo(quantized, tmp_path / f"{host}.stablehlo")
    assert other.read_bytes() == path.read_bytes()
  assert __file__.encode() not in path.read_bytes()
  assert export.__file__.rpartition("/")[0].encode() not in path.read_bytes()


def test_integers_are_computed_by_products_at_the_highest_precision(path):
  text = jax_export.deserialize(bytearray(path.read_bytes())).mlir_module()
  assert "stablehlo.convolution" not in text
  products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
  assert len(products) >= 9 + 2 + 1  # the stem, both of squeeze-and-excitation, the classifier
  assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_wide_sums_of_16_bits_are_those_of_exact_evaluation(networks, tmp_path):
  """Of low bytes beyond int32, and of all beyond it."""
  shape, count = (1, 1, 70_001), 70_001
  layer = Integers(
    np.stack([np.full(count, 127, np.int8), np.full(count, -127, np.int8)], 1),
    np.full(2, 1 / (127 * count), np.float32),
    np.int64([2**33, -7]),
  )
  graph, _ = networks.graph_of(OneDense(), shape)
  grids = dict.fromkeys((INPUT, "dense"), Grid(np.float32(2**-15), 0, 16))
  quantized = QuantizedModel(graph, grids, {"dense": layer})
  program = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "net.stablehlo"))
  codes = np.random.default_rng(0).integers(-(2**15), 2**15, (3, *shape)).astype(np.int16)
  codes[1], codes[2] = 2**15 - 1, -129
  np.testing.assert_array_equal(program(codes), quantized.run(codes))
  assert quantized.run(codes)[1:].tolist() == [[32767, -32767], [-129 + 966, 129]]


@pytest.mark.parametrize("content", [b"", b"something else entirely", None])
def test_foreign_files_are_named_in_one_line(content, path, tmp_path):
  foreign = tmp_path / "foreign.stablehlo"
  foreign.write_bytes(path.read_bytes()[:500] if content is None else content)
  with pytest.raises(ValueError, match=r"foreign\.stablehlo is no StableHLO file") as caught:
    export.load_stablehlo(foreign)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"nowhere cannot be read"):
    export.load_stablehlo(tmp_path / "nowhere")


class Gates(nn.Module):
  """Activations that some runtimes look up in a table."""

  @nn.compact
  def __call__(self, x, *, train):
    x = Activation("hard_swish", name="swish")(ConvNorm(8, name="stem")(x, train=train))
    x = Multiply(name="scale")(x, Activation("hard_sigmoid", name="gate")(x))
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


class OneDense(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return Dense(2, name="dense")(x)


def test_tables_of_activations_are_looked_up_for_any_number_of_images(networks, tmp_path):
  quantized = networks.random_quantized(Gates(), SHAPE).with_kernels("onnxruntime")
  codes = quantized.quantize_input(networks.images_for(quantized, 5))
  program = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "net.stablehlo"))
  np.testing.assert_array_equal(program(codes), quantized.run(codes))
