"""Brightness, blends and colours of images with pixels of 0 to 255."""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luma(images: jax.Array) -> jax.Array:
  """Brightness as the eye sees it, (batch, height, width, 1) float32; of grey images themselves.

  Raises:
    ValueError: if images have neither 1 nor 3 channels.

  Examples:
    >>> luma(jnp.full((1, 1, 1, 3), 10.0)).round(3).item()
    10.0
  """
  check_channels(images)
  images = images.astype(jnp.float32)
  if images.shape[-1] == 1:
    return images
  weights = jnp.array(LUMA, jnp.float32).reshape(1, 1, 1, 3)
  return jnp.sum(images * weights, axis=-1, keepdims=True)


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


def check_channels(images: jax.Array) -> None:
  """Raises ``ValueError`` unless images are grey or RGB."""
  if images.shape[-1] not in (1, 3):
    raise ValueError(
      f"image: {images.shape[-1]} channels have no brightness or colour; there must be 1 or 3."
    )


def per_image(values: jax.Array) -> jax.Array:
  """One number for each image, shaped to go with images: (batch,) to (batch, 1, 1, 1)."""
  return values.reshape(-1, 1, 1, 1)


def blend(base: jax.Array, images: jax.Array, factor: jax.Array) -> jax.Array:
  """``base + factor (images - base)``, cut off at 0 and 255; beyond 1 it exaggerates.

  Examples:
    >>> blend(jnp.zeros((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 100.0), jnp.array([1.5])).item()
    150.0
  """
  return jnp.clip(base + per_image(factor) * (images - base), 0.0, 255.0)


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


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
  """Turns every colour around the circle of hues.

  In HSV: ``h = h + turns mod 1``, saturation and value stay.

  Args:
    images: (batch, height, width, 3) float32.
    turns: (batch,), in whole turns.

  Examples:
    >>> red = jnp.array([255.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> turn_hue(red, jnp.array([1 / 3])).round().ravel().tolist()
    [0.0, 255.0, 0.0]
  """
  red, green, blue = (images[..., i : i + 1] for i in range(3))
  value = jnp.max(images, axis=-1, keepdims=True)
  chroma = value - jnp.min(images, axis=-1, keepdims=True)
  safe = jnp.where(chroma == 0, 1.0, chroma)
  sextant = jnp.where(
    value == red,
    (green - blue) / safe,
    jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
  )
  sextant = jnp.mod(sextant + 6 * per_image(turns), 6.0)
  offsets = jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 1, 3)  # of red, green and blue
  k = jnp.mod(sextant + offsets, 6.0)
  return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)
