"""Dataset.from_arrays and npz:FILE: arrays and sequences as programs and files have them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcompress import data as datasets
from jaxcompress.data import Dataset, ImageReader

COUNT = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 30, 3), np.uint8)
LABELS = np.arange(COUNT) % 3
NAMES = ["ant", "bee", "cat"]


def contents(data):
  return {
    (pixels.tobytes(), data.classes[label])
    for part in (data.train, data.validation, data.test)
    for pixels, label in zip(part.images, part.labels, strict=True)
  }


WANTED = {(p.tobytes(), NAMES[label]) for p, label in zip(PIXELS, LABELS, strict=True)}


class Tensor:
  """The part of PyTorch's tensors that is used, without PyTorch."""

  def __init__(self, array):
    self._array = array
    self.shape, self.dtype = array.shape, f"torch.{array.dtype}"

  def __len__(self):
    return len(self._array)

  def detach(self):
    return self

  def cpu(self):
    return self._array


class Lazy:
  """As PyTorch's data sets: items are made when they are asked for."""

  def __init__(self, make, count=COUNT):
    self._make, self._count = make, count

  def __len__(self):
    return self._count

  def __getitem__(self, place):
    return self._make(place)


IMAGES = {
  "numpy": PIXELS,
  "jax": jnp.asarray(PIXELS),
  "tensor": Tensor(PIXELS),
  "channels first": np.moveaxis(PIXELS, -1, 1),
  "0..255 floats": PIXELS.astype(np.float32),
  "0..1 floats": PIXELS.astype(np.float32) / 255,
  "0..1 doubles": PIXELS / 255,
  "0..1 halves": (PIXELS / 255).astype(np.float16),
  "int64": PIXELS.astype(np.int64),
  "list of arrays": list(PIXELS),
  "nested lists": PIXELS.tolist(),
  "pictures": [Image.fromarray(p) for p in PIXELS],
  "lazy": Lazy(PIXELS.__getitem__),
  "lazy tensors": Lazy(lambda i: Tensor(np.moveaxis(PIXELS[i] / np.float32(255), -1, 0))),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_kind_are_the_same_set(kind):
  data = Dataset.from_arrays(IMAGES[kind], LABELS, classes=NAMES)
  assert contents(data) == WANTED
  again = Dataset.from_arrays(IMAGES[kind], LABELS, classes=NAMES, in_memory=False)
  np.testing.assert_array_equal(again.train.images[:], data.train.images)
  other = Dataset.from_arrays(IMAGES[kind], LABELS, classes=NAMES, seed=1)
  assert len(other.train) == len(data.train) == 15
  assert (other.train.images != data.train.images).any()


@pytest.mark.parametrize("side", [8, 100])
def test_arrays_of_one_shape_keep_it_together_and_one_by_one(side):
  pixels = np.random.default_rng(side).integers(0, 256, (20, side, side + 4, 3), np.uint8)
  for channels, size in ((3, (side, side + 4)), (1, (side, side + 4))):
    images = pixels if channels == 3 else pixels[..., :1]
    for kind in (images, list(images), Lazy(images.__getitem__, 20)):
      data = Dataset.from_arrays(kind, np.arange(20) % 2)
      assert data.image_shape == (*size, channels) and data.reader.size == size


def test_small_pictures_of_one_size_keep_it_and_large_ones_are_brought_to_the_usual():
  small = [
    Image.fromarray(one) for one in np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
  ]
  assert Dataset.from_arrays(small, np.arange(20) % 2).image_shape == (8, 8, 3)
  large = [Image.new("RGB", (300, 200), (i, 2 * i, 3 * i)) for i in range(20)]
  assert Dataset.from_arrays(large, np.arange(20) % 2).image_shape == (224, 224, 3)


LABEL_KINDS = {
  "int64": LABELS,
  "uint8": LABELS.astype(np.uint8),
  "float": LABELS.astype(np.float32),
  "column": LABELS[:, None],
  "one-hot": np.eye(3, dtype=np.float32)[LABELS],
  "list": LABELS.tolist(),
  "jax": jnp.asarray(LABELS),
  "tensor": Tensor(LABELS),
  "names": [NAMES[i] for i in LABELS],
  "bytes": np.array([NAMES[i].encode() for i in LABELS]),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_every_kind_are_the_same_numbers(kind):
  assert contents(Dataset.from_arrays(PIXELS, LABEL_KINDS[kind], classes=NAMES)) == WANTED


PAIRS = {
  "pairs": list(zip(PIXELS, LABELS, strict=True)),
  "lazy pairs": Lazy(lambda i: (Image.fromarray(PIXELS[i]), Tensor(LABELS[i]))),
  "mappings": [{"image": p, "label": int(i)} for p, i in zip(PIXELS, LABELS, strict=True)],
  "named pairs": [(p, NAMES[i]) for p, i in zip(PIXELS, LABELS, strict=True)],
}


@pytest.mark.parametrize("kind", PAIRS)
def test_sequences_of_examples_bring_their_labels(kind):
  assert contents(Dataset.from_arrays(PAIRS[kind], classes=NAMES)) == WANTED


def test_classes_of_a_data_set_of_others_and_of_truth_values_and_numbers():
  lazy = Lazy(lambda i: (PIXELS[i], int(LABELS[i])))
  lazy.classes = NAMES
  assert Dataset.from_arrays(lazy).classes == tuple(NAMES)
  assert Dataset.from_arrays(PIXELS, LABELS == 1).classes == ("False", "True")
  found = Dataset.from_arrays(PIXELS, LABELS)
  assert found.classes == ("0", "1", "2") and not found.notes
  found = Dataset.from_arrays(PIXELS, LABELS * 5 + 1)
  assert found.classes == ("1", "6", "11")
  assert found.notes == ("labels 1, 6, 11 are numbered 0 to 2 in this order",)


def test_parts_that_are_given_stay_and_those_that_are_not_are_split_off():
  half = (PIXELS[12:], LABELS[12:])
  data = Dataset.from_arrays(PIXELS[:12], LABELS[:12], test=half)
  np.testing.assert_array_equal(data.test.images, PIXELS[12:])
  assert len(data.train) + len(data.validation) == 12 and len(data.validation)
  parts = {"validation": (PIXELS[12:18], LABELS[12:18]), "test": (PIXELS[18:], LABELS[18:])}
  data = Dataset.from_arrays(PIXELS[:12], LABELS[:12], **parts)
  np.testing.assert_array_equal(data.validation.images, PIXELS[12:18])
  np.testing.assert_array_equal(data.train.labels, LABELS[:12])


def test_grey_arrays_stay_grey_and_become_rgb_where_the_reader_says_so():
  grey = PIXELS[..., 0]
  for images in (grey, grey[..., None], grey[:, None]):
    data = Dataset.from_arrays(images, LABELS)
    assert data.image_shape == (32, 30, 1) and data.reader.channels == 1
  data = Dataset.from_arrays(grey, LABELS, reader=ImageReader())
  assert data.image_shape == (32, 30, 3)
  np.testing.assert_array_equal(data.train.images[..., 0], data.train.images[..., 2])


def test_images_of_unequal_size_are_brought_to_one_by_the_reader():
  images = [PIXELS[i, : 20 + i] for i in range(COUNT)]
  reader = ImageReader(16, resize="letterbox")
  data = Dataset.from_arrays(images, LABELS, classes=NAMES, reader=reader)
  wanted = {
    (reader(Image.fromarray(p)).tobytes(), NAMES[i]) for p, i in zip(images, LABELS, strict=True)
  }
  assert contents(data) == wanted


def test_files_are_taken_by_their_paths(tmp_path):
  paths = [tmp_path / f"{i}.png" for i in range(COUNT)]
  for path, pixels in zip(paths, PIXELS, strict=True):
    Image.fromarray(pixels).save(path)
  for listed in (paths, [str(path) for path in paths]):
    assert contents(Dataset.from_arrays(listed, LABELS, classes=NAMES)) == WANTED


def test_dark_images_of_a_sequence_are_read_as_the_others():
  images = [p.astype(np.float32) for p in PIXELS]
  images[3] = (images[3] > 100).astype(np.float32)  # of 0 to 255, though its pixels are 0 and 1
  data = Dataset.from_arrays(images, LABELS, classes=NAMES)
  assert any(
    part.images.max(axis=(1, 2, 3)).min() == 1 for part in (data.train, data.validation, data.test)
  )


def test_damaged_images_and_copies_are_left_out_and_listed_or_refused():
  images = [PIXELS[i] for i in range(COUNT)]
  images[4], images[7] = np.zeros((3, 4, 5, 6)), images[6]

  def broken(place):
    if place == 9:
      return Image.open("/no/such/file.png")
    return Image.fromarray(images[place]) if place != 4 else images[4]

  data = Dataset.from_arrays(images, LABELS)
  assert {one.name for one in data.skipped} == {"train/4", "train/6", "train/7"}
  with pytest.raises(datasets.DamagedError, match="3 images cannot be used"):
    Dataset.from_arrays(images, LABELS, strict=True)
  with pytest.raises(ValueError, match="images: example 9 cannot be read"):
    Dataset.from_arrays(Lazy(broken), LABELS)


REFUSED = {
  "a generator": (
    lambda: ((p for p in PIXELS), LABELS),
    "has no length; give an array or a sequence",
  ),
  "an iterator": (lambda: (iter(PIXELS), LABELS), "has no length"),
  "text": (lambda: ("photos", LABELS), "must be an array or a sequence"),
  "a dict": (lambda: ({"a": 1}, None), "must be an array or a sequence"),
  "no labels": (lambda: (PIXELS, None), "an array has no labels in it; give"),
  "fewer labels": (lambda: (PIXELS, LABELS[:5]), "there are 5 for 24 images"),
  "no images": (lambda: (PIXELS[:0], LABELS[:0]), "has no images"),
  "an empty list": (lambda: ([], []), "has no images"),
  "one class": (lambda: (PIXELS, LABELS * 0), "has one class, '0'"),
  "too few of a class": (lambda: (PIXELS, np.arange(COUNT) == 0), "class 'True' has 1 image"),
  "NaN": (lambda: (np.where(PIXELS == 7, np.nan, PIXELS), LABELS), "some pixels are NaN"),
  "NaN labels": (lambda: (PIXELS, np.where(LABELS == 1, np.nan, LABELS)), "with fractions or NaN"),
  "fractions": (lambda: (PIXELS, LABELS + 0.5), "with fractions or NaN"),
  "soft labels": (lambda: (PIXELS, np.full((COUNT, 3), 1 / 3)), "must have one 1 among zeros"),
  "labels of two axes": (lambda: (PIXELS, np.zeros((COUNT, 2, 2))), "they must be (count,)"),
  "missing labels": (lambda: (PIXELS, [None] * COUNT), "whole numbers or names"),
  "ragged labels": (lambda: (PIXELS, [[0], [0, 1]] * 12), "they are no array"),
  "normalized": (lambda: (PIXELS / 128 - 1, LABELS), "float64 of -1 to 0.992188; scale them"),
  "between levels": (lambda: (np.sqrt(PIXELS), LABELS), "between the 256 levels"),
  "16 bits": (lambda: (PIXELS.astype(np.uint16) * 257, LABELS), "uint16 of 0 to 65535; scale them"),
  "0 and 1": (lambda: ((PIXELS > 9).astype(int), LABELS), "black and white, or nearly black"),
  "complex": (lambda: (PIXELS.astype(complex), LABELS), "complex128 are no pixels"),
  "objects": (lambda: (PIXELS.astype(object), LABELS), "object are no pixels"),
  "rgba": (lambda: (np.concatenate([PIXELS, PIXELS[..., :1]], -1), LABELS), "images[..., :3]"),
  "flat": (lambda: (PIXELS.reshape(COUNT, -1), LABELS), "must be (height, width, channels)"),
  "either axis": (lambda: (PIXELS[:, :3], LABELS), "not certain which are the channels"),
  "no pixels": (lambda: (PIXELS[:, :0], LABELS), "must be (height, width, channels)"),
  "labels twice": (lambda: (PAIRS["pairs"], LABELS), "have labels already; leave labels out"),
  "no pairs": (lambda: (list(PIXELS), None), "has no label; give labels, or pairs"),
  "other mappings": (
    lambda: ([{"a": 1}] * 4, None),
    "example 0 has a; it must have image and label",
  ),
  "only numbers": (lambda: ([1, 2, 3] * 8, LABELS), "(height, width, channels)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_uncertain_or_no_data_set_is_refused_in_a_line_with_the_way_out(what):
  make, says = REFUSED[what]
  with pytest.raises(ValueError) as caught:
    Dataset.from_arrays(*make())
  assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("option", "says"),
  [
    ({"flip": "yes"}, "flip: 'yes' must be True, False or None"),
    ({"seed": -1}, "seed: -1 must be a whole number, at least 0"),
    ({"limit": 0}, "limit: 0 must be a whole number, at least 1"),
  ],
)
def test_options_out_of_range_are_refused_by_their_names(option, says):
  with pytest.raises(ValueError, match=says):
    Dataset.from_arrays(PIXELS, LABELS, **option)


@pytest.mark.parametrize(
  ("labels", "classes", "says"),
  [
    (LABELS, NAMES[:2], "labels: 0 to 2 do not fit the 2 classes; they must be 0 to 1"),
    (LABELS - 1, NAMES, "labels: -1 to 1 do not fit the 3 classes"),
    ([NAMES[i] for i in LABELS], NAMES[:2], "labels: 'cat' is not one of the classes ant, bee"),
    (LABELS, ["ant", "ant", "cat"], "look alike"),
    (LABELS, ["ant", " ", "cat"], "is blank"),
    (LABELS, ["ant", None, "cat"], "is no text"),
    (LABELS, [*NAMES, "dog"], "the class 'dog' has 0 image"),
  ],
)
def test_labels_that_do_not_fit_the_classes_are_refused(labels, classes, says):
  with pytest.raises(ValueError, match=says.replace("(", r"\(")):
    Dataset.from_arrays(PIXELS, labels, classes=classes)


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(3, 12), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_every_image_comes_once_with_its_label_and_every_part_has_every_class(counts, seed):
  labels = np.repeat(np.arange(len(counts)), counts)
  pixels = np.arange(len(labels), dtype=np.uint8).repeat(64).reshape(-1, 8, 8)
  data = Dataset.from_arrays(pixels, labels, seed=seed)
  parts = (data.train, data.validation, data.test)
  found = np.concatenate([part.images[:, 0, 0, 0] for part in parts])
  assert sorted(found.tolist()) == list(range(len(labels)))
  for part in parts:
    np.testing.assert_array_equal(labels[part.images[:, 0, 0, 0]], part.labels)
    assert set(part.labels.tolist()) == set(range(len(counts)))


def save(tmp_path, **arrays):
  np.savez(tmp_path / "set.npz", **arrays)
  return datasets.load(f"npz:{tmp_path / 'set.npz'}", seed=3)


def test_files_of_arrays_are_read_by_the_names_that_others_give_them(tmp_path):
  data = save(tmp_path, images=PIXELS, labels=LABELS, classes=NAMES)
  assert contents(data) == WANTED and data.name.startswith("npz:")
  parts = {"x_train": PIXELS[:12], "y_train": LABELS[:12, None]}
  data = save(tmp_path, **parts, x_test=PIXELS[12:], y_test=LABELS[12:, None], label_names=NAMES)
  np.testing.assert_array_equal(data.test.images, PIXELS[12:])
  names = {"train_images": 0, "val_images": 8, "test_images": 16}
  arrays = {name: PIXELS[start : start + 8, :, :, 0] for name, start in names.items()}
  arrays |= {n.replace("images", "labels"): LABELS[s : s + 8, None] for n, s in names.items()}
  data = save(tmp_path, **arrays)  # as MedMNIST
  assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 8, 8]
  assert data.image_shape == (32, 30, 3)
  assert datasets.load(f"npz:{tmp_path / 'set.npz'}", size=16).image_shape == (16, 16, 3)


@pytest.mark.parametrize(
  ("arrays", "says"),
  [
    ({}, "has the arrays none; it must have"),
    ({"a": PIXELS, "b": LABELS}, "has the arrays a, b; it must have images and labels, or x_train"),
    ({"images": PIXELS}, "has the arrays images; it must have"),
    ({"x_test": PIXELS, "y_test": LABELS}, "has the arrays x_test, y_test"),
    ({"x": PIXELS, "images": PIXELS, "y": LABELS}, "has two arrays of train images"),
    ({"x": PIXELS.astype(object), "y": LABELS}, "it holds Python objects"),
    ({"x": PIXELS * 1.5, "y": LABELS}, "scale them to uint8 of 0 to 255"),
    ({"x": PIXELS, "y": LABELS[:3]}, "there are 3 for 24 images"),
    ({"x": PIXELS, "y": LABELS + 0.5}, "with fractions or NaN"),
  ],
)
def test_files_of_other_arrays_are_refused_in_a_line(tmp_path, arrays, says):
  with pytest.raises(ValueError) as caught:
    save(tmp_path, **arrays)
  text = str(caught.value)
  assert says in text and "\n" not in text and "set.npz" in text


def test_damaged_and_missing_files_of_arrays_are_refused(tmp_path):
  save(tmp_path, images=PIXELS, labels=LABELS)
  path = tmp_path / "set.npz"
  whole = path.read_bytes()
  load = functools.partial(datasets.load, f"npz:{path}")
  for content in (
    b"",
    whole[:100],
    whole[: len(whole) // 2],
    b"hello",
    whole.replace(b"PK", b"KP"),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
      load()
  np.save(tmp_path / "one.npy", PIXELS)
  with pytest.raises(ValueError, match="it is a single array"):
    datasets.load(f"npz:{tmp_path / 'one.npy'}")
  path.unlink()
  with pytest.raises(ValueError, match="No such file"):
    load()


def test_names_among_numbers_are_refused():
  images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3)).astype(np.uint8)
  with pytest.raises(ValueError, match=r"labels: they must be whole numbers or names, all of one"):
    Dataset.from_arrays(images, ["a", 1] * 15)
