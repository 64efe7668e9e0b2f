"""ONNX files: what is in them, that they are sound, and arithmetic on the edge of rounding."""

import json
import sys

import flax.linen as nn
import jax
import numpy as np
import onnx
import pytest

from jaxcompress import export, models
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.nn import (
  Activation,
  Add,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  Graph,
  Node,
  Split,
  fold,
)
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

SHAPE = (6, 6, 4)


class Net(nn.Module):
  """Everything that an architecture is made of; its classifier reads a map."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu6", name="stem")(x, train=train)
    x = ConvNorm(8, kernel=3, groups="depthwise", stride=2, name="image")(x, train=train)
    y = SqueezeExcite(4, name="se")(Activation("hard_swish", name="swish")(x), train=train)
    left, right = Split((2, 6), name="split")(Add(name="add")(x, y))
    return Dense(5, name="logits")(ChannelShuffle(2, name="mix")(Concat(name="cat")(left, right)))


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture(scope="module")
def path(quantized, tmp_path_factory):
  facts = {"classes": ["a", "ä"], "preprocess": {"scale": 64.0}}
  return export.onnx(
    quantized, tmp_path_factory.mktemp("onnx") / "net.onnx", metadata=facts, batch=None
  )


@pytest.fixture(scope="module")
def images(networks, quantized):
  return networks.images_for(quantized, 11)


def test_a_file_is_bit_equal_on_any_number_of_threads(path, quantized, images):
  for threads in (1, 2):
    result = export.verify(path, quantized, images, threads=threads)
    assert result == export.Verification(1.0, 0, 1.0, 11, ("HardSigmoid",))


def test_a_plain_session_gives_the_float_logits_of_nchw_images(path, quantized, images):
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.add_session_config_entry("session.x64quantprecision", "1")  # processors without VNNI
  session = onnxruntime.InferenceSession(path, options)
  (logits,) = session.run(["logits"], {"image": images.transpose(0, 3, 1, 2)})
  np.testing.assert_array_equal(logits, quantized.with_kernels("onnxruntime")(images))


def test_images_that_lie_between_two_codes_are_rounded_as_the_file_does(path, quantized):
  grid = quantized.grids["input"]
  halves = np.arange(-40, 68).repeat(12)[: 9 * 6 * 6 * 4] + 0.5
  ties = (halves.reshape(-1, *SHAPE) * np.float64(grid.scale)).astype(np.float32)
  nearby = ties.view(np.int32) + np.random.default_rng(0).integers(-1, 2, ties.shape)
  images = nearby.astype(np.int32).view(np.float32)
  assert export.verify(path, quantized, images).bit_equal == 1.0
  ort = quantized.with_kernels("onnxruntime")
  assert (ort.quantize_input(images) != quantized.quantize_input(images)).any()


def test_a_fixed_batch_is_filled_up(quantized, images, tmp_path):
  path = export.onnx(quantized, tmp_path / "four.onnx", batch=4)
  assert export.Runtime(path).input_shape == (4, *SHAPE)
  assert export.verify(path, quantized, images).bit_equal == 1.0
  with pytest.raises(ValueError, match="batch: 0 must be at least 1"):
    export.onnx(quantized, path, batch=0)


def test_activations_are_uint8_and_weights_int8_with_a_scale_per_channel(path, quantized):
  model = onnx.load(path)
  onnx.checker.check_model(model, full_check=True)
  assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
  constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
  makers = {name: node for node in model.graph.node for name in node.output}
  for node in model.graph.node:
    if node.op_type == "QuantizeLinear":
      assert constants[node.input[2]].dtype == np.uint8
    if node.op_type in ("Conv", "Gemm"):
      x, weights, bias = (makers[name] for name in node.input)
      layer = quantized.layers[node.name.removesuffix("/out")]
      scales = constants[weights.input[1]]
      np.testing.assert_array_equal(scales, layer.scales)
      np.testing.assert_array_equal(constants[bias.input[0]], layer.bias)
      np.testing.assert_array_equal(constants[bias.input[1]], constants[x.input[1]] * layer.scales)
      assert constants[weights.input[0]].dtype == np.int8
  others = ("QuantizeLinear", "DequantizeLinear", "Clip")
  computing = [node for node in model.graph.node if node.op_type not in others]
  assert all(makers[n.input[0]].op_type == "DequantizeLinear" for n in computing)


def test_metadata_is_kept_with_the_grids_of_both_ends(path, quantized):
  (entry,) = onnx.load(path).metadata_props
  found = export.read_metadata(path)
  written = json.loads(entry.value)
  assert written.pop("seal").startswith("jaxcompress-sha256-")
  assert entry.key == "jaxcompress" and written == found
  assert found["classes"] == ["a", "ä"] and found["preprocess"] == {"scale": 64.0}
  assert (found["kernels"], found["layout"]) == ("onnxruntime", "NCHW")
  assert np.float32(found["output"]["scale"]) == quantized.grids["logits"].scale


def test_the_same_model_gives_the_same_bytes_and_layers_may_be_named_as_the_ends_are(
  path, quantized, tmp_path
):
  facts = export.read_metadata(path)
  again = export.onnx(quantized, tmp_path / "b.onnx", metadata=facts)
  assert again.read_bytes() == path.read_bytes()
  graph = onnx.load(path).graph
  assert [graph.input[0].name, graph.output[0].name] == ["image", "logits"]


def test_a_float_file_computes_what_the_network_does(networks, images, tmp_path):
  variables = networks.trained_like(Net(), SHAPE)
  graph, _ = networks.graph_of(Net(), SHAPE)
  path = export.onnx_float(graph, fold(graph, variables), tmp_path / "float.onnx")
  expected = jax.jit(lambda v, x: Net().apply(v, x, train=False))(variables, images)
  device = export.Runtime(path)(images)
  np.testing.assert_allclose(device, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_wide_activations_are_refused(networks, quantized, tmp_path):
  wide = networks.with_widths(quantized, lambda key: 16)
  with pytest.raises(ValueError, match="has 16 bits, and onnxruntime has 8-bit operators only"):
    export.onnx(wide, tmp_path / "wide.onnx")


def test_a_missing_extra_says_what_to_install(path, quantized, images, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(ImportError, match=r'pip install "jaxcompress\[edge\]"'):
    export.verify(path, quantized, images)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_files_are_named_in_one_line(share, path, quantized, images, tmp_path):
  content = path.read_bytes()
  cut = tmp_path / "cut.onnx"
  cut.write_bytes(content[: int(share * len(content))])
  for call in (lambda: export.verify(cut, quantized, images), lambda: export.read_metadata(cut)):
    with pytest.raises(
      ValueError, match=r"path: .*cut\.onnx does not run in onnxruntime"
    ) as caught:
      call()
    assert "\n" not in str(caught.value)


def test_files_and_kernels_that_do_not_belong_together_are_refused(path, quantized, tmp_path):
  with pytest.raises(ValueError, match=r"kernels: 'tflm' does not run .*net\.onnx"):
    export.Runtime(path, kernels="tflm")
  with pytest.raises(ValueError, match=r"must end in \.tflite or \.onnx"):
    export.Runtime(tmp_path / "net.pb")
  tflite = export.tflite(quantized, tmp_path / "net.tflite")
  with pytest.raises(ValueError, match=r"kernels: 'onnxruntime' does not run .*net\.tflite"):
    export.verify(tflite, quantized.with_kernels("onnxruntime"), np.zeros((1, *SHAPE), np.float32))


@pytest.mark.slow
def test_mobilenet_is_bit_equal_and_computes_nothing_in_float(networks, tmp_path):
  images = np.random.default_rng(1).normal(size=(24, 32, 32, 3)).astype(np.float32)
  model = models.mobilenet_v2(10, 0.25)
  variables = networks.trained_like(model, (32, 32, 3))
  logits, *_, quantized = networks.calibrated(model, variables, images)
  result = export.verify(export.onnx(quantized, tmp_path / "m.onnx"), quantized, images)
  assert result == export.Verification(1.0, 0, 1.0, 24, ())
  ours = quantized.with_kernels("onnxruntime")(images)
  assert np.corrcoef(ours.ravel(), logits.ravel())[0, 1] > 0.97


def near(value, rng):
  """A float32 number a few units in the last place away, so that results lie near ties."""
  bits = np.array(value, np.float32).view(np.int32) + rng.integers(-3, 4)
  return bits.astype(np.int32).view(np.float32)[()]


@pytest.mark.parametrize("op", ["Add", "Multiply"])
def test_pairs_of_all_codes_on_nearly_tied_scales_are_bit_equal(op, networks, tmp_path):
  """The second input is a copy of other channels of the first, on another grid."""
  rng = np.random.default_rng(0)
  whole, half = (1, 16, 16, 512), (1, 16, 16, 256)
  pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1)
  codes = pairs.reshape(1, 16, 16, 256, 2).transpose(0, 1, 2, 4, 3).reshape(whole)
  conv = {"features": 256, "kernel": 1, "stride": 1, "groups": 256, "padding": "SAME", "act": None}
  split = Node("s", "Split", {"sizes": (256, 256)}, ("input",), ("s", "s:1"), (whole,), (half,) * 2)
  copy = Node("c", "ConvNorm", conv, ("s:1",), ("c",), (half,), (half,))
  graph = Graph(
    (split, copy, Node("o", op, {}, ("s", "c"), ("o",), (half,) * 2, (half,))), whole, "o"
  )
  differing = 0
  for _ in range(4):
    source = Grid(np.float32(rng.uniform(0.01, 1)), int(rng.integers(-128, 128)))
    power = 2.0 ** rng.integers(1, 5)
    other = Grid(near(source.scale * rng.integers(1, 9) / power, rng), source.zero_point)
    reference = float(source.scale) * (float(other.scale) * power * 8 if op == "Multiply" else 1)
    output = Grid(near(reference * rng.integers(1, 8) / 4, rng), int(rng.integers(-128, 128)))
    layer = networks.random_integers(rng, (1, 1, 1, 256), 1.0, 1.0)._replace(
      weights=np.ones((1, 1, 1, 256), np.int8),
      scales=np.full(256, other.scale / source.scale, np.float32),
      bias=np.zeros(256, np.int32),
    )
    grids = {"input": source, "s": source, "s:1": source, "c": other, "o": output}
    quantized = QuantizedModel(graph, grids, {"c": layer})
    images = ((codes - source.zero_point) * source.scale).astype(np.float32)
    result = export.verify(export.onnx(quantized, tmp_path / "a.onnx"), quantized, images)
    assert (result.bit_equal, result.left_out) == (1.0, ())
    ours = quantized.with_kernels("onnxruntime").integers(images)
    differing += int((ours != quantized.integers(images)).sum())
  assert differing > 100  # so that XNNPACK's arithmetic would not pass


def test_metadata_cannot_say_that_images_lie_otherwise(quantized, images, tmp_path):
  path = export.onnx(quantized, tmp_path / "net.onnx", metadata={"layout": "NHWC", "name": "net"})
  found = export.read_metadata(path)
  assert (found["layout"], found["name"]) == ("NCHW", "net")
  assert export.verify(path, quantized, images).bit_equal == 1.0


def test_a_float_file_cannot_be_compared_bit_for_bit(quantized, images, networks, tmp_path):
  graph, variables = quantized.graph, networks.trained_like(Net(), SHAPE)
  path = export.onnx_float(graph, fold(graph, variables), tmp_path / "net.onnx")
  with pytest.raises(ValueError, match="computes in float; only files of the same integers"):
    export.verify(path, quantized, images)


@pytest.mark.parametrize(
  ("kind", "shape", "entry", "message"),
  [
    ("STRING", (1, 3), None, r"'x' is a tensor\(string\); it must be an array of numbers"),
    ("BFLOAT16", (1, 3), None, "must be an array of numbers"),
    ("FLOAT", (), "[]", "computes in float|reads images of shape"),
    ("FLOAT", (1, 3, 4, 4), "null", "computes in float|reads images of shape"),
    ("FLOAT", (1, 3, 4, 4), "{", "computes in float|reads images of shape"),
  ],
)
def test_files_of_others_are_refused_in_one_line(
  kind, shape, entry, message, quantized, images, tmp_path
):
  from onnx import TensorProto, helper

  ends = [helper.make_tensor_value_info(n, getattr(TensorProto, kind), shape) for n in "xy"]
  graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
  if entry is not None:
    model.metadata_props.add(key="jaxcompress", value=entry)
  path = tmp_path / "other.onnx"
  path.write_bytes(model.SerializeToString())
  with pytest.raises(ValueError, match=message) as error:
    export.verify(path, quantized, images)
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match=r"metadata|numbers"):
    export.read_metadata(path)
