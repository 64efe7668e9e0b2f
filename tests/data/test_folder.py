"""Folders of images, and mistakes in them."""

import os
import pathlib
import shutil
import socket

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from jaxcompress import data


def write_class(root: pathlib.Path, name: str, count: int, *, side=30, seed=0, suffix=".png"):
  (root / name).mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng((seed, len(name), ord(name[0])))
  for i in range(count):
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(root / name / f"{i:03}{suffix}")


def all_images(dataset: data.Dataset) -> dict[bytes, str]:
  """Class names by the bytes of each image, over all parts."""
  return {
    image.tobytes(): dataset.classes[label]
    for part in (dataset.train, dataset.validation, dataset.test)
    for image, label in zip(part.images, part.labels, strict=True)
  }


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(
  counts=st.lists(st.integers(3, 12), min_size=2, max_size=4),
  height=st.integers(28, 64),
  width=st.integers(28, 64),
  seed=st.integers(0, 2**63),
)
def test_every_png_comes_back_exactly_once(tmp_path_factory, counts, height, width, seed):
  root = tmp_path_factory.mktemp("images")
  rng, written = np.random.default_rng(seed), {}
  for label, count in enumerate(counts):
    (root / f"class {label}").mkdir()
    for i in range(count):
      pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
      pixels.reshape(-1)[:2] = label, i  # no two are equal
      Image.fromarray(pixels).save(root / f"class {label}" / f"{i}.png")
      written[pixels.tobytes()] = f"class {label}"
  dataset = data.load(f"folder:{root}", seed=seed % 1000)
  assert dataset.image_shape == (height, width, 3)
  assert all_images(dataset) == written
  total = len(dataset.train) + len(dataset.validation) + len(dataset.test)
  assert total == len(written)
  for part in (dataset.train, dataset.validation, dataset.test):
    assert set(part.labels.tolist()) == set(range(len(counts)))


def test_splits_are_stratified_and_follow_from_seed_and_names(tmp_path):
  write_class(tmp_path, "cat", 20)
  write_class(tmp_path, "dog", 40)
  dataset = data.load(f"folder:{tmp_path}")
  assert dataset.classes == ("cat", "dog") and not dataset.notes
  for part, counts in (("train", [14, 28]), ("validation", [2, 4]), ("test", [4, 8])):
    assert np.bincount(getattr(dataset, part).labels).tolist() == counts
  again, other = data.load(f"folder:{tmp_path}"), data.load(f"folder:{tmp_path}", seed=1)
  np.testing.assert_array_equal(dataset.test.images, again.test.images)
  assert (dataset.test.images != other.test.images).any()

  before = {image.tobytes() for image in dataset.test.images}
  write_class(tmp_path, "ant", 10)  # a new class moves nothing in the others
  after = data.load(f"folder:{tmp_path}").test
  assert before <= {image.tobytes() for image in after.images}


def test_a_limit_keeps_shares_and_every_class(tmp_path):
  write_class(tmp_path, "cat", 10)
  write_class(tmp_path, "dog", 50)
  dataset = data.load(f"folder:{tmp_path}", limit=6)
  assert np.bincount(dataset.train.labels).tolist() == [1, 5]
  assert len(dataset.test) == 6 and len(dataset.validation) == 6
  with pytest.raises(ValueError, match="limit: 0"):
    data.load(f"folder:{tmp_path}", limit=0)


@pytest.mark.parametrize(
  ("present", "sizes"),
  [
    (("train", "val", "test"), (20, 6, 8)),
    (("Train", "test"), (18, 2, 8)),
    (("training", "validation"), (18, 2, 6)),
    (("TRAIN", "Dev", "testing"), (20, 6, 8)),
    (("train_set", "valid", "Test_Set"), (20, 6, 8)),
    (("train", "eval", "test-data"), (20, 6, 8)),
  ],
)
def test_existing_parts_are_used_and_missing_ones_split_off(present, sizes, tmp_path):
  counts = {"tr": 10, "te": 4}
  for seed, part in enumerate(present):
    for name in ("cat", "dog"):
      write_class(tmp_path / part, name, counts.get(part[:2].lower(), 3), seed=seed)
  (tmp_path / ".git").mkdir()
  dataset = data.load(f"folder:{tmp_path}")
  assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == sizes
  assert len(all_images(dataset)) == sum(sizes)


