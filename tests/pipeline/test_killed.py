"""kill -9 at every boundary of a pretrained run's phases, and amid each, changes no byte of what it makes."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from jaxcompress.pipeline.folders import read_results
from tests.pipeline.conftest import ROOT, environment
from tests.pipeline.killed import POINTS

FILES = (
  "student.tflite",
  "student.jcz",
  *(f"float/{n}.tflite" for n in ("head", "alone", "distilled")),
)


def killed(out, *point):
  """How a process ended that begins a run or goes on with it, and the end of what it said."""
  program = [sys.executable, str(pathlib.Path(__file__).with_name("killed.py")), str(out), *point]
  done = subprocess.run(program, env=environment(), cwd=ROOT, capture_output=True, text=True)
  return done.returncode, done.stderr[-2000:]


@pytest.mark.slow
def test_killed_everywhere_a_run_from_weights_ends_in_the_same_bytes(tmp_path):
  out, whole = tmp_path / "out", tmp_path / "whole"
  for point in POINTS:
    code, errors = killed(out, point)
    assert code == -signal.SIGKILL, f"{point}: {errors}"
  for folder in (out, whole):
    code, errors = killed(folder)
    assert code == 0, errors
  for name in FILES:
    assert (out / name).read_bytes() == (whole / name).read_bytes(), name
  ours, theirs = (read_results(folder).entries for folder in (out, whole))
  assert {key: (e.top1, e.validation_loss, e.kept_step) for key, e in ours.items()} == {
    key: (e.top1, e.validation_loss, e.kept_step) for key, e in theirs.items()
  }
  assert not (out / "checkpoints").exists()
  assert not any(name.endswith(".partial") for _, names, _ in os.walk(out) for name in names)
