"""Files for a target: what is written otherwise, what is refused, and what real checkers say."""

import dataclasses
import sys

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export, models
from jaxcompress.export.contents import read_operators
from jaxcompress.export.flatbuffer import ModelFile
from jaxcompress.export.runtime import Runtime
from jaxcompress.nn import (
  Activation,
  Add,
  ConvNorm,
  ConvTranspose,
  Dense,
  GlobalAvgPool,
  MaxPool,
  Resize,
)
from jaxcompress.quantize.integer.grid import Grid

SHAPE = (8, 8, 4)


class Net(nn.Module):
  stride: int = 1
  swish: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    y = ConvNorm(4, kernel=3, groups="depthwise", stride=self.stride, name="depthwise")(
      x, train=train
    )
    if self.swish:
      y = Activation("hard_swish", name="swish")(y)
    y = ConvNorm(4, name="project")(y, train=train)
    y = Add(name="add")(x, y) if x.shape == y.shape else y
    return Dense(3, name="classifier")(GlobalAvgPool(name="pool")(y))


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


def names_of(path):
  return [operator.name for operator in read_operators(path)]


def with_one_scale(quantized):
  layer = quantized.layers["classifier"]
  same = layer._replace(scales=np.full_like(layer.scales, layer.scales[0]))
  return dataclasses.replace(quantized, layers={**quantized.layers, "classifier": same})


@pytest.mark.parametrize("target", ["xnnpack", "tflm", "ethos-u", "edgetpu"])
@pytest.mark.parametrize("kernels", ["xnnpack", "tflm"])
def test_a_file_for_a_target_has_no_findings_and_keeps_every_bit(
  target, kernels, quantized, networks, tmp_path
):
  if kernels == "tflm":
    pytest.importorskip("tflite_micro")
  quantized = quantized.with_kernels(kernels)
  path = export.tflite(quantized, tmp_path / "net.tflite", target=target)
  assert export.lint(path, target) == ()
  assert export.verify(path, quantized, networks.images_for(quantized, 64)).bit_equal == 1.0


def test_a_dense_layer_of_many_scales_is_a_convolution_where_it_must_have_one(quantized, tmp_path):
  plain = names_of(export.tflite(quantized, tmp_path / "plain.tflite", target="ethos-u"))
  old = names_of(export.tflite(quantized, tmp_path / "old.tflite", target="edgetpu"))
  assert plain[-1] == "FULLY_CONNECTED"
  assert old == [*plain[:-1], "RESHAPE", "CONV_2D", "RESHAPE"]


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_a_dense_layer_of_one_scale_stays_what_it_is(kernels, quantized, networks, tmp_path):
  same = with_one_scale(quantized).with_kernels(kernels)
  path = export.tflite(same, tmp_path / "net.tflite", target="edgetpu")
  dense = read_operators(path)[-1]
  assert dense.name == "FULLY_CONNECTED"
  assert [tensor.scales.size for tensor in dense.inputs] == [1, 1, 1]
  assert export.verify(path, same, networks.images_for(same, 64)).bit_equal == 1.0


def refuse(quantized, tmp_path, target, message):
  with pytest.raises(ValueError, match=message) as error:
    export.tflite(quantized, tmp_path / "net.tflite", target=target)
  assert len(str(error.value).splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


class Pooled(nn.Module):
  act: str | None

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, norm=None, act=self.act, name="stem")(x, train=train)
    return GlobalAvgPool(name="mean")(MaxPool(3, 2, padding="SYMMETRIC", name="pool")(x))


def test_a_max_pool_of_what_is_not_negative_is_padded_as_all_targets_can(networks, tmp_path):
  rectified = networks.random_quantized(Pooled("relu"), SHAPE)
  path = export.tflite(rectified, tmp_path / "net.tflite", target="edgetpu")
  assert names_of(path) == ["CONV_2D", "PAD", "MAX_POOL_2D", "MEAN"]
  result = export.verify(path, rectified, networks.images_for(rectified, 64))
  assert result[:5] == (1.0, 0, 1.0, 64, ())
  path.unlink()
  refuse(
    networks.random_quantized(Pooled(None), SHAPE), tmp_path, "edgetpu", "PADV2 of layer 'pool/"
  )


def test_kernels_that_round_the_two_differently_are_refused_with_the_layer(quantized, tmp_path):
  reference = quantized.with_kernels("reference")
  refuse(reference, tmp_path, "edgetpu", "needs one weight scale in layer 'classifier'")


def test_an_error_is_raised_with_the_operator_before_anything_is_written(networks, tmp_path):
  wide = networks.random_quantized(Net(stride=4), SHAPE)
  refuse(wide, tmp_path, "ethos-u", r"DEPTHWISE_CONV_2D of layer 'depthwise': .* \(stride 4\)")
  swish = networks.random_quantized(Net(swish=True), SHAPE, lower=False)
  refuse(swish, tmp_path, "edgetpu", "HARD_SWISH of layer 'swish'")