def test_train_can_be_a_class(tmp_path):
  write_class(tmp_path, "train", 4)
  write_class(tmp_path, "ship", 4)
  assert data.load(f"folder:{tmp_path}").classes == ("ship", "train")


def test_sizes_are_made_equal_and_files_of_other_kinds_left_alone(tmp_path):
  write_class(tmp_path, "cat", 4, side=30)
  write_class(tmp_path, "dog", 5, side=40, suffix=".JPG")
  write_class(tmp_path / "dog", "inner", 1, side=40, suffix=".jpeg")
  (tmp_path / "dog" / "._0.png").write_bytes(b"not for us")
  (tmp_path / "dog" / "notes.txt").write_text("nor this")
  dataset = data.load(f"folder:{tmp_path}")
  assert dataset.image_shape == (40, 40, 3)
  assert dataset.notes == ("left out: 1 file of another kind (.txt), 1 hidden file (._0.png)",)
  assert data.load(f"folder:{tmp_path}", size=16).image_shape == (16, 16, 3)
  write_class(tmp_path, "cat", 5, side=80)
  assert data.load(f"folder:{tmp_path}", limit=2).image_shape == (224, 224, 3)


def empty_class(root):
  write_class(root, "cat", 4)
  (root / "dog").mkdir()


def unknown_class(root):
  for name in ("cat", "dog"):
    write_class(root / "train", name, 4)
    write_class(root / "test", name, 4)
  write_class(root / "test", "cow", 4)


def few_images(root):
  write_class(root, "cat", 4)
  write_class(root, "dog", 2)


def loose_images(root):
  write_class(root, "train", 3)
  write_class(root, "test", 3)


def empty_test(root):
  for name in ("cat", "dog"):
    write_class(root / "train", name, 4)
  (root / "test").mkdir()


def two_trains(root):
  for part in ("train", "Train", "test"):
    for name in ("cat", "dog"):
      write_class(root / part, name, 4)


def no_train(root):
  for part in ("val", "test"):
    for name in ("cat", "dog"):
      write_class(root / part, name, 4)


def one_inside(root):
  for name in ("cat", "dog"):
    write_class(root / "images", name, 4)


def two_validations(root):
  for part in ("train", "dev", "eval"):
    for name in ("cat", "dog"):
      write_class(root / part, name, 4)


@pytest.mark.parametrize(
  ("prepare", "message"),
  [
    (lambda root: root.rmdir(), "does not exist; give a folder with one folder per class"),
    (lambda root: (root.rmdir(), root.write_text("x")), "is a file"),
    (lambda root: None, "has no class folders; it must have two or more"),
    (lambda root: write_class(root, "cat", 4), "has one class, 'cat'; it must have two or more"),
    (empty_class, r"dog' has no images; put some \(.jpg, .png, .* in it or delete it"),
    (
      unknown_class,
      "has the class 'cow', which the training images do not have; they have cat, dog",
    ),
    (few_images, r"the class 'dog' has 2 images; it needs 3 or more"),
    (loose_images, "train' has no class folders.*6 images outside of class folders"),
    (empty_test, "test' has no class folders; put one per class in it or delete it"),
    (two_trains, "has 'Train' and 'train', which are both train images"),
    (no_train, "has 'test' and 'val' but no 'train'; name the folder of training images so"),
    (one_inside, "has one class, 'images'.*; if 'images' has the classes in it, give '"),
    (two_validations, "has 'dev' and 'eval', which are both validation images"),
  ],
)
def test_mistakes_name_the_value_and_the_way_out_in_one_line(prepare, message, tmp_path):
  root = tmp_path / "images"
  root.mkdir()
  prepare(root)
  with pytest.raises(ValueError, match=message) as caught:
    data.load(f"folder:{root}")
  assert "\n" not in str(caught.value) and str(root) in str(caught.value).replace(
    "the class 'dog' has 2", str(root)
  )


