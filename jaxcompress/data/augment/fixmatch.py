"""The strong view of FixMatch: two operations of random strength, and a grey box."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_batch, check_range, check_whole
from jaxcompress.data.augment.color import check_channels
from jaxcompress.data.augment.randaugment import NAMES, apply_ops

AMOUNTS = {  # from and to, in the units of RandAugment's operations
  "shear_x": (-0.3, 0.3),
  "shear_y": (-0.3, 0.3),
  "translate_x": (-0.3, 0.3),
  "translate_y": (-0.3, 0.3),
  "rotate": (-30.0, 30.0),
  "brightness": (-0.95, -0.05),
  "color": (-0.95, -0.05),
  "contrast": (-0.95, -0.05),
  "sharpness": (-0.95, -0.05),
  "posterize": (4.0, 0.0),  # the bits that stay are rounded down
  "solarize": (0.0, 256.0),
}
GREY = (125, 123, 114)  # of the box


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixMatchAugment:
  """``count`` operations of random strength on each image, and a box of up to half a side in grey.

  Unlike in :class:`~jaxcompress.data.RandAugment`, strengths are drawn for each image and operation,
  and colours and contrasts only become weaker. It makes the strong views of MLKD, CRLD and others.

  Attributes:
    count: operations for each image, with replacement, among all of RandAugment's.
    box: largest side of the box, as a share of the image's width.
    fill: pixel value of what moves in from outside.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> batch = {"image": jnp.full((2, 8, 8, 3), 100, jnp.uint8)}
    >>> FixMatchAugment()(jax.random.key(0), batch)["image"].shape
    (2, 8, 8, 3)

  References:
    Sohn et al., `FixMatch <https://arxiv.org/abs/2001.07685>`_, 2020, appendix D, with the ranges of
    the code that MLKD's authors publish.
  """

  count: int = 2
  box: float = 0.5
  fill: float = 0.0

  def __post_init__(self):
    check_whole("count", self.count, 1)
    check_range("box", self.box, 0, 1)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Augments ``image``; float ones are rounded to whole pixel values, and keep their dtype."""
    check_batch(batch)
    images = batch["image"]
    check_channels(images)
    changed = images
    if images.dtype != jnp.uint8:
      changed = jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)
    *keys, box_key = jax.random.split(rng, self.count + 1)
    for key in keys:
      which_key, amount_key = jax.random.split(key)
      which = jax.random.randint(which_key, (len(images),), 0, len(NAMES))
      amounts = amounts_at(which, jax.random.uniform(amount_key, which.shape), images.shape[1:3])
      changed = apply_ops(changed, which, amounts, fill=self.fill)
    count, height, width, _ = images.shape
    side, row, column = jax.random.uniform(box_key, (3, count))
    changed = draw_boxes(changed, row * height, column * width, side * self.box * width)
    return {**batch, "image": changed.astype(images.dtype)}


def amounts_at(which: jax.Array, share: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """Each image's amount, a share of the way between its operation's ends; (batch,).

  Args:
    which: places in RandAugment's ``OPS``, (batch,) int32.
    share: (batch,) in [0, 1).
    size: (height, width); shifts are whole pixels.

  Examples:
    >>> place = jnp.array([NAMES.index("rotate"), NAMES.index("solarize")])
    >>> amounts_at(place, jnp.array([0.5, 0.25]), (32, 32)).tolist()
    [0.0, 64.0]
  """
  start, end = jnp.array([AMOUNTS.get(name, (0.0, 0.0)) for name in NAMES], jnp.float32)[which].T
  amount = start + share * (end - start)
  for name, length in zip(("translate_y", "translate_x"), size, strict=True):
    pixels = jnp.floor(amount * length + 0.5)
    shifted = (pixels + 0.25 * jnp.sign(pixels)) / length  # is cut to whole pixels, whatever rounds
    amount = jnp.where(which == NAMES.index(name), shifted, amount)
  return jnp.where(which == NAMES.index("posterize"), jnp.ceil(amount), amount)


def draw_boxes(
  images: jax.Array, rows: jax.Array, columns: jax.Array, sides: jax.Array
) -> jax.Array:
  """Images with grey boxes, as Pillow draws them.

  Args:
    images: (batch, height, width, 1 or 3).
    rows: where each box has its middle, (batch,) in pixels.
    columns: likewise.
    sides: of each box, (batch,) in pixels; of 0: none.

  Examples:
    >>> zeros, middle = jnp.zeros((1, 4, 4, 1), jnp.uint8), jnp.array([2.0])
    >>> draw_boxes(zeros, middle, middle, jnp.array([2.0]))[0, :, 3, 0].tolist()
    [0, 125, 125, 125]
  """
  count, height, width, channels = images.shape
  down, across = (
    _covered(middle, sides, length) for middle, length in ((rows, height), (columns, width))
  )
  box = down.reshape(count, height, 1, 1) & across.reshape(count, 1, width, 1)
  grey = jnp.array(GREY if channels == 3 else GREY[:1], images.dtype)
  return jnp.where(box & (sides > 0).reshape(-1, 1, 1, 1), grey.reshape(1, 1, 1, -1), images)


def _covered(middle: jax.Array, side: jax.Array, length: int) -> jax.Array:
  """Which of a line's pixels a box covers, (batch, length) bool; both of its ends are in it."""
  first = jnp.floor(jnp.maximum(middle - side / 2, 0)).reshape(-1, 1)
  place = jnp.arange(length, dtype=jnp.float32).reshape(1, -1)
  return (place >= first) & (place <= jnp.floor(first + side.reshape(-1, 1)))
