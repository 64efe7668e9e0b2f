"""Verification finds what is wrong with a file, in one line."""

import sys

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.export.contents import read_operators
from jaxcompress.export.trial import KERNELS_BY_SUFFIX
from jaxcompress.files.checksums import MARK
from jaxcompress.nn import Add, ConvNorm, Dense, GlobalAvgPool, Graph, MaxPool, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid


class Net(nn.Module):
  classes: int = 6

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    x = Add(name="add")(x, ConvNorm(8, name="conv")(x, train=train))
    return Dense(self.classes, name="classifier")(GlobalAvgPool(name="pool")(x))


SHAPE = (6, 6, 3)


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture(scope="module")
def path(quantized, tmp_path_factory):
  return export.tflite(quantized, tmp_path_factory.mktemp("verify") / "net.tflite")


@pytest.fixture(scope="module")
def images(networks, quantized):
  return networks.images_for(quantized, 20)


def test_a_file_is_bit_equal_on_any_number_of_threads(path, quantized, images):
  for threads in (1, 2):
    result = export.verify(path, quantized, images, threads=threads)
    assert result == export.Verification(1.0, 0, 1.0, 20, ())


def test_a_file_is_bit_equal_in_the_runtime_that_is_named_and_only_there(path, quantized, images):
  outputs = {}
  for kernels in KERNELS_BY_SUFFIX[".tflite"]:
    model = quantized.with_kernels(kernels)
    assert export.verify(path, model, images) == export.Verification(1.0, 0, 1.0, 20, ())
    outputs[kernels] = model.integers(images)
  assert (outputs["xnnpack"] != outputs["reference"]).any()


def test_a_runtime_that_is_not_installed_says_what_to_install(path, quantized, images, monkeypatch):
  monkeypatch.setitem(sys.modules, "tflite_micro", None)
  way_out = r'kernels: \'tflm\' .*; run pip install "jaxcompress\[targets\]"'
  with pytest.raises(ImportError, match=way_out):
    export.verify(path, quantized.with_kernels("tflm"), images)


def test_an_unknown_runtime_is_refused_with_the_choices(path):
  with pytest.raises(ValueError, match="kernels: 'cmsis' is unknown; it must be one of xnnpack, "):
    export.Runtime(path, kernels="cmsis")


def test_a_single_wrong_bias_is_found(path, quantized, images):
  layer = quantized.layers["stem"]
  changed = {**quantized.layers, "stem": layer._replace(bias=layer.bias + np.int32(3000))}
  result = export.verify(path, QuantizedModel(quantized.graph, quantized.grids, changed), images)
  assert result.bit_equal < 1 and result.max_steps > 0


def test_a_weight_that_was_changed_in_the_file_is_found(path, quantized, images, tmp_path):
  changed = tmp_path / "changed.tflite"
  content = bytearray(path.read_bytes())
  weights = quantized.layers["classifier"].weights.T.tobytes()
  at = content.find(weights)
  content[at : at + len(weights)] = bytes(len(weights))
  changed.write_bytes(content)
  with pytest.raises(ValueError, match=r"changed\.tflite is damaged or was changed"):
    export.verify(changed, quantized, images)
  changed.write_bytes(content.replace(MARK.encode(), b"without a checksum!"))
  assert export.verify(changed, quantized, images).bit_equal < 1


def test_preprocessing_of_the_model_is_part_of_the_comparison(path, quantized, networks):
  model = QuantizedModel(
    quantized.graph, quantized.grids, quantized.layers, preprocess=lambda x: x / np.float32(64) - 2
  )
  pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
  assert export.verify(path, model, pixels).bit_equal == 1.0


def test_operators_that_xnnpack_leaves_out_are_reported(networks, tmp_path):
  class Padded(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return GlobalAvgPool(name="mean")(MaxPool(3, 2, padding="SYMMETRIC", name="pool")(x))

  quantized = networks.random_quantized(Padded(), (8, 8, 3))
  result = export.verify(
    export.tflite(quantized, tmp_path / "a.tflite"), quantized, networks.images_for(quantized, 3)
  )
  assert (result.bit_equal, result.left_out) == (1.0, ("PADV2",))


@pytest.mark.parametrize("content", [b"", b"GIF89a............", b"\0\0\0\0TFL3garbage"])
def test_foreign_files_are_named_in_one_line(content, quantized, images, tmp_path):
  path = tmp_path / "foreign.tflite"
  path.write_bytes(content)
  for call in (
    lambda: export.verify(path, quantized, images),
    lambda: export.benchmark(path),
    lambda: export.read_metadata(path),
    lambda: read_operators(path),
  ):
    with pytest.raises(ValueError, match=r"path: .*foreign\.tflite (is no|does not run)") as caught:
      call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_cut_off_files_are_named_in_one_line(share, path, quantized, images, tmp_path):
  content = path.read_bytes()
  cut = tmp_path / "cut.tflite"
  cut.write_bytes(content[: int(share * len(content))])
  with pytest.raises(ValueError, match=r"path: .*cut\.tflite does not run in LiteRT") as caught:
    export.verify(cut, quantized, images)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="does not run in LiteRT"):
    read_operators(cut)


