"""RandAugment: a few random operations of one strength on every image.

Fourteen operations on a whole batch would be fourteen results of which one is used. They are three
kinds instead, each computed once: a table of 256 values for every channel, an affine map, and a
blend with the grey or the smoothed image. An image that got another kind has the identity there.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_batch, check_range, check_whole
from jaxcompress.data.augment import pillow
from jaxcompress.data.augment.color import check_channels, per_image

LEVELS = 30


class Op(NamedTuple):
  """An operation, and the meaning of its strength.

  Attributes:
    weakest: its amount at magnitude 0.
    strongest: at 30; in between it is linear.
    signed: whether the amount is negative by chance.
    unit: of the amount.
  """

  weakest: float
  strongest: float
  signed: bool
  unit: str


OPS = {
  "identity": Op(0, 0, False, ""),
  "shear_x": Op(0, 0.3, True, "slope"),
  "shear_y": Op(0, 0.3, True, "slope"),
  "translate_x": Op(0, 150 / 331, True, "share of the width"),
  "translate_y": Op(0, 150 / 331, True, "share of the height"),
  "rotate": Op(0, 30, True, "degrees"),
  "brightness": Op(0, 0.9, True, "factor less 1"),
  "color": Op(0, 0.9, True, "factor less 1"),
  "contrast": Op(0, 0.9, True, "factor less 1"),
  "sharpness": Op(0, 0.9, True, "factor less 1"),
  "posterize": Op(0, 4, False, "bits taken away"),
  "solarize": Op(255, 0, False, "least inverted pixel"),
  "autocontrast": Op(0, 0, False, ""),
  "equalize": Op(0, 0, False, ""),
}
NAMES = tuple(OPS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
  """``count`` operations of :data:`OPS`, drawn for every image, one after another.

  Attributes:
    count: operations for each image, ``N``.
    magnitude: their strength, ``M``, 0 to 30.
    ops: names of the operations to draw from.
    fill: pixel value of what moves in from outside.
    interpolation: of shears, shifts and rotations.

  Raises:
    ValueError: if a number is out of range or a name unknown.

  Examples:
    >>> batch = {"image": jnp.full((2, 8, 8, 3), 100, jnp.uint8)}
    >>> RandAugment(ops=("rotate",), fill=100)(jax.random.key(0), batch)["image"].min().item()
    100

  References:
    Cubuk et al., `RandAugment <https://arxiv.org/abs/1909.13719>`_, 2019, section 3. Amounts are
    those of AutoAugment's (Cubuk et al., 2018, appendix A), as torchvision has them.
  """

  count: int = 2
  magnitude: float = 9.0
  ops: tuple[str, ...] = NAMES
  fill: float = 0.0
  interpolation: pillow.Interpolation = "nearest"

  def __post_init__(self):
    check_whole("count", self.count, 1)
    check_range("magnitude", self.magnitude, 0, LEVELS)
    unknown = [name for name in self.ops if name not in OPS]
    if unknown or not self.ops:
      raise ValueError(f"ops: {unknown or 'none'} must be among {', '.join(OPS)}.")
    if self.interpolation not in ("nearest", "bilinear"):
      raise ValueError(f"interpolation: {self.interpolation!r} must be 'nearest' or 'bilinear'.")

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Augments ``image``; float ones are rounded to whole pixel values, and keep their dtype."""
    check_batch(batch)
    images = batch["image"]
    check_channels(images)
    changed = images
    if images.dtype != jnp.uint8:
      changed = jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)
    known = jnp.array([NAMES.index(name) for name in self.ops])
    for key in jax.random.split(rng, self.count):
      op_key, sign_key = jax.random.split(key)
      which = jax.random.choice(op_key, known, (len(images),))
      negative = jax.random.bernoulli(sign_key, shape=which.shape)
      amounts = amounts_of(which, self.magnitude, negative)
      changed = apply_ops(
        changed, which, amounts, ops=self.ops, fill=self.fill, interpolation=self.interpolation
      )
    return {**batch, "image": changed.astype(images.dtype)}


def amounts_of(which: jax.Array, magnitude: float, negative: jax.Array) -> jax.Array:
  """Turns a magnitude into each image's amount, in its operation's unit; (batch,)."""
  rows = jnp.array([op[:3] for op in OPS.values()], jnp.float32)[which]
  amount = rows[:, 0] + magnitude / LEVELS * (rows[:, 1] - rows[:, 0])
  return jnp.where(negative & (rows[:, 2] > 0), -amount, amount)


def apply_ops(
  images: jax.Array,
  which: jax.Array,
  amounts: jax.Array,
  *,
  ops: tuple[str, ...] = NAMES,
  fill: float = 0.0,
  interpolation: pillow.Interpolation = "nearest",
) -> jax.Array:
  """One operation on each image, as Pillow does it.

  Args:
    images: (batch, height, width, 1 or 3) uint8.
    which: places in :data:`OPS`, (batch,) int32.
    amounts: in each operation's unit, (batch,) float32.
    ops: names of those that may occur.
    fill: pixel value of what moves in from outside.
    interpolation: of shears, shifts and rotations.

  Returns:
    (batch, height, width, channels) uint8.
  """
  masks = {name: which == NAMES.index(name) for name in ops}

  def on(name):
    return masks.get(name, jnp.zeros(which.shape, bool))

  if masks.keys() & pillow.TABLES.keys():
    images = pillow.look_up(images, pillow.tables(images, masks, amounts))
  if masks.keys() & {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}:
    matrices = _matrices(on, amounts, images.shape[1:3])
    images = pillow.affine(images, matrices, fill=fill, interpolation=interpolation)
  if masks.keys() & {"color", "sharpness"}:
    factor = jnp.where(on("color") | on("sharpness"), 1 + amounts, 1.0)
    smooth = per_image(on("sharpness"))
    base = jnp.where(smooth, pillow.smoothed(images), pillow.grey_levels(images))
    images = pillow.blend_levels(base, images.astype(jnp.int32), per_image(factor)).astype(
      jnp.uint8
    )
  return images


def _matrices(on, amounts: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """Matrices of each image's shear, shift or rotation about the middle; else the identity."""
  height, width = size
  angle = jnp.where(on("rotate"), -jnp.deg2rad(amounts), 0.0)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  x, y = width / 2, height / 2
  b = jnp.where(on("shear_x"), amounts, sin)
  d = jnp.where(on("shear_y"), amounts, -sin)
  c = jnp.where(on("translate_x"), jnp.trunc(amounts * width), x - cos * x - sin * y)
  f = jnp.where(on("translate_y"), jnp.trunc(amounts * height), y + sin * x - cos * y)
  return jnp.stack([jnp.stack([cos, b, c], -1), jnp.stack([d, cos, f], -1)], 1)
