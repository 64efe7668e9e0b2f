"""A description of how a picture becomes the input of a network."""

from typing import Any

from jaxcompress.data.preprocess import Preprocess
from jaxcompress.data.reader import ImageReader


def in_words(reader: ImageReader) -> str:
  """A reader in one sentence.

  Examples:
    >>> in_words(ImageReader((96, 128), resize="squash"))
    'upright in RGB; sides scaled apart to 128 x 96 px, bicubic; every image at the same brightness and contrast'
    >>> fixed = Preprocess(center=127.5, scale=127.5, per_image=False)
    >>> in_words(ImageReader(96, crop=0.875, preprocess=fixed))
    'upright in RGB; scaled to cover 110 x 110 px, bicubic, of which the middle 96 x 96 px are kept; (pixel - 127.5) / 127.5'
  """
  colour = "RGB" if reader.channels == 3 else "grey"
  parts = [f"upright in {colour}", _size(reader), _pixels(reader.preprocess)]
  return "; ".join(filter(None, parts))


def _size(reader: ImageReader) -> str:
  if reader.size is None:
    return ""
  height, width = reader.size
  wide, high = (round(side / reader.crop) for side in (width, height))
  kept = "" if reader.crop == 1 else f", of which the middle {width} x {height} px are kept"
  how = {
    "cover": f"scaled to cover {wide} x {high} px",
    "squash": f"sides scaled apart to {wide} x {high} px",
    "letterbox": f"scaled to fit in {wide} x {high} px, the rest at level {reader.fill}",
    "pad": f"in the middle of {wide} x {high} px, scaled if larger, the rest at level {reader.fill}",
  }[reader.resize]
  if reader.resize == "cover" and not kept:
    kept = ", of which the middle is kept"
  return f"{how}, {reader.filter}{kept}"


def _pixels(preprocess: Preprocess) -> str:
  if preprocess.per_image:
    return "every image at the same brightness and contrast"
  return f"(pixel - {_numbers(preprocess.center)}) / {_numbers(preprocess.scale)}"


def _numbers(values: Any) -> str:
  """One number, or one of each channel."""
  if isinstance(values, tuple):
    return f"[{', '.join(f'{value:g}' for value in values)}]"
  return f"{values:g}"
