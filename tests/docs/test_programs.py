"""Marked programs of pages run as they stand, on less data."""

import operator
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcompress
from jaxcompress import models
from tests.golden.parity import weights as parity
from tests.programs import ROOT, programs_of, run

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_a_checkpoint_becomes_files_and_goes_back(folder):
  source = "timm/mobilenetv3_small_100"
  save_file(dict(parity.state_dict(source)), folder / "checkpoint.safetensors")
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
  names = run(
    programs_of("docs/how-to/post-training.md")["checkpoint"],
    {"images)": 'images, method="minmax")'},
    images=images,
  )
  assert names["weights"].keys() == parity.state_dict(source).keys()
  assert models.load(folder / "mobilenet_v3_small.safetensors")[0] == names["model"]
  assert (folder / "mobilenet_v3_small.tflite").stat().st_size < 3_000_000


def test_weights_are_pruned_clustered_and_packed(folder, capsys):
  changes = {
    'load("glyphs")': 'load("glyphs", limit=200)',
    "agp_within(800)": "agp_within(4)",
    "start_step=800": "start_step=2",
    "range(1000)": "range(4)",
  }
  names = run(programs_of("docs/how-to/pruning.md")["whole"], changes)
  share, size = map(float, capsys.readouterr().out.split())
  assert 0.7 < share < 0.8
  weights = sum(layer.weights.size for layer in names["quantized"].layers.values())
  assert size < weights / 2
  assert (folder / "student.jcz").stat().st_size < size + 4000  # names and shapes
  assert (folder / "student.tflite").stat().st_size > 2 * size


def test_a_state_trains_on_a_mesh():
  names = run(programs_of("docs/how-to/scale-out.md")["mesh"])
  assert int(names["state"].step) == 3
  assert names["state"].placement.mesh == names["mesh"]


def test_what_tables_say_to_write_exists():
  page = (ROOT / "docs/how-to/coming-from.md").read_text()
  names = re.findall(r"\bjc\.([\w.]+)\(", page)
  assert len(names) > 8
  for name in names:
    assert callable(operator.attrgetter(name)(jaxcompress))
