"""Characters drawn once from matplotlib's bundled fonts, ready to be sampled anywhere."""

import functools
import pathlib
import string

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

CLASSES = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")
"""The 47 of EMNIST-balanced: lowercase letters that look like their uppercase are left out."""

FONTS = (
  "DejaVuSans",
  "DejaVuSans-Bold",
  "DejaVuSans-Oblique",
  "DejaVuSans-BoldOblique",
  "DejaVuSansMono",
  "DejaVuSansMono-Bold",
  "DejaVuSansMono-Oblique",
  "DejaVuSansMono-BoldOblique",
  "DejaVuSerif",
  "DejaVuSerif-Bold",
  "DejaVuSerif-Italic",
  "DejaVuSerif-BoldItalic",
  "STIXGeneral",
  "STIXGeneralBol",
  "STIXGeneralItalic",
  "STIXGeneralBolIta",
  "cmb10",
  "cmr10",
  "cmss10",
  "cmti10",
  "cmtt10",
)
"""Those with all 47 characters; cmmi10's digits are old-style and its zero looks like an o."""

CAP_HEIGHT = 0.6  # of a capital letter, as a share of the image
MAX_WIDTH = 0.75  # wider characters, such as W, are drawn smaller
OVERSAMPLING = 2  # pixels of a cell for each pixel of an image


def font_path(font: str) -> pathlib.Path:
  """The file of a bundled font.

  Raises:
    ValueError: if this matplotlib has no such file.
  """
  path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
  if not path.is_file():
    raise ValueError(
      f"font: {font!r} is not at {path}; install matplotlib with pip, which bundles its fonts."
    )
  return path


@functools.lru_cache(maxsize=2)
def atlas(size: int) -> np.ndarray:
  """Coverage of every character in every font, packed for bilinear sampling with one look-up.

  Args:
    size: side of the images that will be made, in pixels.

  Returns:
    (fonts, classes, side, side, 4) uint8 with ``side = 2 * size``, read-only: pixel (y, x) comes
    with its neighbours (y, x + 1), (y + 1, x) and (y + 1, x + 1). Characters are centred, lightly
    blurred against aliasing, and nothing touches a cell's edge.

  Examples:
    >>> atlas(32).shape
    (21, 47, 64, 64, 4)
  """
  side = OVERSAMPLING * size
  cells = np.stack([[_cell(font, char, side) for char in CLASSES] for font in FONTS])
  blurred = np.zeros(cells.shape, np.uint16)
  blurred[..., 1:-1, 1:-1] = sum(
    np.uint16(weight) * cells[..., dy : side - 2 + dy, dx : side - 2 + dx]
    for (dy, dx), weight in np.ndenumerate(np.outer((1, 2, 1), (1, 2, 1)))
  )
  blurred = (blurred + 8) // 16
  below = np.roll(blurred, -1, axis=-2)  # edges are empty, so wrapping around adds nothing
  corners = (blurred, np.roll(blurred, -1, axis=-1), below, np.roll(below, -1, axis=-1))
  packed = np.stack(corners, axis=-1).astype(np.uint8)
  packed.flags.writeable = False
  return packed


def _cell(font: str, char: str, side: int) -> np.ndarray:
  """A character in the middle of a square of the given side, (side, side) uint8 coverage."""
  points = side * CAP_HEIGHT / _cap_height(font)
  left, _, right, _ = _font(font, points).getbbox(char, anchor="ls")
  points *= min(1.0, side * MAX_WIDTH / (right - left))
  drawn = _font(font, points)
  left, top, right, bottom = drawn.getbbox(char, anchor="ls")
  cell = Image.new("L", (side, side), 0)
  corner = ((side - left - right) // 2, (side - top - bottom) // 2)
  ImageDraw.Draw(cell).text(corner, char, font=drawn, fill=255, anchor="ls")
  return np.asarray(cell)


@functools.cache
def _cap_height(font: str) -> float:
  """Height of an H at a font size of one."""
  _, top, _, bottom = _font(font, 256.0).getbbox("H", anchor="ls")
  return (bottom - top) / 256


@functools.lru_cache(maxsize=256)
def _font(font: str, points: float) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(str(font_path(font)), points, layout_engine=ImageFont.Layout.BASIC)
