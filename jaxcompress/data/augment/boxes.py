"""Random boxes: resized crops and erasing."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_batch, check_range
from jaxcompress.data.crops import TRIES, Interval, check_ranges


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
  rng: jax.Array,
  count: int,
  size: tuple[int, ...],
  scale: Interval,
  ratio: Interval,
  *,
  whole: bool,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
  """Scales a random box of every image to one size.

  Where no box of ten fits, which long images bring about, the largest one in the middle whose
  ratio is allowed is taken. Pictures that were brought to one size before have lost their sides:
  :class:`~jaxcompress.data.CropOnRead` cuts from the originals.

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
  scale: Interval = (0.08, 1.0)
  ratio: Interval = (3 / 4, 4 / 3)

  def __post_init__(self):
    if self.size is not None and min(self.size) < 1:
      raise ValueError(f"size: {self.size} must be at least 1 x 1.")
    check_ranges(self.scale, self.ratio)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Crops and scales; dtype and all other entries stay."""
    check_batch(batch)
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


def _or_middle(boxes: Boxes, size: tuple[int, ...], ratio: Interval) -> Boxes:
  """The largest box in the middle where none was found."""
  height, width = size
  if width / height < ratio[0]:
    height = round(width / ratio[0])
  elif width / height > ratio[1]:
    width = round(height * ratio[1])
  middle = ((size[0] - height) // 2, (size[1] - width) // 2, height, width)
  sides = [jnp.where(boxes.found, x, y) for x, y in zip(boxes[:4], middle, strict=True)]
  return boxes._replace(**dict(zip(Boxes._fields, sides, strict=False)))


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
  scale: Interval = (0.02, 0.4)
  ratio: Interval = (0.3, 1 / 0.3)
  fill: float | None = None

  def __post_init__(self):
    check_range("probability", self.probability, 0, 1)
    check_ranges(self.scale, self.ratio)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Erases; dtype and all other entries stay."""
    check_batch(batch)
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
