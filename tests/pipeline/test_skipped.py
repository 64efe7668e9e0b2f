"""A run shows what its data hold, and lists all that was left out."""

import csv
import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxcompress.data import DamagedError
from jaxcompress.pipeline import opening
from jaxcompress.pipeline.options import CompressOptions

SMALL = {"teacher": "resnet8", "student": "resnet8", "epochs": 1.0}


@pytest.fixture
def photos(tmp_path):
  root = tmp_path / "photos"
  rng = np.random.default_rng(0)
  for name in ("cat", "dog"):
    (root / name).mkdir(parents=True)
    for i in range(12):
      pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / f"shot{i // 2}_{i}.png")
  return root


def opened(root: pathlib.Path, **options):
  console = Console(file=io.StringIO(), width=100)
  made = CompressOptions.of({"data": f"folder:{root}", **SMALL, **options})
  return opening.open_run(made, root.parent, console).data, console


def test_all_that_is_left_out_is_shown_at_the_start_and_listed_in_a_file(photos, tmp_path):
  names = [f"{name}/shot{i // 2}_{i}.png" for name in ("cat", "dog") for i in (0, 3)]
  for name in names:
    (photos / name).write_bytes(b"")
  data, console = opened(photos)
  lines = console.file.getvalue().splitlines()
  assert lines[0].split() == ["class", "train", "validation", "test", "all"]
  assert lines[3].split() == ["2", "classes", "14", "2", "4", "20"]
  assert lines[4] == "  images of 32 x 32 px"
  assert lines[5].startswith("  4 images are left out: damaged (cat/shot0_0.png: it is empty; ")
  opening.keep_skipped(data, tmp_path, console)
  with (tmp_path / "skipped.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == names
  assert {(row["kind"], row["reason"]) for row in rows} == {("damaged", "it is empty")}
  assert "skipped.csv lists all 4 images" in console.file.getvalue()


def test_nothing_is_written_where_nothing_is_left_out(photos, tmp_path):
  data, console = opened(photos)
  opening.keep_skipped(data, tmp_path, console)
  assert not (tmp_path / "skipped.csv").exists()


def test_a_run_hands_on_what_groups_images_and_whether_it_is_strict(photos):
  data, _ = opened(photos, group_by=r"\w+/shot\d+")
  parts = [
    {name.rsplit("_", 1)[0] for name in part.names}
    for part in (data.train, data.validation, data.test)
  ]
  assert len(set.union(*parts)) == sum(map(len, parts)) == 12
  (photos / "cat" / "x.png").write_bytes(b"")
  with pytest.raises(DamagedError, match="strict: an image cannot be used"):
    opened(photos, strict=True)