def test_a_missing_file_is_named(quantized, images, tmp_path):
  with pytest.raises(ValueError, match=r"nowhere\.tflite cannot be read"):
    export.verify(tmp_path / "nowhere.tflite", quantized, images)


def test_files_of_other_networks_are_refused(networks, path, images, quantized, tmp_path):
  wider = networks.random_quantized(Net(), (8, 6, 3))
  with pytest.raises(ValueError, match=r"\(1, 6, 6, 3\) and the model \(1, 8, 6, 3\)"):
    export.verify(path, wider, networks.images_for(wider, 1))
  more = networks.random_quantized(Net(classes=9), SHAPE)
  with pytest.raises(ValueError, match="has 6 logits and the model 9"):
    export.verify(path, more, images)


def test_float_files_cannot_be_compared_bit_for_bit(networks, quantized, images, tmp_path):
  class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return GlobalAvgPool(name="pool")(x)

  graph, _ = networks.graph_of(Mean(), SHAPE)
  path = export.tflite_float(graph, {}, tmp_path / "float.tflite")
  with pytest.raises(ValueError, match="has float32 input and float32 output"):
    export.verify(path, quantized, images)


def test_no_images_are_an_error(path, quantized, images):
  with pytest.raises(ValueError, match="images must not be empty"):
    export.verify(path, quantized, images[:0])


@pytest.mark.parametrize("kernels", ["xnnpack", "onnxruntime"])
def test_a_benchmark_measures_time_memory_and_size(kernels, quantized, networks, tmp_path):
  path = networks.write(quantized, tmp_path, kernels)
  latency = export.benchmark(path, threads=1, repeats=20)
  assert 0 < latency.median_ms < 1000 and latency.spread_ms >= 0
  assert latency.file_bytes == path.stat().st_size
  assert latency.memory_bytes is None or 0 < latency.memory_bytes < 2**28


@pytest.mark.parametrize("options", [{"threads": 0}, {"repeats": 0}])
def test_nothing_to_time_is_an_error(path, options):
  with pytest.raises(ValueError, match="0 must be at least 1"):
    export.benchmark(path, **options)


@pytest.mark.parametrize("name", ["", ".", "file.txt/net.tflite", "a" * 300 + ".tflite"])
def test_a_path_that_cannot_be_written_is_one_line_and_leaves_nothing(name, quantized, tmp_path):
  (tmp_path / "file.txt").write_text("mine")
  path = name if name in ("", ".") else tmp_path / name
  for write in (export.tflite, export.onnx, export.packed, export.stablehlo):
    with pytest.raises(ValueError, match=r"^path: ") as error:
      write(quantized, path)
    assert "\n" not in str(error.value)
  assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
  assert (tmp_path / "file.txt").read_text() == "mine"


def test_a_name_may_be_as_long_as_the_system_allows(quantized, tmp_path):
  path = export.tflite(quantized, tmp_path / ("a" * 240 + ".tflite"))
  assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("write", [export.tflite, export.onnx, export.packed])
def test_metadata_must_be_a_mapping(write, quantized, tmp_path):
  path = tmp_path / f"net{'.onnx' if write is export.onnx else '.tflite'}"
  with pytest.raises(ValueError, match="metadata: 'a' must be a mapping"):
    write(quantized, path, metadata="a")


@pytest.mark.parametrize("kind", ["tflite", "c"])
@pytest.mark.parametrize("tensor", ["input", "pool"])
@pytest.mark.parametrize("grid", [Grid(np.float32(0.2), 0), Grid(np.float32(0.1), 5)])
def test_a_file_whose_integers_stand_for_other_numbers_is_refused(kind, tensor, grid, tmp_path):
  pool = Node(
    "pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), ((1, 2, 2, 3),), ((1, 3),)
  )
  graph, grids = (
    Graph((pool,), (1, 2, 2, 3), "pool"),
    dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0)),
  )
  kernels = "tflm" if kind == "c" else "xnnpack"
  quantized, other = (
    QuantizedModel(graph, some, {}, None, kernels) for some in (grids, grids | {tensor: grid})
  )
  path = (export.c if kind == "c" else export.tflite)(quantized, tmp_path / f"pool.{kind}")
  images = np.zeros((2, 2, 2, 3), np.float32)
  assert export.verify(path, quantized, images).bit_equal == 1.0
  what = "input" if tensor == "input" else "output 'logits'"
  with pytest.raises(ValueError, match=rf"the {what} of .* has scale and zero point 0\.1, 0, and"):
    export.verify(path, other, images)
