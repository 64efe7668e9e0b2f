"""Random brightness, contrast, saturation and hue."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_batch, check_range


def brighten(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Changes the brightness: towards black, or away from it."""
  return blend(jnp.zeros((1, 1, 1, 1)), images, factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Changes the contrast: towards each image's mean brightness, or away from it."""
  return blend(jnp.mean(luma(images), axis=(1, 2, 3), keepdims=True), images, factor)


def saturate(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Changes the saturation: towards grey, or away from it."""
  return blend(luma(images), images, factor)


def hue(images: jax.Array, turns: jax.Array) -> jax.Array:
  """Turns hues around their circle; grey images stay."""
  return turn_hue(images, turns) if images.shape[-1] == 3 else images


CHANGES = {"brightness": brighten, "contrast": contrast, "saturation": saturate, "hue": hue}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
  """Changes brightness, contrast, saturation and hue by random amounts.

  Each of the first three is blended with a factor uniform in ``[max(0, 1 - x), 1 + x]``, one an
  image; hues are turned by up to ``hue`` of a whole turn either way. The four follow one another in
  a random order, one a batch.

  Attributes:
    brightness: ``x``; 0: unchanged.
    contrast: likewise.
    saturation: likewise.
    hue: at most 0.5.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> batch = {"image": jnp.full((2, 8, 8, 3), 100, jnp.uint8)}
    >>> ColorJitter(brightness=0.4)(jax.random.key(0), batch)["image"].dtype.name
    'uint8'

  References:
    Howard, `Some Improvements on Deep Convolutional Neural Network Based Image Classification
    <https://arxiv.org/abs/1312.5402>`_, 2013, section 2.
  """

  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0

  def __post_init__(self):
    for name in CHANGES:  # half a turn either way is every hue
      check_range(name, getattr(self, name), 0, 0.5 if name == "hue" else math.inf)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Changes colours; dtype and all other entries stay, integers are rounded."""
    check_batch(batch)
    images = batch["image"]
    check_channels(images)
    order_key, *keys = jax.random.split(rng, 5)
    active = [name for name in CHANGES if getattr(self, name)]
    amounts = {
      name: self._draw(name, key, len(images)) for name, key in zip(CHANGES, keys, strict=True)
    }
    changes = [lambda x, name=name: CHANGES[name](x, amounts[name]) for name in active]
    changed = images.astype(jnp.float32)
    for which in jax.random.permutation(order_key, len(active)):
      changed = jax.lax.switch(which, changes, changed)
    if jnp.issubdtype(images.dtype, jnp.integer):
      changed = jnp.round(changed)
    return {**batch, "image": changed.astype(images.dtype)}

  def _draw(self, name: str, rng: jax.Array, count: int) -> jax.Array:
    """One amount for each image."""
    reach = getattr(self, name)
    low, high = (-reach, reach) if name == "hue" else (max(0.0, 1 - reach), 1 + reach)
    return jax.random.uniform(rng, (count,), jnp.float32, low, high)


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
