"""Boxes of random area and shape, as random crops and random erasing choose them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Range = tuple[float, float]
TRIES = 10


class Boxes(NamedTuple):
  """One box for each image, in pixels.

  Attributes:
    top: (count,) int32.
    left: (count,) int32.
    height: (count,) int32.
    width: (count,) int32.
    found: (count,) bool; whether one of ten tries fitted into the image. If not, the others are 0.
  """

  top: jax.Array
  left: jax.Array
  height: jax.Array
  width: jax.Array
  found: jax.Array


def random_boxes(
  rng: jax.Array, count: int, size: tuple[int, ...], scale: Range, ratio: Range, *, whole: bool
) -> Boxes:
  """Boxes with an area uniform in ``scale`` and a ratio log-uniform in ``ratio``, anywhere.

  Args:
    rng: key.
    count: number of images.
    size: (height, width) of an image.
    scale: range of the area, as a share of the image's.
    ratio: range of width over height.
    whole: whether a box may be as high or wide as the image.

  Examples:
    >>> boxes = random_boxes(jax.random.key(0), 4, (8, 8), (0.25, 0.25), (1.0, 1.0), whole=True)
    >>> boxes.height.tolist(), boxes.found.tolist()
    ([4, 4, 4, 4], [True, True, True, True])
  """
  area_key, ratio_key, top_key, left_key = jax.random.split(rng, 4)
  height, width = size
  shape = (count, TRIES)
  area = height * width * jax.random.uniform(area_key, shape, jnp.float32, *scale)
  low, high = jnp.log(jnp.array(ratio))
  shapes = jnp.exp(jax.random.uniform(ratio_key, shape, jnp.float32, low, high))
  heights, widths = (
    jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area / shapes, area * shapes)
  )
  fits = (heights > 0) & (widths > 0)
  fits &= (heights < height + whole) & (widths < width + whole)
  first, found = jnp.argmax(fits, axis=1, keepdims=True), jnp.any(fits, axis=1)
  heights, widths = (
    jnp.where(found, jnp.take_along_axis(x, first, axis=1)[:, 0], 0) for x in (heights, widths)
  )
  top = jax.random.randint(top_key, (count,), 0, height - heights + 1)
  left = jax.random.randint(left_key, (count,), 0, width - widths + 1)
  return Boxes(jnp.where(found, top, 0), jnp.where(found, left, 0), heights, widths, found)


def check_ranges(scale: Range, ratio: Range) -> None:
  """Raises ``ValueError`` unless both are ranges of shares and of positive numbers."""
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"scale: {scale} must be ascending shares in (0, 1].")
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(f"ratio: {ratio} must be ascending and positive.")
