"""The README's programs run as they stand, on less data."""

import pathlib
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcompress import models
from tests.golden.parity import weights as parity

README = pathlib.Path(__file__).parents[1] / "README.md"
# Those that begin with an import; others are pieces of one.
FIRST, SECOND, THIRD = re.findall(r"```python\n(import .*?)```", README.read_text(), re.DOTALL)


pytestmark = pytest.mark.usefixtures("optimized")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run(program, changes, **names):
  for old, new in changes.items():
    assert program.count(old) == 1
    program = program.replace(old, new)
  exec(compile(program, "README", "exec"), names)
  return names


def test_the_first_program_runs_and_prints_that_all_logits_are_equal(capsys):
  run(FIRST, {'load("glyphs")': 'load("glyphs", limit=200)'})
  assert capsys.readouterr().out.strip() == "1.0"


def test_the_second_program_goes_from_a_checkpoint_to_files(folder):
  source = "timm/mobilenetv3_small_100"
  save_file(dict(parity.state_dict(source)), folder / "checkpoint.safetensors")
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
  names = run(SECOND, {"images)": 'images, method="minmax")'}, images=images)
  assert names["weights"].keys() == parity.state_dict(source).keys()
  assert models.load(folder / "mobilenet_v3_small.safetensors")[0] == names["model"]
  assert (folder / "mobilenet_v3_small.tflite").stat().st_size < 3_000_000


def test_the_third_program_prunes_clusters_and_packs(folder, capsys):
  changes = {
    'load("glyphs")': 'load("glyphs", limit=200)',
    "begin=100, end=600": "begin=0, end=2",
    "start_step=800": "start_step=2",
    "range(1000)": "range(4)",
  }
  names = run(THIRD, changes)
  share, size = map(float, capsys.readouterr().out.split())
  assert 0.7 < share < 0.8
  weights = sum(layer.weights.size for layer in names["quantized"].layers.values())
  assert size < weights / 2
  assert (folder / "student.jcz").stat().st_size < size + 4000  # names and shapes
  assert (folder / "student.tflite").stat().st_size > 2 * size
