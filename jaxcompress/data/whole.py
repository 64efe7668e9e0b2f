"""Published sets whose files hold plain pixels: read as they are, with a test part of their own."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxcompress.arguments import counted
from jaxcompress.data import copies, images
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.labels import as_labels
from jaxcompress.data.parts import Split
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.splits import random_order, shared_out
from jaxcompress.data.storage import EncodedImages, Layout, fits_memory
from jaxcompress.data.walk import printable

SHOWN = 3  # copies in a message


class Part(NamedTuple):
  """Pixels and labels of a part.

  Attributes:
    pixels: (count, height, width, 1 or 3) uint8.
    labels: (count,) int32.
  """

  pixels: np.ndarray
  labels: np.ndarray


class Content(NamedTuple):
  """The parts of a set, as its files hold them.

  Attributes:
    parts: by name.
    classes: of the labels; None: the files do not name them.
  """

  parts: Mapping[str, Part]
  classes: tuple[str, ...] | None = None


Read = Callable[[str], Content]  # a function of a module, of a path


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Images of a part with their labels; other processes open the files themselves.

  Attributes:
    read_all: reads all parts.
    path: of the files.
    part: of the set.
    rows: (count,) positions in the part.
    labels: (count,) int32.
  """

  read_all: Read
  path: str
  part: str
  rows: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: np.ndarray) -> list[Image.Image]:
    """The images at some positions."""
    pixels = _opened(self.read_all, self.path).parts[self.part].pixels
    found = (pixels[row] for row in self.rows[index].tolist())
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in found]

  def pixels(self, reader: ImageReader) -> np.ndarray:
    """All images as a reader reads them, at once where they keep their size and need no other colours."""
    whole = _opened(self.read_all, self.path).parts[self.part].pixels
    channels = whole.shape[-1]
    if reader.size != whole.shape[1:3] or reader.crop != 1 or channels > reader.channels:
      return EncodedImages(self, reader)[:]
    return np.repeat(whole[self.rows], reader.channels // channels, axis=-1)

  def layout(self) -> Layout | None:
    """Returns None, since the files are read whole."""
    return None

  def pick(self, chosen: np.ndarray) -> "Rows":
    """The images at some positions."""
    return dataclasses.replace(self, rows=self.rows[chosen], labels=self.labels[chosen])


@functools.lru_cache(maxsize=2)  # of each process
def _opened(read: Read, path: str) -> Content:
  return read(path)


def as_published(
  name: str,
  read: Read,
  path: str,
  classes: Sequence[str] | None = None,
  *,
  seed: int,
  reader: ImageReader,
  limit: int | None,
  in_memory: bool | None,
  strict: bool,
  flip: bool | None,
  notes: Sequence[str] = (),
) -> Dataset:
  """A set of which nothing is left out, so that what is measured on it is what others measure.

  Args:
    name: of the set.
    read: what reads its files.
    path: what ``read`` takes.
    classes: of the labels; None: those that the files name, else the numbers that occur.
    seed: of the parts that are missing, which are split off the training images.
    reader: how pictures become images; without a size they keep their own, if it is 28 or more.
    limit: at most this many images in each part.
    in_memory: whether images are kept, or the files' pixels, of which each is made when it is needed;
      None: images, if they take at most half of the memory.
    strict: whether images that are in several classes or parts are an error; else they are told.
    flip: whether a mirrored image keeps its label; None: open.
    notes: that the set has beside others.

  Raises:
    ValueError: of ``read``, if labels do not fit the classes, if ``strict`` and there are such copies, or
      the images do not fit in memory.
  """
  _opened.cache_clear()  # files may be others than before
  parts, known = _opened(read, path)
  try:
    names, labels, numbered = as_labels(
      {part: found.labels for part, found in parts.items()}, classes or known, name
    )
  except ValueError as error:
    raise ValueError(f"data: the set in {path!r}: {error}") from error
  told = _copies(name, parts, strict)
  if reader.size is None:
    reader = reader.at(images.usual_size({part.pixels.shape[1:3] for part in parts.values()}))
  if in_memory is None:
    in_memory = fits_memory(sum(len(part.labels) for part in parts.values()), reader.size)
  rows = {
    part: Rows(read, path, part, np.arange(len(numbers)), numbers)
    for part, numbers in labels.items()
  }
  splits: Any = {}
  for part, found in shared_out(rows, lambda one: random_order(len(one), seed), limit).items():
    places = [f"{found.part}/{row}" for row in found.rows.tolist()]
    splits[part] = Split(
      found.pixels(reader) if in_memory else EncodedImages(found, reader), found.labels, places
    )
  size = parts["train"].pixels.shape[1:3]
  if in_memory:
    _opened.cache_clear()
  return Dataset(
    name=name,
    classes=names,
    flip=flip,
    notes=(*notes, *numbered, *told),
    sizes=(size,) * 3,
    reader=reader,
    **splits,
  )


def _copies(name: str, parts: Mapping[str, Part], strict: bool) -> list[str]:
  """Lines on images that are in several classes or parts.

  Raises:
    ValueError: if ``strict`` and there are any.
  """
  keys = [hashlib.sha1(one).digest() for part in parts.values() for one in part.pixels]
  names = [f"{part}/{i}" for part, found in parts.items() for i in range(len(found.labels))]
  labels = np.concatenate([part.labels for part in parts.values()])
  ends = np.cumsum([0, *(len(part.labels) for part in parts.values())])
  places = {part: np.arange(a, b) for part, a, b in zip(parts, ends, ends[1:], strict=False)}
  torn = copies.torn(keys, labels, names.__getitem__)
  crossing = copies.crossing(places, keys, np.arange(len(keys)), names.__getitem__)
  lines = []
  for kind, found in ((copies.TORN, torn), (copies.CROSSING, crossing)):
    if found:
      some = list(found.values())[:SHOWN]
      shown = printable("; ".join(f"{one.name}: {one.reason}" for one in some))
      more = "; ..." * (len(found) > SHOWN)
      what = counted(len(found), "image is", "images are")
      lines.append(f"{what} {kind} and kept, as published ({shown}{more})")
  if strict and lines:
    raise ValueError(f"strict: {lines[0]} in {name}; leave strict out.")
  return lines
