"""A whole run on a folder of images, killed and resumed, and what it leaves."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, pipeline
from jaxcompress.nn import Norm
from jaxcompress.pipeline import PRESETS, networks, opening
from jaxcompress.pipeline.evaluating import evaluate_on
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.pretrained import open_start, read_weights_for

pytestmark = pytest.mark.slow


def test_a_run_leaves_a_model_a_report_and_plots(finished):
  out, printed = finished
  names = {path.name for path in out.iterdir()}
  assert {
    "student.tflite",
    "labels.txt",
    "report.html",
    "report.json",
    "metrics.jsonl",
    "teacher",
    "student",
  } <= names
  assert len([name for name in names if name.endswith(".png")]) >= 4
  assert "checkpoints" not in names
  assert "bit-equal" in printed


def test_every_file_of_a_run_says_how_pictures_are_read(finished):
  out, _ = finished
  said = json.loads((out / "student" / "model.json").read_text())
  files = [out / "student.tflite", out / "student.jcz", *(out / "float").glob("*.tflite")]
  assert len(files) >= 5
  for facts in map(export.read_metadata, files):
    assert {name: facts[name] for name in ("classes", "reader", "preprocess")} == {
      name: said[name] for name in ("classes", "reader", "preprocess")
    }
  assert (out / "labels.txt").read_text().splitlines() == said["classes"]


def test_the_report_holds_the_four_networks_and_their_figures(finished):
  report = json.loads((finished[0] / "report.json").read_text())
  for key in ("teacher", "alone", "distilled", "int8"):
    assert {"top1", "parameters", "macs", "bytes"} <= set(report[key])
    assert 0 <= report[key]["top1"] <= 1
  assert report["int8"]["bit_equal"] == 1.0
  assert report["int8"]["latency_ms"] > 0
  assert report["int8"]["bytes"] == (finished[0] / "student.tflite").stat().st_size
  assert report["int8"]["bytes"] < report["distilled"]["bytes"]
  assert report["distilled"]["parameters"] < report["teacher"]["parameters"]


def test_metrics_cover_every_phase_in_order(finished):
  rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
  assert list(dict.fromkeys(row["phase"] for row in rows)) == [
    "teacher", "alone", "distilled", "int8"
  ]  # fmt: skip
  steps = [row["step"] for row in rows if row["phase"] == "distilled"]
  assert steps == sorted(steps)


def test_the_file_says_how_images_are_prepared(finished):
  metadata = export.read_metadata(finished[0] / "student.tflite")
  assert metadata["classes"] == ["bar", "cross", "disk"]
  assert metadata["preprocess"]["per_image"] is True


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_file(finished, command, shapes, small, tmp_path):
  out = tmp_path / "out"
  arguments = ("compress", "--data", f"folder:{shapes}", *small, "--out", out)
  for phase in ("teacher", "distilled"):  # killed twice
    process = command(*arguments, *(["--resume"] if out.exists() else []))
    wait_for(process, out, phase)
    process.send_signal(signal.SIGKILL)
    process.communicate()
  process = command("compress", "--out", out, "--resume")
  _, errors = process.communicate(timeout=400)
  assert process.returncode == 0, errors
  assert (out / "student.tflite").read_bytes() == (finished[0] / "student.tflite").read_bytes()
  for name in ("teacher", "alone", "distilled", "int8"):
    ours, theirs = (json.loads((f / "report.json").read_text())[name] for f in (out, finished[0]))
    assert ours["top1"] == theirs["top1"]


def wait_for(process, out, phase):
  """Until a phase has a checkpoint on disk and goes on."""
  folder = out / "checkpoints" / phase
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    assert process.poll() is None, process.stderr.read()
    if folder.is_dir() and any(name.isdigit() for name in os.listdir(folder)):
      return
    time.sleep(0.01)
  pytest.fail(f"{phase} was not reached")


def test_the_float_student_and_the_teacher_can_be_quantized_later(finished):
  for folder, title in (("student", "resnet8"), ("teacher", "resnet14")):
    saved = networks.read_network(finished[0] / folder)
    assert saved.title == title and saved.classes == ("bar", "cross", "disk")
    assert saved.reader.preprocess == datasets.Preprocess() and saved.image_shape[-1] == 3


def test_a_trained_teacher_is_taken_over(finished):
  classes, out = ("bar", "cross", "disk"), finished[0]
  start = open_start(None, str(out), classes, (16, 16, 3), role="teacher")
  assert start.network.name == "resnet14" and not start.new_head
  assert np.isfinite(np.asarray(start.variables["params"]["stem"]["kernel"])).all()
  saved = networks.read_network(out / "teacher")
  np.testing.assert_array_equal(
    start.variables["params"]["classifier"]["kernel"],
    saved.variables["params"]["classifier"]["kernel"],
  )
  assert open_start(None, str(out), ("a", "b"), (16, 16, 3), role="teacher").new_head
  for options, message in (
    ({"name": "resnet20", "width": None}, "teacher: resnet20 was asked for"),
    ({"name": None, "width": 0.5}, "teacher_width: 0.5 was asked for"),
  ):
    with pytest.raises(ValueError, match=message):
      read_weights_for(weights=str(out), role="teacher", **options)


@pytest.mark.slow
def test_a_pruned_and_clustered_student_has_its_zeros_in_the_file(
  finished, command, shapes, small, tmp_path
):
  out = tmp_path / "out"
  given = (*small, "--teacher-weights", finished[0] / "teacher")
  asked = ("--sparsity-pattern", "2:4", "--cluster", 16, "--out", out)
  process = command("compress", "--data", f"folder:{shapes}", *given, *asked)
  printed, errors = process.communicate(timeout=400)
  assert process.returncode == 0, errors
  assert "packed" in printed and "zeros" in printed
  found = json.loads((out / "report.json").read_text())["int8"]
  assert found["bit_equal"] == 1.0
  assert found["packed_bytes"] == (out / "student.jcz").stat().st_size < found["bytes"]
  assert 0.4 < found["sparsity"] < 0.6
  layers = export.load_packed(out / "student.jcz").layers
  inner = list(layers.values())[1:-1]
  for layer in layers.values():
    assert len(np.unique(np.abs(layer.weights))) <= 16
  for layer in inner:
    groups = np.moveaxis(layer.weights, 2, -1).reshape(-1, 4)
    assert (groups != 0).sum(axis=1).max() == 2


def everything(folder):
  """All files and folders with their times, modes and bytes."""
  return {
    str(path.relative_to(folder)): (
      path.stat().st_mtime_ns,
      path.stat().st_mode,
      path.read_bytes() if path.is_file() else None,
    )
    for path in [folder, *folder.rglob("*")]
  }


def test_a_finished_run_that_is_resumed_says_so_and_is_left_as_it_is(finished, command):
  out, _ = finished
  before = everything(out)
  process = command("compress", "--out", out, "--resume")
  printed, errors = process.communicate(timeout=100)
  assert (process.returncode, errors) == (0, "")
  assert "is finished" in printed and "bit-equal" in printed
  assert everything(out) == before


@pytest.mark.slow
def test_notes_that_were_deleted_are_made_again(finished, command, shapes, small, tmp_path):
  """From networks and checkpoints that are there; nothing is trained again."""
  out = tmp_path / "out"
  process = command("compress", "--data", f"folder:{shapes}", *small, "--out", out)
  wait_for(process, out, "distilled")
  process.send_signal(signal.SIGKILL)
  process.communicate()
  (out / "progress.json").unlink()
  process = command("compress", "--out", out, "--resume")
  _, errors = process.communicate(timeout=400)
  assert process.returncode == 0, errors
  assert (out / "student.tflite").read_bytes() == (finished[0] / "student.tflite").read_bytes()
  ours, theirs = (json.loads((f / "progress.json").read_text()) for f in (out, finished[0]))
  phases = ours.keys() - {"seal"}
  assert phases == theirs.keys() - {"seal"}
  assert all(ours[phase]["top1"] == theirs[phase]["top1"] for phase in phases)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(command, shapes, small, tmp_path):
  out = tmp_path / "an out"
  process = command("compress", "--data", f"folder:{shapes}", *small, "--out", out)
  wait_for(process, out, "teacher")
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate(timeout=100)
  assert process.returncode == 130
  assert errors == f"jaxcompress: stopped; go on with --resume --out '{out}'\n"
  assert not list(out.rglob(".jaxcompress-*"))


def test_a_stored_teacher_brings_its_image_size_and_normalization(finished, shapes, tmp_path):
  folder = tmp_path / "teacher"
  shutil.copytree(finished[0] / "teacher", folder)
  facts = json.loads((folder / "model.json").read_text())
  del facts["seal"]
  other = datasets.Preprocess(center=100.0, per_image=False)
  facts["preprocess"] = other.to_metadata()
  (folder / "model.json").write_text(json.dumps(facts))
  console = Console(quiet=True)
  asked = {"data": f"folder:{shapes}", "student": "resnet8", "teacher_weights": str(folder)}
  opened = opening.open_run(CompressOptions.of(asked), tmp_path, console)
  assert list(opened.data.image_shape) == facts["image_shape"]
  assert opened.data.reader.preprocess == opened.preset.preprocess == other
  assert opened.teacher.preprocess is None and not opened.teacher_start.new_head


def test_a_teacher_of_another_size_is_refused_before_training(
  finished, command, shapes, small, tmp_path
):
  given = (*small, "--teacher-weights", finished[0] / "teacher", "--image-size", 40)
  process = command("compress", "--data", f"folder:{shapes}", *given, "--out", tmp_path / "out")
  _, errors = process.communicate(timeout=100)
  assert process.returncode == 2 and len(errors.splitlines()) == 1
  assert "image_size: the teacher in" in errors and "40 x 40 x 3" in errors
  assert not (tmp_path / "out").exists()


def test_a_stored_teacher_is_built_with_what_it_was_trained_with(finished):
  """Whatever the options of the run that takes it over."""
  wanted = {"norm": Norm(epsilon=0.5)}
  folder = str(finished[0] / "teacher")
  saved = read_weights_for(None, folder, role="teacher", wanted=wanted)
  assert saved.module.norm == PRESETS["default"].network["norm"] != wanted["norm"]


def test_the_model_of_a_run_is_evaluated_on_its_own_test_images(finished):
  out, _ = finished
  results = pipeline.read_results(out)
  for path, key in ((out, "int8"), (out / "teacher", "teacher"), (out / "student.jcz", "int8")):
    found = evaluate_on(pipeline.Classifier.open(path))
    assert found.top1 == results.entries[key].top1
    assert found.images == results.run.test_images
  np.testing.assert_array_equal(found.confusion, results.confusion)
