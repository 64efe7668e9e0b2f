"""Runs that are taught by an .onnx file or by stored outputs, from options to the report."""

import json

import numpy as np
import pytest

from jaxcompress import data as datasets
from jaxcompress import export, models
from jaxcompress.nn import fold, init_variables
from jaxcompress.pipeline.options import CompressOptions

SHORT = ("--student", "resnet8", "--epochs", "2", "--batch-size", "16")
ONNX = {"teacher": "a/teacher.onnx"}


def write(path, classes=3, **options):
  """A network of our own as a file."""
  import jax

  model = models.resnet8(classes)
  variables = init_variables(model, jax.random.key(0), (32, 32, 3))
  graph = models.summarize(model, 32).graph
  return export.onnx_float(graph, fold(graph, variables), path, **options)


@pytest.fixture(scope="module")
def preprocess():
  return {"preprocess": datasets.Preprocess().to_metadata()}


def run(command, *arguments):
  process = command("compress", *arguments)
  printed, errors = process.communicate(timeout=400)
  return process.returncode, printed, errors


@pytest.mark.slow
def test_an_onnx_file_teaches_a_run(command, shapes, preprocess, tmp_path):
  path, out = write(tmp_path / "teacher.onnx", metadata=preprocess), tmp_path / "out"
  options = ("--data", f"folder:{shapes}", "--teacher", path, *SHORT, "--out", out)
  code, _, errors = run(command, *options)
  assert code == 0, errors
  report = json.loads((out / "report.json").read_text())
  assert "teacher" not in report and report["int8"]["bit_equal"] == 1.0
  assert any(
    note.startswith("the teacher is teacher.onnx, which reaches") for note in report["run"]["notes"]
  )
  assert not (out / "checkpoints").exists() and not (out / "teacher").exists()
  assert "teacher.onnx" in (out / "report.html").read_text()


@pytest.mark.slow
def test_stored_outputs_teach_a_run(command, shapes, tmp_path):
  stored, out = tmp_path / "stored", tmp_path / "out"
  for image in shapes.rglob("*.png"):
    logits = 6 * np.eye(3, dtype=np.float32)[("bar", "cross", "disk").index(image.parent.name)]
    (stored / image.parent.name).mkdir(parents=True, exist_ok=True)
    np.savez((stored / image.relative_to(shapes)).with_suffix(".npz"), logits=logits)
  options = ("--data", f"folder:{shapes}", "--teacher", stored, *SHORT, "--out", out)
  code, printed, errors = run(command, *options)
  assert code == 0, errors
  assert "the student sees images as they are" in errors + printed
  report = json.loads((out / "report.json").read_text())
  assert "the teacher is stored" in report["run"]["notes"]


MISTAKES = {
  "teacher_pixels: ": lambda tmp_path: (write(tmp_path / "a.onnx"),),
  "knows 5 classes and the data has 3": lambda tmp_path: (
    write(tmp_path / "a.onnx", 5),
    "--teacher-pixels",
    "imagenet",
  ),
  "cannot be read (No such file or directory)": lambda tmp_path: (tmp_path / "none.onnx",),
  "the folder": lambda tmp_path: (tmp_path / "none",),
  "'scores' is no output of": lambda tmp_path: (
    write(tmp_path / "a.onnx"),
    "--teacher-pixels",
    "0..1",
    "--teacher-outputs",
    "scores",
  ),
  "attention reads": lambda tmp_path: (
    write(tmp_path / "a.onnx"),
    "--teacher-pixels",
    "0..1",
    "--distill",
    "kd,attention",
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", MISTAKES)
def test_a_teacher_that_cannot_be_used_is_one_line(reason, command, shapes, tmp_path):
  teacher, *more = MISTAKES[reason](tmp_path)
  options = ("--data", f"folder:{shapes}", "--teacher", teacher, *more, "--out", tmp_path / "out")
  code, _, errors = run(command, *SHORT, *options)
  assert code == 2
  *_, last = errors.strip().splitlines()
  assert last.startswith("jaxcompress: ") and reason in last
  assert not (tmp_path / "out").exists()  # the same command works again


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"teacher_pixels": "imagenet"}, "teacher_pixels: imagenet is of a teacher in an .onnx file"),
    ({"teacher": "resnet14", "teacher_outputs": "a"}, "teacher_outputs: a is of a teacher in an"),
    (
      {**ONNX, "teacher_pixels": "bright"},
      "teacher_pixels: 'bright' is unknown; it must be one of",
    ),
    (
      {**ONNX, "teacher_width": 0.5},
      "teacher_width: 0.5 is given beside the teacher a/teacher.onnx",
    ),
    ({**ONNX, "teacher_weights": "a"}, "teacher_weights: a is given beside the teacher"),
    (
      {**ONNX, "max_size": "30KB"},
      "teacher: a/teacher.onnx cannot teach a search within",
    ),
  ],
)
def test_options_that_do_not_fit_such_a_teacher_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    CompressOptions(**options)
