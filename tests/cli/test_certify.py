"""The files and output of ``certify``, and how its check ends."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcompress import data, export, models, quantize
from jaxcompress.nn import init_variables

SIDE, COUNT = 16, 5
READER = data.ImageReader(SIDE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """The folder of a quantized network: packed, as .tflite and as .onnx."""
  folder = tmp_path_factory.mktemp("model")
  network = models.resnet8(3)
  variables = init_variables(network, jax.random.key(0), (SIDE, SIDE, 3))
  pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
  quantized = quantize.post_training(
    network, variables, pixels, preprocess=READER.preprocess, method="minmax", progress=False
  )
  metadata = {"classes": ["a", "b", "c"], **READER.to_metadata()}
  export.packed(quantized, folder / "net.jcz", metadata=metadata)
  export.tflite(quantized, folder / "net.tflite", metadata=metadata)
  export.onnx(quantized.with_kernels("onnxruntime"), folder / "net.onnx", metadata=metadata)
  return folder


@pytest.fixture
def run(run_in_bytes, tmp_path, model):
  """Runs the command line in a folder with the model and pictures; returns exit code, output, errors."""
  for path in model.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  folder = tmp_path / "pictures"
  folder.mkdir()
  for i in range(COUNT):
    pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
  (folder / "notes.txt").write_text("no picture")

  def call(*arguments):
    code, out, errors = run_in_bytes(*arguments)
    return code, out.decode(), errors

  return call


@pytest.mark.slow
def test_pictures_are_certified_and_checked_and_what_was_changed_is_found(run, tmp_path):
  code, out, errors = run("certify", "net.tflite", "--images", "pictures", "--processors", "none")
  assert code == 0, errors
  assert "1 file of another kind (.txt)" in errors
  assert (
    f"3 of 3 runtimes and processors gave the integers of exact evaluation for all {COUNT}" in out
  )
  assert (tmp_path / "check.py").read_text() in out
  values = json.loads((tmp_path / "certificate.json").read_text())
  assert list(values["images"]["files"]) == [f"{i}.png" for i in range(COUNT)]
  assert values["images"]["source"] == "pictures"
  assert list(values["model"]) == ["net.tflite", "net.jcz"]
  assert "Repeat it" in (tmp_path / "certificate.html").read_text()

  before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
  code, out, _ = run("certify", "--check", "certificate.json", "net.tflite", "--processors", "none")
  assert code == 0 and "equal: " in out and "differs" not in out
  code, out, _ = run("certify", "--check", "certificate.json", "net.tflite", "--images", "pictures")
  assert code == 0 and "picture files" in out
  assert before == {path: path.read_bytes() for path in tmp_path.glob("*.*")}

  (tmp_path / "pictures" / "2.png").write_bytes((tmp_path / "pictures" / "3.png").read_bytes())
  code, out, _ = run("certify", "--check", "certificate.json", "net.tflite", "--images", "pictures")
  assert code == 1
  assert "are missing or others (2.png)" in " ".join(out.split())
  content = (tmp_path / "net.tflite").read_bytes()
  (tmp_path / "net.tflite").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  code, out, _ = run("certify", "--check", "certificate.json", "net.tflite")
  assert code == 1 and "differs" in out and "damaged or was changed" in " ".join(out.split())


@pytest.mark.slow
def test_a_folder_or_a_packed_file_stands_for_all_files_of_its_model(run, tmp_path):
  (tmp_path / "net.float32.tflite").write_bytes(b"of the float network")
  (tmp_path / "apart").mkdir()
  options = ("--images", "glyphs", "--count", 2, "--processors", "none", "--out")
  for i, name in enumerate((".", "net.jcz")):
    code, _, errors = run("certify", name, *options, tmp_path / "apart" / f"{i}.json", "--force")
    assert code == 0, errors
    assert "left out: net.float32.tflite" in errors
    values = json.loads((tmp_path / "apart" / f"{i}.json").read_text())
    assert set(values["model"]) == {"net.tflite", "net.onnx", "net.jcz"}
    assert values["images"]["source"] == "glyphs, test split, seed 0"
    assert values["images"]["count"] == 2


def test_integers_in_an_npy_file_are_taken_as_they_are(run, tmp_path):
  codes = np.random.default_rng(0).integers(-128, 128, (3, SIDE, SIDE, 3)).astype(np.int8)
  np.save(tmp_path / "mine.npy", codes)
  code, _, errors = run("certify", "net.onnx", "--images", "mine.npy", "--processors", "none")
  assert code == 0, errors
  np.testing.assert_array_equal(np.load(tmp_path / "inputs.npy"), codes)
  assert not (tmp_path / "check.py").exists()  # it is for .tflite files


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("nowhere.tflite",), "model: nowhere.tflite does not exist"),
    (("pictures",), "model: pictures has no packed file"),
    (("net.tflite",), "images: they are missing, and the run of net.tflite is unknown"),
    (
      ("net.tflite", "--images", "pictures", "--processors", "i486"),
      "processors: 'i486' is unknown",
    ),
    (("net.tflite", "--images", "pictures", "--count", "0"), "count: 0 must be at least 1"),
    (("net.tflite", "--images", "pictures", "--out", "a.txt"), "out: a.txt must end in .json"),
    (("net.tflite", "--images", "x:y", "--processors", "none"), "data: 'x:y'"),
    (("net.tflite", "--check", "nowhere.json"), "certificate: nowhere.json cannot be read"),
    (("net.tflite", "--check", "a.json", "--count", "3"), "count: 3 is given beside --check"),
    (
      ("net.tflite", "--check", "a.json", "--processors", "i486"),
      "processors: 'i486' is unknown",
    ),
  ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(arguments, message, run, tmp_path):
  code, out, errors = run("certify", *arguments)
  assert (code, out) == (2, "")
  assert message in errors.strip().splitlines()[-1]
  assert not (tmp_path / "certificate.json").exists()


def test_what_exists_is_not_replaced_unless_it_is_asked_for(run, tmp_path):
  (tmp_path / "inputs.npy").write_bytes(b"mine")
  options = ("certify", "net.onnx", "--images", "pictures", "--processors", "none")
  code, _, errors = run(*options)
  assert code == 2 and "inputs.npy exists; name a file in another folder, or add --force" in errors
  assert (tmp_path / "inputs.npy").read_bytes() == b"mine"
  assert run(*options, "--force")[0] == 0


@pytest.mark.slow
def test_a_tflite_file_is_enough_to_check_and_others_say_what_they_lack(run, tmp_path):
  code, _, errors = run("certify", "net.tflite", "--images", "pictures", "--processors", "none")
  assert code == 0, errors
  (tmp_path / "net.jcz").unlink()
  code, out, errors = run("certify", "--check", "certificate.json", "net.tflite")
  assert code == 0 and "its integers are read from itself" in errors
  lines = {line.split("  ")[0].strip(): line for line in out.splitlines() if line.strip()}
  assert "not run here" in lines["net.jcz"] and "equal" in lines["exact evaluation, tflm"]
  code, _, errors = run("certify", "--check", "certificate.json", "net.onnx")
  assert code == 2 and "there is no net.jcz" in errors


@pytest.mark.parametrize(
  "change", [lambda content: content[: len(content) // 2], lambda content: b""]
)
def test_a_file_that_cannot_be_read_any_more_differs(change, run, tmp_path):
  assert run("certify", "net.tflite", "--images", "pictures", "--processors", "none")[0] == 0
  (tmp_path / "net.jcz").unlink()
  path = tmp_path / "net.tflite"
  path.write_bytes(change(path.read_bytes()))
  code, out, errors = run("certify", "--check", "certificate.json", "net.tflite")
  lines = {line.split("  ")[0].strip(): line for line in out.splitlines() if line.strip()}
  assert code == 1 and errors == "" and "differs" in lines["net.tflite"]
  assert "the model cannot be read" in " ".join(out.split())
