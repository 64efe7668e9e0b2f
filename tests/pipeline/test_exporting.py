"""The export command: a packed file in all formats."""

import dataclasses
import re

import numpy as np
import pytest

from jaxcompress import cli, export
from jaxcompress.data import Preprocess
from jaxcompress.export.contents import read_operators
from jaxcompress.nn import Graph, Node
from jaxcompress.pipeline import QuantizeOptions
from jaxcompress.pipeline.quantizing import files_beside
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid, Integers

FACTS = {"classes": ["a", "b"], "preprocess": {"scale": 64.0}}


@pytest.fixture
def quantized():
  return classifier(8)


def classifier(bits):
  """A mean and a linear layer of two classes."""
  shape, cell = (1, 2, 2, 3), (1, 3)
  nodes = (
    Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), (shape,), (cell,)),
    Node("head", "Dense", {"features": 2}, ("pool",), ("head",), (cell,), ((1, 2),)),
  )
  rng = np.random.default_rng(0)
  weights = rng.integers(-7, 8, (3, 2)).astype(np.int8)
  bias = np.array([3, -4], np.int64 if bits == 16 else np.int32)
  layers = {"head": Integers(weights, np.float32([0.1, 0.2]), bias)}
  grids = {name: Grid(np.float32(0.1), 0, bits) for name in ("input", "pool", "head")}
  return QuantizedModel(Graph(nodes, shape, "head"), grids, layers)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, quantized):
  """Runs the command beside ``net.jcz``; returns exit code, output, errors."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "160")
  export.packed(quantized, "net.jcz", metadata=FACTS)

  def call(*arguments):
    monkeypatch.setattr("sys.argv", ["jaxcompress", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
      cli.main()
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err

  return call


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_packed_file_becomes_all_formats_beside_each_other(run, quantized, tmp_path):
  code, out, err = run("net.jcz", "--format", "tflite,onnx,stablehlo,packed", "--out", "all")
  assert (code, err) == (0, "")
  assert names(tmp_path) == [
    "all.jcz", "all.labels.txt", "all.onnx", "all.stablehlo", "all.tflite", "net.jcz",
  ]  # fmt: skip
  assert (tmp_path / "all.labels.txt").read_text() == "a\nb\n"
  assert out.count("100 % of the logits of 8 images are bit for bit the device's") == 2
  direct = export.tflite(quantized, tmp_path / "direct.tflite", metadata=FACTS)
  assert (tmp_path / "all.tflite").read_bytes() == direct.read_bytes()
  assert (tmp_path / "all.jcz").read_bytes() == (tmp_path / "net.jcz").read_bytes()
  assert export.read_metadata("all.onnx")["classes"] == ["a", "b"]
  codes = np.random.default_rng(1).integers(-128, 128, (3, 2, 2, 3)).astype(np.int8)
  logits = export.load_stablehlo("all.stablehlo")(codes)
  np.testing.assert_array_equal(logits, quantized.run(codes))


def test_a_packed_file_becomes_one_that_reads_pixels_if_its_preprocessing_maps_them(run, tmp_path):
  rgb = Preprocess((124.0, 116.0, 104.0), (58.0, 57.0, 57.5), per_image=False)
  fixed = dataclasses.replace(classifier(8), preprocess=rgb)
  export.packed(fixed, tmp_path / "net.jcz", metadata={"classes": ["a", "b"]})
  assert run("net.jcz", "--format", "tflite-uint8")[0] == 0
  images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), np.uint8)
  assert export.verify("net.uint8.tflite", fixed, images).bit_equal == 1.0
  assert Preprocess.from_metadata(export.read_metadata("net.uint8.tflite")["preprocess"]) == rgb
  each = dataclasses.replace(fixed, preprocess=Preprocess())
  export.packed(each, tmp_path / "each.jcz")
  code, _, err = run("each.jcz", "--format", "tflite-uint8")
  assert code == 2 and "maps each pixel by itself" in err and err.count("\n") == 1


def test_files_that_exist_are_left_alone_unless_forced(run, tmp_path):
  (tmp_path / "net.onnx").write_text("mine")
  code, _, err = run("net.jcz", "--format", "tflite,onnx")
  assert code == 2 and "out: net.onnx exists; name another file, or add --force" in err
  assert names(tmp_path) == ["net.jcz", "net.onnx"]
  assert run("net.jcz", "--format", "tflite,onnx", "--force")[0] == 0
  assert names(tmp_path) == ["net.jcz", "net.labels.txt", "net.onnx", "net.tflite"]


def test_a_format_that_cannot_hold_the_network_leaves_nothing(run, tmp_path):
  export.packed(classifier(16), tmp_path / "wide.jcz")
  code, _, err = run("wide.jcz", "--format", "tflite,onnx")
  assert code == 2 and "'onnxruntime' has no 16-bit activations; use 8 bits" in err
  assert err.count("\n") == 1 and names(tmp_path) == ["net.jcz", "wide.jcz"]


def test_a_target_gets_the_file_that_it_takes(run, tmp_path):
  assert run("net.jcz", "--target", "tflm")[0] == 0
  assert export.lint("net.tflite", "tflm") == ()
  assert "FULLY_CONNECTED" not in {one.name for one in read_operators("net.tflite")}
  assert run("net.jcz", "--target", "tensorrt", "--format", "onnx")[0] == 0
  errors = [one for one in export.lint("net.onnx", "tensorrt") if one.severity == "error"]
  assert errors == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("net.jcz", "--format", "tflite,coreml"), "format: 'coreml' is unknown; it must be one of"),
    (
      ("net.jcz", "--format", "onnx-float32"),
      "'onnx-float32' holds the float network, and net.jcz",
    ),
    (("net.jcz", "--format", "tflite-int4"), "weights: 'int4' needs a layer with weights of"),
    (("gone.safetensors", "--format", "tflite-int4"), "they get 8; add --bits 4"),
    (("gone.safetensors", "--format", "tflite-float16"), "holds float numbers, so nothing would"),
    (("net.jcz", "--method", "mse"), "method: mse is given, but net.jcz is quantized already"),
    (("net.jcz", "--target", "tensorrt"), "'tensorrt' takes .onnx files, got format 'tflite'"),
    (("net.jcz", "--target", "npu"), "target: 'npu' is unknown; it must be one of xnnpack"),
    (
      ("net.jcz", "--format", "packed", "--target", "tflm", "--out", "b"),
      "got format 'packed'",
    ),
    (("net.jcz", "--out", "no/net"), "the folder no does not exist"),
    (("net.jcz", "--format", "packed"), "net.jcz exists"),
    (("gone.jcz",), "gone.jcz cannot be read"),
    (("gone.safetensors",), "gone.safetensors does not exist"),
    (("gone.safetensors", "--method", "magic"), "method: 'magic' is unknown"),
  ],
)
def test_mistakes_are_one_line_and_nothing_is_written(run, tmp_path, arguments, message):
  code, _, err = run(*arguments)
  assert code == 2
  assert message in err and err.startswith("jaxcompress: ") and err.count("\n") == 1
  assert names(tmp_path) == ["net.jcz"]


@pytest.mark.parametrize("suffix", [".jcz", ".tflite", ".onnx", ".stablehlo", ".float32.tflite"])
def test_a_file_for_devices_is_no_trained_model(tmp_path, monkeypatch, suffix):
  monkeypatch.chdir(tmp_path)
  kind = "a float file for devices" if "float" in suffix else "an integer file already"
  start = f"model: student{suffix} is {kind}; give the trained model, "
  with pytest.raises(ValueError, match=re.escape(f"{start}such as OUT/student, or a packed file")):
    QuantizeOptions(model=f"student{suffix}")
  (tmp_path / "student").mkdir()
  (tmp_path / "student.jcz").touch()
  with pytest.raises(ValueError, match=re.escape(f"{start}student, or student.jcz for export.")):
    QuantizeOptions(model=f"student{suffix}")


def test_export_of_a_file_for_devices_says_what_to_give(run, tmp_path):
  export.tflite(export.load_packed("net.jcz"), "net.tflite")
  code, _, err = run("net.tflite", "--out", "zz")
  assert code == 2 and "net.tflite is an integer file already; give the trained model" in err
  assert "or net.jcz for export" in err and names(tmp_path) == ["net.jcz", "net.tflite"]


def test_a_trained_network_beside_its_integers_is_quantized_anew_with_a_word(run, tmp_path):
  (tmp_path / "net").mkdir()
  code, out, err = run("net", "--format", "onnx")
  assert code == 2 and "model: net holds no readable model.json" in err
  assert "net is quantized anew; the integers that its run trained are in net.jcz" in out


def test_files_lie_beside_the_model_and_keep_dots_in_their_names():
  for model in ("a/net_0.25.safetensors", "a/net_0.25"):
    paths = files_beside(model, ("tflite", "packed"))
    assert [str(path) for path in paths] == ["a/net_0.25.tflite", "a/net_0.25.jcz"]


def test_the_kernels_of_a_quantized_file_are_those_that_run_it():
  for out, kernels in (("a.tflite", "xnnpack"), ("a.onnx", "onnxruntime"), ("a.jcz", "xnnpack")):
    assert QuantizeOptions(model="m", out=out).runtime == kernels
  assert QuantizeOptions(model="m", out="a.jcz", kernels="tflm").runtime == "tflm"
  with pytest.raises(ValueError, match=r"kernels: 'tflm' does not run a\.onnx"):
    QuantizeOptions(model="m", out="a.onnx", kernels="tflm")
  with pytest.raises(ValueError, match=r"kernels: 'cuda' is unknown"):
    QuantizeOptions(model="m", out="a.jcz", kernels="cuda")
  with pytest.raises(ValueError, match=r"out: a\.bin has no known ending; it must end in one of"):
    QuantizeOptions(model="m", out="a.bin")
