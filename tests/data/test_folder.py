"""Folders of images, and mistakes in them."""

import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from jaxcompress import data
from jaxcompress.data import mirror


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
  assert dataset.classes == ("cat", "dog") and dataset.flip
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
  ],
)
def test_existing_parts_are_used_and_missing_ones_split_off(present, sizes, tmp_path):
  counts = {"train": 10, "training": 10, "val": 3, "validation": 3, "test": 4}
  for seed, part in enumerate(present):
    for name in ("cat", "dog"):
      write_class(tmp_path / part, name, counts[part.lower()], seed=seed)
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
  assert data.load(f"folder:{tmp_path}").image_shape == (40, 40, 3)
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


def damaged(root):
  write_class(root, "cat", 4)
  write_class(root, "dog", 4)
  (root / "dog" / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


@pytest.mark.parametrize(
  ("prepare", "message"),
  [
    (lambda root: root.rmdir(), "does not exist; give a folder with one folder per class"),
    (lambda root: (root.rmdir(), root.write_text("x")), "is a file"),
    (lambda root: None, "has no class folders; it must have two or more"),
    (lambda root: write_class(root, "cat", 4), "has one class, 'cat'; it must have two or more"),
    (empty_class, "dog' has no images; put .png, .jpg, .jpeg files in it or delete it"),
    (unknown_class, "has the class 'cow', which the training images have not; they have cat, dog"),
    (few_images, r"the class 'dog' has 2 image\(s\); it needs 3 or more"),
    (loose_images, "train' has no class folders"),
    (damaged, r"002\.png' cannot be read"),
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
  ("classes", "colour", "expected"),
  [
    (("cat", "dog"), True, True),
    (("cat", "dog"), False, False),
    (("0", "1", "12"), True, False),
    (("A", "b"), True, False),
    (("Turn-Left", "stop"), True, False),
    (("bright", "leftover"), True, True),
  ],
)
def test_images_are_mirrored_only_where_it_makes_sense(classes, colour, expected):
  images = np.full((2, 4, 4, 3), 90, np.uint8)
  images[..., 0] += 50 * colour
  assert mirror.keeps_label(images, classes) == expected
