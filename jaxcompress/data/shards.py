"""Tar files of images beside their labels, as WebDataset has them: ``wds:FILES``."""

import glob
import json
import pathlib
import re
import tarfile
from typing import Any

from jaxcompress.data import walk
from jaxcompress.data.arrays import assembled
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.sources import Held, Packed

SPLITS = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "eval", "dev"),
  "test": ("test", "testing"),
}
PICTURES = tuple(suffix.removeprefix(".") for suffix in walk.SUFFIXES)
LABELS = ("cls", "label", "class")  # ends of files with a class
KNOWN = {*PICTURES, *LABELS, "json", *(suffix.removeprefix(".") for suffix in walk.UNREAD)}
KEYS = ("label", "cls", "class", "class_name", "target")  # in .json files
NAMES = ("classnames.txt", "classes.txt", "labels.txt")  # beside the shards, a class in each line
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 1_000_000
SHOWN = 3


def shards(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> Dataset:
  """Images and classes from tar files: ``0001.jpg`` beside ``0001.cls`` or ``0001.json``.

  Files of a tar belong together if their names agree up to the first dot. A ``.cls`` file holds the
  class as a number or a name, a ``.json`` file has it as ``label``, ``cls`` or ``class``. Names of
  numbered classes are read from a ``classnames.txt`` beside the tar files. Parts are told by the names
  of the tar files or of folders below (``train-000000.tar``, ``test/0.tar``); without such names all
  are to train on. What is left out and split off is as with :func:`~jaxcompress.data.folder.folder`.

  Args:
    path: a tar file, a folder of them, or a pattern: ``photos-{0000..0011}.tar``, ``photos-*.tar``.
    seed: of the splits.
    reader: how pictures become images; without a size it is chosen as for folders.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they take at
      most half of the memory. Compressed tar files are read into memory in any case, still encoded.
    strict: whether it is an error where images would be left out.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if there are no such files, one cannot be read, or there are no images with classes.
  """
  root, files = pathlib.Path(path).expanduser(), _files(path)
  examples: dict[str, tuple[list[Any], list[Any]]] = {}
  lacking: list[str] = []
  notes: list[str] = []
  for file in files:
    sources, labels = examples.setdefault(_part(file, root), ([], []))
    samples = _samples(file, notes)
    for key, found in samples.items():
      picture = next((found[end] for end in PICTURES if end in found), None)
      label = _label(found, f"{file.name}/{key}")
      if picture is None or label is None:
        lacking.append(f"{file.name}/{key}: no {'image' if picture is None else 'class'}")
        continue
      sources.append(picture)
      labels.append(label)
  if lacking:
    shown = walk.printable("; ".join(lacking[:SHOWN])) + "; ..." * (len(lacking) > SHOWN)
    notes.append(f"{len(lacking):,} examples are left out: incomplete ({shown})")
    if strict:
      raise ValueError(f"strict: {notes[-1]}; complete or delete them, or leave strict out.")
  if not any(sources for sources, _ in examples.values()):
    said = f" ({notes[-1]})" if notes else ""
    raise ValueError(
      f"data: the tar files of {path!r} have no images with classes{said}; each needs a .jpg or .png and a"
      " .cls or .json of the same name."
    )
  if not examples.get("train", ([],))[0]:
    raise ValueError(f"data: {path!r} has no images to train on, only {', '.join(examples)}.")
  every = [label for _, labels in examples.values() for label in labels]
  classes = None
  if all(isinstance(label, int) for label in every):
    classes = _class_names(files[0].parent)
  elif any(isinstance(label, int) for label in every):
    examples = {p: (s, [str(label) for label in labels]) for p, (s, labels) in examples.items()}
  return Dataset(
    **assembled(
      f"wds:{walk.printable(path)}",
      {part: found for part, found in examples.items() if found[0]},
      classes,
      seed=seed,
      reader=reader,
      limit=limit,
      in_memory=in_memory,
      strict=strict,
      notes=notes,
    )
  )


def _files(path: str) -> list[pathlib.Path]:
  """The tar files that a path names."""
  root = pathlib.Path(path).expanduser()
  if root.is_dir():
    found = sorted(file for end in ("*.tar", "*.tar.gz", "*.tgz") for file in root.rglob(end))
    found = [file for file in found if not walk.is_foreign(file.name)]
  elif root.exists():
    found = [root]
  else:
    found = [pathlib.Path(one) for name in _expanded(str(root)) for one in sorted(glob.glob(name))]
    if RANGE.search(path):
      missing = [name for name in _expanded(str(root)) if not glob.glob(name)]
      if missing:
        raise ValueError(f"data: {walk.printable(missing[0])!r} of {path!r} does not exist.")
  if not found:
    raise ValueError(
      f"data: there are no tar files at {path!r}; give one, a folder of them, or a pattern such as"
      " photos-{0000..0011}.tar."
    )
  return found


def _expanded(pattern: str) -> list[str]:
  """A pattern's names, one for each number of its ranges."""
  match = RANGE.search(pattern)
  if match is None:
    return [pattern]
  first, last = int(match[1]), int(match[2])
  if not 0 <= last - first < MOST_SHARDS:
    raise ValueError(f"data: {match[0]!r} must be an ascending range, such as {{0000..0011}}.")
  before, after = pattern[: match.start()], _expanded(pattern[match.end() :])
  numbers = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
  return [f"{before}{number}{rest}" for number in numbers for rest in after]


def _part(file: pathlib.Path, root: pathlib.Path) -> str:
  """Returns the part of a shard, from its name, or else from the folders below the given one."""
  inner = file.parent.relative_to(root).as_posix() if root.is_dir() else ""
  for text in (file.name, inner):
    words = re.findall("[a-z]+", text.lower())
    for part, names in SPLITS.items():
      if any(word in names for word in words):
        return part
  return "train"


def _samples(file: pathlib.Path, notes: list[str]) -> dict[str, dict[str, Any]]:
  """The files of a shard by what is before and after the first dot of their names."""
  found: dict[str, dict[str, Any]] = {}
  try:
    with tarfile.open(file) as tar:
      plain = _is_plain(file)
      for member in tar:
        place = pathlib.PurePosixPath(member.name)
        if not member.isfile() or walk.is_foreign(place.name) or "." not in place.name:
          continue
        stem, _, end = place.name.partition(".")
        end = end.lower().rpartition(".")[2]
        if end not in KNOWN:
          continue
        ends = found.setdefault((place.parent / stem).as_posix(), {})
        if end in ends:
          raise ValueError(f"it has {walk.printable(member.name)!r} twice")
        if end in PICTURES:
          name = f"{file.name}/{member.name}"
          if plain and not member.issparse():
            ends[end] = Packed(name, str(file), member.offset_data, member.size)
          else:
            ends[end] = Held(name, _content(tar, member))
        elif end in (*LABELS, "json"):
          ends[end] = _content(tar, member)
      if plain and tar.offset >= file.stat().st_size:
        notes.append(f"{walk.printable(file.name)} has no end mark, it may be cut off")
  except Exception as error:  # damaged archives raise almost anything
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    text = " ".join(str(reason).split()).rstrip(".") or type(error).__name__
    raise ValueError(
      f"data: the tar file {str(file)!r} cannot be read ({text}); replace or delete it."
    ) from error
  return found


def _is_plain(file: pathlib.Path) -> bool:
  """Whether a tar is not compressed."""
  with file.open("rb") as opened:
    return opened.read(262)[257:262] == b"ustar"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
  opened = tar.extractfile(member)
  return b"" if opened is None else opened.read()


def _label(found: dict[str, Any], name: str) -> int | str | None:
  """An example's class: a whole number or a name."""
  value: Any = next((found[end] for end in LABELS if end in found), None)
  if value is None and "json" in found:
    try:
      said = json.loads(found["json"])
    except ValueError as error:
      raise ValueError(
        f"data: {walk.printable(name)!r} has a .json that is not valid JSON ({error})."
      ) from error
    if isinstance(said, dict):
      value = next((said[key] for key in KEYS if said.get(key) is not None), None)
    else:
      value = said
  if isinstance(value, bytes):
    value = value.decode("utf-8", "replace").strip()
  if isinstance(value, str):
    whole = re.fullmatch(r"\d{1,9}", value)
    return int(value) if whole and str(int(value)) == value else value or None
  if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
    return int(value)
  return value if isinstance(value, int) else None


def _class_names(folder: pathlib.Path) -> list[str] | None:
  """The names of numbered classes, if there is a file with them."""
  for name in NAMES:
    for place in (folder, folder.parent):
      if (place / name).is_file():
        lines = (place / name).read_text("utf-8-sig", "surrogateescape").splitlines()
        return [line.strip() for line in lines if line.strip()]
  return None
