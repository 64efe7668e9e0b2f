"""The README's programs run as they stand, on less data."""

import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxcompress import models
from tests.golden.parity import weights as parity
from tests.programs import ROOT, programs_of, run

README = programs_of("README.md")
FROM_PYTHON = programs_of("docs/how-to/from-python.md")

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_every_program_is_run_here():
  assert set(README) == {"flax", "step"} and set(FROM_PYTHON) == {"photos"}
  assert len(README) == (ROOT / "README.md").read_text().count("```python")


def slug(heading):
  return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def test_links_lead_to_files_and_headings():
  links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", (ROOT / "README.md").read_text())
  assert len(links) > 20
  for path, heading in links:
    assert (ROOT / path).exists(), path
    if heading:
      headings = re.findall(r"^#+ (.*)", (ROOT / path).read_text(), re.MULTILINE)
      assert heading in map(slug, headings), (path, heading)


def test_a_step_ends_in_a_file_whose_logits_are_all_equal(capsys):
  run(README["step"], {'load("glyphs")': 'load("glyphs", limit=200)'})
  assert capsys.readouterr().out.strip() == "1.0"


@pytest.mark.slow
def test_photos_and_a_checkpoint_become_a_file_that_predicts(folder, capsys):
  variables = models.from_torch("crd/resnet8", parity.state_dict("crd/resnet8"))[1]
  save_file(models.to_torch("crd/resnet8", variables), folder / "checkpoint.safetensors")
  rng = np.random.default_rng(0)
  for level, name in ((60, "dark"), (180, "light")):
    (folder / "photos" / name).mkdir(parents=True)
    for i in range(12):
      pixels = rng.integers(level - 50, level + 50, (40, 50, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.jpg")
  Image.fromarray(pixels).save(folder / "photo.jpg")
  changes = {
    "torchvision/mobilenet_v2": "crd/resnet8",
    "mobilenet_v2-7ebf99e0.pth": "checkpoint.safetensors",
    "image_size=96": "image_size=16, batch_size=8, epochs=2, quiet=True",
  }
  names = run(FROM_PYTHON["photos"], changes)
  assert capsys.readouterr().out.splitlines()[0] == str(names["found"].results.entries["int8"].top1)
  assert names["found"].classifier.predict(["photo.jpg"])[0].label in ("dark", "light")
  assert (folder / "out" / "student.tflite").is_file()


def test_a_flax_model_becomes_a_file_with_equal_logits(capsys):
  names = run(README["flax"], {"images)\njc.export": 'images, method="minmax")\njc.export'})
  assert capsys.readouterr().out.strip() == "1.0"
  assert set(names["variables"]["params"]) == {"layers_0", "layers_2", "layers_5"}
