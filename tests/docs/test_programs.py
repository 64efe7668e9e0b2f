"""Marked programs of pages run as they stand, on less data."""

import operator
import re

import pytest

import jaxcompress
from tests.programs import ROOT, programs_of, run

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_tables_say_to_write_exists():
  page = (ROOT / "docs/how-to/coming-from.md").read_text()
  names = re.findall(r"\bjc\.([\w.]+)\(", page)
  assert len(names) > 8
  for name in names:
    assert callable(operator.attrgetter(name)(jaxcompress))
