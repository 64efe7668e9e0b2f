"""The export command with format c: folders of C, which predict and evaluate take like other models."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcompress as jc
from jaxcompress import export, models
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.export.c99.manifest import read_manifest
from jaxcompress.pipeline import classifier

CLASSES = ("cat", "dog", "éclair")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
  """A packed file of a small network."""
  model, shape = models.resnet8(len(CLASSES)), (8, 8, 3)
  variables = jc.init_variables(model, jax.random.key(0), shape)
  images = np.random.default_rng(0).integers(0, 256, (16, *shape)).astype(np.uint8)
  reader = ImageReader(8, preprocess=Preprocess())
  quantized = jc.quantize.post_training(
    model, variables, images, preprocess=reader.preprocess, method="minmax", progress=False
  )
  path = tmp_path_factory.mktemp("packed") / "net.jcz"
  metadata = {"classes": list(CLASSES), **reader.to_metadata()}
  return export.packed(quantized, path, metadata=metadata)


@pytest.mark.slow
def test_a_packed_file_becomes_a_verified_folder_of_c(run, packed, tmp_path):
  code, out, err = run("export", packed, "--format", "c,tflite", "--out", "student_c/")
  assert (code, err) == (0, "")
  line = next(line for line in out.splitlines() if line.startswith("student_c: "))
  assert "of weights" in line and "of memory" in line
  assert "100 % of the logits of 8 images are bit for bit the device's" in line
  assert (tmp_path / "student.tflite").is_file()
  assert read_manifest(tmp_path / "student_c").name == "student"
  assert export.read_metadata(tmp_path / "student_c")["classes"] == list(CLASSES)


@pytest.mark.slow
def test_a_folder_is_written_where_it_was_told(run, packed, tmp_path):
  code, out, _ = run("export", packed, "--format", "c", "--out", "mine")
  assert code == 0 and "mine: " in out and "100 % of the logits" in out
  assert read_manifest(tmp_path / "mine").name == "mine" and not (tmp_path / "mine_c").exists()
  sizes = read_manifest(tmp_path / "mine").sizes
  assert f"{sizes.ram:,} bytes" in (tmp_path / "mine" / "README.md").read_text()
  again = ("export", packed, "--format", "c", "--out", "mine", "--force", "--ram")
  assert run(*again, sizes.ram)[0] == 0  # the README's figure is the one that a budget bounds
  assert read_manifest(tmp_path / "mine").sizes == sizes
  code, _, err = run("export", "mine", "--format", "onnx")
  assert code == 2 and "mine is an integer file already" in err


@pytest.mark.slow
def test_a_folder_that_holds_something_is_left_alone_unless_forced(run, packed, tmp_path):
  folder = tmp_path / "net_c"
  folder.mkdir()
  assert run("export", packed, "--format", "c", "--out", folder)[0] == 0
  (folder / "mine.txt").write_text("mine")
  code, _, err = run("export", packed, "--format", "c", "--out", folder)
  assert code == 2 and "exists; name another file, or add --force to replace it" in err
  (folder / "manifest.json").unlink()
  assert run("export", packed, "--format", "c", "--out", folder)[0] == 2
  assert run("export", packed, "--format", "c", "--out", folder, "--force")[0] == 0
  assert (folder / "mine.txt").read_text() == "mine"
  assert read_manifest(folder).name == "net"


def test_a_folder_of_c_is_no_trained_model(run, packed, tmp_path):
  run("export", packed, "--format", "c", "--out", "net_c")
  code, _, err = run("export", "net_c", "--format", "onnx")
  assert code == 2 and "net_c is an integer file already" in err


def test_a_target_does_not_take_it(run, packed):
  code, _, err = run("export", packed, "--format", "c", "--target", "tflm")
  assert code == 2 and "files, got format 'c'" in err


def test_memory_is_bounded_where_there_is_some(run, packed, tmp_path):
  assert run("export", packed, "--format", "c,tflite", "--out", "net_c", "--ram", "64KB")[0] == 0
  assert read_manifest(tmp_path / "net_c").sizes.arena <= 64_000
  code, _, err = run("export", packed, "--format", "c", "--out", "tiny_c", "--ram", "100")
  assert (
    code == 2 and err.startswith("jaxcompress: ram: 100 must be at least") and err.count("\n") == 1
  )
  assert not (tmp_path / "tiny_c").exists()
  code, _, err = run("export", packed, "--format", "onnx", "--ram", "64KB")
  assert code == 2 and "bounds the memory of C" in err
  code, _, err = run("export", packed, "--format", "c", "--ram", "many")
  assert code == 2 and "ram: 'many' is no size" in err


@pytest.mark.slow
def test_a_folder_predicts_what_exact_evaluation_does(run, packed, tmp_path):
  run("export", packed, "--format", "c", "--out", "net_c")
  for seed in range(3):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
  pictures = [f"{seed}.png" for seed in range(3)]
  code, out, _ = run("predict", "net_c", *pictures, "--format", "json", "--top", "3")
  assert code == 0
  _, expected, _ = run("predict", packed, *pictures, "--format", "json", "--top", "3")
  found, expected = (
    [one["predictions"][0]["class"] for one in json.loads(text)["images"]]
    for text in (out, expected)
  )
  assert len(found) == 3 and found == expected


@pytest.mark.slow
def test_logits_of_a_folder_are_those_of_tflite_micro(run, packed, tmp_path):
  run("export", packed, "--format", "c", "--out", "net_c")
  pixels = np.random.default_rng(1).integers(0, 256, (70, 8, 8, 3)).astype(np.uint8)
  found = classifier.Classifier.open(tmp_path / "net_c").logits(pixels)
  quantized = export.load_packed(packed).with_kernels("tflm")
  np.testing.assert_array_equal(found, quantized(pixels))
