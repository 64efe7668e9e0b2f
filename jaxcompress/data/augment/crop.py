"""Random resized crops."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.data.augment.boxes import Boxes, Range, check_ranges, random_boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
  """Scales a random box of every image to one size.

  Where no box of ten fits, which long images bring about, the largest one in the middle whose
  ratio is allowed is taken.

  Attributes:
    size: (height, width) of the result; None: that of the images.
    scale: range of the box's area, as a share of the image's.
    ratio: range of its width over its height.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 12, 16, 3), jnp.uint8)}
    >>> RandomResizedCrop(size=(8, 8))(jax.random.key(0), batch)["image"].shape
    (2, 8, 8, 3)

  References:
    Szegedy et al., `Going Deeper with Convolutions <https://arxiv.org/abs/1409.4842>`_, 2015,
    section 6.
  """

  size: tuple[int, int] | None = None
  scale: Range = (0.08, 1.0)
  ratio: Range = (3 / 4, 4 / 3)

  def __post_init__(self):
    if self.size is not None and min(self.size) < 1:
      raise ValueError(f"size: {self.size} must be at least 1 x 1.")
    check_ranges(self.scale, self.ratio)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Crops and scales; dtype and all other entries stay."""
    images = batch["image"]
    size = images.shape[1:3]
    boxes = random_boxes(rng, len(images), size, self.scale, self.ratio, whole=True)
    boxes = _or_middle(boxes, size, self.ratio)
    return {**batch, "image": resize_boxes(images, boxes, self.size or size)}


def resize_boxes(images: jax.Array, boxes: Boxes, size: tuple[int, ...]) -> jax.Array:
  """Each image's box at another size: bilinear, with a wider filter where it shrinks.

  Args:
    images: (batch, height, width, channels), of any dtype.
    boxes: one for each.
    size: (height, width) of the result.

  Returns:
    (batch, *size, channels) of the same dtype; integers are rounded.
  """

  def one(image, top, left, height, width):
    extent = jnp.stack([height, width]).astype(jnp.float32)
    scale = jnp.array(size, jnp.float32) / extent
    return jax.image.scale_and_translate(
      image,
      (*size, image.shape[-1]),
      (0, 1),
      scale,
      -jnp.stack([top, left]).astype(jnp.float32) * scale,
      "linear",
      precision=jax.lax.Precision.HIGHEST,
    )

  scaled = jax.vmap(one)(images.astype(jnp.float32), *boxes[:4])
  if jnp.issubdtype(images.dtype, jnp.integer):
    scaled = jnp.clip(jnp.round(scaled), 0, 255)
  return scaled.astype(images.dtype)


def _or_middle(boxes: Boxes, size: tuple[int, ...], ratio: Range) -> Boxes:
  """The largest box in the middle where none was found."""
  height, width = size
  if width / height < ratio[0]:
    height = round(width / ratio[0])
  elif width / height > ratio[1]:
    width = round(height * ratio[1])
  middle = ((size[0] - height) // 2, (size[1] - width) // 2, height, width)
  sides = [jnp.where(boxes.found, x, y) for x, y in zip(boxes[:4], middle, strict=True)]
  return boxes._replace(**dict(zip(Boxes._fields, sides, strict=False)))
