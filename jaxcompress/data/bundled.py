"""Sets that come with it: characters drawn in many fonts, colours and poses; digits by hand."""

import dataclasses
import functools
import hashlib
import pathlib
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import Split
from jaxcompress.data.splits import at_most, random_order, three_way
from jaxcompress.data.storage import read_cached, write_cached

VERSION = 1  # of the pictures; raise it when they change, so that no older cache is read
COUNTS = {"train": 24_000, "validation": 2_000, "test": 4_000}
STREAMS = {"train": 0, "validation": 1, "test": 2}
CHUNK = 250  # images drawn together: arrays that stay near the processor

CLASSES = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")
"""The 47 of EMNIST-balanced: lowercase letters that look like their uppercase are left out."""

UPRIGHT_AND_OBLIQUE = ("", "-Bold", "-Oblique", "-BoldOblique")
FONTS = (
  *("DejaVuSans" + style for style in UPRIGHT_AND_OBLIQUE),
  *("DejaVuSansMono" + style for style in UPRIGHT_AND_OBLIQUE),
  *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
  *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
  *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
"""Fonts with all 47 characters; cmmi10's digits are old-style and its zero looks like an o."""

CAP_HEIGHT = 0.6  # of a capital letter, as a share of the image
MAX_WIDTH = 0.75  # wider characters, such as W, are drawn smaller
OVERSAMPLING = 2  # pixels of a cell for each pixel of an image


@dataclasses.dataclass(frozen=True)
class GlyphStyle:
  """Ranges of the variation between pictures of one character.

  Attributes:
    size: side of the images in pixels.
    rotation: largest angle in radians, both ways.
    shear: largest shear, both ways.
    scale: smallest and largest size.
    shift: largest offset from the middle, as a share of half the image.
    contrast: smallest difference in brightness between the character and the background around
      it, of 1.
    gradient: largest change of the background's brightness from side to side.
    noise: standard deviation of the noise in every pixel and channel.

  Raises:
    ValueError: if ``size`` is too small to read.
  """

  size: int = 32
  rotation: float = 0.35
  shear: float = 0.2
  scale: tuple[float, float] = (0.85, 1.25)
  shift: float = 0.2
  contrast: float = 0.25
  gradient: float = 0.4
  noise: float = 0.06

  def __post_init__(self):
    if not 16 <= self.size <= 256:
      raise ValueError(f"size: {self.size} is out of range; glyphs are 16 to 256 pixels.")


def glyphs(*, seed: int = 0, size: int = 32, limit: int | None = None) -> Dataset:
  """47 classes of characters as in EMNIST-balanced, rendered from matplotlib's bundled fonts.

  24,000 images to train on, 2,000 for validation and 4,000 to test, each part from random numbers
  of its own; see :class:`GlyphStyle` for what varies. Rendered images are kept under
  ``~/.cache/jaxcompress`` (or ``$XDG_CACHE_HOME``).

  Args:
    seed: of everything random.
    size: side of the images in pixels.
    limit: at most this many images in each part; they are the first of the whole part.

  Returns:
    A :class:`Dataset` of (size, size, 3) images.

  Raises:
    ValueError: if ``size`` is out of range or a bundled font is missing.

  Examples:
    >>> glyphs(limit=47).train.images.shape
    (47, 32, 32, 3)
  """
  style = GlyphStyle(size=size)
  parts: Any = {
    part: _part(style, seed, STREAMS[part], count if limit is None else min(count, limit))
    for part, count in COUNTS.items()
  }
  return Dataset(name="glyphs", classes=CLASSES, flip=False, **parts)


def digits(*, seed: int = 0, size: int = 32, limit: int | None = None) -> Dataset:
  """Handwritten digits, 8 x 8 pixels with 17 levels, smoothly enlarged and in three equal channels.

  Args:
    seed: of the split into 70 % to train on, 10 % for validation and 20 % to test.
    size: side of the images in pixels.
    limit: at most this many images in each part, with the classes' shares kept.

  Returns:
    A :class:`Dataset` of (size, size, 3) images.

  Raises:
    ValueError: if ``size`` is out of range.

  Examples:
    >>> data = digits()
    >>> len(data.train), len(data.validation), len(data.test)
    (1259, 179, 359)

  References:
    Alpaydin & Kaynak, `Optical Recognition of Handwritten Digits
    <https://archive.ics.uci.edu/dataset/80>`_, 1998.
  """
  if not 8 <= size <= 512:
    raise ValueError(f"size: {size} is out of range; digits are 8 to 512 pixels.")
  from sklearn.datasets import load_digits  # takes seconds

  pixels, labels = load_digits(return_X_y=True)
  labels = labels.astype(np.int32)
  order = random_order(len(labels), seed)

  def part(chosen: np.ndarray) -> Split:
    chosen = chosen[at_most(labels[chosen], order[chosen], limit)]
    return Split(np.stack([_enlarge(pixels[i], size) for i in chosen]), labels[chosen])

  train, validation, test = map(part, three_way(labels, order))
  classes = tuple(map(str, range(10)))
  return Dataset(name="digits", classes=classes, train=train, validation=validation, test=test)


def _enlarge(pixels: np.ndarray, size: int) -> np.ndarray:
  """A picture of 64 levels from 0 to 16, as (size, size, 3) uint8."""
  small = Image.fromarray((pixels.reshape(8, 8) * (255 / 16)).astype(np.float32))
  large = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
  grey = np.clip(np.rint(large), 0, 255).astype(np.uint8)
  return np.repeat(grey[:, :, None], 3, axis=-1)


def _part(style: GlyphStyle, seed: int, stream: int, count: int) -> Split:
  """The first ``count`` pictures of a stream, from the cache as far as it has them in whole chunks."""
  key = repr((VERSION, style, FONTS, seed, stream))
  name = f"glyphs-{style.size}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
  stored, shape = read_cached(name), (style.size, style.size, 3)
  if stored is None or stored.dtype != np.uint8 or stored.shape[1:] != shape or len(stored) % CHUNK:
    stored = np.zeros((0, *shape), np.uint8)
  if len(stored) < count:
    stored = np.concatenate([stored, _render_from(style, seed, stream, len(stored), count)])
    write_cached(name, stored)
  return Split(stored[:count], _labels(0, count))


def _labels(start: int, stop: int) -> np.ndarray:
  """Labels of the pictures at some positions: all classes in turn, so every part is balanced."""
  return np.arange(start, stop, dtype=np.int32) % len(CLASSES)


def _render_from(style: GlyphStyle, seed: int, stream: int, start: int, stop: int) -> np.ndarray:
  """Whole chunks of pictures that cover ``start`` to ``stop``."""
  glyph_atlas(style.size)  # once, before the threads

  def chunk(number: int) -> np.ndarray:
    labels = _labels(number * CHUNK, (number + 1) * CHUNK)
    return render_glyphs(style, labels, np.arange(len(FONTS)), (seed, stream, number))

  with ThreadPoolExecutor(4) as pool:  # numpy lets other threads run
    return np.concatenate(list(pool.map(chunk, range(start // CHUNK, -(-stop // CHUNK)))))


def render_glyphs(
  style: GlyphStyle, labels: np.ndarray, fonts: np.ndarray, seed: tuple[int, ...]
) -> np.ndarray:
  """Draws one picture of every label.

  Each has a background that changes from one side to the other, another character that sticks in
  from an edge, the character itself under a random affine map, and noise.

  Args:
    style: ranges of what is random.
    labels: (count,) integers, positions in ``CLASSES``.
    fonts: positions in ``FONTS`` to choose from.
    seed: non-negative integers; the pictures depend on them and the other arguments alone.

  Returns:
    (count, size, size, 3) uint8.

  Examples:
    >>> render_glyphs(GlyphStyle(), np.array([3, 4]), np.arange(21), seed=(0,)).shape
    (2, 32, 32, 3)
  """
  rng, count = np.random.default_rng(seed), len(labels)
  back, front, difference = _colours(rng, count, style.contrast)
  slope = np.minimum(rng.uniform(0, style.gradient, count), 2 * (difference - style.contrast))
  canvas = back[:, None, :] + _ramp(_direction(rng, count) * slope[:, None], style.size)[..., None]

  offset = _direction(rng, count) * rng.uniform(0.85, 1.2, (count, 1))
  clutter = _sample(rng, style, rng.integers(len(CLASSES), size=count), fonts, offset)
  tone = rng.uniform(0, 1, (count, 1, 3)).astype(np.float32)
  canvas += clutter[:, :, None] * (tone - canvas)

  offset = rng.uniform(-style.shift, style.shift, (count, 2))
  shape = _sample(rng, style, labels, fonts, offset)
  canvas += shape[:, :, None] * (front[:, None, :] - canvas)
  canvas += style.noise * rng.standard_normal(canvas.shape, np.float32)
  canvas *= 255
  canvas += 0.5
  return np.clip(canvas, 0, 255).astype(np.uint8).reshape(count, style.size, style.size, 3)


def _direction(rng, count: int) -> np.ndarray:
  """Unit vectors, (count, 2)."""
  angle = rng.uniform(0, 2 * np.pi, count)
  return np.stack([np.cos(angle), np.sin(angle)], -1)


def _colours(rng, count: int, contrast: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Colours of background and character and how much they differ.

  Returns:
    Two arrays (count, 3) float32 from 0 to 1, and the difference of their means over the channels,
    the brightness: (count,), at least ``contrast``.
  """
  difference = rng.uniform(contrast, 0.9, count)
  darker = rng.uniform(0, 1 - difference)
  light = rng.integers(2, size=count)
  back = _tinted(rng, darker + difference * light)
  front = _tinted(rng, darker + difference * (1 - light))
  return back, front, difference


def _tinted(rng, level: np.ndarray) -> np.ndarray:
  """Colours of a given brightness, (count,) to (count, 3) float32."""
  tint = rng.uniform(-0.5, 0.5, (len(level), 3))
  tint -= tint.mean(-1, keepdims=True)
  room = np.minimum(level, 1 - level)[:, None]
  return (level[:, None] + tint * room).astype(np.float32)


def _grid(size: int) -> np.ndarray:
  """Centres of the pixels, x and y from -1 to 1: (2, size * size) float32."""
  line = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
  return np.stack([np.tile(line, size), np.repeat(line, size)])


def _ramp(slope: np.ndarray, size: int) -> np.ndarray:
  """A plane through zero that changes by the length of ``slope`` from side to side."""
  return (0.5 * slope).astype(np.float32) @ _grid(size)


def _sample(rng, style: GlyphStyle, labels, fonts, offset: np.ndarray) -> np.ndarray:
  """Coverage of characters under random affine maps, (count, size * size) float32 in 0 to 1."""
  count, cells = len(labels), glyph_atlas(style.size)
  side = cells.shape[2]
  inverse = _inverse_maps(rng, style, count)
  centre = -np.einsum("nij,nj->ni", inverse, offset)
  half = side / 2
  places = (inverse * half).astype(np.float32) @ _grid(style.size)
  places += (centre * half + half - 0.5).astype(np.float32)[:, :, None]
  np.clip(places, 0, side - 2, out=places)
  corner = places.astype(np.int32)  # not negative, so this is the floor
  places -= corner
  x, y = places[:, 0], places[:, 1]
  which = rng.choice(fonts, count) * len(CLASSES) + labels
  index = corner[:, 1] * side + corner[:, 0] + (which * side * side).astype(np.int32)[:, None]
  packed = cells.view(np.uint32).reshape(-1)
  near = np.take(packed, index).view(np.uint8).reshape(*index.shape, 4).astype(np.float32)
  top = near[..., 0] + x * (near[..., 1] - near[..., 0])
  bottom = near[..., 2] + x * (near[..., 3] - near[..., 2])
  return (top + y * (bottom - top)) * np.float32(1 / 255)


def _inverse_maps(rng, style: GlyphStyle, count: int) -> np.ndarray:
  """Maps from the image back to the upright character: (count, 2, 2)."""
  angle = rng.uniform(-style.rotation, style.rotation, count)
  shear = rng.uniform(-style.shear, style.shear, count)
  scale = rng.uniform(*style.scale, count)
  cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros(count), np.ones(count)
  turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
  lean = np.stack([np.stack([one, shear], -1), np.stack([zero, one], -1)], -2)
  return np.linalg.inv(turn @ lean * scale[:, None, None])


def font_path(font: str) -> pathlib.Path:
  """The file of a bundled font.

  Raises:
    ValueError: if this matplotlib has no such file.
  """
  import matplotlib  # takes a second

  path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
  if not path.is_file():
    raise ValueError(
      f"font: {font!r} is not at {path}; install matplotlib with pip, which bundles its fonts."
    )
  return path


@functools.lru_cache(maxsize=2)
def glyph_atlas(size: int) -> np.ndarray:
  """Coverage of every character in every font, packed for bilinear sampling with one look-up.

  Args:
    size: side of the images that will be made, in pixels.

  Returns:
    (fonts, classes, side, side, 4) uint8 with ``side = 2 * size``, read-only: pixel (y, x) comes
    with its neighbours (y, x + 1), (y + 1, x) and (y + 1, x + 1). Characters are centred, lightly
    blurred against aliasing, and nothing touches a cell's edge.

  Examples:
    >>> glyph_atlas(32).shape
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
