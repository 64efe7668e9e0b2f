"""Operations that map each of the 256 values of a channel to another one."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.data.augment.pixels import blend_levels, grey_levels

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
  """The table of each image's operation; the identity where its operation is none of these.

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
  del images
  return blend_levels(jnp.zeros((1, 1, 1), jnp.int32), _ramp(), 1 + amounts)


def _contrast(images: jax.Array, amounts: jax.Array) -> jax.Array:
  grey = grey_levels(images)
  pixels = grey.shape[1] * grey.shape[2]
  mean = (jnp.sum(grey, axis=(1, 2, 3)) + pixels // 2) // pixels  # rounds halves up
  return blend_levels(mean.reshape(-1, 1, 1), _ramp(), 1 + amounts)


def _posterize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """The highest bits; the lowest ``round(amount)`` are 0."""
  del images
  lost = jnp.round(amounts).astype(jnp.int32)
  return (_ramp() >> lost) << lost


def _solarize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Inverts values from a threshold on."""
  del images
  return jnp.where(_ramp() < amounts, _ramp(), VALUES - 1 - _ramp())


def _autocontrast(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Stretches each channel to 0..255; a constant channel stays."""
  del amounts
  x = images.astype(jnp.int32)
  low, high = (f(x, axis=(1, 2))[:, None] for f in (jnp.min, jnp.max))
  span = jnp.maximum(high - low, 1)
  stretched = jnp.clip((VALUES - 1) * (_ramp() - low), 0, (VALUES - 1) * span) // span
  return jnp.where(high > low, stretched, _ramp())


def _equalize(images: jax.Array, amounts: jax.Array) -> jax.Array:
  """Spreads each channel's values so that all are about equally frequent."""
  del amounts
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
