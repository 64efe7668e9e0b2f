"""A data set from image files with labels: split, without damaged files and copies."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np

from jaxcompress.arguments import counted
from jaxcompress.data import copies, images, sound, splits
from jaxcompress.data.copies import DAMAGED, Skipped
from jaxcompress.data.images import DamagedError
from jaxcompress.data.parts import PARTS, Split
from jaxcompress.data.reader import ImageReader, Size
from jaxcompress.data.sources import Stored
from jaxcompress.data.storage import EncodedImages, Listed, fits_memory
from jaxcompress.data.walk import printable

NAMED = 100  # files in a message
FEW = 3  # likewise, of a class that has lost its images


class Files(NamedTuple):
  """Image files of a part, with their labels.

  Attributes:
    paths: of the files, or pictures that are stored otherwise.
    labels: (count,) int32.
    order: (count,) keys for splits, which depend on each name alone.
    groups: (count,) integers, equal for files that must not be apart, also in other parts.
    places: (count,) positions among all files of the set.
  """

  paths: list[Any]  # of pathlib.Path or sources.Stored
  labels: np.ndarray
  order: np.ndarray
  groups: np.ndarray
  places: np.ndarray

  def pick(self, chosen: np.ndarray) -> "Files":
    """The files at some positions."""
    arrays = (values[chosen] for values in self[1:])
    return Files([self.paths[i] for i in chosen], *arrays)


class Below(Sequence[str]):
  """Names of files below a folder, made when they are asked for.

  Examples:
    >>> list(Below([pathlib.Path("a/cat/1.png")], pathlib.Path("a")))
    ['cat/1.png']
  """

  def __init__(self, paths: Sequence[Any], root: pathlib.Path):
    self._paths, self._root = paths, root

  def __len__(self) -> int:
    return len(self._paths)

  @overload
  def __getitem__(self, place: int) -> str: ...
  @overload
  def __getitem__(self, place: slice) -> list[str]: ...
  def __getitem__(self, place: int | slice) -> str | list[str]:
    if isinstance(place, slice):
      return [below(path, self._root) for path in self._paths[place]]
    return below(self._paths[place], self._root)


def below(path: pathlib.Path | Stored, root: pathlib.Path) -> str:
  """The name of a file below a folder; its whole path where it lies elsewhere, its name if it is no file.

  Examples:
    >>> below(pathlib.Path("a/b/c.png"), pathlib.Path("a"))
    'b/c.png'
  """
  if isinstance(path, Stored):
    return path.name
  return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def gathered(
  name: str,
  classes: tuple[str, ...],
  files: Mapping[str, Files],
  root: pathlib.Path,
  *,
  reader: ImageReader,
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
  notes: Sequence[str] = (),
) -> dict[str, Any]:
  """Reads image files, leaves out what cannot be used, and splits off the parts that are missing.

  Left out, counted in the notes and listed in ``skipped`` are damaged files, copies (equal pixels)
  that are in several classes, and images of a part that a later one has too, train before validation
  before test. Other copies stay together in one part. Splits do not depend on what is left out.

  Args:
    name: of the set.
    classes: of the labels.
    files: of the parts that there are.
    root: names are below it.
    reader: how pictures become images; without a size, one is chosen by the pictures.
    limit: at most this many images in each part; others are not looked at.
    in_memory: whether decoded images are kept; None: if they take at most half of the memory. Others
      are decoded once now, for what is damaged, and each time when they are needed.
    strict: whether it is an error where images would be left out.
    notes: that the set has beside those on what is left out.

  Returns:
    The fields of a :class:`~jaxcompress.data.Dataset`.

  Raises:
    DamagedError: if ``strict`` and images would be left out, or too few are left, which names all.
    ValueError: if a class has too few images.
  """
  check_counts(files, classes)
  if "test" not in files and "validation" in files:
    files = {"train": files["train"], "test": files["validation"]}
  files = {part: files[part] for part in PARTS if part in files}
  cut = limit is not None and any(len(found.paths) > limit for found in files.values())
  if cut:
    files = _shared_out(files, limit)
  paths = [path for found in files.values() for path in found.paths]
  starts = np.cumsum([0, *(len(found.paths) for found in files.values())])
  files = {
    part: found._replace(places=np.arange(start, start + len(found.paths)))
    for (part, found), start in zip(files.items(), starts, strict=False)
  }
  sizes, damage = images.examine(paths)
  known = [size for size in sizes if size is not None]
  if reader.size is None:
    reader = reader.at(images.usual_size(known or [(images.USUAL, images.USUAL)]))
  if in_memory is None:
    in_memory = fits_memory(len(paths), reader.size)
  seen = sound.decoded(paths, reader) if in_memory else sound.decodable(paths, reader, root)
  name_of = Below(paths, root).__getitem__
  labels = np.concatenate([found.labels for found in files.values()])
  skipped, files = _usable(files, labels, seen, seen.damage | damage, name_of)
  if skipped and strict:
    _refuse(skipped, root)
  if not cut:
    check_counts(files, classes, skipped, labels)
  for part, found in files.items():
    if not found.paths:
      raise _emptied(part, tuple(skipped.values()))
  files = _shared_out(files, limit)
  for part, found in files.items():
    if not found.paths:
      raise ValueError(
        f"data: no images are left for {part}: those of {printable(name)} belong together in too few"
        " groups (copies, or what group_by finds); add others."
      )
  places = np.concatenate([found.places for found in files.values()])
  loaded: dict[str, Any] = {}
  pixels = None if seen.pixels is None else arrange(seen.pixels, places)
  start = 0
  for part, found in files.items():
    here = slice(start, start := start + len(found.paths))
    listed = Listed([path if isinstance(path, Stored) else str(path) for path in found.paths])
    part_images = EncodedImages(listed, reader) if pixels is None else pixels[here]
    loaded[part] = Split(part_images, found.labels, Below(found.paths, root))
  again = copies.again(seen.keys, np.sort(places).tolist(), name_of)
  return {
    "name": name,
    "classes": classes,
    "notes": (*notes, *copies.notes(tuple(skipped.values())), *_absent(files, classes), *again),
    "skipped": tuple(skipped.values()),
    "sizes": _three([sizes[i] for i in places.tolist()]),
    "reader": reader,
    **loaded,
  }


def _shared_out(files: Mapping[str, Files], limit: int | None) -> dict[str, Files]:
  return splits.shared_out(files, lambda found: found.order, limit, lambda found: found.groups)


def _usable(
  files: Mapping[str, Files],
  labels: np.ndarray,
  seen: sound.Sound,
  damage: images.Damage,
  name: Callable[[int], str],
) -> tuple[dict[int, Skipped], dict[str, Files]]:
  """Returns the files left out, by place, and the remaining ones; copies share a group."""
  groups = np.concatenate([found.groups for found in files.values()])
  keys = [key or str(i) for i, key in enumerate(seen.keys)]  # damaged ones are no copies
  skipped = {i: Skipped(name(i), DAMAGED, text) for i, text in damage.items()}
  skipped |= {i: one for i, one in copies.torn(keys, labels, name).items() if i not in skipped}
  left = {part: _without(found, skipped) for part, found in files.items()}
  together = splits.joined(groups.tolist(), keys)
  places = {part: found.places for part, found in left.items()}
  skipped |= copies.crossing(places, keys, together, name)
  files = {
    part: found._replace(groups=together[found.places])
    for part, found in ((part, _without(found, skipped)) for part, found in left.items())
  }
  return dict(sorted(skipped.items(), key=lambda item: item[1].name)), files


def _without(found: Files, skipped: Mapping[int, Skipped]) -> Files:
  return found.pick(np.flatnonzero([place not in skipped for place in found.places.tolist()]))


def arrange(pixels: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Rows in another order, moved where they are: a second array might not fit in memory.

  Args:
    pixels: an array, whose rows are moved.
    order: different positions of rows.

  Returns:
    The beginning of ``pixels``, which equals ``pixels[order]`` of before.

  Examples:
    >>> arrange(np.array([[1], [2], [3]]), np.array([2, 0])).tolist()
    [[3], [1]]
  """
  rest = np.setdiff1d(np.arange(len(pixels)), order, assume_unique=True)
  source = np.concatenate([order, rest]).tolist()
  done = [False] * len(source)
  for start in range(len(source)):
    if done[start] or source[start] == start:
      continue
    first, place = pixels[start].copy(), start
    while source[place] != start:
      pixels[place] = pixels[source[place]]
      done[place] = True
      place = source[place]
    pixels[place] = first
    done[place] = True
  return pixels[: len(order)]


