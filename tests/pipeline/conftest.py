"""A folder of tiny PNG images of three classes, and a run on it."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ("--teacher", "resnet14", "--student", "resnet8", "--epochs", "3", "--batch-size", "16")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
  """Bars, disks and crosses, 16 px, 40 images each."""
  folder = tmp_path_factory.mktemp("shapes")
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:16, :16]
  masks = {"bar": abs(x - 8) < 3, "cross": abs(x - y) < 2, "disk": (x - 8) ** 2 + (y - 8) ** 2 < 25}
  for name, mask in masks.items():
    (folder / name).mkdir()
    for i in range(40):
      shift = rng.integers(-2, 3, 2)
      image = rng.integers(0, 60, (16, 16, 3)) + 150 * np.roll(mask, shift, (0, 1))[..., None]
      Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i}.png")
  return folder


def environment():
  """Of a child process: this source tree."""
  return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def command():
  """Starts ``jaxcompress`` in a process of its own."""

  def start(*arguments, **options):
    program = "import sys; from jaxcompress.cli import start; sys.argv[0] = 'jaxcompress'; start()"
    return subprocess.Popen(
      [sys.executable, "-c", program, *map(str, arguments)],
      env=environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )

  return start


@pytest.fixture(scope="session")
def finished(command, shapes, tmp_path_factory):
  """The output folder of an uninterrupted run, and what it printed."""
  out = tmp_path_factory.mktemp("run") / "out"
  process = command("compress", "--data", f"folder:{shapes}", *SMALL, "--out", out)
  printed, errors = process.communicate(timeout=400)
  assert process.returncode == 0, errors
  return out, printed


@pytest.fixture(scope="session")
def small():
  """Options of a run that takes seconds."""
  return SMALL
