"""Files that read uint8 images."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.data import Preprocess
from jaxcompress.export.contents import read_operators
from jaxcompress.export.runtime import Runtime
from jaxcompress.nn import INPUT, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize.integer.grid import Grid

SHAPE = (6, 6, 3)
AFFINE = Preprocess(center=128.0, scale=64.0, per_image=False)
FITTING = Grid(np.float32(1 / 64), 0)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def make(networks):
  plain = networks.random_quantized(Net(), SHAPE)

  def build(preprocess=AFFINE, grid=FITTING, kernels="xnnpack"):
    return dataclasses.replace(
      plain, preprocess=preprocess, grids={**plain.grids, INPUT: grid}, kernels=kernels
    )

  return build


@pytest.fixture
def images():
  return np.random.default_rng(0).integers(0, 256, (64, *SHAPE), np.uint8)


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
@pytest.mark.parametrize("center", [128.0, 100.0])
def test_a_file_that_reads_pixels_computes_the_same_integers(
  kernels, center, make, images, tmp_path
):
  if kernels == "tflm":
    pytest.importorskip("tflite_micro")
  affine = dataclasses.replace(AFFINE, center=center)
  quantized = make(affine, Grid(np.float32(1 / 64), int(center) - 128), kernels)
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8")
  first, second = read_operators(path)[:2]
  (pixels,), (codes,) = first.inputs, first.outputs
  assert (first.name, first.version, pixels.type, codes.type) == ("QUANTIZE", 1, "UINT8", "INT8")
  assert pixels.scales == codes.scales and pixels.zero_points - codes.zero_points == 128
  assert second.inputs[0].name == codes.name
  assert np.ptp(quantized.integers(images), axis=0).max() > 3
  assert export.verify(path, quantized, images).bit_equal == 1.0


def test_metadata_and_every_target_know_the_pixels(make, tmp_path):
  quantized = make()
  for target, target_rules in export.TARGETS.items():
    if target_rules.suffix == ".tflite":
      path = export.tflite(quantized, tmp_path / "net.tflite", target=target, input="uint8")
      warned = tuple(finding.op for finding in export.lint(path, target))
      assert warned == (("QUANTIZE",) if target == "xnnpack" else ())
      assert target != "xnnpack" or Runtime(path).left_out() == warned
  assert export.read_metadata(path)["input"] == {
    "scale": 1 / 64,
    "zero_point": 128,
    "type": "uint8",
  }


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
@pytest.mark.parametrize(
  "options",
  [
    {"preprocess": dataclasses.replace(AFFINE, center=127.5)},
    {"grid": Grid(np.float32(1 / 63), 0)},
    {"preprocess": Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), per_image=False)},
  ],
)
def test_codes_that_are_not_pixels_are_looked_up_and_outputs_are_unsigned(
  kernels, options, make, images, tmp_path
):
  if kernels == "tflm":
    pytest.importorskip("tflite_micro")
  quantized = make(**options, kernels=kernels)
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8", output="uint8")
  names = [operator.name for operator in read_operators(path)]
  assert names[:4] == ["QUANTIZE", "CAST", "ADD", "GATHER"] and names[-1] == "QUANTIZE"
  assert not any(operator.is_float for operator in read_operators(path))
  runtime = Runtime(path, kernels=kernels)
  assert (runtime.input_dtype, runtime.output_dtype) == (np.uint8, np.uint8)
  assert export.verify(path, quantized, images).bit_equal == 1.0
  levels = np.resize(np.arange(256, dtype=np.uint8), (3, *SHAPE))
  by_hand = runtime(levels[:1]).astype(int) - 128
  np.testing.assert_array_equal(by_hand, quantized.integers(levels[:1]))
  facts = export.read_metadata(path)
  assert facts["input"] == {"scale": 1.0, "zero_point": 0, "type": "uint8"}
  end = quantized.grids[quantized.graph.output]
  assert facts["output"]["type"] == "uint8"
  assert facts["output"]["zero_point"] == end.zero_point + 128


@pytest.mark.parametrize("preprocess", [None, Preprocess(center=128.0)])  # of each image
def test_pixels_that_are_not_mapped_by_themselves_are_refused(preprocess, make, tmp_path):
  with pytest.raises(ValueError, match="input: 'uint8' needs preprocessing that maps each pixel"):
    export.tflite(make(preprocess), tmp_path / "net.tflite", input="uint8")
  assert list(tmp_path.iterdir()) == []


def test_an_unknown_output_and_wide_ones_are_refused(make, networks, tmp_path):
  with pytest.raises(ValueError, match="output: 'int8' is unknown; it must be one of codes, uint8"):
    export.tflite(make(), tmp_path / "net.tflite", output="int8")
  wide = networks.with_widths(networks.random_quantized(Net(), SHAPE), lambda key: 16)
  with pytest.raises(ValueError, match="output: 'uint8' needs outputs of 8 bits"):
    export.tflite(wide, tmp_path / "net.tflite", output="uint8")


def test_preprocessing_that_mixes_pixels_is_refused_although_flat_images_pass(make, tmp_path):
  class Sorted:
    def __call__(self, images):
      return np.sort(AFFINE(images), axis=-1)[..., ::-1]

  with pytest.raises(ValueError, match="input: 'uint8' needs"):
    export.tflite(make(preprocess=Sorted()), tmp_path / "net.tflite", input="uint8")


def test_an_unknown_input_and_images_of_floats_are_refused(make, images, tmp_path):
  with pytest.raises(
    ValueError, match="input: 'png' is unknown; it must be one of codes, uint8, float32"
  ):
    export.tflite(make(), tmp_path / "net.tflite", input="png")
  path = export.tflite(make(), tmp_path / "net.tflite", input="uint8")
  with pytest.raises(ValueError, match="images: float32 must be uint8"):
    export.verify(path, make(), images.astype(np.float32))


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
def test_a_file_that_reads_floats_rounds_them_as_its_runtime_does(kernels, make, tmp_path):
  if kernels == "tflm":
    pytest.importorskip("tflite_micro")
  quantized = make(None, Grid(np.float32(0.013), 3), kernels)
  path = export.tflite(quantized, tmp_path / "net.tflite", input="float32")
  first = read_operators(path)[0]
  assert (first.name, first.inputs[0].type, first.outputs[0].type) == (
    "QUANTIZE",
    "FLOAT32",
    "INT8",
  )
  assert not any(operator.is_float for operator in read_operators(path)[1:])
  halves = (np.arange(-140, 140).repeat(30)[: 64 * 108] + 0.5).reshape(64, *SHAPE)
  ties = (np.roll(halves, 1, axis=1) * np.float64(0.013)).astype(np.float32)
  nearby = ties.view(np.int32) + np.random.default_rng(0).integers(-1, 2, ties.shape, np.int32)
  floats = nearby.view(np.float32)
  codes = {name: make(None, Grid(np.float32(0.013), 3), name) for name in ("xnnpack", "tflm")}
  assert (codes["xnnpack"].quantize_input(floats) != codes["tflm"].quantize_input(floats)).any()
  assert export.verify(path, quantized, floats).bit_equal == 1.0
  assert export.read_metadata(path)["input"]["type"] == "float32"
  assert Runtime(path, kernels=kernels).left_out() == ()


def test_floats_do_not_become_16_bits(networks, tmp_path):
  quantized = networks.with_widths(networks.random_quantized(Net(), SHAPE), lambda key: 16)
  with pytest.raises(ValueError, match="input: 'float32' needs an input of 8 bits"):
    export.tflite(quantized, tmp_path / "net.tflite", input="float32")
