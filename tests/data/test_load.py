"""Data sets by name, handwriting, and the splits under both."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress import data
from jaxcompress.data import splits


def test_digits_are_handwriting_in_three_equal_channels():
  digits = data.load("digits")
  assert digits.classes == tuple("0123456789") and not digits.flip
  assert digits.image_shape == (32, 32, 3)
  assert (len(digits.train), len(digits.validation), len(digits.test)) == (1259, 179, 359)
  images = digits.train.images
  np.testing.assert_array_equal(images[..., 0], images[..., 2])
  assert images.min() == 0 and images.max() == 255


def test_enlarged_digits_shrink_back_to_the_originals():
  from sklearn.datasets import load_digits

  pixels, labels = load_digits(return_X_y=True)
  digits = data.load("digits")
  parts = (digits.train, digits.validation, digits.test)
  small = np.concatenate([p.images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) for p in parts])
  small = small.reshape(-1, 64) * (16 / 255)
  nearest = [int(np.square(pixels - s).sum(-1).argmin()) for s in small[::10]]
  assert len(set(nearest)) == len(nearest)
  np.testing.assert_array_equal(labels[nearest], np.concatenate([p.labels for p in parts])[::10])


def test_digits_are_split_by_the_seed_with_equal_shares():
  first, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first.test.images, again.test.images)
  assert (first.test.images != other.test.images).any()
  for part in (first.train, first.validation, first.test):
    shares = np.bincount(part.labels) / len(part)
    assert shares.min() > 0.09 and shares.max() < 0.11
  few = data.load("digits", limit=50, size=16)
  assert few.image_shape == (16, 16, 3) and np.bincount(few.train.labels).min() >= 4


unhurried = hypothesis.settings(deadline=None)
labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@unhurried
@hypothesis.given(labels=labels_of, seed=st.integers(0, 2**63), has_test=st.booleans())
def test_splits_share_out_every_example_and_leave_no_class_untrained(labels, seed, has_test):
  order = splits.random_order(len(labels), seed)
  parts = splits.three_way(labels, order, has_test)
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
  assert set(labels[parts[0]]) == set(labels)
  for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
    got = [int((labels[part] == label).sum()) for part in parts]
    assert abs(got[2] - (not has_test) * 0.2 * count) <= 1
    assert abs(got[1] - 0.1 * count) <= 1


@unhurried
@hypothesis.given(labels=labels_of, limit=st.integers(1, 70), seed=st.integers(0, 2**63))
def test_a_limit_takes_every_class_while_there_is_room(labels, limit, seed):
  chosen = splits.at_most(labels, splits.random_order(len(labels), seed), limit)
  assert len(chosen) == len(set(chosen)) == min(limit, len(labels))
  classes = len(np.unique(labels))
  assert len(np.unique(labels[chosen])) == min(classes, len(chosen))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: data.load("glyph"),
      "data: 'glyph' is unknown; it must be glyphs, digits, fashion-mnist, mnist, folder:PATH, csv:FILE",
    ),
    (lambda: data.load(""), "data: '' is unknown"),
    (lambda: data.load("folder"), "data: 'folder' is unknown; .* folder:PATH"),
    (lambda: data.load("folder:"), "data: 'folder:' is unknown"),
    (lambda: data.load("digits:8"), "data: 'digits:8' is unknown"),
    (lambda: data.load("mnist:"), "data: 'mnist:' is unknown; mnist is written mnist"),
    (lambda: data.load("mnist", group_by="a"), "group_by: mnist has no file names"),
    (
      lambda: data.load("digits", reader=data.ImageReader(channels=1)),
      "channels: digits is in RGB, got 1; leave it out",
    ),
    (lambda: data.load("digits", seed=-1), "seed: -1 must be a whole number, at least 0"),
    (lambda: data.load("digits", limit=0), "limit: 0 must be a whole number, at least 1"),
    (lambda: data.load("digits", limit=2.5), "limit: 2.5 must be a whole number, at least 1"),
    (lambda: data.load("digits", size="32"), "size: '32' must be a whole number, at least 1"),
    (lambda: data.load("digits", seed=None), "seed: None must be a whole number"),
    (lambda: data.load("folder:/", seed=2**64), r"seed: 18446744073709551616 must be .* 2\*\*64"),
    (lambda: data.load("digits", flip="no"), "flip: 'no' must be True, False or None"),
    (lambda: data.load(None), "data: None must be text"),
    (lambda: data.load("digits", size=0), "size: 0 must be a whole number, at least 1"),
    (lambda: data.load("digits", size=4), "size: 4 is out of range"),
  ],
)
def test_mistakes_name_the_value_and_the_choices(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_parts_of_a_data_set_must_fit_each_other():
  part = data.Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32))
  small = data.Split(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1], np.int32))
  with pytest.raises(ValueError, match="test: images of shape"):
    data.Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=small)
  with pytest.raises(ValueError, match="train: labels 0 to 1 do not fit the 1 classes"):
    data.Dataset(name="x", classes=("a",), train=part, validation=part, test=part)


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    ("", "is blank"),
    ("caf\udce9", "is not UTF-8"),
    ("a\tb", "has control characters"),
    (3, "no text"),
  ],
)
def test_classes_have_names_that_can_be_written_everywhere(name, wrong):
  part = data.Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32))
  with pytest.raises(ValueError, match=f"classes: .* {wrong}") as caught:
    data.Dataset(name="x", classes=("a", name), train=part, validation=part, test=part)
  str(caught.value).encode()


@pytest.mark.parametrize("shape", [(2, 0, 8, 3), (2, 8, 0, 3), (2, 8, 8, 0)])
def test_images_without_pixels_are_refused(shape):
  with pytest.raises(ValueError, match="has images without pixels"):
    data.Split(np.zeros(shape, np.uint8), np.zeros(2, np.int32))


def test_a_set_with_nothing_to_train_on_is_refused():
  part = data.Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32))
  empty = data.Split(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int32))
  with pytest.raises(ValueError, match="train: there are no images"):
    data.Dataset(name="x", classes=("a", "b"), train=empty, validation=part, test=part)
