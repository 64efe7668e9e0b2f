"""hf:FOLDER and wds:FILES: sets as datasets 5.2 and webdataset 1.0 wrote them, and awkward ones.

The sets in ``golden/sets`` hold 14 pictures of 8 x 8 pixels, of which the libraries themselves read what
is written here: level 200 in the channel of the label, and (i, 7 i, i) in the corner.
"""

import io
import json
import pathlib
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from jaxcompress import data as datasets
from jaxcompress.data import ImageReader

SETS = pathlib.Path(__file__).parents[1] / "golden" / "sets"


def picture(place, label):
  pixels = np.zeros((8, 8, 3), np.uint8)
  pixels[..., label] = 200
  pixels[0, 0] = place, 7 * int(place) % 256, place
  return pixels


def numbers(part):
  return sorted(part.images[:][:, 0, 0, 0].tolist())


@pytest.mark.parametrize("spec", ["hf:saved", "hf:parquet", "hf:saved_alone", "wds:shards"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_sets_that_the_libraries_wrote_are_read_as_they_are(spec, in_memory):
  kind, _, name = spec.partition(":")
  data = datasets.load(f"{kind}:{SETS / name}", reader=ImageReader(8), in_memory=in_memory)
  parts = (data.train, data.validation, data.test)
  assert data.classes == (("cat", "dog") if kind == "hf" else ("0", "1"))
  assert sorted(n for part in parts for n in numbers(part)) == list(range(14))
  if name != "saved_alone":
    assert numbers(data.test) == [10, 11, 12, 13]
  for part in parts:
    assert len(part)
    for pixels, label in zip(part.images[:], part.labels, strict=True):
      np.testing.assert_array_equal(pixels, picture(pixels[0, 0, 0], label))
      assert label == pixels[0, 0, 0] % 2


@pytest.mark.slow
def test_training_reads_stored_sets_ahead_in_other_processes():
  for spec in (f"hf:{SETS / 'saved'}", f"hf:{SETS / 'parquet'}", f"wds:{SETS / 'shards'}"):
    lazy, held = (
      datasets.load(spec, reader=ImageReader(8), in_memory=kept).train for kept in (False, True)
    )
    with datasets.Stream(lazy, 4, seed=0, stop=2, workers=1) as batch_at:
      found = batch_at(1)
    np.testing.assert_array_equal(
      found["image"], datasets.batch_at(held, 4, seed=0, position=1)["image"]
    )


def encoded(place, label):
  file = io.BytesIO()
  Image.fromarray(picture(place, label)).save(file, "PNG")
  return file.getvalue()


def tabled(tmp_path, columns, features=None, name="train.parquet"):
  table = pa.table(columns)
  if features is not None:
    info = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": info})
  (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
  parquet.write_table(table, tmp_path / name)
  return f"hf:{tmp_path}"


PICTURES = [{"bytes": encoded(i, i % 2), "path": None} for i in range(12)]
CLASSES = [i % 2 for i in range(12)]
NAMED = {"kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def test_columns_are_found_by_features_names_and_types(tmp_path):
  data = datasets.load(tabled(tmp_path / "a", {"image": PICTURES, "kind": CLASSES}, NAMED))
  assert data.classes == ("cat", "dog")
  content = [one["bytes"] for one in PICTURES]
  data = datasets.load(tabled(tmp_path / "b", {"jpg": content, "label": ["x", "y"] * 6}))
  assert data.classes == ("x", "y")
  columns = {"label": CLASSES, "other": PICTURES, "image": PICTURES, "text": ["a"] * 12}
  assert datasets.load(tabled(tmp_path / "c", columns)).classes == ("0", "1")


def test_images_beside_a_table_damaged_ones_and_missing_labels_are_told(tmp_path):
  pictures = list(PICTURES)
  (tmp_path / "side.png").write_bytes(encoded(0, 0))
  pictures[0] = {"bytes": None, "path": "side.png"}
  pictures[1] = {"bytes": None, "path": "none.png"}
  pictures[2] = {"bytes": b"hello", "path": None}
  pictures[3] = None
  labels = [*CLASSES[:10], None, -1]
  spec = tabled(tmp_path, {"image": pictures, "kind": labels}, NAMED)
  data = datasets.load(spec, reader=ImageReader(8))
  parts = (data.train, data.validation, data.test)
  assert sorted(n for part in parts for n in numbers(part)) == [0, *range(4, 10)]
  assert {one.name for one in data.skipped} == {"train/1", "train/2", "train/3"}
  assert data.notes[0] == "2 of 12 examples of train have no label and are left out"
  with pytest.raises(ValueError, match="strict: 2 of 12 examples of train have no label"):
    datasets.load(spec, strict=True)


def test_splits_without_labels_or_of_other_names_are_told(tmp_path):
  tabled(tmp_path, {"image": PICTURES, "kind": CLASSES}, NAMED, "data/train-0-of-1.parquet")
  tabled(tmp_path, {"image": PICTURES[:2], "kind": [-1, -1]}, NAMED, "data/test-0-of-1.parquet")
  spec = tabled(tmp_path, {"image": PICTURES, "kind": CLASSES}, NAMED, "data/extra-0-of-1.parquet")
  data = datasets.load(spec)
  assert data.notes[:2] == (
    "splits that are not read: extra",
    "2 of 2 examples of test have no label and are left out",
  )
  assert len(data.train) + len(data.validation) + len(data.test) == 12


@pytest.mark.parametrize(
  ("columns", "says"),
  [
    ({"image": PICTURES, "text": ["a"] * 12}, "has no column of classes (a ClassLabel, or label)"),
    ({"label": CLASSES, "pixels": [[1.0]] * 12}, "has no column of images (of the Image feature)"),
    ({"image": PICTURES[:0], "label": CLASSES[:0]}, "has no column of images"),
    ({"image": PICTURES, "label": [0] * 12}, "has one class, '0'"),
    ({"image": PICTURES, "label": [0] * 11 + [1]}, "the class '1' has 1 image"),
    ({"image": PICTURES, "label": [-1] * 12}, "has no images; there must be"),
  ],
)
def test_tables_of_something_else_are_refused_in_a_line(tmp_path, columns, says):
  with pytest.raises(ValueError) as caught:
    datasets.load(tabled(tmp_path, columns))
  assert says in str(caught.value) and "\n" not in str(caught.value)


def test_labels_out_of_range_are_refused(tmp_path):
  spec = tabled(tmp_path, {"image": PICTURES, "kind": [0, 5] * 6}, NAMED)
  with pytest.raises(ValueError, match="labels: 0 to 5 do not fit the 2 classes"):
    datasets.load(spec)


def test_folders_without_a_set_and_damaged_files_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"does not exist; give a folder of datasets\.save_to_disk"):
    datasets.load(f"hf:{tmp_path / 'none'}")
  with pytest.raises(ValueError, match=r"save_to_disk, or copy its parquet files there\."):
    datasets.load(f"hf:{tmp_path}")
  spec = tabled(tmp_path, {"image": PICTURES, "kind": CLASSES}, NAMED)
  whole = (tmp_path / "train.parquet").read_bytes()
  for content in (b"", whole[:200], b"hello"):
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
      datasets.load(spec)
  saved = tmp_path / "saved"
  saved.mkdir()
  for name in ("state.json", "dataset_info.json"):
    (saved / name).write_bytes((SETS / "saved_alone" / name).read_bytes())
  for content in (
    None,
    b"",
    b"hello",
    (SETS / "saved_alone" / "data-00000-of-00001.arrow").read_bytes()[:900],
  ):
    if content is not None:
      (saved / "data-00000-of-00001.arrow").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read") as caught:
      datasets.load(f"hf:{saved}")
    assert "\n" not in str(caught.value)
  (saved / "state.json").write_text("{")
  with pytest.raises(ValueError, match=r"state\.json' cannot be read"):
    datasets.load(f"hf:{saved}")


def tar(path, files, mode="w"):
  path.parent.mkdir(exist_ok=True, parents=True)
  with tarfile.open(path, mode) as archive:
    for name, content in files:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return path


def samples(labels=CLASSES, end="cls", start=0):
  for i, label in enumerate(labels, start):
    yield f"{i:04d}.png", encoded(i, i % 2)
    yield f"{i:04d}.{end}", label if isinstance(label, bytes) else str(label).encode()


def test_shards_are_found_by_folders_patterns_and_ranges_and_split_by_their_names(tmp_path):
  for shard in range(3):
    tar(tmp_path / f"photos-{shard}.tar", samples(start=12 * shard))
  specs = ["", "/photos-{0..2}.tar", "/photos-*.tar"]
  found = [datasets.load(f"wds:{tmp_path}{spec}", reader=ImageReader(8)) for spec in specs]
  for data in found:
    parts = (data.train, data.validation, data.test)
    assert sorted(n for part in parts for n in numbers(part)) == list(range(36))
  tar(tmp_path / "val" / "photos-0.tar", samples(start=50))
  tar(tmp_path / "x-test.tar", samples(start=70))
  data = datasets.load(f"wds:{tmp_path}", reader=ImageReader(8))
  assert numbers(data.validation) == list(range(50, 62)) and numbers(data.test)[0] == 70
  with pytest.raises(ValueError, match=r"photos-3\.tar' of .* does not exist"):
    datasets.load(f"wds:{tmp_path}/photos-{{0..3}}.tar")
  with pytest.raises(ValueError, match="must be an ascending range"):
    datasets.load(f"wds:{tmp_path}/photos-{{3..0}}.tar")


def test_compressed_shards_names_of_classes_and_json_are_read(tmp_path):
  tar(tmp_path / "a" / "0.tar.gz", samples(), "w:gz")
  (tmp_path / "a" / "classnames.txt").write_text("cat\ndog\n")
  assert datasets.load(f"wds:{tmp_path / 'a'}", in_memory=False).classes == ("cat", "dog")
  said = [json.dumps({"label": ["x", "y"][i], "caption": "a"}).encode() for i in CLASSES]
  data = datasets.load(f"wds:{tar(tmp_path / 'b' / '0.tar', samples(said, 'json'))}")
  assert data.classes == ("x", "y")


def test_incomplete_and_damaged_examples_are_left_out_counted_and_refused_when_strict(tmp_path):
  files = list(samples(CLASSES * 2))
  files = [f for f in files if f[0] not in ("0001.cls", "0002.png")]
  files = [(name, b"\x89PNG" if name == "0003.png" else content) for name, content in files]
  path = tar(tmp_path / "0.tar", [*files, ("readme", b"hi"), ("0004.txt", b"a caption")])
  data = datasets.load(f"wds:{path}", reader=ImageReader(8))
  assert data.notes[0].startswith("2 examples are left out: incomplete (0.tar/0001: no class; ")
  assert [one.name for one in data.skipped] == ["0.tar/0003.png"]
  assert sum(map(len, (data.train, data.validation, data.test))) == 21
  with pytest.raises(ValueError, match="strict: 2 examples are left out"):
    datasets.load(f"wds:{path}", strict=True)


def test_shards_that_are_damaged_cut_off_or_hold_something_else_are_refused_or_told(tmp_path):
  whole = tar(tmp_path / "0.tar", samples(CLASSES * 2)).read_bytes()
  load = lambda: datasets.load(f"wds:{tmp_path / '0.tar'}", reader=ImageReader(8))  # noqa: E731
  for content in (b"", b"hello" * 200, whole[: 512 * 40 + 600], whole[:700]):
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|no images with classes") as caught:
      load()
    assert "\n" not in str(caught.value)
  (tmp_path / "0.tar").write_bytes(whole[: 1024 * 2 * 20])  # between two examples
  assert "0.tar has no end mark, it may be cut off" in load().notes
  for files, says in (
    ([("a.txt", b"1")], "have no images with classes; each needs"),
    (list(samples())[::2], "no class"),
    ([*samples(), *samples()], "twice"),
    (list(samples([b"{"] * 12, "json")), "has a .json that is not valid JSON"),
    (list(samples([0] * 12)), "has one class, '0'"),
  ):
    tar(tmp_path / "0.tar", files)
    with pytest.raises(ValueError) as caught:
      load()
    assert says in str(caught.value) and "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="there are no tar files at"):
    datasets.load(f"wds:{tmp_path / 'none.tar'}")
  tar(tmp_path / "1" / "test.tar", samples())
  with pytest.raises(ValueError, match="has no images to train on, only test"):
    datasets.load(f"wds:{tmp_path / '1'}")
