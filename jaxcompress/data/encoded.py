"""Images that stay encoded, on disk, until a batch asks for them: for sets larger than memory."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jaxcompress.data import images

SAMPLE = 1024  # images by which a set is judged, and of it in memory at once


class Store(Protocol):
  """Encoded images with random access; small enough to be sent to another process."""

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> Sequence[images.Source]:
    """The paths or encoded images at some positions."""


@dataclasses.dataclass(frozen=True, eq=False)
class FileStore:
  """Image files by name.

  Attributes:
    names: strings, which take a fraction of the memory of paths.
  """

  names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.names)

  def read(self, index: np.ndarray) -> list[images.Source]:
    """The paths at some positions."""
    return [pathlib.Path(self.names[i]) for i in index]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
  """An array of images as far as batches are concerned: (count, height, width, channels) uint8.

  Indexing decodes what is asked for, the same pixels as :func:`~jaxcompress.data.load` would hold in
  memory.

  Attributes:
    parts: where the images come from, one after the other.
    place: (count, 2) positions of each image: the part, and in it.
    size: (height, width).

  Examples:
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (8, 6), "red").save(file, "PNG")
    >>> found = encode_images([file.getvalue()] * 5, (8, 8))
    >>> found.shape, found[1:3].shape, found[-1][0, 0].tolist()
    ((5, 8, 8, 3), (2, 8, 8, 3), [255, 0, 0])
  """

  parts: tuple[Store, ...]
  place: np.ndarray
  size: images.Size

  dtype = np.dtype(np.uint8)
  ndim = 4

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(count, height, width, 3)."""
    return (len(self.place), *self.size, 3)

  def __len__(self) -> int:
    return len(self.place)

  def __getitem__(self, key: Any) -> np.ndarray:
    place = self.place[key]
    if place.ndim == 1:
      return images.decode(self.read(place[None]), self.size)[0]
    return images.decode(self.read(place), self.size)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[:], dtype)

  def read(self, place: np.ndarray) -> list[images.Source]:
    """The paths or encoded images at some places."""
    found: list[Any] = [None] * len(place)
    for number, part in enumerate(self.parts):
      wanted = np.flatnonzero(place[:, 0] == number)
      for i, source in zip(wanted, part.read(place[wanted, 1]), strict=True):
        found[i] = source
    return found

  def sample(self) -> np.ndarray:
    """Some images from all over the set."""
    return self[:: max(1, len(self) // SAMPLE)]

  def joined(self, other: "EncodedImages") -> "EncodedImages":
    """These images and then the others'."""
    place = other.place + np.array([len(self.parts), 0], self.place.dtype)
    return EncodedImages(
      (*self.parts, *other.parts), np.concatenate([self.place, place]), self.size
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _ListStore:
  sources: Sequence[images.Source]

  def __len__(self) -> int:
    return len(self.sources)

  def read(self, index: np.ndarray) -> list[images.Source]:
    return [self.sources[i] for i in index]


def encode_images(source: Store | Sequence[images.Source], size: images.Size) -> EncodedImages:
  """All images of a store, or paths and encoded images in a list, in their order."""
  store = source if hasattr(source, "read") else _ListStore(source)
  place = np.zeros((len(store), 2), np.int32)
  place[:, 1] = np.arange(len(store))
  return EncodedImages((store,), place, size)


def brought_to(
  source: Store | Sequence[images.Source], size: images.Size, in_memory: bool
) -> np.ndarray | EncodedImages:
  """Images of one size, decoded now or when they are asked for."""
  encoded = encode_images(source, size)
  return encoded[:] if in_memory else encoded


def in_chunks(pixels: np.ndarray | EncodedImages) -> Iterator[np.ndarray]:
  """All images of a set in their order: at once if they are in memory, else some at a time.

  Examples:
    >>> [len(chunk) for chunk in in_chunks(np.zeros((2, 8, 8, 3), np.uint8))]
    [2]
  """
  size = SAMPLE if isinstance(pixels, EncodedImages) else max(1, len(pixels))
  for start in range(0, len(pixels), size):
    yield pixels[start : start + size]


def fits_memory(count: int, size: images.Size) -> bool:
  """Whether so many decoded images take at most half of this machine's memory.

  Examples:
    >>> fits_memory(100, (224, 224)), fits_memory(10**9, (224, 224))
    (True, False)
  """
  have = images.memory_size()
  return not have or count * size[0] * size[1] * 3 <= have / 2
