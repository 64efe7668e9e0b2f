"""Data sets of Hugging Face's format on disk, read with pyarrow alone: ``hf:FOLDER``."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxcompress.data import walk
from jaxcompress.data.arrays import assembled
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import PARTS
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.sources import IMAGES, Item

SPLITS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "val", "dev", "eval"),
  "test": ("test", "testing"),
}
LABELS = ("label", "labels", "class", "target", "fine_label", "category")  # of columns
WORD = re.compile(r"[a-z]+")


class Columns(NamedTuple):
  """The columns of a table that are read.

  Attributes:
    image: name of the column with images.
    label: name of the column with classes.
    classes: their names; None if the column holds names, or numbers without any.
  """

  image: str
  label: str
  classes: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The images of a part, left encoded in its files, which are opened where they are read.

  Attributes:
    files: of the part.
    column: with the images.
  """

  files: tuple[pathlib.Path, ...]
  column: str

  def __getitem__(self, place: int) -> bytes | pathlib.Path:
    found = _table(self.files)[self.column][place].as_py()
    if not isinstance(found, Mapping):
      return found if isinstance(found, bytes) else b""
    if found.get("bytes"):
      return found["bytes"]
    name = found.get("path")
    return self.files[0].parent / name if name else b""


def saved(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> Dataset:
  """A data set that ``datasets.save_to_disk`` wrote, or parquet files as the Hub has them.

  The column of images is one of the ``Image`` feature, or with encoded images in it; that of classes a
  ``ClassLabel``, or one called ``label``. Parts are those of the set, of parquet files by their names
  or folders' (``train-00000-of-00001.parquet``). Examples without a label are left out; what else is
  left out and split off is as with :func:`~jaxcompress.data.folder.folder`.

  Args:
    path: the folder, or one parquet file.
    seed: of the splits.
    reader: how pictures become images; without a size it is chosen as for folders.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they take
      at most half of the memory.
    strict: whether it is an error where images would be left out.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if there is no such set, it cannot be read, or has no images with classes.
  """
  root = pathlib.Path(path).expanduser()
  files, ignored = _files(root, path)
  _table.cache_clear()  # files may be others than before
  tables = {part: _opened(found, path) for part, found in files.items()}
  columns = _columns(tables["train"], files["train"], path)
  examples: dict[str, tuple[list[Any], Any]] = {}
  notes = [f"splits that are not read: {', '.join(ignored)}"] if ignored else []
  for part, table in tables.items():
    absent = [name for name in columns[:2] if name not in table.column_names]
    if absent:
      raise ValueError(f"data: the {part} part of {path!r} has no column {absent[0]!r}.")
    labels = table[columns.label].to_pylist()
    known = [i for i, label in enumerate(labels) if label is not None and label != -1]
    if len(known) < len(labels):
      count = len(labels) - len(known)
      notes.append(
        f"{count:,} of {len(labels):,} examples of {part} have no label and are left out"
      )
    if strict and len(known) < len(labels):
      raise ValueError(
        f"strict: {notes[-1]} of {path!r}; label or delete them, or leave strict out."
      )
    pictures = Pictures(tuple(files[part]), columns.image)
    if known or part == "train":
      items = [Item(f"{part}/{i}", pictures, i) for i in known]
      examples[part] = items, [labels[i] for i in known]
  return Dataset(
    **assembled(
      f"hf:{walk.printable(path)}",
      examples,
      columns.classes,
      seed=seed,
      reader=reader,
      limit=limit,
      in_memory=in_memory,
      strict=strict,
      notes=notes,
    )
  )


def _files(root: pathlib.Path, path: str) -> tuple[dict[str, list[pathlib.Path]], list[str]]:
  """Returns the files of each part, and the names of splits that are not parts."""
  if root.is_file():
    return {"train": [root]}, []
  if not root.is_dir():
    raise ValueError(f"data: {path!r} does not exist; give a folder of datasets.save_to_disk.")
  places = {"train": root}
  if (root / "dataset_dict.json").is_file():
    names = _json(root / "dataset_dict.json").get("splits")
    if not isinstance(names, list):
      raise ValueError(f"data: {str(root / 'dataset_dict.json')!r} names no splits.")
    places = {str(name): root / str(name) for name in names}
  found: dict[str, list[pathlib.Path]] = {}
  if any((place / "state.json").is_file() for place in places.values()):
    for name, place in places.items():
      listed = _json(place / "state.json").get("_data_files") or []
      found[name] = [place / str(file["filename"]) for file in listed]
  else:
    for file in sorted(root.rglob("*.parquet")):
      words = WORD.findall("/".join(file.relative_to(root).parts).lower())
      known = [name for names in SPLITS.values() for name in names if name in words]
      own = WORD.findall(file.stem.lower()) or WORD.findall(file.parent.name.lower())
      found.setdefault((known or own or ["train"])[0], []).append(file)
    if len(found) == 1 and not _part(next(iter(found))):
      found = {"train": [file for files in found.values() for file in files]}
  parts: dict[str, list[pathlib.Path]] = {}
  for name, files in found.items():
    if part := _part(name):
      parts.setdefault(part, []).extend(files)
  if not parts.get("train"):
    way_out = "write a set there with datasets.save_to_disk, or copy its parquet files there"
    if found:
      way_out = f"its splits are {', '.join(found)}; name the one to train on 'train'"
    raise ValueError(
      f"data: {path!r} has no training images of datasets.save_to_disk and no parquet files of them;"
      f" {walk.printable(way_out)}."
    )
  ignored = sorted(walk.printable(name) for name in found if not _part(name))
  return {part: parts[part] for part in PARTS if parts.get(part)}, ignored


def _part(name: str) -> str | None:
  return next((part for part, names in SPLITS.items() if name.lower() in names), None)


def _json(file: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(file.read_bytes())
  except (OSError, ValueError) as error:
    raise ValueError(f"data: {str(file)!r} cannot be read ({error}).") from error
  return found if isinstance(found, dict) else {}


def _opened(files: list[pathlib.Path], path: str) -> Any:
  try:
    return _table(tuple(files))
  except Exception as error:  # pyarrow raises almost anything
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise ValueError(f"data: the set in {path!r} cannot be read ({reason}).") from error


@functools.lru_cache(maxsize=8)  # of each process
def _table(files: tuple[pathlib.Path, ...]) -> Any:
  """A part's table: of arrow files mapped into memory, of parquet files read into it, still encoded."""
  import pyarrow  # its import takes a while
  from pyarrow import parquet

  tables = []
  for file in files:
    if file.suffix == ".parquet":
      with file.open("rb") as opened:
        tables.append(parquet.read_table(opened))
    else:
      with pyarrow.memory_map(str(file)) as source:
        tables.append(pyarrow.ipc.open_stream(source).read_all())
  return pyarrow.concat_tables(tables)


def _columns(table: Any, files: list[pathlib.Path], path: str) -> Columns:
  """The columns of images and classes."""
  features = _features(table, files)
  kinds = {
    name: _kind(features.get(name), table.schema.field(name).type) for name in table.column_names
  }
  image, label = (
    _first([name for name, kind in kinds.items() if kind == wanted], preferred)
    for wanted, preferred in (("image", IMAGES), ("classes", LABELS))
  )
  if label is None:
    label = _first([name for name in LABELS if kinds.get(name) == "plain"], LABELS)
  if image is None or label is None:
    what = "images (of the Image feature)" if image is None else "classes (a ClassLabel, or label)"
    shown = walk.printable(", ".join(table.column_names))
    raise ValueError(f"data: {path!r} has no column of {what}; its columns are {shown}.")
  names = (features.get(label) or {}).get("names")
  return Columns(image, label, tuple(map(str, names)) if isinstance(names, list) else None)


def _first(names: list[str], preferred: tuple[str, ...]) -> str | None:
  """The preferred one of some names, else the first."""
  return next((name for name in preferred if name in names), names[0] if names else None)


def _features(table: Any, files: list[pathlib.Path]) -> dict[str, Any]:
  """Reads the descriptions of a set's columns from the files themselves, or beside them."""
  said = (table.schema.metadata or {}).get(b"huggingface")
  try:
    info = json.loads(said)["info"] if said else _json(files[0].parent / "dataset_info.json")
    found = info["features"]
  except (ValueError, KeyError, TypeError):
    return {}
  return {n: f for n, f in found.items() if isinstance(f, dict)} if isinstance(found, dict) else {}


def _kind(feature: Any, kind: Any) -> str | None:
  """Returns the kind of a column: ``image``, ``classes``, or ``plain`` numbers or text."""
  import pyarrow.types as types

  said = (feature or {}).get("_type")
  if said == "ClassLabel":
    return "classes"
  if said == "Image" or types.is_binary(kind) or types.is_large_binary(kind):
    return "image"
  if types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
    return "image"
  plain = types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
  return "plain" if plain or types.is_boolean(kind) else None
