"""Data sets that tensorflow-datasets has prepared on disk, read without TensorFlow.

Only folders are looked at: asking tensorflow-datasets for a set by its name would look for it on the
network, for minutes where there is none.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import Split
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.splits import random_order, shared_out
from jaxcompress.data.storage import EncodedImages, Layout, fits_memory, read_cached, write_cached
from jaxcompress.data.walk import printable

BATCH = 1024  # records read at once
MIRRORED = frozenset(  # known sets of pictures of things that are the same in a mirror
  [
    "caltech101",
    "caltech_birds2010",
    "caltech_birds2011",
    "cars196",
    "cats_vs_dogs",
    "cifar10",
    "cifar100",
    "eurosat",
    "fashion_mnist",
    "food101",
    "imagenet2012",
    "imagenet_resized",
    "imagenette",
    "imagewang",
    "oxford_flowers102",
    "oxford_iiit_pet",
    "places365_small",
    "stanford_dogs",
    "stl10",
    "tf_flowers",
    "visual_wake_words",
  ]
)
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """Images of a split, left encoded, with their labels; on disk they are opened where they are read.

  Attributes:
    folder: of the prepared set.
    part: the split.
    image_key: name of the feature.
    rows: (count,) positions in the split.
    labels: (count,) int32; negative where there is none.
    encoded: the split's images, where they were read into memory.
  """

  folder: pathlib.Path
  part: str
  image_key: str
  rows: np.ndarray
  labels: np.ndarray
  encoded: list[bytes] | None = None

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: np.ndarray) -> list[bytes]:
    """The encoded images at some positions."""
    rows = self.rows[index].tolist()
    if self.encoded is not None:
      return [self.encoded[row] for row in rows]
    source = _open(self.folder, self.part, self.image_key)
    return [row[self.image_key] for row in source.__getitems__(rows)]

  def layout(self) -> Layout:
    """The split's files."""
    split = _builder(self.folder).info.splits[self.part]
    file = np.searchsorted(np.cumsum(split.shard_lengths), self.rows, side="right")
    return Layout(
      tuple(map(str, split.filepaths)), file.astype(np.int32), self.rows.astype(np.int64)
    )

  def pick(self, chosen: np.ndarray) -> "Records":
    """The records at some positions."""
    return dataclasses.replace(self, rows=self.rows[chosen], labels=self.labels[chosen])


def tfds(
  name: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
) -> Dataset:
  """A set for image classification that was prepared in array_record format.

  It is looked for in ``DATA_DIR`` if the name ends in ``@DATA_DIR``, else in ``$TFDS_DATA_DIR``,
  else in ``~/tensorflow_datasets``. The set's own splits are used; with no labelled test split its
  validation split is the test set, and what is then missing is split off the training images.

  Args:
    name: ``NAME[/CONFIG][:VERSION][@DATA_DIR]``.
    seed: of splits that the set does not have.
    reader: how pictures become images; without a size the most frequent one is taken if none is
      larger than 64 pixels (enlarged to 32 if it is below 28), else 224.
    limit: at most this many images in each part; only about so many are read.
    in_memory: whether images are read and decoded now, or each time when they are needed; None:
      now, if they take at most half of the memory.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the set is not prepared there, is in another file format, has no images with
      class labels or no training images, or is damaged.
  """
  place = locate(name)
  with _guarded(place):
    builder = _builder(place)
  keys = _keys(builder.info, name)
  with _guarded(place):
    kept = [part for part in ("train", "validation", "test") if part in builder.info.splits]
    counts = {part: len(_open(place, part, keys[0])) for part in kept}
  counts = {part: count for part, count in counts.items() if count}
  if "train" not in counts:
    raise ValueError(
      f"data: {name!r} has no images in a split called train; its splits are "
      f"{', '.join(builder.info.splits)}."
    )
  if reader.size is None:
    with _guarded(place):
      some = _first(place, "train", keys, min(BATCH, counts["train"]), in_memory=True)
      reader = reader.at(images.common_size(some.read(some.rows)))
  if limit is not None:
    counts = {part: min(2 * limit, count) for part, count in counts.items()}
  if in_memory is None:
    in_memory = fits_memory(sum(counts.values()), reader.size)
  records = {}
  for part, count in counts.items():
    if in_memory:
      images.require_memory(count, reader.size)
    with _guarded(place):
      records[part] = _first(place, part, keys, count, in_memory)
  splits: Any = {}
  labelled = {p: r for p, r in records.items() if p == "train" or r.labels.min() >= 0}
  whole = shared_out(labelled, lambda found: random_order(len(found), seed), limit)
  for part, found in whole.items():
    encoded = EncodedImages(found, reader)
    splits[part] = Split(encoded[:] if in_memory else encoded, found.labels)
  classes = tuple(builder.info.features[keys[1]].names)
  flip = True if builder.name in MIRRORED else None
  name = f"tfds:{printable(name)}"
  return Dataset(name=name, classes=classes, flip=flip, reader=reader, **splits)


