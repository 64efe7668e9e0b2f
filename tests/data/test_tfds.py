"""Prepared tensorflow-datasets sets: written here in array_record format, without TensorFlow."""

import io
import pathlib
import sys
import time

import numpy as np
import pytest
from PIL import Image

from jaxcompress import data
from jaxcompress.data import tfds as source
from jaxcompress.data.storage import EncodedImages

tfds = pytest.importorskip("tensorflow_datasets")

SIDES = {"small": 28, "large": 70}


def picture(number: int, side: int) -> np.ndarray:
  return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


class Shapes(tfds.core.GeneratorBasedBuilder):
  """A tiny set with configurations; the number of each image is in its class and pixels."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(name="small", description="28 px, train and test"),
    tfds.core.BuilderConfig(name="large", description="70 px, unlabelled test"),
  ]

  def _info(self):
    features = {
      "photo": tfds.features.Image(shape=(None, None, 3)),
      "kind": tfds.features.ClassLabel(names=["square", "circle", "star"]),
      "id": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    if self.builder_config.name == "small":
      return {"train": self._generate_examples(0, 60), "test": self._generate_examples(60, 72)}
    return {
      "train": self._generate_examples(0, 30),
      "validation": self._generate_examples(30, 36),
      "test": self._generate_examples(36, 40, labelled=False),
    }

  def _generate_examples(self, start, stop, labelled=True):
    for i in range(start, stop):
      file = io.BytesIO()
      Image.fromarray(picture(i, SIDES[self.builder_config.name])).save(file, "PNG")
      file.seek(0)
      yield i, {"photo": file, "kind": i % 3 if labelled else -1, "id": str(i)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("tfds")
  for config in SIDES:
    builder = Shapes(config=config, data_dir=root, file_format="array_record")
    builder.download_and_prepare()
  return root


def test_a_prepared_set_comes_back_exactly_and_without_tensorflow(prepared):
  modules = set(sys.modules)
  dataset = data.load(f"tfds:shapes/small@{prepared}")
  assert "tensorflow" not in set(sys.modules) - modules
  assert dataset.classes == ("square", "circle", "star") and not dataset.flip
  assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54, 6, 12)
  known = {picture(i, 28).tobytes(): i for i in range(72)}
  numbers = {}
  for part in ("train", "validation", "test"):
    split = getattr(dataset, part)
    numbers[part] = [known[image.tobytes()] for image in split.images]
    np.testing.assert_array_equal(split.labels, np.array(numbers[part]) % 3)
  assert set(numbers["test"]) == set(range(60, 72))
  assert sorted(numbers["train"] + numbers["validation"]) == list(range(60))


def test_a_set_on_disk_knows_the_files_that_its_examples_lie_in(prepared):
  train = data.load(f"tfds:shapes/small@{prepared}", in_memory=False).train
  assert sum(train.shards.sizes) == len(train) and all(
    pathlib.Path(name).exists() for name in train.shards.files
  )
  batch = data.batch_at(train, 54, seed=0, position=0, sampling=data.ByShards())
  np.testing.assert_array_equal(np.sort(batch["index"]), np.arange(54))


def test_large_images_get_the_usual_size_and_an_unlabelled_test_split_is_replaced(prepared):
  dataset = data.load(f"tfds:shapes/large:1.0.0@{prepared}", limit=5)
  assert dataset.image_shape == (224, 224, 3)
  assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (5, 3, 5)
  whole = data.load(f"tfds:shapes/large@{prepared}", size=70)
  test = {image.tobytes() for image in whole.test.images}
  assert test == {picture(i, 70).tobytes() for i in range(30, 36)}
  assert (len(whole.train), len(whole.validation)) == (27, 3)


def test_the_folder_can_come_from_the_environment(prepared, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  assert len(data.load("tfds:shapes/small", limit=10).train) == 10


def test_the_newest_version_is_taken(tmp_path):
  for version in ("1.9.0", "1.10.0", "1.2.0", "incomplete.1_2.0.0"):
    (tmp_path / "marks" / version).mkdir(parents=True)
    (tmp_path / "marks" / version / "dataset_info.json").write_text("{}")
  assert source.locate(f"marks@{tmp_path}").name == "1.10.0"
  assert source.locate(f"marks:1.2.0@{tmp_path}").name == "1.2.0"


def test_a_set_that_is_not_there_fails_at_once_and_says_how_to_prepare_it(prepared):
  start = time.perf_counter()
  with pytest.raises(ValueError, match="not prepared") as caught:
    data.load(f"tfds:cifar100@{prepared}")
  assert time.perf_counter() - start < 2
  message = str(caught.value)
  assert "shapes/small:1.0.0" in message and str(prepared) in message and "\n" not in message
  assert "tfds.builder('cifar100'" in message and "file_format='array_record'" in message


def test_a_configuration_must_be_chosen_where_there_are_several(prepared):
  with pytest.raises(ValueError, match="prepared as shapes/large and shapes/small; write one"):
    data.load(f"tfds:shapes@{prepared}")


def copied(prepared: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
  place = root / "shapes" / "small" / "1.0.0"
  place.mkdir(parents=True)
  for file in (prepared / "shapes" / "small" / "1.0.0").iterdir():
    (place / file.name).write_bytes(file.read_bytes())
  return place


def replace_format(place):
  file = place / "dataset_info.json"
  file.write_text(file.read_text().replace('"array_record"', '"tfrecord"'))


def drop_labels(place):
  file = place / "features.json"
  file.write_text(
    file.read_text()
    .replace("class_label_feature.ClassLabel", "scalar.Scalar")
    .replace(
      '"classLabel": {\n                    "numClasses": "3"', '"tensor": {"dtype": "int64"'
    )
  )


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (replace_format, "only array_record is read without TensorFlow; prepare it again"),
    (lambda place: (place / "dataset_info.json").write_text("{"), "cannot be read"),
    (lambda place: next(place.glob("*-train.*")).unlink(), "cannot be read"),
    (lambda place: next(place.glob("*-train.*")).write_bytes(b"x" * 99), "cannot be read"),
    (drop_labels, "has no ClassLabel feature, so it is not a set for image classification"),
  ],
  ids=["format", "info", "missing", "records", "labels"],
)
def test_an_unusable_set_is_named_in_one_line(damage, message, prepared, tmp_path):
  damage(copied(prepared, tmp_path))
  with pytest.raises(ValueError, match=message) as caught:
    data.load(f"tfds:shapes/small@{tmp_path}")
  assert "\n" not in str(caught.value)


def test_left_on_disk_it_has_the_same_pixels_and_labels(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where labels are kept
  for _ in range(2):
    ours, theirs = (
      data.load(f"tfds:shapes/large@{prepared}", size=32, in_memory=m) for m in (False, True)
    )
    for part in ("train", "validation", "test"):
      assert isinstance(getattr(ours, part).images, EncodedImages)
      np.testing.assert_array_equal(getattr(ours, part).labels, getattr(theirs, part).labels)
      np.testing.assert_array_equal(getattr(ours, part).images[:], getattr(theirs, part).images)
  assert list(tmp_path.rglob("labels-*.npz"))
  with data.Stream(ours.train, 4, seed=0, stop=1, workers=0) as batch_at:
    expected = data.batch_at(theirs.train, 4, seed=0, position=0)
    np.testing.assert_array_equal(batch_at(0)["image"], expected["image"])