def test_targets_that_are_unknown_or_take_other_files_are_refused(quantized, tmp_path):
  refuse(quantized, tmp_path, "phone", "target: 'phone' is unknown; it must be one of xnnpack")
  refuse(quantized, tmp_path, "tensorrt", "target: 'tensorrt' takes .onnx files")


def test_what_xnnpack_leaves_out_is_a_warning_beforehand(networks, tmp_path):
  swish = networks.random_quantized(Net(swish=True), SHAPE, lower=False)
  path = export.tflite(swish, tmp_path / "net.tflite", target="xnnpack")
  assert [(f.op, f.name, f.severity) for f in export.lint(path, "xnnpack")] == [
    ("HARD_SWISH", "swish", "warning")
  ]
  assert Runtime(path).left_out() == ("HARD_SWISH",)


@pytest.fixture
def vela():
  pytest.importorskip("ethosu.vela")
  return export.vela


def test_vela_leaves_to_the_cpu_what_the_linter_finds(vela, networks, tmp_path):
  path = export.tflite(networks.random_quantized(Net(stride=4), SHAPE), tmp_path / "net.tflite")
  (finding,) = export.lint(path, "ethos-u")
  report = vela(path)
  (left,) = report.cpu_ops
  assert (left.op, left.name) == (finding.op, finding.name)
  assert "stride" in left.reason and report.on_npu == report.operators - 1


def hand_made():
  """A file of six operators, of which the convolution, the pool and the quotient are not for NPUs."""
  file = ModelFile()
  grid = file.quantization(0.5, 0)
  shapes = {
    **{"x": (1, 65, 65, 4), "pixels": (1, 65, 65, 4), "wide": (1, 17, 17, 4)},
    **{"average": (1, 17, 17, 4), "depthwise": (1, 6, 6, 4), "ratio": (1, 6, 6, 4), "mean": (1, 4)},
  }
  at = {name: file.tensor(name, shape, np.int8, grid) for name, shape in shapes.items()}

  def constants(shape, axis):
    weights = file.tensor(f"w{axis}", shape, np.int8, grid, np.ones(shape, np.int8))
    bias = file.tensor(f"b{axis}", (4,), np.int32, file.quantization(0.25, 0), np.ones(4, np.int32))
    return weights, bias

  def window(stride, **fields):
    return {"padding": 0, "strideH": stride, "strideW": stride, **fields}

  def layer(stride, **fields):
    return window(stride, dilationHFactor=1, dilationWFactor=1, **fields)

  file.operator("ADD", 2, [at["x"], at["x"]], [at["pixels"]])
  file.operator("CONV_2D", 3, [at["pixels"], *constants((4, 3, 3, 4), 0)], [at["wide"]], **layer(4))
  pool = window(1, filterHeight=9, filterWidth=9)
  file.operator("AVERAGE_POOL_2D", 2, [at["wide"]], [at["average"]], "Pool2DOptions", **pool)
  file.operator(
    "DEPTHWISE_CONV_2D",
    3,
    [at["average"], *constants((1, 3, 3, 4), 3)],
    [at["depthwise"]],
    **layer(3, depthMultiplier=1),
  )
  file.operator("DIV", 2, [at["depthwise"], at["depthwise"]], [at["ratio"]])
  axes = file.constant(np.int32([1, 2]))
  file.operator("MEAN", 2, [at["ratio"], axes], [at["mean"]], "ReducerOptions", keepDims=False)
  return file.to_bytes({"x": at["x"]}, {"mean": at["mean"]})


def test_vela_and_the_linter_agree_on_every_operator_of_a_hand_made_file(vela, tmp_path):
  path = tmp_path / "net.tflite"
  path.write_bytes(hand_made())
  found = {(finding.op, finding.name) for finding in export.lint(path, "ethos-u")}
  assert found == {("CONV_2D", "wide"), ("AVERAGE_POOL_2D", "average"), ("DIV", "ratio")}
  assert {(left.op, left.name) for left in vela(path).cpu_ops} == found


class Enlarging(nn.Module):
  """One layer that enlarges maps."""

  layer: object

  @nn.compact
  def __call__(self, x, *, train):
    options = {"train": train} if isinstance(self.layer, ConvTranspose) else {}
    return self.layer.copy(name="op")(x, **options)


