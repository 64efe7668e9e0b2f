"""Operations of Pillow on images, in whole numbers: affine maps, tables of values, blends, smoothing."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

Interpolation = Literal["nearest", "bilinear"]
ONE = 1 << 16  # of the fixed-point numbers that choose the nearest pixel: the same on every device


def affine(
  images: jax.Array,
  matrices: jax.Array,
  *,
  fill: float = 0.0,
  interpolation: Interpolation = "nearest",
) -> jax.Array:
  """Each output pixel taken from where its image's matrix says.

  The middle of output pixel (x, y) lies at ``(a x' + b y' + c, d x' + e y' + f)`` of the input,
  where ``x' = x + 1/2``, ``y' = y + 1/2``; pixel (0, 0) covers [0, 1) x [0, 1).

  Args:
    images: (batch, height, width, channels) of any dtype, with sides below 16,384.
    matrices: ``((a, b, c), (d, e, f))`` of each, (batch, 2, 3) float32.
    fill: of what lies outside.
    interpolation: ``"nearest"``, in 16.16 fixed point, or ``"bilinear"``.

  Returns:
    The images; integers are rounded.

  Examples:
    >>> image = jnp.arange(4).reshape(1, 1, 4, 1)
    >>> shift = jnp.array([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    >>> affine(image, shift, fill=9).ravel().tolist()
    [1, 2, 3, 9]
  """
  start = jnp.sum(matrices * jnp.array([0.5, 0.5, 1.0]).reshape(1, 1, 3), axis=-1)  # of (0, 0)
  steps = matrices[:, :, :2]
  if interpolation == "bilinear":
    return _bilinear(images, *_grid(images.shape, steps, start), fill)
  columns, rows = (x >> 16 for x in _grid(images.shape, _fixed(steps), _fixed(start)))
  inside = _inside(images.shape, columns, rows)
  return jnp.where(inside, _pick(images, columns, rows), jnp.array(fill, images.dtype))


def _bilinear(images: jax.Array, x: jax.Array, y: jax.Array, fill: float) -> jax.Array:
  inside = _inside(images.shape, x, y)
  x, y = x - 0.5, y - 0.5
  left, top = jnp.floor(x), jnp.floor(y)
  across, down = (jnp.expand_dims(part, -1) for part in (x - left, y - top))
  left, top = left.astype(jnp.int32), top.astype(jnp.int32)

  def line(row):
    a, b = (_pick(images, column, row).astype(jnp.float32) for column in (left, left + 1))
    return a + across * (b - a)

  upper, lower = line(top), line(top + 1)
  value = jnp.where(inside, upper + down * (lower - upper), jnp.float32(fill))
  if jnp.issubdtype(images.dtype, jnp.integer):
    value = jnp.floor(value + 0.5)
  return value.astype(images.dtype)


def _fixed(x: jax.Array) -> jax.Array:
  return jnp.floor(x * ONE + 0.5).astype(jnp.int32)


def _grid(
  shape: tuple[int, ...], steps: jax.Array, start: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Input coordinates x and y of every output pixel, (batch, height, width) each."""
  count, height, width = shape[:3]
  x = jnp.arange(width, dtype=steps.dtype).reshape(1, 1, width)
  y = jnp.arange(height, dtype=steps.dtype).reshape(1, height, 1)

  def along(i):
    a, b, c = (v.reshape(count, 1, 1) for v in (steps[:, i, 0], steps[:, i, 1], start[:, i]))
    return a * x + b * y + c

  return along(0), along(1)


def _inside(shape: tuple[int, ...], x: jax.Array, y: jax.Array) -> jax.Array:
  inside = (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1])
  return jnp.expand_dims(inside, -1)


def _pick(images: jax.Array, columns: jax.Array, rows: jax.Array) -> jax.Array:
  """Pixels at integer places; outside, those of the edge."""
  count, height, width = images.shape[:3]
  which = jnp.arange(count).reshape(count, 1, 1)
  return images[which, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]


VALUES = 256


def look_up(images: jax.Array, table: jax.Array) -> jax.Array:
  """Every pixel's entry in its image's and channel's table.

  Args:
    images: (batch, height, width, channels) uint8.
    table: (batch, 256, channels) uint8.
  """
  count, height, width, channels = images.shape
  flat = images.reshape(count, height * width, channels).astype(jnp.int32)
  return jnp.take_along_axis(table, flat, axis=1).reshape(images.shape)


def tables(images: jax.Array, masks: Mapping[str, jax.Array], amounts: jax.Array) -> jax.Array:
  """The table of each image's operation; the identity where its operation is another one.

  Args:
    images: (batch, height, width, channels) uint8.
    masks: for the name of every operation that may occur, which images it is for, (batch,) bool.
    amounts: of each image's operation, (batch,) float32.

  Returns:
    (batch, 256, channels) uint8.
  """
  count, channels = images.shape[0], images.shape[-1]
  amounts = amounts.reshape(count, 1, 1)
  table = jnp.broadcast_to(_ramp(), (count, VALUES, channels))
  for name, make in TABLES.items():
    if name in masks:
      chosen = masks[name].reshape(count, 1, 1)
      table = jnp.where(chosen, make(images, amounts), table)
  return table.astype(jnp.uint8)


def _ramp() -> jax.Array:
  return jnp.arange(VALUES, dtype=jnp.int32).reshape(1, VALUES, 1)


def _brightness(images: jax.Array, amounts: jax.Array) -> jax.Array:
  return blend_levels(jnp.zeros((1, 1, 1), jnp.int32), _ramp(), 1 + amounts)


def _contrast(images: jax.Array, amounts: jax.Array) -> jax.Array:
  grey = grey_levels(images)
  pixels = grey.shape[1] * grey.shape[2]
  mean = (jnp.sum(grey, axis=(1, 2, 3)) + pixels // 2) // pixels  # rounds halves up
  return blend_levels(mean.reshape(-1, 1, 1), _ramp(), 1 + amounts)


def _posterize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """The highest bits; the lowest ``round(amount)`` are 0."""
  lost = jnp.round(amounts).astype(jnp.int32)
  return (_ramp() >> lost) << lost


def _solarize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Inverts values from a threshold on."""
  return jnp.where(_ramp() < amounts, _ramp(), VALUES - 1 - _ramp())


def _autocontrast(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Stretches each channel to 0..255; a constant channel stays."""
  x = images.astype(jnp.int32)
  low, high = (f(x, axis=(1, 2))[:, None] for f in (jnp.min, jnp.max))
  span = jnp.maximum(high - low, 1)
  stretched = jnp.clip((VALUES - 1) * (_ramp() - low), 0, (VALUES - 1) * span) // span
  return jnp.where(high > low, stretched, _ramp())


def _equalize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Spreads each channel's values so that all are about equally frequent."""
  counts = _histograms(images)
  total = jnp.sum(counts, axis=1, keepdims=True)
  place = jnp.where(counts > 0, _ramp(), 0)
  last = jnp.take_along_axis(counts, jnp.max(place, axis=1, keepdims=True), axis=1)
  step = (total - last) // (VALUES - 1)
  below = jnp.cumsum(counts, axis=1) - counts
  spread = (step // 2 + below) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(spread, VALUES - 1), _ramp())


def _histograms(images: jax.Array) -> jax.Array:
  """How often each value occurs, (batch, 256, channels) int32."""
  count, channels = images.shape[0], images.shape[-1]
  flat = images.reshape(count, -1, channels).astype(jnp.int32)
  image, channel = jnp.arange(count).reshape(-1, 1, 1), jnp.arange(channels).reshape(1, 1, -1)
  return jnp.zeros((count, VALUES, channels), jnp.int32).at[image, flat, channel].add(1)


TABLES = {
  "brightness": _brightness,
  "contrast": _contrast,
  "posterize": _posterize,
  "solarize": _solarize,
  "autocontrast": _autocontrast,
  "equalize": _equalize,
}


def grey_levels(images: jax.Array) -> jax.Array:
  """The same in whole numbers, in Pillow's 16-bit arithmetic: uint8 to int32.

  Examples:
    >>> grey_levels(jnp.array([0, 255, 0], jnp.uint8).reshape(1, 1, 1, 3)).item()
    150
  """
  x = images.astype(jnp.int32)
  if x.shape[-1] == 1:
    return x
  weights = jnp.array([19595, 38470, 7471]).reshape(1, 1, 1, 3)
  return (jnp.sum(x * weights, axis=-1, keepdims=True) + (1 << 15)) >> 16


def blend_levels(base: jax.Array, levels: jax.Array, factor: jax.Array) -> jax.Array:
  """:func:`blend` of whole numbers, cut off below the point as Pillow does.

  In 16.16 fixed point, so that every device and program gives the same.

  Args:
    base: int32.
    levels: 0 to 255, int32.
    factor: -1 to 4, shaped to go with the others.

  Returns:
    int32.

  Examples:
    >>> blend_levels(jnp.array([0]), jnp.array([101]), jnp.array([0.5])).item()
    50
  """
  fixed = jnp.round(factor * (1 << 16)).astype(jnp.int32)
  return jnp.clip(base + (fixed * (levels - base) >> 16), 0, 255)


def smoothed(images: jax.Array) -> jax.Array:
  """The mean of 3 x 3 pixels with weight 5 in the middle; edge pixels stay. Integers."""
  x = images.astype(jnp.int32)
  height, width = x.shape[1:3]
  if height < 3 or width < 3:
    return x
  total = 4 * x[:, 1:-1, 1:-1]
  for top in range(3):
    for left in range(3):
      total += x[:, top : top + height - 2, left : left + width - 2]
  return x.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)  # rounds halves up