def locate(name: str) -> pathlib.Path:
  """The folder of a prepared set: ``DATA_DIR/NAME[/CONFIG]/VERSION``, the newest version of all.

  Raises:
    ValueError: if there is none, or several configurations to choose from.
  """
  full, _, folder = name.partition("@")
  full, _, version = full.partition(":")
  folder = folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  root = pathlib.Path(folder).expanduser()
  prepared = {
    place.relative_to(root).as_posix(): _versions(place)
    for place in sorted([*root.glob("*"), *root.glob("*/*")])
    if _versions(place)
  }
  matching = [key for key in prepared if key == full or key.startswith(f"{full}/")]
  if len(matching) > 1 and full not in matching:
    raise ValueError(
      f"data: {full!r} is prepared as {' and '.join(matching)}; write one of them in full."
    )
  key = full if full in matching else "".join(matching)
  versions = [v for v in prepared.get(key, ()) if version in ("", v)]
  if not full or not versions:
    there = ", ".join(f"{key}:{v}" for key, found in prepared.items() for v in found) or "nothing"
    code = f"tfds.builder('{full}', data_dir=r'{root}', file_format='array_record')"
    raise ValueError(
      f"data: 'tfds:{name}' is not prepared in {str(root)!r}, where there is {there}; give its "
      'folder as tfds:NAME@DATA_DIR, or prepare it with: python -c "import tensorflow_datasets as '
      f'tfds; {code}.download_and_prepare()" (for some sets this step needs TensorFlow).'
    )
  return root / key / versions[-1]


def _versions(place: pathlib.Path) -> list[str]:
  """Prepared versions below a folder, oldest first."""
  names = [info.parent.name for info in place.glob("*/dataset_info.json")]
  found = [name for name in names if VERSION.fullmatch(name)]
  return sorted(found, key=lambda name: tuple(map(int, name.split("."))))


def _builder(place: pathlib.Path) -> Any:
  import tensorflow_datasets as library

  builder = library.builder_from_directory(place)
  formats = {form.value for form in builder.info.available_file_formats()}
  if "array_record" not in formats:
    raise ValueError(
      f"it is in {', '.join(sorted(formats))} format, and only array_record is read without "
      "TensorFlow; prepare it again with file_format='array_record'"
    )
  return builder


@functools.lru_cache(maxsize=4)  # of each process
def _open(place: pathlib.Path, part: str, image_key: str) -> Any:
  """A split's records, images left encoded."""
  import tensorflow_datasets as library

  options = {"decoders": {image_key: library.decode.SkipDecoding()}, "file_format": "array_record"}
  return _builder(place).as_data_source(part, **options)


def _keys(info: Any, name: str) -> tuple[str, str]:
  """Names of the features that hold the image and its class."""
  import tensorflow_datasets as library

  kinds = library.features.Image, library.features.ClassLabel
  features = dict(info.features.items()) if hasattr(info.features, "items") else {}
  keys = []
  for i, kind in enumerate(kinds):
    supervised = info.supervised_keys or ()
    preferred = supervised[i : i + 1] if len(supervised) == 2 else ()
    fitting = [k for k in (*preferred, *features) if isinstance(features.get(k), kind)]
    if not fitting:
      raise ValueError(
        f"data: {name!r} has no {kind.__name__} feature, so it is not a set for image classification; "
        f"it has {', '.join(features) or 'no named features'}."
      )
    keys.append(fitting[0])
  return keys[0], keys[1]


def _first(
  place: pathlib.Path, part: str, keys: tuple[str, str], count: int, in_memory: bool
) -> Records:
  """The first records of a split, which lie on disk in random order.

  Where images are left there, the labels of a whole split are read through once and then cached.
  """
  image_key, label_key = keys
  source = _open(place, part, image_key)
  facts = f"{place}|{(place / 'dataset_info.json').stat().st_mtime_ns}|{part}"
  name = f"labels-{hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()}.npz"
  labels = None if in_memory else read_cached(name)
  encoded: list[bytes] | None = [] if in_memory else None
  if labels is None or len(labels) != len(source):
    labels = np.empty(count, np.int32)
    for start in range(0, count, BATCH):
      chunk = range(start, min(start + BATCH, count))
      for i, row in zip(chunk, source.__getitems__(chunk), strict=True):
        labels[i] = row[label_key]
        if encoded is not None:
          encoded.append(row[image_key])
    if encoded is None and count == len(source):
      write_cached(name, labels)
  rows = np.arange(count, dtype=np.int32)
  return Records(place, part, image_key, rows, labels[:count], encoded)


@contextlib.contextmanager
def _guarded(place: pathlib.Path) -> Iterator[None]:
  """Turns whatever the libraries raise while they read a set into one clear line."""
  try:
    yield
  except Exception as error:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise ValueError(f"data: the set at {str(place)!r} cannot be read: {reason}.") from error
