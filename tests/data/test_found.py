"""Folders as they are found: damaged files, copies, kinds of pictures, groups; nothing silently."""

import os
import pathlib
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, features

from jaxcompress import data
from jaxcompress.data import walk

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
  """Keeps a cache of its own, since results on these files are of no use later."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield


def picture(seed, side=30) -> Image.Image:
  rng = np.random.default_rng(seed)
  return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))


def write(root: pathlib.Path, names: str, count: int, suffix=".png", side=30) -> None:
  """Different pictures in each of some class folders."""
  for name in names.split():
    (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      seed = (i, *name.encode(), *root.name.encode())
      picture(seed, side).save(root / name / f"{i:03}{suffix}")


def split_of(dataset: data.Dataset) -> dict[str, str]:
  """The part of each file, by its name."""
  return {name: part for part in PARTS for name in getattr(dataset, part).names}


def damage(root: pathlib.Path) -> list[str]:
  """Breaks files of two classes in ways that are found at either end, and in the middle."""
  ends = ["cat/002.jpg", "cat/004.jpg", "dog/000.png", "dog/003.png", "dog/007.png", "dog/008.png"]
  (root / ends[0]).write_bytes(b"")
  for name in ends[1:3]:
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) * 2 // 3])
  (root / ends[3]).write_bytes(b"<html>not found</html>")
  (root / ends[4]).write_bytes((root / ends[4]).read_bytes()[:30])
  content = (root / ends[5]).read_bytes()
  (root / ends[5]).write_bytes(content[:200] + bytes(50) + content[250:])
  return ends


@pytest.fixture
def damaged(tmp_path):
  write(tmp_path, "cat", 12, ".jpg")
  write(tmp_path, "dog", 12)
  return tmp_path, damage(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("size", [None, 20])
def test_damaged_images_are_left_out_counted_and_all_listed(in_memory, size, damaged):
  root, names = damaged
  dataset = data.load(f"folder:{root}", in_memory=in_memory, size=size)
  assert [one.name for one in dataset.skipped] == names
  assert {one.kind for one in dataset.skipped} == {"damaged"}
  assert dataset.skipped[0].reason == "it is empty"
  assert dataset.skipped[3].reason == "it is no image"
  (note,) = dataset.notes
  assert note.startswith("6 images are left out: damaged (cat/002.jpg: it is empty; cat/004.jpg: ")
  kept = split_of(dataset)
  assert len(kept) == 18 and not kept.keys() & set(names)
  for part in PARTS:  # what is left can be read, and is what the files hold
    found = getattr(dataset, part)
    assert len(found.images[:]) == len(found.names)
    for image, name in zip(found.images[:], found.names, strict=True):
      np.testing.assert_array_equal(image, dataset.reader(root / name))


@pytest.mark.parametrize("in_memory", [True, False])
def test_splits_do_not_depend_on_damaged_files(in_memory, damaged):
  root, names = damaged
  before = split_of(data.load(f"folder:{root}", in_memory=in_memory))
  for name in names:
    (root / name).unlink()
  assert split_of(data.load(f"folder:{root}", in_memory=in_memory)) == before


@pytest.mark.parametrize("in_memory", [True, False])
def test_strict_refuses_what_would_be_left_out_and_names_all(in_memory, damaged):
  root, names = damaged
  for name in ("cat", "dog"):
    shutil.copy(root / "cat/000.jpg", root / name / "copy.jpg")
  with pytest.raises(
    data.DamagedError, match=r"strict: 9 images cannot be used: .*leave strict out"
  ) as e:
    data.load(f"folder:{root}", in_memory=in_memory, strict=True)
  names = sorted([*names, "cat/000.jpg", "cat/copy.jpg", "dog/copy.jpg"])
  assert e.value.files == tuple(str(root / name) for name in names)
  assert all(name in str(e.value) for name in names) and "\n" not in str(e.value)


def test_strict_is_silent_where_nothing_is_left_out(tmp_path):
  write(tmp_path, "cat dog", 5)
  assert len(split_of(data.load(f"folder:{tmp_path}", strict=True))) == 10


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_class_that_loses_its_images_is_an_error_that_says_why(in_memory, tmp_path):
  write(tmp_path, "cat dog", 70)
  for file in (tmp_path / "dog").iterdir():
    file.write_bytes(b"")
  with pytest.raises(
    data.DamagedError,
    match=r"class 'dog' has 0 images left after 70 were left out \(dog/000.png: it is empty; .*3 or more",
  ) as caught:
    data.load(f"folder:{tmp_path}", in_memory=in_memory)
  assert len(caught.value.files) == 70


def test_a_file_that_cannot_be_opened_is_named_without_its_whole_path(tmp_path, monkeypatch):
  write(tmp_path, "cat dog", 4)
  opened = pathlib.Path.open

  def refuse(self, *options, **more):
    if self.name == "002.png":
      raise PermissionError(13, "Permission denied", str(self))
    return opened(self, *options, **more)

  monkeypatch.setattr(pathlib.Path, "open", refuse)
  skipped = data.load(f"folder:{tmp_path}").skipped
  assert {one.reason for one in skipped} == {"Permission denied"} and len(skipped) == 2


def test_files_on_disk_are_decoded_once_until_they_change(tmp_path, monkeypatch):
  write(tmp_path, "cat dog", 5, ".jpg", side=100)
  decoded = []
  load = Image.Image.load
  monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(self) or load(self))
  first = data.load(f"folder:{tmp_path}", in_memory=False)
  assert decoded and first.image_shape == (224, 224, 3)
  decoded.clear()
  again = data.load(f"folder:{tmp_path}", in_memory=False)
  assert not decoded and split_of(again) == split_of(first)
  picture(99, 100).save(tmp_path / "cat/001.jpg", quality=60)
  data.load(f"folder:{tmp_path}", in_memory=False)
  assert {image.size for image in decoded} <= {(100, 100), (224, 224)} and decoded
  (tmp_path / "cat/001.jpg").write_bytes(b"x")
  assert data.load(f"folder:{tmp_path}", in_memory=False).skipped[0].name == "cat/001.jpg"


def test_what_is_remembered_may_be_damaged(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  write(tmp_path / "set", "cat dog", 5)
  first = split_of(data.load(f"folder:{tmp_path}/set", in_memory=False))
  (cached,) = (tmp_path / "cache").rglob("sound-*.npz")
  for content in (b"", b"junk", cached.read_bytes()[:-40]):
    cached.write_bytes(content)
    assert split_of(data.load(f"folder:{tmp_path}/set", in_memory=False)) == first


@pytest.mark.parametrize(
  "suffix",
  [
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".jfif",
    ".jpe",
    ".JPEG",
    ".WebP",
    ".GIF",
    ".ppm",
    ".dib",
  ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_pictures_of_all_usual_kinds_are_read(suffix, in_memory, tmp_path):
  write(tmp_path, "cat dog", 4, suffix)
  dataset = data.load(f"folder:{tmp_path}", in_memory=in_memory)
  assert len(split_of(dataset)) == 8 and not dataset.notes and not dataset.skipped


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_does(tmp_path):
  write(tmp_path, "cat dog", 4, ".avif")
  assert len(split_of(data.load(f"folder:{tmp_path}"))) == 8


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "TIFF", "PNG", "JPEG"])
def test_a_file_is_what_its_content_says(kind, tmp_path):
  write(tmp_path, "cat dog", 4)
  for name in ("a.png", "b.jpg", "c.gif"):
    picture((1, *name.encode())).save(tmp_path / "cat" / name, kind)
  dataset = data.load(f"folder:{tmp_path}")
  assert len(split_of(dataset)) == 11 and not dataset.skipped


@pytest.mark.parametrize("suffix", sorted(walk.UNREAD - set(walk.SUFFIXES)))
def test_pictures_that_are_not_read_are_counted_with_what_to_do(suffix, tmp_path):
  write(tmp_path, "cat dog", 4)
  (tmp_path / "cat" / f"photo{suffix.upper()}").write_bytes(b"x")
  assert data.load(f"folder:{tmp_path}").notes == (
    f"left out: 1 picture of a kind that is not read: save it as JPEG or PNG ({suffix})",
  )


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_tested_is_left_out_of_training_and_told(in_memory, tmp_path):
  for part in ("train", "valid", "test"):
    write(tmp_path / part, "cat dog", 6)
  for i in (1, 3):
    shutil.copy(tmp_path / f"train/cat/00{i}.png", tmp_path / f"test/cat/00{i + 6}.png")
  shutil.copy(tmp_path / "train/dog/002.png", tmp_path / "valid/dog/x.png")
  shutil.copy(tmp_path / "valid/dog/004.png", tmp_path / "test/dog/y.png")
  shutil.copy(tmp_path / "train/dog/005.png", tmp_path / "train/dog/twice.png")  # no harm
  dataset = data.load(f"folder:{tmp_path}", in_memory=in_memory)
  assert [(one.name, one.kind, one.reason) for one in dataset.skipped] == [
    ("train/cat/001.png", "in several splits", "it is test/cat/007.png too"),
    ("train/cat/003.png", "in several splits", "it is test/cat/009.png too"),
    ("train/dog/002.png", "in several splits", "it is valid/dog/x.png too"),
    ("valid/dog/004.png", "in several splits", "it is test/dog/y.png too"),
  ]
  assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (10, 12, 15)
  many, copy = dataset.notes
  assert many.startswith("4 images are left out: in several splits (train/cat/001.png: it is test")
  assert copy == (
    "1 image is a copy of another of its class and in the same split (train/dog/twice.png is"
    " train/dog/005.png)"
  )


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_in_two_classes_is_left_out_of_both_and_told(in_memory, tmp_path):
  write(tmp_path, "dog eel wolf", 10)
  for i in range(4):
    shutil.copy(tmp_path / f"dog/00{i}.png", tmp_path / f"wolf/d{i}.png")
  dataset = data.load(f"folder:{tmp_path}", in_memory=in_memory)
  names = [*(f"dog/00{i}.png" for i in range(4)), *(f"wolf/d{i}.png" for i in range(4))]
  assert [one.name for one in dataset.skipped] == names
  assert dataset.skipped[4].reason == "it is dog/000.png too"
  (note,) = dataset.notes
  assert note.startswith(
    "8 images are left out: in several classes (dog/000.png: it is wolf/d0.png too;"
  )
  assert len(split_of(dataset)) == 26
  shutil.rmtree(tmp_path / "wolf")
  shutil.copytree(tmp_path / "dog", tmp_path / "wolf")
  with pytest.raises(ValueError, match=r"class 'dog' has 0 images left after 10 were left out"):
    data.load(f"folder:{tmp_path}", in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_equal_pixels_in_other_files_are_copies(in_memory, tmp_path):
  for part in ("train", "val", "test"):
    write(tmp_path / part, "cat dog", 4)
  same = Image.open(tmp_path / "train/dog/001.png")
  same.save(tmp_path / "test/dog/again.bmp")
  (one,) = data.load(f"folder:{tmp_path}", in_memory=in_memory).skipped
  assert one == ("train/dog/001.png", "in several splits", "it is test/dog/again.bmp too")


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 1000),
  copied=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 11)), max_size=12),
  in_memory=st.booleans(),
  limit=st.sampled_from([None, 6, 12]),
)
def test_no_pixels_are_in_two_splits_and_all_files_are_accounted_for(
  seed, copied, in_memory, limit, tmp_path_factory
):
  root = tmp_path_factory.mktemp("copies")
  write(root, "cat dog", 12)
  for place, (label, i) in enumerate(copied):
    name = ("cat", "dog")[label]
    shutil.copy(root / name / f"{i:03}.png", root / name / f"{'az'[i % 2]}{place}.png")
  dataset = data.load(f"folder:{root}", seed=seed, in_memory=in_memory, limit=limit)
  pixels = [{image.tobytes() for image in getattr(dataset, part).images[:]} for part in PARTS]
  assert not pixels[0] & pixels[1] and not pixels[0] & pixels[2] and not pixels[1] & pixels[2]
  if limit is None:
    assert set(dataset.train.labels.tolist()) == {0, 1}
    assert not dataset.skipped and len(split_of(dataset)) == 24 + len(copied)


def test_a_folder_with_train_and_val_says_which_one_is_tested(tmp_path):
  write(tmp_path / "train", "cat dog", 10)
  write(tmp_path / "Val", "cat dog", 3)
  dataset = data.load(f"folder:{tmp_path}")
  assert dataset.notes == (
    "Val is the test set, as there is no other; validation is split off train",
  )
  assert set(dataset.test.names) == {f"Val/{n}/00{i}.png" for n in ("cat", "dog") for i in range(3)}


def test_classes_that_look_like_parts_are_doubted(tmp_path):
  for part in ("learn", "check"):
    write(tmp_path / part, "cat dog", 4)
  (note,) = data.load(f"folder:{tmp_path}").notes
  assert note == (
    "the classes are check, learn, which all have the same folders in them; if those are the classes, name"
    " the folders of the parts train, val and test"
  )


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_of_a_group_stay_in_one_split(in_memory, tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
    for burst in range(12):
      for shot in range(1 + burst % 3):
        seed = (burst, shot, *name.encode())
        picture(seed).save(tmp_path / name / f"{name}{burst}_{shot}.png")
  picture(1).save(tmp_path / "cat" / "alone.png")
  dataset = data.load(
    f"folder:{tmp_path}", group_by=r"([a-z]+\d+)_\d", in_memory=in_memory, strict=True
  )
  assert dataset.notes == (
    "group_by: 24 groups of 48 images; 1 image is alone, it does not match (cat/alone.png)",
  )
  places: dict[str, set[str]] = {}
  for name, part in split_of(dataset).items():
    places.setdefault(name.rsplit("_", 1)[0], set()).add(part)
  assert all(len(found) == 1 for found in places.values()) and len(places) == 25
  assert {p for found in places.values() for p in found} == set(PARTS)
  assert 32 <= len(dataset.train) <= 38 and 8 <= len(dataset.test) <= 12


def test_a_group_of_several_parts_stays_where_it_is_tested(tmp_path):
  for part in ("train", "test"):
    for name in ("cat", "dog"):
      (tmp_path / part / name).mkdir(parents=True)
      for i in range(8):
        person = i if part == "train" else i + 6
        picture((i, *name.encode(), *part.encode())).save(
          tmp_path / part / name / f"person{person}_{i}.png"
        )
  dataset = data.load(f"folder:{tmp_path}", group_by=r"person\d+")
  assert [one.name for one in dataset.skipped] == [
    f"train/{name}/person{i}_{i}.png" for name in ("cat", "dog") for i in (6, 7)
  ]
  assert dataset.skipped[0].kind == "of a group that another split has"
  assert dataset.skipped[0].reason == "test/cat/person6_0.png is of it too"


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("(", r"group_by: '\(' is no regular expression \(.*\); give one such as"),
    ("patient", "group_by: 'patient' finds nothing in the names, such as 'cat/000.png'"),
    ("", "group_by: '' finds nothing in the names"),
    (r"\.png", r"group_by: .* finds the same, '\.png', in all 12 names"),
    (
      "^(cat|dog)/",
      "data: no images are left for validation: .* belong together in too few groups",
    ),
  ],
)
def test_a_pattern_that_groups_nothing_is_refused(pattern, message, tmp_path):
  write(tmp_path, "cat dog", 6)
  with pytest.raises(ValueError, match=message) as caught:
    data.load(f"folder:{tmp_path}", group_by=pattern)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_of_which_all_is_damaged_is_refused_with_every_name(part, tmp_path):
  for one in ("train", "val", "test"):
    write(tmp_path / one, "cat dog", 3)
  for path in (tmp_path / part).rglob("*.png"):
    path.write_bytes(b"no image")
  with pytest.raises(data.DamagedError) as caught:
    data.load(f"folder:{tmp_path}")
  assert len(caught.value.files) == 6
  assert "left out" in str(caught.value) and f"{part}/cat/000.png" in str(caught.value)


def test_other_sets_have_no_names_to_group_by():
  with pytest.raises(ValueError, match="group_by: digits has no file names to group by"):
    data.load("digits", group_by="x")


def test_links_to_a_set_share_nothing_silently(tmp_path):
  write(tmp_path, "cat dog", 5)
  os.symlink(tmp_path / "cat/000.png", tmp_path / "dog/link.png")
  dataset = data.load(f"folder:{tmp_path}")
  assert {one.name for one in dataset.skipped} == {"cat/000.png", "dog/link.png"}


def test_damaged_calibration_images_are_left_out_with_a_word(damaged):
  root, names = damaged
  reader = data.ImageReader(16)
  with pytest.warns(
    UserWarning, match=r"calibration: 6 damaged images are left out: cat/002.jpg"
  ) as told:
    found = data.calibration_images(str(root), reader)
  assert len(found) == 18 and all(name in str(told[0].message) for name in names)
  kept = sorted(
    file for file in root.rglob("*.*") if file.relative_to(root).as_posix() not in names
  )
  np.testing.assert_array_equal(found, np.stack([reader(file) for file in kept]))
  for file in kept:
    file.write_bytes(b"")
  with pytest.raises(data.DamagedError, match=r"24 images, .* cannot be read"):
    data.calibration_images(str(root), reader)


KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@pytest.mark.slow
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  hurt=st.dictionaries(
    st.tuples(st.sampled_from(("cat", "dog")), st.sampled_from(KINDS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
  ),
  cut=st.floats(0, 1),
  in_memory=st.booleans(),
)
def test_whatever_is_in_files_they_are_read_or_listed(hurt, cut, in_memory, tmp_path_factory):
  root = tmp_path_factory.mktemp("hurt")
  for seed, name in enumerate(("cat", "dog")):
    (root / name).mkdir()
    for i, kind in enumerate(KINDS):
      picture((seed, i), 12).save(root / name / f"{kind}.jpg", kind)
    write(root, name, 4)
  for (name, kind), changes in hurt.items():
    file = root / name / f"{kind}.jpg"
    content = bytearray(file.read_bytes())
    for place, value in changes:
      content[int(place * (len(content) - 1))] = value
    file.write_bytes(content[: max(1, round(cut * len(content)))] if changes[0][1] % 2 else content)
  dataset = data.load(f"folder:{root}", size=16, in_memory=in_memory)
  kept, skipped = split_of(dataset), [one.name for one in dataset.skipped]
  assert sorted([*kept, *skipped]) == sorted(
    f.relative_to(root).as_posix() for f in root.rglob("*.*")
  )
  assert set(skipped) <= {f"{name}/{kind}.jpg" for name, kind in hurt}
  for part in PARTS:  # decodes what lies on disk
    found = getattr(dataset, part)
    assert found.images[:].shape == (len(found), 16, 16, 3)
