"""Affine maps of images, sampled as Pillow samples them."""

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
  if interpolation == "nearest":
    return _nearest(images, matrices, fill)
  if interpolation == "bilinear":
    return _bilinear(images, matrices, fill)
  raise ValueError(f"interpolation: {interpolation!r} must be 'nearest' or 'bilinear'.")


def _nearest(images: jax.Array, matrices: jax.Array, fill: float) -> jax.Array:
  middle = jnp.array([[0.5, 0.5, 1.0]]).reshape(1, 1, 3)
  start = jnp.sum(matrices * middle, axis=-1)  # of output pixel (0, 0)
  steps = _fixed(matrices[:, :, :2])
  columns, rows = (x >> 16 for x in _grid(images.shape, steps, _fixed(start)))
  return jnp.where(
    _inside(images.shape, columns, rows),
    _pick(images, columns, rows),
    jnp.array(fill, images.dtype),
  )


def _bilinear(images: jax.Array, matrices: jax.Array, fill: float) -> jax.Array:
  middle = jnp.array([[0.5, 0.5, 1.0]]).reshape(1, 1, 3)
  x, y = _grid(images.shape, matrices[:, :, :2], jnp.sum(matrices * middle, axis=-1))
  inside = _inside(images.shape, x, y)
  x, y = x - 0.5, y - 0.5
  left, top = jnp.floor(x), jnp.floor(y)
  across, down = (jnp.expand_dims(part, -1) for part in (x - left, y - top))
  left, top = left.astype(jnp.int32), top.astype(jnp.int32)

  def line(row):
    a, b = (_pick(images, column, row).astype(jnp.float32) for column in (left, left + 1))
    return a + across * (b - a)

  upper, lower = line(top), line(top + 1)
  value = upper + down * (lower - upper)
  value = jnp.where(inside, value, jnp.float32(fill))
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
