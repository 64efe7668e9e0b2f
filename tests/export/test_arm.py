"""Files on emulated 64-bit Arm processors give the integers of exact evaluation."""

import dataclasses
import pathlib

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export, models
from jaxcompress.export.emulation import emulator_folder
from jaxcompress.export.verification import compare, run_both
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.nn import ConvNorm, Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid


class Layers(nn.Module):
  """Convolutions of each kind."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(20, kernel=3, act="relu6", name="plain")(x, train=train)
    x = ConvNorm(12, kernel=3, groups=2, name="grouped")(x, train=train)
    return ConvNorm(12, kernel=3, groups="depthwise", name="depthwise")(x, train=train)


def is_there():
  try:
    return emulator_folder().exists()
  except MissingExtraError:
    return False


emulated = pytest.mark.skipif(not is_there(), reason="no emulator of 64-bit Arm: .ci/arm makes one")


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(models.create("mobilenet_v2", width=0.25), (32, 32, 3))


@emulated
@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "onnxruntime"])
@pytest.mark.parametrize("processor", ["cortex-a53", "cortex-a76", "neoverse-v1"])
def test_networks_are_bit_equal(networks, quantized, tmp_path, kernels, processor):
  path = networks.write(quantized, tmp_path, kernels)
  model = quantized.with_kernels(kernels)
  images = networks.images_for(quantized, 4)
  found = export.verify(path, model, images, processor=processor)
  assert (found.bit_equal, found.left_out) == (1, ())


PAIRS = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1)[None]  # of all codes
CELLS = np.random.default_rng(0).integers(-128, 128, (8, 4, 5, 256))
ROWS = np.random.default_rng(0).integers(-128, 0, (512, 1, 1, 33))


def pair(op, source, output):
  """An operation on all pairs of codes."""
  one = ((1, *PAIRS.shape[1:3], 1),)
  split = Node("split", "Split", {"sizes": (1, 1)}, ("input",), ("a", "b"), (PAIRS.shape,), one * 2)
  node = Node("op", op, {}, ("a", "b"), ("op",), one * 2, one)
  grids = {**dict.fromkeys(("input", "a", "b"), source), "op": output}
  return QuantizedModel(Graph((split, node), PAIRS.shape, "op"), grids, {}), PAIRS


def single(op, codes, source, output, **attributes):
  """An operation on one map."""
  shape = (1, *codes.shape[1:])
  found = (1, 1, 1, shape[3]) if op == "GlobalAvgPool" else shape
  node = Node("op", op, attributes, ("input",), ("op",), (shape,), (found,))
  return QuantizedModel(Graph((node,), shape, "op"), {"input": source, "op": output}, {}), codes


def grid(scale, zero_point=0):
  return Grid(np.float32(scale), zero_point)


DIFFERENT = {  # what 64-bit Arm rounds otherwise than x86, with grids on which both differ
  "means": (
    "xnnpack",
    single("GlobalAvgPool", CELLS, *[grid(0.0065701255, -42)] * 2, keepdims=True),
  ),
  "softmax": ("xnnpack", single("Softmax", ROWS, grid(0.1), grid(1 / 256, -128))),
  "products": ("xnnpack", pair("Multiply", grid(1.0, 3), grid(300.0, 3))),
  "products of onnxruntime": ("onnxruntime", pair("Multiply", grid(0.031, -7), grid(0.0619, 11))),
  "sums of onnxruntime": ("onnxruntime", pair("Add", grid(0.5, 7), grid(1.0, 9))),
}


@emulated
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_arm_rounds_otherwise_has_its_own_rule(networks, tmp_path, name):
  kernels, (quantized, codes) = DIFFERENT[name]
  path = networks.write(quantized, tmp_path, kernels)
  source = quantized.grids["input"]
  images = ((codes - source.zero_point) * source.scale).astype(np.float32)
  model = quantized.with_kernels(kernels)
  assert export.verify(path, model, images, processor="cortex-a53").bit_equal == 1
  assert export.verify(path, model, images).bit_equal == 1
  codes, elsewhere = model.quantize_input(images), model.with_kernels(f"{kernels}-arm64")
  differ = np.mean(model.outputs(codes)["logits"] != elsewhere.outputs(codes)["logits"])
  assert 0 < differ < 0.5 or name == "products of onnxruntime"  # which differ once in 100,000
  both = run_both(path, elsewhere, images)  # rules of Arm are verified there
  assert both.quantized.kernels == elsewhere.kernels and compare(both).bit_equal == 1


@emulated
def test_weights_of_4_bits_are_bit_equal(networks, tmp_path):
  rng, quantized = np.random.default_rng(0), networks.random_quantized(Layers(), (9, 9, 6))
  layers = {
    name: layer._replace(
      weights=rng.integers(-7, 8, layer.weights.shape).astype(np.int8),
      bias=layer.bias // 18,
      scales=layer.scales * np.float32(18),
    )
    for name, layer in quantized.layers.items()
  }
  quantized = dataclasses.replace(quantized, layers=layers)
  path = export.tflite(quantized, tmp_path / "layer.tflite", weights="int4")
  images = networks.images_for(quantized, 16)
  assert export.verify(path, quantized, images, processor="cortex-a53").bit_equal == 1
  assert export.verify(path, quantized, images).bit_equal == 1


@emulated
def test_a_hard_swish_whose_result_depends_on_the_place_is_refused(networks, tmp_path):
  codes = np.arange(-128, 128).reshape(1, 16, 16, 1)
  for scale in (0.0123, 0.01):
    quantized, _ = single("Activation", codes, grid(scale, 127), grid(0.05, 7), act="hard_swish")
    path = networks.write(quantized, tmp_path, "xnnpack")
    images = ((codes - 127) * np.float32(scale)).astype(np.float32)
    if scale == 0.01:
      with pytest.raises(
        ValueError, match=r"scales: HARD_SWISH .* place of a number; write it as a gate"
      ):
        export.verify(path, quantized, images, processor="cortex-a53")
    else:
      assert export.verify(path, quantized, images, processor="cortex-a53").bit_equal == 1


@emulated
def test_several_files_are_open_at_once(networks, quantized, tmp_path):
  path = networks.write(quantized, tmp_path, "xnnpack")
  codes = quantized.quantize_input(networks.images_for(quantized, 1))
  one, other, here = (
    *(export.Runtime(path, processor="cortex-a53", threads=threads) for threads in (1, 2)),
    export.Runtime(path),
  )
  np.testing.assert_array_equal(one(codes), here(codes))
  np.testing.assert_array_equal(other(codes), one(codes))
  del one
  np.testing.assert_array_equal(other(codes), here(codes))


@emulated
def test_a_file_that_the_runtime_refuses_names_itself(networks, quantized, tmp_path):
  path = networks.write(quantized, tmp_path, "xnnpack")
  content = bytearray(path.read_bytes())
  content[len(content) // 2 :] = b""
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f"^path: {path}"):
    export.Runtime(path, processor="cortex-a53")


def test_processors_that_are_unknown_or_have_no_build(networks, quantized, tmp_path):
  path = networks.write(quantized, tmp_path, "xnnpack")
  with pytest.raises(ValueError, match=r"^processor: 'i486' is unknown; .*cortex-a53"):
    export.Runtime(path, processor="i486")
  with pytest.raises(ValueError, match=r"^kernels: 'tflm' has no build for cortex-a53; "):
    export.Runtime(path, kernels="tflm", processor="cortex-a53")


def test_a_missing_emulator_says_where_it_is_looked_for(networks, quantized, tmp_path, monkeypatch):
  monkeypatch.setenv("JAXCOMPRESS_ARM64", str(tmp_path / "none"))
  monkeypatch.setattr("jaxcompress.export.emulation._processes", {})
  path = networks.write(quantized, tmp_path, "xnnpack")
  with pytest.raises(
    MissingExtraError, match=r"^processor: .*none; run \.ci/arm .*JAXCOMPRESS_ARM64"
  ):
    export.verify(path, quantized, networks.images_for(quantized, 1), processor="cortex-a53")


def test_the_folder_of_caches_is_the_usual_place(tmp_path, monkeypatch):
  monkeypatch.delenv("JAXCOMPRESS_ARM64", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = pathlib.Path(tmp_path, "jaxcompress", "arm64")
  folder.mkdir(parents=True)
  with pytest.raises(MissingExtraError, match="not in"):
    emulator_folder()
  (folder / "ready").touch()
  assert emulator_folder() == folder
