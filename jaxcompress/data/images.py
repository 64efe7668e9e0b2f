"""Image files and encoded images of any kind, brought to arrays of one size."""

import collections
import io
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from jaxcompress.data.reader import ImageFile, ImageReader, Size
from jaxcompress.data.sources import Stored, opened

Picture = ImageFile | Stored
Read = Callable[[ImageFile], np.ndarray]
Damage = dict[int, str]  # what is wrong with images, by position

SMALL, USUAL = 64, 224  # sets of small images keep their size; others get ImageNet's
TINY, ENLARGED = 28, 32  # below, networks that shrink their input have too little left to work on
PEEK = 32  # bytes at the end of a file
NAMED = 100  # damaged images in a message
EMPTY = "it is empty"
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # of whole files


class DamagedError(ValueError):
  """Images that cannot be read.

  Attributes:
    files: names of all of them, as far as they have one.

  Examples:
    >>> try:
    ...   decode([pathlib.Path("/no/such.png"), pathlib.Path("/nor/this.png")], ImageReader(8))
    ... except DamagedError as error:
    ...   print(error.files)
    ('/no/such.png', '/nor/this.png')
  """

  def __init__(self, message: str, files: Sequence[str] = ()):
    super().__init__(message)
    self.files = tuple(files)


def decode(
  sources: Sequence[ImageFile],
  reader: ImageReader,
  threads: int | None = None,
  reads: Sequence[Read] | None = None,
) -> np.ndarray:
  """Reads images, several at a time.

  Args:
    sources: paths or encoded images.
    reader: how; it has a size.
    threads: that decode; None: one for each CPU core.
    reads: what reads each image in place of the reader, such as a box of it; None: the reader.

  Returns:
    (count, height, width, channels) uint8.

  Raises:
    ValueError: if images are damaged, which names all of them (:class:`DamagedError`), or the arrays
      would not fit in memory.
  """
  images, damage = decode_sound(sources, reader, threads, reads)
  refuse_damaged(sources, damage)
  return images


def decode_sound(
  sources: Sequence[Picture],
  reader: ImageReader,
  threads: int | None = None,
  reads: Sequence[Read] | None = None,
) -> tuple[np.ndarray, Damage]:
  """As :func:`decode`, but of damaged images it tells what is wrong; their pixels mean nothing."""
  require_memory(len(sources), reader.size)
  images = np.empty((len(sources), *reader.size, reader.channels), np.uint8)

  def read(i: int) -> None:
    source = opened(sources[i])
    _require_bytes(source)
    images[i] = reader(source) if reads is None else reads[i](source)

  return images, for_each(read, range(len(sources)), threads or os.cpu_count())[1]


def examine(sources: Sequence[Picture]) -> tuple[list[Size | None], Damage]:
  """Looks at the beginning and the end of image files.

  Most damage is found so: files that are empty, cut off or no images. Only those that do not end as
  their format says are decoded.

  Args:
    sources: paths, or pictures that are stored otherwise.

  Returns:
    (height, width) of each picture, upright if neither is larger than 64 pixels, None where it is
    damaged; and what is wrong with those, for :func:`refuse_damaged`.
  """
  return for_each(_examined, sources)


def _examined(source: Picture) -> Size:
  found = opened(source)
  if isinstance(found, Image.Image):
    return found.size[1], found.size[0]
  with io.BytesIO(found) if isinstance(found, bytes) else found.open("rb") as file:
    length = file.seek(0, os.SEEK_END)
    if not length:
      raise ValueError(EMPTY)
    file.seek(max(0, length - PEEK))
    tail = file.read(PEEK)
    file.seek(0)
    with Image.open(file) as image:
      size = _upright_size(image)
      if ENDS.get(image.format or "", tail + b"?") not in tail:
        image.load()
  return size


def common_size(sources: Sequence[pathlib.Path | bytes]) -> Size:
  """The :func:`usual_size` of images.

  Raises:
    ValueError: if some are damaged.
  """

  def read(source: pathlib.Path | bytes) -> Size:
    with _open(source) as image:
      return _upright_size(image)

  sizes, damage = for_each(read, sources)
  refuse_damaged(sources, damage)
  return usual_size(sizes)


