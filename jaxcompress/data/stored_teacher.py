"""A teacher whose outputs were computed elsewhere, in a folder of .npz files."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data.parts import Split
from jaxcompress.files.values import one_line
from jaxcompress.nn.graph import LOGITS

SUFFIX = ".npz"
OUTPUTS = (LOGITS, "pooled")
KEYS = ("index", "name")
MOST_SHOWN = 3


class Rows(NamedTuple):
  """Outputs of some examples: their places in the split, and arrays by name."""

  places: np.ndarray
  arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredTeacher:
  """Outputs in a folder of .npz files as a teacher; they come to a run by :func:`cache_teacher`.

  Each file, in the folder or in folders in it, holds ``logits`` and, if it has them, ``pooled``:

  - of many images, (n, classes) and (n, features), beside ``index`` (n,), places in the split from 0,
    or ``name`` (n,), texts;
  - or of one image, (classes,) and (features,), which the file is called after: ``17.npz`` by its
    place, ``cat/1.npz`` by the name of the image file ``cat/1.png``.

  Names are those of the image files below the folder of the data set, with or without suffix. The
  outputs are those of images as they are, so the recipe must not augment.

  Attributes:
    path: of the folder.

  Raises:
    ValueError: when used, if there is no such folder, a file is damaged or has other arrays, an image
      has no outputs or two, or they differ in shape or are not finite.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.savez(folder / "part.npz", index=[1, 0], logits=[[1.0, 2.0], [3.0, 4.0]])
    >>> split = Split(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32))
    >>> [(rows.places.tolist(), rows.arrays["logits"].shape) for rows in StoredTeacher(folder).rows(split)]
    [([1, 0], (2, 2))]
  """

  path: str | os.PathLike

  def __post_init__(self):
    object.__setattr__(self, "path", pathlib.Path(self.path))

  @property
  def files(self) -> list[pathlib.Path]:
    """The .npz files, sorted by name."""
    folder = pathlib.Path(self.path)
    if not folder.is_dir():
      what = "is a file" if folder.is_file() else "does not exist"
      raise ValueError(f"path: the folder {folder} {what}; name one with {SUFFIX} files.")
    found = sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())
    if not found:
      raise ValueError(f"path: the folder {folder} has no {SUFFIX} files.")
    return found

  @property
  def fingerprint(self) -> str:
    """A hash of the names and checksums of all arrays, which the files hold themselves."""
    found = hashlib.blake2b(digest_size=16)
    for path in self.files:
      found.update(path.relative_to(self.path).as_posix().encode("utf-8", "surrogateescape"))
      with _opened(path) as file:
        found.update(repr([(part.filename, part.CRC) for part in file.infolist()]).encode())
    return found.hexdigest()

  def rows(self, split: Split) -> Iterator[Rows]:
    """The outputs of all examples of a split, file by file.

    Raises:
      ValueError: as the class says; before the first file, where an image has no outputs.
    """
    files = self.files
    places = _Places(split, pathlib.Path(self.path))
    keys = {path: places.of(path) for path in files}
    places.check_complete()
    for path in files:
      index, given = keys[path]
      arrays = _read(path, OUTPUTS)
      if LOGITS not in arrays:
        raise ValueError(f"path: {path} has no array 'logits'.")
      arrays = {name: self._whole(path, name, array, given) for name, array in arrays.items()}
      kept = np.flatnonzero(index >= 0)
      if len(kept):
        yield Rows(index[kept], {name: array[kept] for name, array in arrays.items()})

  def _whole(
    self, path: pathlib.Path, name: str, array: np.ndarray, given: int | None
  ) -> np.ndarray:
    """An array of (examples, numbers)."""
    array = array[None] if given is None else array
    wanted = "(numbers,)" if given is None else f"({given}, numbers)"
    if (
      array.ndim != 2
      or array.shape[0] != (given or 1)
      or not np.issubdtype(array.dtype, np.floating)
    ):
      shape = array.shape[1:] if given is None else array.shape
      raise ValueError(
        f"path: {name!r} of {path} is {array.dtype} {shape}; it must be float {wanted}."
      )
    return array.astype(np.float32)


class _Places:
  """Finds the examples of a split that files are about, and notes which have outputs."""

  def __init__(self, split: Split, root: pathlib.Path):
    self._count, self._names, self._root = len(split), split.names, root
    self._seen: dict[int, pathlib.Path] = {}
    self._known: dict[str, int] = {}
    names = list(self._names or ())
    stems = collections.Counter(map(_stem, names))
    self._known |= {_stem(name): i for i, name in enumerate(names) if stems[_stem(name)] == 1}
    self._known |= {name: i for i, name in enumerate(names)}

  def of(self, path: pathlib.Path) -> tuple[np.ndarray, int | None]:
    """Places of a file's examples, -1 of those that are not in the split, and how many it says it has.

    None: it is of one image, after which it is called.
    """
    keys = _read(path, KEYS)
    if len(keys) > 1:
      raise ValueError(f"path: {path} has both 'index' and 'name'; leave one out.")
    if not keys:
      index, given = np.array([self._of_file(path)]), None
    else:
      ((kind, values),) = keys.items()
      fits = np.issubdtype(values.dtype, np.integer if kind == "index" else np.str_)
      if values.ndim != 1 or not fits:
        wanted = "integers (n,)" if kind == "index" else "texts (n,)"
        raise ValueError(
          f"path: {kind!r} of {path} is {values.dtype} {values.shape}; it must be {wanted}."
        )
      read = self._of_index if kind == "index" else self._of_name
      index, given = np.array([read(path, value) for value in values.tolist()], int), len(values)
    for place in index[index >= 0].tolist():
      if place in self._seen:
        raise ValueError(
          f"path: {self._title(place)} has outputs in {self._seen[place]} and again in {path}."
        )
      self._seen[place] = path
    return index, given

  def check_complete(self) -> None:
    """Raises where examples have no outputs."""
    missing = [place for place in range(self._count) if place not in self._seen]
    if missing:
      shown = ", ".join(map(self._title, missing[:MOST_SHOWN])) + ", ..." * (
        len(missing) > MOST_SHOWN
      )
      raise ValueError(
        f"path: {self._root} has no outputs of {len(missing)} of {self._count} images: {shown}."
      )

  def _of_index(self, path: pathlib.Path, place: int) -> int:
    if not 0 <= place < self._count:
      raise ValueError(
        f"path: {path} has outputs of image {place}, and there are 0 to {self._count - 1}."
      )
    return place

  def _of_name(self, path: pathlib.Path, name: str) -> int:
    if self._names is None:
      raise ValueError(
        f"path: {path} is by file names, which these images do not have; give outputs by 'index', or take"
        " the images from a folder."
      )
    return self._known.get(name.replace("\\", "/"), -1)

  def _of_file(self, path: pathlib.Path) -> int:
    name = path.relative_to(self._root).as_posix().removesuffix(SUFFIX)
    if name in self._known:
      return self._known[name]
    return self._of_index(path, int(name)) if name.isdecimal() else self._of_name(path, name)

  def _title(self, place: int) -> str:
    return f"image {place}" if self._names is None else repr(self._names[place])


def _stem(name: str) -> str:
  return str(pathlib.PurePosixPath(name).with_suffix(""))


def _opened(path: pathlib.Path) -> zipfile.ZipFile:
  try:
    return zipfile.ZipFile(path)
  except (OSError, zipfile.BadZipFile) as error:
    raise _damaged(path, error) from error


def _read(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Some arrays of a file, as far as it has them."""
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in names if name in file.files}
  except Exception as error:  # of a damaged archive may come anything
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Any) -> ValueError:
  return ValueError(f"path: {path} is no readable {SUFFIX} file ({one_line(error)}).")