ENLARGING = {  # and what the linter finds for an Ethos-U
  "transposed": (ConvTranspose(5, kernel=3, stride=2, act="relu"), None),
  "transposed, valid": (ConvTranspose(5, kernel=4, stride=2, padding="VALID"), None),
  "transposed, no steps": (ConvTranspose(5, kernel=3), None),
  "transposed by three": (ConvTranspose(5, kernel=3, stride=3), "stride 3x3"),
  "transposed, uneven": (ConvTranspose(5, kernel=3, stride=(2, 1)), "stride 2x1"),
  "transposed, longer": (
    ConvTranspose(5, kernel=3, stride=2, padding=((2, 3), (2, 3))),
    "output 10x10",
  ),
  "nearest": (Resize(8), None),
  "nearest by eight": (Resize(32), None),
  "nearest by three": (Resize(12), "from 4x4 to 12x12"),
  "nearest, uneven": (Resize((8, 4)), "from 4x4 to 8x4"),
  "bilinear": (Resize(8, "bilinear"), None),
  "bilinear by four": (Resize(16, "bilinear"), "from 4x4 to 16x16"),
  "bilinear, asymmetric by four": (Resize(16, "bilinear", "asymmetric"), None),
  "bilinear, corners": (Resize(13, "bilinear", "align_corners"), None),
  "bilinear, shrunk": (Resize(2, "bilinear"), "from 4x4 to 2x2"),
}


@pytest.mark.parametrize("name", ENLARGING)
def test_vela_and_the_linter_agree_on_layers_that_enlarge_maps(name, vela, networks, tmp_path):
  layer, expected = ENLARGING[name]
  quantized = networks.random_quantized(Enlarging(layer), (4, 4, 6))
  path = export.tflite(quantized, tmp_path / "net.tflite")
  findings = export.lint(path, "ethos-u")
  assert [expected in finding.reason for finding in findings] == ([True] if expected else [])
  assert bool(vela(path).cpu_ops) == bool(expected)


def test_a_rectifier_that_the_grid_of_the_output_is_needs_no_newer_version(networks, tmp_path):
  layer = ConvTranspose(5, kernel=3, stride=2, act="relu")
  quantized = networks.random_quantized(Enlarging(layer), (4, 4, 6))
  scale = quantized.grids["op"].scale
  for zero_point, version in ((-128, 3), (-100, 4)):
    grids = {**quantized.grids, "op": Grid(scale, zero_point)}
    model = dataclasses.replace(quantized, grids=grids)
    path = export.tflite(model, tmp_path / "net.tflite")
    assert [operator.version for operator in read_operators(path)] == [version]
    assert bool(export.lint(path, "edgetpu")) == (version > 3)
    assert export.verify(path, model, networks.images_for(model, 8)).bit_equal == 1.0


def test_vela_places_a_whole_network_on_the_npu(vela, networks, tmp_path):
  quantized = networks.random_quantized(models.shufflenet_v2(10, 0.5), (32, 32, 3))
  path = export.tflite(quantized, tmp_path / "net.tflite", target="ethos-u")
  report = vela(path, "ethos-u55-256")
  assert report.cpu_ops == () and report.on_npu == report.operators > 50
  assert 0 < report.sram_kib < report.storage_kib and report.milliseconds > 0
  assert [entry.name for entry in tmp_path.iterdir()] == ["net.tflite"]


def test_vela_refuses_what_it_cannot_compile_in_one_line(vela, tmp_path):
  path = tmp_path / "net.tflite"
  path.write_bytes(b"\x20\0\0\0TFL3" + b"\xff" * 99)
  for arguments, message in (
    ((path,), "does not run in LiteRT"),
    ((path, "ethos-u9"), "accelerator: 'ethos-u9' is unknown"),
    ((tmp_path / "net.onnx",), "is no .tflite file"),
  ):
    with pytest.raises(ValueError, match=message):
      vela(*arguments)


def test_the_arena_grows_with_the_maps_of_a_network(networks, tmp_path):
  pytest.importorskip("tflite_micro")
  sizes = [
    export.arena(
      export.tflite(networks.random_quantized(Net(), (side, side, 4)), tmp_path / "net.tflite")
    )
    for side in (8, 32)
  ]
  maps = 2 * 32 * 32 * 4  # the input and what is added to it live at once
  assert maps < sizes[1] < maps + sizes[0] + 32 * 32 * 4 and sizes[0] < 10_000


def test_the_arena_of_a_file_that_does_not_fit_the_runtime_is_one_line(tmp_path):
  pytest.importorskip("tflite_micro")
  path = tmp_path / "net.tflite"
  path.write_bytes(b"\x20\0\0\0TFL3" + b"\xff" * 99)
  with pytest.raises(ValueError, match="does not run in LiteRT"):
    export.arena(path)


@pytest.mark.parametrize(("package", "check"), [("ethosu", "vela"), ("tflite_micro", "arena")])
def test_missing_checkers_say_what_to_install(package, check, quantized, tmp_path, monkeypatch):
  path = export.tflite(quantized, tmp_path / "net.tflite")
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=r'pip install "jaxcompress\[targets\]"'):
    getattr(export, check)(path)
