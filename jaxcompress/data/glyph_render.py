"""Pictures of characters, many at a time, with plain numpy."""

import dataclasses

import numpy as np

from jaxcompress.data.glyph_atlas import CLASSES, atlas

CHUNK = 250  # images drawn together: arrays that stay near the processor


@dataclasses.dataclass(frozen=True)
class GlyphStyle:
  """What varies between two pictures of one character.

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


def render(
  style: GlyphStyle, labels: np.ndarray, fonts: np.ndarray, key: tuple[int, ...]
) -> np.ndarray:
  """Draws one picture of every label.

  Each has a background that changes from one side to the other, another character that sticks in
  from an edge, the character itself under a random affine map, and noise.

  Args:
    style: ranges of what is random.
    labels: (count,) integers, positions in ``CLASSES``.
    fonts: positions in ``FONTS`` to choose from.
    key: non-negative integers; the pictures depend on them and the other arguments alone.

  Returns:
    (count, size, size, 3) uint8.

  Examples:
    >>> render(GlyphStyle(), np.array([3, 4]), np.arange(21), key=(0,)).shape
    (2, 32, 32, 3)
  """
  rng, count = np.random.default_rng(key), len(labels)
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
  count, cells = len(labels), atlas(style.size)
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
