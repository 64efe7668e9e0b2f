"""Data sets that tensorflow-datasets has prepared on disk, read without TensorFlow.

Only folders are looked at: asking tensorflow-datasets for a set by its name would look for it on the
network, for minutes where there is none.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.names import printable
from jaxcompress.data.splits import at_most, random_order, three_way
from jaxcompress.data.storage import brought_to, fits_memory, read_cached, write_cached

BATCH = 1024  # records read at once
MIRRORED = {  # known sets of photos, of things that are the same in a mirror
  *("caltech101", "caltech_birds2010", "caltech_birds2011", "cars196", "cats_vs_dogs", "cifar10"),
  *(
    "cifar100",
    "eurosat",
    "food101",
    "imagenet2012",
    "imagenet_resized",
    "imagenette",
    "imagewang",
  ),
  *("oxford_flowers102", "oxford_iiit_pet", "places365_small", "stanford_dogs", "stl10"),
  *("tf_flowers", "visual_wake_words"),
}
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True, eq=False)
class RecordStore:
  """The images of a split on disk, which is opened where they are read.

  Attributes:
    folder: of the prepared set.
    part: the split.
    image_key: name of the feature.
    rows: (count,) positions in the split.
  """

  folder: pathlib.Path
  part: str
  image_key: str
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: np.ndarray) -> list[bytes]:
    """The encoded images at some positions."""
    rows = _open(self.folder, self.part, self.image_key)
    return [row[self.image_key] for row in rows.__getitems__(self.rows[index].tolist())]


class Records(NamedTuple):
  """Encoded images, in memory or on disk, with their labels."""

  images: list[bytes] | RecordStore
  labels: np.ndarray

  def pick(self, chosen: np.ndarray) -> "Records":
    """The records at some positions."""
    if isinstance(self.images, RecordStore):
      store = dataclasses.replace(self.images, rows=self.images.rows[chosen])
      return Records(store, self.labels[chosen])
    return Records([self.images[i] for i in chosen], self.labels[chosen])


class Source(NamedTuple):
  """A split on disk, with random access and images left encoded."""

  rows: Any
  place: pathlib.Path
  part: str
  image_key: str
  label_key: str

  def first(self, count: int) -> Records:
    """The first records; they lie on disk in random order."""
    found: list[Any] = []
    labels = np.empty(count, np.int32)
    for start in range(0, count, BATCH):
      for row in self.rows.__getitems__(range(start, min(start + BATCH, count))):
        labels[len(found)] = row[self.label_key]
        found.append(row[self.image_key])
    return Records(found, labels)

  def stored(self, count: int) -> Records:
    """The first records, left on disk. Labels are read through once and then kept in the cache."""
    facts = f"{self.place}|{(self.place / 'dataset_info.json').stat().st_mtime_ns}|{self.part}"
    name = f"labels-{hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()}.npz"
    labels = (read_cached(name) or {}).get("labels")
    if labels is None or len(labels) != len(self.rows):
      labels = np.empty(len(self.rows), np.int32)
      for start in range(0, len(labels), BATCH):
        chunk = range(start, min(start + BATCH, len(labels)))
        labels[chunk.start : chunk.stop] = [
          row[self.label_key] for row in self.rows.__getitems__(chunk)
        ]
      write_cached(name, {"labels": labels})
    store = RecordStore(self.place, self.part, self.image_key, np.arange(count, dtype=np.int32))
    return Records(store, labels[:count])


def tfds(
  name: str,
  *,
  seed: int = 0,
  size: int | None = None,
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
    size: side of the images; by default the most frequent size if none is larger than 64 pixels
      (enlarged to 32 if it is below 28), else 224. Images of another size are scaled to cover it,
      and their middle is kept.
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
  builder = _guarded(lambda: _builder(place), place)
  image_key, label_key = _keys(builder.info, name)
  parts = _guarded(lambda: _sources(builder, place, image_key, label_key), place)
  if "train" not in parts:
    raise ValueError(
      f"data: {name!r} has no images in a split called train; its splits are "
      f"{', '.join(builder.info.splits)}."
    )
  shape = _guarded(lambda: _size(parts["train"]), place) if size is None else (size, size)
  counts = {
    part: len(source.rows) if limit is None else min(2 * limit, len(source.rows))
    for part, source in parts.items()
  }
  if in_memory is None:
    in_memory = fits_memory(sum(counts.values()), shape)
  records = {}
  for part, source in parts.items():
    if in_memory:
      images.require_memory(counts[part], shape)
    read = source.first if in_memory else source.stored
    records[part] = _guarded(lambda read=read, part=part: read(counts[part]), place)
  splits: Any = {}
  for part, found in _complete(records, seed).items():
    order = random_order(len(found.labels), seed)
    found = found.pick(at_most(found.labels, order, limit))
    splits[part] = Split(brought_to(found.images, shape, in_memory), found.labels)
  classes = tuple(builder.info.features[label_key].names)
  flip = builder.name in MIRRORED
  return Dataset(name=f"tfds:{printable(name)}", classes=classes, flip=flip, **splits)


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
        f"data: {name!r} has no {kind.__name__} feature, so it is no set for image classification; "
        f"it has {', '.join(features) or 'none that are named'}."
      )
    keys.append(fitting[0])
  return keys[0], keys[1]


def _sources(
  builder: Any, place: pathlib.Path, image_key: str, label_key: str
) -> dict[str, Source]:
  """The splits that are used, those that have images."""
  sources = {
    part: Source(_open(place, part, image_key), place, part, image_key, label_key)
    for part in ("train", "validation", "test")
    if part in builder.info.splits
  }
  return {part: source for part, source in sources.items() if len(source.rows)}


def _size(source: Source) -> images.Size:
  """The usual size of a set, judged by its first images."""
  first: Any = source.first(min(BATCH, len(source.rows))).images
  return images.common_size(first)


def _complete(parts: dict[str, Records], seed: int) -> dict[str, Records]:
  """All three parts; what is missing or has no labels is split off the training images."""
  parts = {part: r for part, r in parts.items() if part == "train" or r.labels.min() >= 0}
  if "test" not in parts and "validation" in parts:
    parts = {"train": parts["train"], "test": parts["validation"]}
  if len(parts) == 3:
    return parts
  whole = parts["train"]
  order = random_order(len(whole.labels), seed)
  train, validation, test = map(whole.pick, three_way(whole.labels, order, "test" in parts))
  return {"train": train, "validation": validation, "test": parts.get("test", test)}


def _guarded(read: Any, place: Any) -> Any:
  """The result of reading a set; whatever the libraries raise becomes one clear line."""
  try:
    return read()
  except Exception as error:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise ValueError(f"data: the set at {str(place)!r} cannot be read: {reason}.") from error