@pytest.mark.parametrize(
  "classes",
  [("p", "q"), ("ok_1", "ok_2"), ("pfeil_l", "pfeil_r"), ("gauche", "droite"), ("cat", "dog")],
)
def test_images_are_mirrored_only_where_that_is_asked_for(classes, tmp_path):
  for seed, name in enumerate(classes):
    write_class(tmp_path, name, 4, seed=seed)
  assert not data.load(f"folder:{tmp_path}").flip
  assert data.load(f"folder:{tmp_path}", flip=True).flip
  assert data.load("digits", limit=20, flip=True).flip
  assert not data.load("digits", limit=20, flip=False).flip


@pytest.mark.parametrize(
  "hidden",
  (
    ".ipynb_checkpoints",
    ".Trash-1000",
    "@eaDir",
    ".thumbnails",
    "lost+found",
    "__MACOSX",
    "#recycle",
  ),
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_hidden_folders_and_those_of_systems_are_left_out_and_counted(hidden, in_memory, tmp_path):
  for seed, name in enumerate(("cat", "dog")):
    write_class(tmp_path, name, 9, seed=seed)
    shutil.copytree(tmp_path / name, tmp_path / name / "young" / hidden)
  shutil.copytree(tmp_path / "cat", tmp_path / hidden)  # no class
  dataset = data.load(f"folder:{tmp_path}", in_memory=in_memory)
  assert dataset.classes == ("cat", "dog")
  seen = [bytes(i) for p in (dataset.train, dataset.validation, dataset.test) for i in p.images]
  assert len(seen) == len(set(seen)) == 18
  (note,) = dataset.notes
  assert f"3 hidden or system folders ({hidden})" in note and "36 images in those" in note


def special(root: pathlib.Path) -> str:
  """Makes things that are no image files, under names of images; returns the note on them."""
  os.mkfifo(root / "cat" / "pipe.png")
  with socket.socket(socket.AF_UNIX) as made:
    here = os.getcwd()
    os.chdir(root / "cat")  # names of sockets are short
    made.bind("ear.jpg")
    os.chdir(here)
  (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
  (root / "cat" / "self.jpg").symlink_to(root / "cat" / "self.jpg")
  (root / "dog" / "up").symlink_to(root / "dog")
  (root / "dog" / "Thumbs.db").write_bytes(b"")
  (root / "dog" / "photo.HEIC").write_bytes(b"")
  (root / "loose.png").write_bytes(b"")
  return (
    "left out: 1 file of another kind (.db), 1 image outside of class folders (loose.png), 1 link to"
    " a folder read before (up), 2 links to nothing (gone.png, self.jpg), 1 picture of a kind that is not"
    " read: save it as JPEG or PNG (.heic), 2 pipes, sockets and devices (ear.jpg, pipe.png)"
  )


def test_pipes_sockets_and_links_in_circles_are_left_out_and_counted(tmp_path):
  write_class(tmp_path, "cat", 5)
  write_class(tmp_path, "dog", 5, seed=1)
  before = all_images(data.load(f"folder:{tmp_path}"))
  note = special(tmp_path)
  dataset = data.load(f"folder:{tmp_path}")
  assert all_images(dataset) == before and dataset.notes == (note,)


@pytest.mark.parametrize("above", [".", "..", "../.."])
def test_a_link_out_of_a_class_to_what_is_above_it_is_left_out(tmp_path, above):
  """It would bring the other classes' images into this one."""
  root = tmp_path / "far" / "sets" / "pets"
  write_class(root, "cat", 5)
  write_class(root, "dog", 5, seed=1)
  before = all_images(data.load(f"folder:{root}"))
  (root / "cat" / "deep").mkdir()
  (root / "cat" / "deep" / "up").symlink_to(root / above)
  dataset = data.load(f"folder:{root}")
  assert all_images(dataset) == before
  assert dataset.notes == ("left out: 1 link to a folder read before (up)",)


def test_folders_behind_links_and_folders_called_like_images_are_read(tmp_path):
  root, store = tmp_path / "root", tmp_path / "store"
  write_class(root, "cat", 4)
  write_class(store, "fish", 4, seed=1)
  write_class(store, "more.jpg", 3, seed=2)
  (root / "dog").symlink_to(store / "fish")
  (root / "dog" / "far").symlink_to(store / "more.jpg")
  dataset = data.load(f"folder:{root}")
  assert np.bincount(
    np.concatenate([p.labels for p in (dataset.train, dataset.validation, dataset.test)])
  ).tolist() == [4, 7]


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    (b"caf\xe9", r"caf\\\\xe9' in .* has a name that is not UTF-8; rename it"),
    (b"two\nlines", "has control characters"),
    ("line\u2028break".encode(), "has control characters"),
    (b"bell\x07", "has control characters"),
    (b"  ", "is blank"),
    (b"cat ", "'cat' and 'cat ', which look alike"),
  ],
)
def test_class_names_that_cannot_be_written_everywhere_are_refused(name, wrong, tmp_path):
  write_class(tmp_path, "cat", 3)
  shutil.copytree(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/" + name)
  with pytest.raises(ValueError, match=wrong) as caught:
    data.load(f"folder:{tmp_path}")
  str(caught.value).encode()
  assert "\n" not in str(caught.value)


def test_one_name_in_two_spellings_is_one_class(tmp_path):
  composed, apart = "caf\u00e9", "cafe\u0301"
  write_class(tmp_path / "train", composed, 9)
  write_class(tmp_path / "train", "tea", 9)
  write_class(tmp_path / "test", apart, 4)  # as macOS packs it
  write_class(tmp_path / "test", "tea", 4, seed=1)
  dataset = data.load(f"folder:{tmp_path}")
  assert dataset.classes == (composed, "tea")
  assert np.bincount(dataset.test.labels).tolist() == [4, 4]
  write_class(tmp_path / "train", apart, 9)
  with pytest.raises(ValueError, match=r"'cafe\\u0301' and 'caf\\xe9', which look alike"):
    data.load(f"folder:{tmp_path}")


def test_files_and_folders_that_are_not_utf8_are_read(tmp_path):
  root = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xfc"))
  write_class(root, "cat", 4)
  write_class(root, "dog", 4)
  os.rename(root / "cat/000.png", os.fsencode(root / "cat") + b"/\xe9.png")
  dataset = data.load(f"folder:{root}")
  assert len(all_images(dataset)) == 8
  assert dataset.name.endswith(r"d\xfc")
  dataset.name.encode()


def test_very_long_and_unusual_names_of_classes_stay_as_they_are(tmp_path):
  names = ["x" * 255, " leads", "[bold]", "a'b\"c", "\u732b", "-1", "nul", "\U0001f408"]
  for seed, name in enumerate(names):
    write_class(tmp_path, name, 3, seed=seed)
  assert data.load(f"folder:{tmp_path}").classes == tuple(sorted(names))


def test_a_part_tells_which_classes_it_lacks(tmp_path):
  for name in ("cat", "dog", "eel"):
    write_class(tmp_path / "train", name, 5)
  write_class(tmp_path / "test", "dog", 2, seed=1)
  write_class(tmp_path / "docs", "figures", 1)
  notes = data.load(f"folder:{tmp_path}").notes
  assert notes == (
    "left out: 1 folder beside train (docs)",
    "test has no images of 2 classes (cat, eel)",
  )
