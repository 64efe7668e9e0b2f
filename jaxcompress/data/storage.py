"""Images and arrays on disk: sets larger than memory, and what is kept between runs."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.reader import ImageFile, ImageReader, Size
from jaxcompress.data.sources import Packed, Stored, opened
from jaxcompress.files.writing import sweep, write_atomically

CHUNK = 1024  # images in memory at once


class Layout(NamedTuple):
  """Files and positions of images.

  Attributes:
    files: names of files with several images.
    file: (count,) int32, which of them an image is in.
    place: (count,) int64, which grows along a file.
  """

  files: tuple[str, ...]
  file: np.ndarray
  place: np.ndarray


class Store(Protocol):
  """Encoded images with random access; small enough to be sent to another process."""

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> Sequence[ImageFile]:
    """The paths or encoded images at some positions."""

  def layout(self) -> Layout | None:
    """The files that several images each lie in, in the order in which they lie; None if there are none."""


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
  """Images in a list: files by name, which takes a fraction of the memory of paths, or stored otherwise."""

  names: Sequence[str | bytes | Stored]

  def __len__(self) -> int:
    return len(self.names)

  def read(self, index: np.ndarray) -> list[ImageFile]:
    """The paths, encoded images or images at some positions."""
    found = (self.names[i] for i in index)
    return [pathlib.Path(name) if isinstance(name, str) else opened(name) for name in found]

  def layout(self) -> Layout | None:
    """Returns the archives' layout, if all images are in archives."""
    packed = [name for name in self.names if isinstance(name, Packed)]
    if not packed or len(packed) < len(self.names):
      return None
    files = tuple(dict.fromkeys(one.archive for one in packed))
    numbers = {name: i for i, name in enumerate(files)}
    file = np.array([numbers[one.archive] for one in packed], np.int32)
    return Layout(files, file, np.array([one.start for one in packed], np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class Both:
  """The images of one store and then those of another."""

  first: Store
  second: Store

  def __len__(self) -> int:
    return len(self.first) + len(self.second)

  def read(self, index: np.ndarray) -> list[ImageFile]:
    """The paths or encoded images at some positions."""
    early = index < len(self.first)
    first = iter(self.first.read(index[early]))
    second = iter(self.second.read(index[~early] - len(self.first)))
    return [next(first if is_early else second) for is_early in early]

  def layout(self) -> Layout | None:
    """Returns the layout of both stores together, if both have one."""
    first, second = self.first.layout(), self.second.layout()
    if first is None or second is None:
      return None
    files = tuple(dict.fromkeys((*first.files, *second.files)))
    numbers = np.array([files.index(name) for name in second.files], np.int32)
    file = np.concatenate([first.file, numbers[second.file]])
    return Layout(files, file, np.concatenate([first.place, second.place]))


@dataclasses.dataclass(frozen=True, eq=False)
class Picked:
  """Some images of a store."""

  store: Store
  chosen: np.ndarray

  def __len__(self) -> int:
    return len(self.chosen)

  def read(self, index: np.ndarray) -> Sequence[ImageFile]:
    """The paths or encoded images at some positions."""
    return self.store.read(self.chosen[index])

  def layout(self) -> Layout | None:
    """Returns the layout of the picked images."""
    whole = self.store.layout()
    if whole is None:
      return None
    return Layout(whole.files, whole.file[self.chosen], whole.place[self.chosen])


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
  """An array of images as far as batches are concerned: (count, height, width, channels) uint8.

  Indexing decodes what is asked for, the same pixels as :func:`~jaxcompress.data.load` would hold in
  memory.

  Attributes:
    source: where the images come from.
    reader: how an image becomes pixels; it has a size.

  Examples:
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (8, 6), "red").save(file, "PNG")
    >>> found = EncodedImages(Listed([file.getvalue()] * 5), ImageReader(8))
    >>> found.shape, found[1:3].shape, found[-1][0, 0].tolist()
    ((5, 8, 8, 3), (2, 8, 8, 3), [255, 0, 0])
  """

  source: Store
  reader: ImageReader

  dtype = np.dtype(np.uint8)
  ndim = 4

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(count, height, width, channels)."""
    return (len(self), *self.reader.size, self.reader.channels)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, key: Any) -> np.ndarray:
    index = np.arange(len(self))[key]
    found = self.take(np.atleast_1d(index))
    return found if index.ndim else found[0]

  def take(
    self,
    index: np.ndarray,
    threads: int | None = None,
    reads: Sequence[images.Read] | None = None,
  ) -> np.ndarray:
    """The images at some positions.

    Args:
      index: (some,) positions.
      threads: that decode; None: one for each CPU core.
      reads: what reads each of them in place of the reader, such as a box of it; None: the reader.
    """
    return images.decode(self.source.read(index), self.reader, threads, reads)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[:], dtype)


def in_chunks(pixels: np.ndarray | EncodedImages) -> Iterator[np.ndarray]:
  """All images of a set in their order: at once if they are in memory, else some at a time.

  Examples:
    >>> [len(chunk) for chunk in in_chunks(np.zeros((2, 8, 8, 3), np.uint8))]
    [2]
  """
  size = CHUNK if isinstance(pixels, EncodedImages) else max(1, len(pixels))
  for start in range(0, len(pixels), size):
    yield pixels[start : start + size]


def picked(pixels: np.ndarray | EncodedImages, chosen: np.ndarray) -> np.ndarray | EncodedImages:
  """Some images of a set, still encoded if they are; each is decoded only where it is read.

  Examples:
    >>> picked(np.zeros((5, 8, 8, 3), np.uint8), np.array([0, 4])).shape
    (2, 8, 8, 3)
  """
  if isinstance(pixels, EncodedImages):
    return EncodedImages(Picked(pixels.source, chosen), pixels.reader)
  return pixels[chosen]


def fits_memory(count: int, size: Size) -> bool:
  """Whether so many decoded images take at most half of this machine's memory.

  Processes of a run that share a machine have equal shares of it, as each holds the images; those on
  other machines have theirs.

  Examples:
    >>> fits_memory(100, (224, 224)), fits_memory(10**9, (224, 224))
    (True, False)
  """
  have = images.memory_size()
  return not have or count * size[0] * size[1] * 3 <= have / 2 / images.sharing()


def cache_folder() -> pathlib.Path | None:
  """``$XDG_CACHE_HOME/jaxcompress``, by default ``~/.cache/jaxcompress``; None without a home."""
  root = os.environ.get("XDG_CACHE_HOME", "")
  if os.path.isabs(root):  # the specification has relative ones ignored
    return pathlib.Path(root) / "jaxcompress"
  try:
    return pathlib.Path.home() / ".cache" / "jaxcompress"
  except RuntimeError:
    return None


def read_cached(name: str) -> np.ndarray | None:
  """The array that was stored under a name, or None where there is no whole file of that name."""
  folder = cache_folder()
  if folder is None:
    return None
  try:
    with np.load(io.BytesIO((folder / name).read_bytes()), allow_pickle=False) as arrays:
      return next(iter(arrays.values()))  # archives hold a checksum of each
  except Exception:  # of a damaged archive may come anything
    return None


def write_cached(name: str, array: np.ndarray) -> bool:
  """Stores an array under a name, at once or not at all.

  Returns:
    Whether it was stored; a folder that cannot be written is no error.
  """
  folder = cache_folder()
  if folder is None:
    return False
  buffer = io.BytesIO()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, own=False)
    np.savez(buffer, array)
    write_atomically(folder / name, buffer.getvalue())
  except (OSError, ValueError):  # both of folders that cannot be written
    return False
  return True