def _three(sizes: Sequence[Size | None]) -> tuple[Size, ...]:
  """The smallest, the median and the largest size."""
  ranked = sorted((size for size in sizes if size), key=lambda size: (size[0] * size[1], size))
  return ranked[0], ranked[len(ranked) // 2], ranked[-1]


def _refuse(skipped: Mapping[int, Skipped], root: pathlib.Path) -> None:
  """Raises an error that names all that would be left out."""
  found = tuple(skipped.values())
  shown = ", ".join(f"{str(root / one.name)!r} ({one.reason})" for one in found[:NAMED])
  more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
  count = "an image" if len(found) == 1 else f"{len(found):,} images"
  raise DamagedError(
    f"strict: {count} cannot be used: {shown}{more}; replace or delete them, or leave strict out.",
    [str(root / one.name) for one in found],
  )


def _emptied(part: str, skipped: Sequence[Skipped]) -> DamagedError:
  """An error that says what became of all images of a part."""
  shown = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:NAMED])
  more = f"; and {len(skipped) - NAMED:,} more" * (len(skipped) > NAMED)
  return DamagedError(
    f"data: no images are left for {part} after {counted(len(skipped), 'was', 'were')} left out ({printable(shown)}{more});"
    " replace them, or delete the part.",
    [one.name for one in skipped],
  )


def _absent(files: Mapping[str, Files], classes: Sequence[str]) -> tuple[str, ...]:
  """Lines on classes of which a part has no images."""
  notes = []
  for part, found in files.items():
    counts = np.bincount(found.labels, minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
      shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
      what = counted(len(missing), "class", "classes")
      notes.append(f"{part} has no images of {what} ({shown})")
  return tuple(notes)


def check_counts(
  files: Mapping[str, Files],
  classes: Sequence[str],
  skipped: Mapping[int, Skipped] = MappingProxyType({}),
  labels: np.ndarray | None = None,
) -> None:
  """Raises if a class has too few training images to give some to the parts that are missing."""
  need = max(1, 1 + len(PARTS) - len(files))
  counts = np.bincount(files["train"].labels, minlength=len(classes))
  if counts.min() >= need:
    return
  label = int(counts.argmin())
  gone = [one for place, one in skipped.items() if labels is None or labels[place] == label]
  lost = ""
  if gone:
    shown = "; ".join(f"{one.name}: {one.reason}" for one in gone[:FEW])
    more = "; ..." * (len(gone) > FEW)
    lost = f" left after {counted(len(gone), 'was', 'were')} left out ({printable(shown)}{more})"
  message = (
    f"data: the class {classes[label]!r} has {counted(int(counts[label]), 'image')}{lost}; it needs {need} or more, one"
    " for each part."
  )
  raise (
    DamagedError(message, [one.name for one in skipped.values()]) if gone else ValueError(message)
  )
