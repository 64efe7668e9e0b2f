"""Random erasing."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.data.augment.boxes import Range, check_ranges, random_boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomErasing:
  """Fills a box of an image, by chance, with noise or a value.

  Attributes:
    probability: of each image.
    scale: range of the box's area, as a share of the image's.
    ratio: range of its width over its height.
    fill: a pixel value; None: noise, uniform in 0 to 255.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8)}
    >>> erased = RandomErasing(probability=1.0, fill=9)(jax.random.key(0), batch)["image"]
    >>> sorted(set(erased.ravel().tolist()))
    [0, 9]

  References:
    Zhong et al., `Random Erasing Data Augmentation <https://arxiv.org/abs/1708.04896>`_, 2017,
    algorithm 1, of which at most ten tries are made.
  """

  probability: float = 0.5
  scale: Range = (0.02, 0.4)
  ratio: Range = (0.3, 1 / 0.3)
  fill: float | None = None

  def __post_init__(self):
    if not 0 <= self.probability <= 1:
      raise ValueError(f"probability: {self.probability} must be in [0, 1].")
    check_ranges(self.scale, self.ratio)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Erases; dtype and all other entries stay."""
    images = batch["image"]
    count, height, width = images.shape[:3]
    box_key, chance_key, fill_key = jax.random.split(rng, 3)
    box = random_boxes(box_key, count, (height, width), self.scale, self.ratio, whole=False)
    chosen = jax.random.bernoulli(chance_key, self.probability, (count,))
    rows = _inside(box.top, box.height, height).reshape(count, height, 1, 1)
    columns = _inside(box.left, box.width, width).reshape(count, 1, width, 1)
    erased = rows & columns & chosen.reshape(count, 1, 1, 1)
    if self.fill is not None:
      fill = jnp.full((), self.fill, images.dtype)
    elif jnp.issubdtype(images.dtype, jnp.integer):
      fill = jax.random.randint(fill_key, images.shape, 0, 256).astype(images.dtype)
    else:
      fill = jax.random.uniform(fill_key, images.shape, images.dtype, 0, 255)
    return {**batch, "image": jnp.where(erased, fill, images)}


def _inside(start: jax.Array, length: jax.Array, side: int) -> jax.Array:
  """(count, side) bool."""
  place = jnp.arange(side).reshape(1, -1)
  start, length = start.reshape(-1, 1), length.reshape(-1, 1)
  return (place >= start) & (place < start + length)
