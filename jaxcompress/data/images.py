"""Image files and encoded images of any kind, brought to RGB arrays of one size."""

import collections
import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Source = pathlib.Path | bytes
Size = tuple[int, int]  # height, width

SMALL, USUAL = 64, 224  # sets of small images keep their size; others get ImageNet's
TINY, ENLARGED = 28, 32  # below, networks that shrink their input have too little left to work on


def decode(sources: Sequence[Source], size: Size, threads: int | None = None) -> np.ndarray:
  """Reads images, several at a time.

  An image of another size is scaled until it covers the wanted one, and its middle is kept.
  Greyscale, palette, 16-bit and CMYK images become RGB, transparent pixels white, and a photo is
  turned upright as its EXIF orientation says.

  Args:
    sources: paths or encoded images.
    size: (height, width) of the result.
    threads: that decode; None: one for each CPU core.

  Returns:
    (count, height, width, 3) uint8.

  Raises:
    ValueError: if an image is damaged or the arrays would not fit in memory.
  """
  require_memory(len(sources), size)
  images = np.empty((len(sources), *size, 3), np.uint8)

  def read(i: int) -> None:
    images[i] = _guarded(read_image, sources[i], i, size)

  with (
    _quiet(),
    ThreadPoolExecutor(threads or os.cpu_count()) as pool,
  ):  # Pillow lets other threads run
    collections.deque(pool.map(read, range(len(sources))), maxlen=0)
  return images


def read_image(source: Source, size: Size) -> np.ndarray:
  """One image as (height, width, 3) uint8; see :func:`decode`."""
  height, width = size
  with _open(source) as image:
    if image.format == "JPEG":
      image.draft("RGB", (2 * width, 2 * height))  # decodes large photos at a fraction of the size
    upright = _to_rgb(ImageOps.exif_transpose(image))
  if upright.size != (width, height):
    upright = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
  return np.asarray(upright)


def _open(source: Source) -> Image.Image:
  return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel: Pillow would cut them off
    levels = np.asarray(image, np.float32)
    image = Image.fromarray(np.clip(np.rint(levels / 257), 0, 255).astype(np.uint8))
  if image.mode.endswith(("A", "a")) or "transparency" in image.info:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
  return image.convert("RGB")


def common_size(sources: Sequence[Source]) -> Size:
  """The size to bring images to: (height, width).

  The most frequent one if no image is larger than 64 pixels, else 224 x 224. Images with a side of
  less than 28 pixels are enlarged until it has 32.

  Raises:
    ValueError: if an image is damaged.
  """
  counts: collections.Counter[tuple[int, int]] = collections.Counter()
  with _quiet():
    for i, source in enumerate(sources):
      size = _guarded(_upright_size, source, i)
      if max(size) > SMALL:
        return USUAL, USUAL
      counts[size] += 1
  height, width = max(counts, key=lambda size: (counts[size], size))
  shorter = min(height, width)
  if shorter >= TINY:
    return height, width
  height, width = (min(round(side * ENLARGED / shorter), USUAL) for side in (height, width))
  return height, width


def _upright_size(source: Source) -> Size:
  with _open(source) as image:
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) >= 5  # orientations that swap the sides
  return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _quiet():
  """No warnings about metadata that nobody reads, nor about large photos."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


def _guarded(read: Callable, source: Source, position: int, *args: Any) -> Any:
  """``read(source, *args)``; whatever goes wrong in a decoder becomes one clear line."""
  try:
    return read(source, *args)
  except Exception as error:  # damaged files raise almost anything
    name = f"number {position}" if isinstance(source, bytes) else repr(str(source))
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(
      f"data: the image {name} cannot be read ({reason}); replace or delete it."
    ) from error


def require_memory(count: int, size: Size) -> None:
  """Raises a ValueError if so many images of this size would fill this machine's memory."""
  need = count * size[0] * size[1] * 3
  have = memory_size()
  if have and need > 0.8 * have:
    raise ValueError(
      f"size: {count:,} images of {size[0]} x {size[1]} pixels take {need / 1e9:,.0f} GB, and this "
      f"machine has {have / 1e9:,.0f} GB; choose a smaller size or set limit."
    )


def memory_size() -> int:
  """Bytes of physical memory, 0 where the system does not say."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, ValueError, OSError):
    return 0
