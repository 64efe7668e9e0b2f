"""The findings of a linter in files that break its rules, and in those of jaxcompress."""

import flax.linen as nn
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from jaxcompress import export
from jaxcompress.export.contents import read_operators
from jaxcompress.export.flatbuffer import SharingBuilder
from jaxcompress.export.onnx_file import OnnxFile
from jaxcompress.export.requirements import CHECKS, ERROR, WARNING
from jaxcompress.files.checksums import MARK
from jaxcompress.nn import ConvNorm, Dense, GlobalAvgPool

SHAPE = (8, 8, 4)
TFLITE = [name for name, target in export.TARGETS.items() if target.suffix == ".tflite"]


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, kernel=3, groups="depthwise", norm=None, name="depthwise")(x, train=train)
    x = ConvNorm(4, norm=None, act="relu", name="project")(x, train=train)
    return Dense(3, name="classifier")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture
def sound(quantized, tmp_path):
  return export.tflite(quantized, tmp_path / "net.tflite")


@pytest.fixture
def edited(sound):
  """Writes the sound file again after ``change(model, operator of each layer, tensors)``."""

  def edit(change, tail=b""):
    model = schema.ModelT.InitFromPackedBuf(sound.read_bytes(), 0)
    graph = model.subgraphs[0]
    layers = {graph.tensors[op.outputs[0]].name.decode(): op for op in graph.operators}
    change(model, layers, graph.tensors)
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    content = bytes(builder.Output()).replace(MARK.encode(), b"changed by its user")
    sound.write_bytes(content + tail)
    return sound

  return edit


def rules(path, target, severity=ERROR):
  return {
    (f.requirement, f.op, f.name) for f in export.lint(path, target) if f.severity == severity
  }


def weights_of(layers, tensors, layer):
  return tensors[layers[layer].inputs[1]]


def test_every_rule_has_a_check_and_a_reason_and_every_check_is_asked_for():
  every = [rule for target in export.TARGETS.values() for rule in target.requirements]
  assert {rule.name for rule in every} == set(CHECKS)
  assert all(len(rule.reason) > 20 and rule.severity in (ERROR, WARNING) for rule in every)


def test_a_file_of_a_plain_network_is_as_phones_and_npus_ask(sound):
  assert export.lint(sound, "xnnpack") == export.lint(sound, "ethos-u") == ()
  dense = {("per-channel", "FULLY_CONNECTED", "classifier")}
  assert rules(sound, "tflm", WARNING) == dense and rules(sound, "tflm") == set()
  assert rules(sound, "edgetpu") == dense


def test_operators_come_with_their_tensors_types_shapes_and_grids(sound, quantized):
  found = {operator.outputs[0].name: operator for operator in read_operators(sound)}
  image, weights, bias = found["depthwise"].inputs
  assert (image.name, image.type, image.shape, image.is_constant) == (
    *("input", "INT8", (1, *SHAPE)),
    False,
  )
  assert (weights.type, weights.axis, bias.type) == ("INT8", 3, "INT32")
  layer = quantized.layers["depthwise"]
  np.testing.assert_array_equal(weights.scales, layer.scales)
  np.testing.assert_array_equal(weights.values, layer.weights.transpose(2, 0, 1, 3))
  assert found["project"].inputs[0].maker == "DEPTHWISE_CONV_2D"
  assert found["depthwise"].options["strideH"] == 1


def widen_stride(model, layers, tensors):
  layers["depthwise"].builtinOptions.strideH = 4


def free_batch(model, layers, tensors):
  for tensor in tensors:
    if tensor.shape.size == 4 and model.buffers[tensor.buffer].data is None:
      tensor.shapeSignature = np.int32([-1, *tensor.shape[1:]])


def two_images(model, layers, tensors):
  mean = tensors[layers["pool"].inputs[0]]
  mean.shape = np.int32([2, *mean.shape[1:]])