def usual_size(sizes: Iterable[Size]) -> Size:
  """The size to bring images to: (height, width).

  The most frequent one if no image is larger than 64 pixels, else 224 x 224. Images with a side of
  less than 28 pixels are enlarged until it has 32.

  Args:
    sizes: (height, width) of all images; at least one.

  Examples:
    >>> usual_size([(28, 30), (28, 30), (40, 40)]), usual_size([(28, 30), (100, 40)])
    ((28, 30), (224, 224))
  """
  counts = collections.Counter(sizes)
  if max(map(max, counts)) > SMALL:
    return USUAL, USUAL
  height, width = max(counts, key=lambda size: (counts[size], size))
  shorter = min(height, width)
  if shorter >= TINY:
    return height, width
  height, width = (min(round(side * ENLARGED / shorter), USUAL) for side in (height, width))
  return height, width


def _open(source: pathlib.Path | bytes) -> Image.Image:
  _require_bytes(source)
  return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _require_bytes(source: ImageFile) -> None:
  if isinstance(source, Image.Image):
    return
  if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
    raise ValueError(EMPTY)


def _upright_size(image: Image.Image) -> Size:
  width, height = image.size
  if max(width, height) > SMALL:  # a PNG would be decoded to find its orientation
    return height, width
  turned = image.getexif().get(0x0112, 1) >= 5  # orientations that swap the sides
  return (width, height) if turned else (height, width)


def for_each(
  read: Callable[[Any], Any], items: Iterable[Any], threads: int | None = None
) -> tuple[list[Any], Damage]:
  """Calls ``read`` with each item, in several threads.

  Returns:
    What it returned, None where it raised; and what went wrong, by position.
  """
  damage: Damage = {}

  def attempt(numbered: tuple[int, Any]) -> Any:
    try:
      return read(numbered[1])
    except Image.UnidentifiedImageError:
      damage[numbered[0]] = "it is no image"
    except OSError as error:  # str would name the file, which is known
      damage[numbered[0]] = " ".join(str(error.strerror or error).split()) or type(error).__name__
    except Exception as error:  # damaged files raise almost anything
      damage[numbered[0]] = " ".join(str(error).split()) or type(error).__name__
    return None

  # no warnings about metadata that nobody reads, nor about large photos
  with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
    return list(pool.map(attempt, enumerate(items))), damage  # Pillow lets other threads run


def _name(source: Picture) -> str:
  return source.name if isinstance(source, Stored) else str(source)


def refuse_damaged(sources: Sequence[Picture], damage: Damage) -> None:
  """Raises a :class:`DamagedError` that names all damaged images, if there are any.

  Args:
    sources: paths, encoded images, or pictures that are stored otherwise.
    damage: what is wrong with some of them, by position.
  """
  if not damage:
    return
  files = {i: _name(sources[i]) for i in damage if not isinstance(sources[i], bytes)}
  places = sorted(damage, key=lambda i: (files.get(i, ""), i))
  names = [repr(files[i]) if i in files else f"number {i}" for i in places[:NAMED]]
  if len(places) == 1:
    message = f"the image {names[0]} cannot be read ({damage[places[0]]}); replace or delete it."
  else:
    listed = ", ".join(f"{n} ({damage[i]})" for n, i in zip(names, places, strict=False))
    more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    message = f"{len(places):,} images, {listed}{more}, cannot be read; replace or delete them."
  raise DamagedError(f"data: {message}", [files[i] for i in places if i in files])


def require_memory(count: int, size: Size) -> None:
  """Raises a ValueError if so many images of this size would fill this machine's memory."""
  need = count * size[0] * size[1] * 3
  have, processes = memory_size(), sharing()
  if have and need > 0.8 * have / processes:
    each = f" for {processes} processes" * (processes > 1)
    raise ValueError(
      f"size: {count:,} images of {size[0]} x {size[1]} pixels take {need / 1e9:,.0f} GB, and this "
      f"machine has {have / 1e9:,.0f} GB{each}; choose a smaller size or set limit."
    )


def memory_size() -> int:
  """Bytes of physical memory, 0 where the system does not say."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, ValueError, OSError):
    return 0


def sharing() -> int:
  """Processes of this run on this machine, each of which holds images of its own."""
  together = sys.modules.get(
    "jaxcompress.training.processes"
  )  # without it, nobody has joined others
  return 1 if together is None else together.processes_here()
