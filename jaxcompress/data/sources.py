"""Pictures that are no files of their own: parts of archives, in memory, items of a sequence."""

import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxcompress.data.reader import ImageFile

IMAGES = ("image", "img", "pixel_values", "picture", "photo")  # in examples that are mappings
TURN = threading.Lock()  # sequences of others may not stand to be asked by several threads


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
  """An image file that lies uncompressed in another one.

  Attributes:
    name: of the picture.
    archive: the file that it is in.
    start: where it begins there, in bytes.
    size: of it, in bytes.
  """

  name: str
  archive: str
  start: int
  size: int

  def read(self) -> bytes:
    """Its content.

    Raises:
      ValueError: if the archive ends before.
    """
    with open(self.archive, "rb") as file:
      file.seek(self.start)
      content = file.read(self.size)
    if len(content) < self.size:
      raise ValueError("the file that it is in is cut off")
    return content

  def stamp(self) -> bytes:
    """Changes when the archive does."""
    facts = os.stat(self.archive)
    place = (os.path.abspath(self.archive), self.start, self.size)
    return repr((place, facts.st_size, facts.st_mtime_ns)).encode("utf-8", "surrogateescape")


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
  """An image in memory.

  Attributes:
    name: of the picture.
    content: the bytes of a file, or an image of Pillow's.
  """

  name: str
  content: Any

  def read(self) -> bytes | Image.Image:
    """Its content; a missing one is empty."""
    return b"" if self.content is None else self.content

  def stamp(self) -> bytes:
    """Returns a hash of its content."""
    content = self.read()
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Item:
  """An image that a sequence makes when it is asked for it.

  Attributes:
    name: of the picture.
    sequence: whose items are images, or examples that hold one.
    place: in it.
    white: the level of the whole sequence that is white, see :func:`as_levels`.
  """

  name: str
  sequence: Any
  place: int
  white: int | None = None

  def read(self) -> ImageFile:
    """The image, its file or the bytes of one.

    Raises:
      ValueError: if it is not an image, or it is not certain which values are its pixels.
    """
    with TURN:
      found = self.sequence[self.place]
    image = image_of(found)
    return image if isinstance(image, bytes | pathlib.Path) else as_picture(image, self.white)

  def stamp(self) -> bytes:
    """Returns random bytes: results for it cannot be cached."""
    return os.urandom(16)


Stored = Packed | Held | Item


def opened(source: Any) -> ImageFile:
  """Opens a source for a reader; paths, bytes and images stay as they are."""
  return source.read() if isinstance(source, Stored) else source


def image_of(example: Any) -> Any:
  """The image of an example: itself, the first of several, or what a mapping calls so.

  Examples:
    >>> image_of((1, 2)), image_of({"label": 3, "image": 4}), image_of(5)
    (1, 4, 5)
  """
  if isinstance(example, Mapping):
    return next((example[name] for name in IMAGES if name in example), None)
  return example[0] if isinstance(example, tuple) and example else example


def as_array(value: Any) -> np.ndarray:
  """An array of NumPy's of one of JAX's, PyTorch's or whatever is like one.

  Examples:
    >>> as_array([1, 2]).tolist()
    [1, 2]
  """
  if callable(getattr(value, "detach", None)):  # PyTorch's, perhaps on another device
    value = value.detach().cpu()
  return np.asarray(value)


def as_picture(value: Any, white: int | None = None) -> Image.Image:
  """An image of Pillow's, of one or of an array of pixels.

  Args:
    value: an image, or (height, width), (height, width, 1 or 3) or (1 or 3, height, width) pixels.
    white: the level that is white, see :func:`as_levels`.

  Raises:
    ValueError: if it is something else.

  Examples:
    >>> as_picture(np.zeros((4, 6, 1), np.uint8)).size
    (6, 4)
  """
  if isinstance(value, Image.Image):
    return value
  pixels = as_levels(channels_last(as_array(value)[None])[0], white)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


def channels_last(pixels: np.ndarray) -> np.ndarray:
  """Images as (count, height, width, channels), of those that are grey or have their channels first.

  Raises:
    ValueError: if they are no images, or it is not certain which axis is which.

  Examples:
    >>> channels_last(np.zeros((5, 3, 8, 9))).shape, channels_last(np.zeros((5, 8, 9))).shape
    ((5, 8, 9, 3), (5, 8, 9, 1))
  """
  if pixels.ndim == 3:
    pixels = pixels[..., None]
  if pixels.ndim != 4 or 0 in pixels.shape[1:]:
    raise ValueError(
      f"of shape {pixels.shape[1:]} there are no images; they must be (height, width, channels)"
    )
  first, last = (pixels.shape[axis] in (1, 3) for axis in (1, 3))
  if first and last and pixels.shape[1:] != (1, 1, 1):
    raise ValueError(
      f"of {pixels.shape[1:]} it is not certain which are the channels; give (height, width, channels) with"
      " both sides above 3"
    )
  if first and not last:
    return np.moveaxis(pixels, 1, -1)
  if not last:
    alpha = "; leave the alpha channel out: images[..., :3]" if 4 in pixels.shape[1:] else ""
    raise ValueError(f"of shape {pixels.shape[1:]} they must have 1 or 3 channels{alpha}")
  return pixels


def as_levels(pixels: np.ndarray, white: int | None = None) -> np.ndarray:
  """Pixels as uint8 where it is certain what their levels mean.

  Whole numbers of 0 to 255 are levels, also as floats, if one is above 1. Floats of 0 to 1 that are
  levels divided by 255 are those levels. Truth values are black and white.

  Args:
    pixels: of any shape.
    white: 1 or 255, where more pixels than these have told which; None: these tell.

  Raises:
    ValueError: if it is not certain, with the way out.

  Examples:
    >>> as_levels(np.array([0.0, 1.0, 0.2])).tolist(), as_levels(np.array([0, 7, 255])).tolist()
    ([0, 255, 51], [0, 7, 255])
  """
  if pixels.dtype == np.uint8 or not pixels.size:
    return pixels.astype(np.uint8, copy=False)
  if pixels.dtype == bool:
    return pixels.astype(np.uint8) * 255
  if pixels.dtype.kind not in "iuf":
    raise ValueError(f"{pixels.dtype} are no pixels; they must be uint8 of 0 to 255")
  if not np.isfinite(pixels).all():
    raise ValueError("some pixels are NaN or infinite; replace them")
  low, high = float(pixels.min()), float(pixels.max())
  said = f"pixels are {pixels.dtype} of {low:g} to {high:g}"
  if low < 0 or high > 255:
    raise ValueError(f"{said}; scale them to uint8 of 0 to 255")
  if white is None:
    white = 255 if high > 1 else 1
  if pixels.dtype.kind != "f":
    if white == 1:
      raise ValueError(f"{said}: black and white, or nearly black; give bool or uint8")
    return pixels.astype(np.uint8)
  levels = np.rint(scaled := pixels.astype(np.float32) * np.float32(255 / white))
  exact = 0.01 if pixels.dtype.itemsize > 2 else 0.13  # of half floats near 1
  if np.abs(scaled - levels).max() > exact:
    raise ValueError(
      f"{said}, and between the 256 levels; scale and round them, such as"
      " np.rint(255 * images).astype(np.uint8) if 1 is white"
    )
  return levels.astype(np.uint8)