def int4_dense(model, layers, tensors):
  weights = weights_of(layers, tensors, "classifier")
  weights.type = schema.TensorType.INT4
  model.buffers[weights.buffer].data = model.buffers[weights.buffer].data[: 4 * 3 // 2]


def lowest_weight(model, layers, tensors):
  buffer = model.buffers[weights_of(layers, tensors, "project").buffer]
  buffer.data = np.concatenate([np.uint8([128]), buffer.data[1:]])


def shifted_weights(model, layers, tensors):
  details = weights_of(layers, tensors, "project").quantization
  details.zeroPoint = np.int64([0, 0, 3, 0])


def computed_bias(model, layers, tensors):
  tensors[layers["project"].inputs[2]].buffer = 0


def float_mean(model, layers, tensors):
  for index in (layers["pool"].inputs[0], layers["pool"].outputs[0]):
    tensors[index].type = schema.TensorType.FLOAT32


def new_convolution(model, layers, tensors):
  model.operatorCodes[layers["project"].opcodeIndex].version = 6


@pytest.mark.parametrize(
  ("change", "target", "expected"),
  [
    (widen_stride, "ethos-u", ("stride", "DEPTHWISE_CONV_2D", "depthwise")),
    (free_batch, "tflm", ("static-shape", "DEPTHWISE_CONV_2D", "depthwise")),
    (free_batch, "edgetpu", ("static-shape", "MEAN", "pool")),
    (two_images, "ethos-u", ("batch", "MEAN", "pool")),
    (int4_dense, "tflm", ("weight-types", "FULLY_CONNECTED", "classifier")),
    (int4_dense, "ethos-u", ("weight-types", "FULLY_CONNECTED", "classifier")),
    (lowest_weight, "xnnpack", ("weight-range", "CONV_2D", "project")),
    (shifted_weights, "xnnpack", ("weight-zero-point", "CONV_2D", "project")),
    (computed_bias, "ethos-u", ("constant", "CONV_2D", "project")),
    (float_mean, "xnnpack", ("integer", "MEAN", "pool")),
    (new_convolution, "edgetpu", ("version", "CONV_2D", "project")),
  ],
)
def test_a_broken_rule_is_found_at_its_layer_and_was_not_before(
  change, target, expected, sound, edited
):
  assert expected not in rules(sound, target)
  assert expected in rules(edited(change), target)
  (finding,) = [f for f in export.lint(sound, target) if f[:3] == expected]
  assert finding.reason.endswith(")") and "\n" not in finding.reason


def test_constants_outside_the_flatbuffer_are_found_and_their_numbers_still_checked(edited, sound):
  size = len(sound.read_bytes())
  place = (size + 2000) // 16 * 16

  def move_out(model, layers, tensors):
    buffer = model.buffers[weights_of(layers, tensors, "project").buffer]
    buffer.offset, buffer.size, buffer.data = place, 16, None

  edited(move_out)
  tail = bytes(place - len(sound.read_bytes())) + bytes([128] * 16)
  sound.write_bytes(sound.read_bytes() + tail)
  found = rules(sound, "tflm")
  assert {("inline", "CONV_2D", "project"), ("weight-range", "CONV_2D", "project")} == found


def test_the_reason_says_what_is_there_instead(edited):
  (finding,) = export.lint(edited(widen_stride), "ethos-u")
  assert finding.reason == ("the NPU moves a depthwise window by at most three cells (stride 4)")


def symmetric(float_residual=False, kind=np.int8, zero=0, batch=1):
  """An ONNX file of a convolution and a residual, each between quantization and back."""
  file = OnnxFile()
  scale, zero = file.constant(np.float32(0.5)), file.constant(kind(zero))

  def pair(tensor):
    codes = file.operator("QuantizeLinear", [tensor, scale, zero], f"{tensor}/codes")
    return file.operator("DequantizeLinear", [codes, scale, zero], f"{tensor}/real")

  real = pair("image")
  weights = file.constant(np.ones((2, 2, 1, 1), np.int8))
  ones, zeros = file.constant(np.ones(2, np.float32)), file.constant(np.zeros(2, np.int8))
  weights = file.operator("DequantizeLinear", [weights, ones, zeros], "weights", axis=0)
  y = file.operator("Conv", [real, weights], "conv")
  file.operator("Add", [y if float_residual else pair(y), real], "add")
  shape = (batch, 2, 3, 3)
  return file.to_bytes("net", {"image": shape}, {"add": shape}, producer=("test", "1"), metadata={})


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, set()),
    ({"float_residual": True}, {("residual", "Add", "add")}),
    ({"zero": 3}, {("zero-point", "QuantizeLinear", "image/codes")}),
    ({"kind": np.uint8}, {("codes", "DequantizeLinear", "conv/real")}),
  ],
)
def test_tensorrt_asks_for_symmetric_int8_around_both_sides_of_a_residual(
  options, expected, tmp_path
):
  path = tmp_path / "net.onnx"
  path.write_bytes(symmetric(**options))
  found = rules(path, "tensorrt")
  assert expected <= found and bool(found) == bool(expected)


