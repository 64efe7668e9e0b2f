"""Conversion of an image file to pixels, and of pixels to the input of a network.

It needs numpy and Pillow alone: programs for devices hold the text of these functions (see
:meth:`jaxcompress.data.ImageReader.program`), so that they read a picture as training did.
"""

import io
import pathlib

import numpy as np
from PIL import Image, ImageOps

WHITE = 65535  # in 16 bits


def read_pixels(
  source: "str | pathlib.Path | bytes | Image.Image",
  size: tuple[int, int],
  resize: str,
  crop: float,
  filter: str,
  channels: int,
  fill: int,
) -> np.ndarray:
  """Reads one image.

  Args:
    source: a path, the bytes of a file, or an image of Pillow's.
    size: (height, width) of the result.
    resize: ``cover``: scaled until it covers the size, the middle is kept; ``squash``: its sides are
      scaled apart; ``letterbox``: scaled until it fits in, the rest is ``fill``; ``pad``: likewise, but
      never enlarged.
    crop: share of each side, from the middle, that is kept after it was scaled; 1: all.
    filter: of Pillow's: bicubic, bilinear, lanczos, box, hamming or nearest.
    channels: 3: RGB; 1: grey.
    fill: level of what a letterbox or a pad leaves, 0 to 255.

  Returns:
    (height, width, channels) uint8.
  """
  height, width = size
  scaled = [int(side / crop + 1e-6) for side in (width, height)]
  if isinstance(source, Image.Image):
    image = flattened(ImageOps.exif_transpose(source))
  else:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
      if image.format == "JPEG":  # decodes large photos, turned or not, at a fraction of the size
        image.draft("RGB", (2 * max(scaled), 2 * max(scaled)))
      image = flattened(ImageOps.exif_transpose(image))
  image = image.convert("RGB" if channels == 3 else "L")
  method = Image.Resampling[filter.upper()]
  ratios = [a / b for a, b in zip(scaled, image.size, strict=True)]
  if resize in ("letterbox", "pad"):
    ratio = min(ratios) if resize == "letterbox" else min(1, *ratios)
    inner = [max(1, round(side * ratio)) for side in image.size]
    page = Image.new(image.mode, scaled, (fill,) * channels)
    left, top = ((a - b) // 2 for a, b in zip(scaled, inner, strict=True))
    page.paste(image.resize(inner, method), (left, top))
    image = page
  elif resize == "cover":
    scaled = [max(a, int(b * max(ratios) + 1e-6)) for a, b in zip(scaled, image.size, strict=True)]
  # the middle of the scaled image, without computing the rest of it
  left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
  x, y = image.width / scaled[0], image.height / scaled[1]
  box = left * x, top * y, (left + width) * x, (top + height) * y
  return np.asarray(image.resize((width, height), method, box)).reshape(height, width, channels)


def flattened(image: Image.Image) -> Image.Image:
  """An image in 8 bits, with white where it is transparent."""
  if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel: Pillow would cut them off
    levels = np.asarray(image, np.float64)
    if image.mode == "F" or levels.min() < 0 or levels.max() > WHITE:
      raise ValueError("its pixels have more than 16 bits")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
      levels = np.where(levels == clear, WHITE, levels)
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
  if image.mode.endswith(("A", "a")) or "transparency" in image.info:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image


def normalized(
  pixels: np.ndarray, center: float, scale: float, per_image: bool, epsilon: float
) -> np.ndarray:
  """Normalizes pixels, (..., height, width, channels), to the float32 input of a network.

  Means are computed in float64 and rounded once, so that the order of their sums does not matter.
  """
  x = (pixels.astype(np.float32) - np.float32(center)) / np.float32(scale)
  if not per_image:
    return x
  x = x - x.mean((-3, -2), np.float64, keepdims=True).astype(np.float32)
  variance = np.square(x).mean((-3, -2, -1), np.float64, keepdims=True)
  return x / (np.sqrt(variance) + epsilon).astype(np.float32)
