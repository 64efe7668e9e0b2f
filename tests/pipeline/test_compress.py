"""A whole run on a folder of images, killed and resumed, and what it leaves."""

import dataclasses
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export
from jaxcompress.nn import Norm
from jaxcompress.pipeline import PRESETS, networks, run
from jaxcompress.pipeline.options import CompressOptions


def test_a_run_leaves_a_model_a_report_and_plots(finished):
  out, printed = finished
  names = {path.name for path in out.iterdir()}
  assert {
    "student.tflite",
    "report.html",
    "report.json",
    "metrics.jsonl",
    "teacher",
    "student",
  } <= names
  assert len([name for name in names if name.endswith(".png")]) >= 4
  assert "checkpoints" not in names
  assert "bit-equal" in printed


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
  assert list(dict.fromkeys(row["phase"] for row in rows)) == ["teacher", "alone", "distilled"]
  steps = [row["step"] for row in rows if row["phase"] == "distilled"]
  assert steps == sorted(steps)


def test_the_file_says_how_images_are_prepared(finished):
  metadata = export.read_metadata(finished[0] / "student.tflite")
  assert metadata["classes"] == ["bar", "cross", "disk"]
  assert metadata["preprocess"]["per_image"] is True


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
    assert saved.preprocess == datasets.Preprocess() and saved.image_shape[-1] == 3


def test_a_trained_teacher_is_taken_over(finished):
  classes = ("bar", "cross", "disk")
  folder = finished[0] / "teacher"
  network, variables = networks.load_teacher(
    folder, classes, (16, 16, 3), name=None, width=None, wanted={}
  )
  assert network.name == "resnet14"
  assert np.isfinite(np.asarray(variables["params"]["stem"]["kernel"])).all()
  for options, message in (
    ({"name": "resnet20", "width": None}, "teacher: resnet20 was asked for"),
    ({"name": None, "width": 0.5}, "teacher_width: 0.5 was asked for"),
  ):
    with pytest.raises(ValueError, match=message):
      networks.load_teacher(folder, classes, (16, 16, 3), **options, wanted={})
  with pytest.raises(ValueError, match="knows 3 classes"):
    networks.load_teacher(folder, ("a", "b"), (16, 16, 3), name=None, width=None, wanted={})


def test_a_pruned_and_clustered_student_has_its_zeros_in_the_file(
  finished, command, shapes, small, tmp_path
):
  out = tmp_path / "out"
  given = (*small, "--teacher-checkpoint", finished[0] / "teacher")
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
  side = datasets.load(f"folder:{shapes}").image_shape[0]
  taught = networks.read_facts(folder)
  assert taught.image_shape == (side, side, 3) and taught.preprocess == datasets.Preprocess()
  console, own = Console(quiet=True), CompressOptions(teacher_checkpoint=str(folder))
  assert run._as_taught(own, taught, (side, side, 3), console) is PRESETS["default"]
  other = taught._replace(preprocess=datasets.Preprocess(center=100.0, per_image=False))
  preset = run._as_taught(own, other, (side, side, 3), console)
  assert preset == dataclasses.replace(PRESETS["default"], preprocess=other.preprocess)
  with pytest.raises(ValueError, match=rf"trained on images of {side} x {side} x 3 and the run's"):
    run._as_taught(own, taught, (side + 8, side + 8, 3), console)
  published = CompressOptions(teacher_checkpoint=str(folder), preset="crd-cifar100")
  with pytest.raises(ValueError, match="normalized otherwise than preset crd-cifar100 does"):
    run._as_taught(published, taught, (side, side, 3), console)


def test_a_teacher_of_another_size_is_refused_before_training(
  finished, command, shapes, small, tmp_path
):
  given = (*small, "--teacher-checkpoint", finished[0] / "teacher", "--image-size", 40)
  process = command("compress", "--data", f"folder:{shapes}", *given, "--out", tmp_path / "out")
  _, errors = process.communicate(timeout=100)
  assert process.returncode == 2 and len(errors.splitlines()) == 1
  assert "image_size: the teacher in" in errors and "40 x 40 x 3" in errors
  assert not (tmp_path / "out").exists()


def test_a_stored_teacher_is_built_with_what_it_was_trained_with(finished):
  """Whatever the options of the run that takes it over."""
  classes, wanted = ("bar", "cross", "disk"), {"norm": Norm(epsilon=0.5)}
  options = {"name": None, "width": None, "wanted": wanted}
  network, _ = networks.load_teacher(finished[0] / "teacher", classes, (32, 32, 3), **options)
  assert network.module.norm == PRESETS["default"].network["norm"] != wanted["norm"]