def test_a_free_batch_of_an_onnx_file_is_a_warning(tmp_path):
  path = tmp_path / "net.onnx"
  path.write_bytes(symmetric(batch="n"))
  assert rules(path, "tensorrt") == set()
  assert ("static-shape", "Conv", "conv") in rules(path, "tensorrt", WARNING)


def test_the_unsigned_codes_of_onnxruntime_are_not_for_tensorrt(quantized, tmp_path):
  path = export.onnx(quantized, tmp_path / "net.onnx")
  assert {rule for rule, *_ in rules(path, "tensorrt")} == {"codes", "zero-point"}


@pytest.mark.parametrize(
  ("name", "content", "target", "message"),
  [
    ("net.tflite", None, "phone", "target: 'phone' is unknown; it must be one of xnnpack, tflm"),
    ("net.tflite", None, "xnnpack", "cannot be read"),
    ("net.tflite", b"\0\0\0\0PNG!" + bytes(99), "xnnpack", "is no .tflite file"),
    ("net.tflite", b"\x20\0\0\0TFL3" + b"\xff" * 99, "tflm", "does not run in LiteRT"),
    ("net.onnx", b"\xff" * 99, "tensorrt", "does not run in onnxruntime"),
    ("net.onnx", b"", "ethos-u", "target: 'ethos-u' takes .tflite files"),
    ("net.tflite", b"", "tensorrt", "target: 'tensorrt' takes .onnx files"),
  ],
)
def test_unknown_targets_and_damaged_or_foreign_files_are_one_line(
  name, content, target, message, tmp_path
):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    export.lint(tmp_path / name, target)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_every_truncation_of_a_file_is_an_error(sound):
  content = sound.read_bytes()
  for size in range(0, len(content), 97):
    sound.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"net\.tflite"):
      export.lint(sound, "ethos-u")


def test_an_operator_without_its_inputs_is_one_line(edited):
  def take_away(model, layers, tensors):
    layers["pool"].inputs = np.int32([])

  with pytest.raises(ValueError, match=r"net\.tflite has operators without what they need"):
    export.lint(edited(take_away), "ethos-u")


@pytest.mark.parametrize("target", ["tflm", "ethos-u"])
def test_a_file_with_changed_bytes_is_linted_or_refused_in_one_line(sound, target):
  content, rng = sound.read_bytes(), np.random.default_rng(0)
  refused = 0
  for _ in range(100):
    changed = bytearray(content)
    for place in rng.integers(0, len(content), 2):
      changed[place] = rng.integers(0, 256)
    sound.write_bytes(changed)
    try:
      export.lint(sound, target)
    except ValueError as error:
      refused += 1
      assert "net.tflite" in str(error) and "\n" not in str(error)
  assert 0 < refused < 100
