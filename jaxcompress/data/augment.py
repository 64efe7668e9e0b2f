"""Random changes of training images, on the device inside the jitted step."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random shift, flip and mixup; hashable, so it can be part of a recipe.

  Attributes:
    crop: every image is shifted by up to this many pixels each way; its edge pixels are repeated
      into the gap. The same as a random crop of the padded image.
    flip: whether every other image, by chance, is mirrored.
    mixup: ``alpha``; the images and labels of a batch are mixed with those of their neighbours in
      the batch, ``weight * own + (1 - weight) * neighbour`` with one weight a batch from
      Beta(alpha, alpha). The larger share is always the own one, which changes nothing in
      distribution and leaves ``label`` the likelier class. 0: no mixup.
    classes: number of classes; needed by ``mixup``.

  Raises:
    ValueError: if a number is negative, or ``mixup`` has no ``classes``.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "label": jnp.array([0, 1])}
    >>> Augment(flip=True)(jax.random.key(0), batch)["image"].dtype
    dtype('uint8')
    >>> Augment(mixup=0.2, classes=10)(jax.random.key(0), batch)["target"].shape
    (2, 10)

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018, section 2.
  """

  crop: int = 2
  flip: bool = False
  mixup: float = 0.0
  classes: int | None = None

  def __post_init__(self):
    for name in ("crop", "mixup"):
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name}: {getattr(self, name)} must not be negative.")
    if self.mixup and (self.classes is None or self.classes < 1):
      raise ValueError(
        f"classes: {self.classes} must be the number of classes when mixup is {self.mixup}; "
        "or set mixup=0."
      )

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Augments a batch.

    Args:
      rng: key.
      batch: ``image`` (batch, height, width, channels) of any dtype and ``label`` (batch,); with
        mixup also a ``target`` (batch, classes) if there is one.

    Returns:
      The batch with its ``image`` changed. Mixup makes it float32 and adds ``target``,
      (batch, classes) float32, whose rows sum to 1.
    """
    crop_key, flip_key, mixup_key = jax.random.split(rng, 3)
    batch = dict(batch)
    if self.crop:
      batch["image"] = random_shift(crop_key, batch["image"], self.crop)
    if self.flip:
      batch["image"] = random_flip(flip_key, batch["image"])
    if self.mixup:
      weight = jax.random.beta(mixup_key, self.mixup, self.mixup)
      batch |= mix(batch, jnp.maximum(weight, 1 - weight), self.classes)
    return batch


def random_shift(rng: jax.Array, images: jax.Array, reach: int) -> jax.Array:
  """Shifts every image by whole pixels, -reach to reach in both directions, and repeats its edge.

  Examples:
    >>> random_shift(jax.random.key(0), jnp.ones((2, 4, 4, 1)), 2).sum().item()
    32.0
  """
  count, height, width = images.shape[:3]
  offsets = jax.random.randint(rng, (2, count, 1), -reach, reach + 1)
  rows = jnp.clip(jnp.arange(height).reshape(1, -1) + offsets[0], 0, height - 1)
  columns = jnp.clip(jnp.arange(width).reshape(1, -1) + offsets[1], 0, width - 1)
  which = jnp.arange(count).reshape(-1, 1, 1)
  return images[which, rows.reshape(count, -1, 1), columns.reshape(count, 1, -1)]


def random_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors every image left to right with probability one half."""
  mirrored = jax.random.bernoulli(rng, shape=(images.shape[0], 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def mix(batch: Mapping[str, jax.Array], weight: jax.Array, classes: int) -> dict[str, jax.Array]:
  """``weight`` of every example and the rest of the one before it; the first takes the last.

  Args:
    batch: ``image`` and ``label`` or ``target``.
    weight: scalar, 0 to 1.
    classes: number of classes.

  Returns:
    ``image`` and ``target``, float32.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 1, 1, 1)), "label": jnp.array([0, 1])}
    >>> mix(batch, jnp.float32(0.75), 2)["target"].tolist()
    [[0.75, 0.25], [0.25, 0.75]]
  """
  target = batch.get("target")
  if target is None:
    target = jax.nn.one_hot(batch["label"], classes)

  def blend(x):
    x = x.astype(jnp.float32)
    return weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)

  return {"image": blend(batch["image"]), "target": blend(target)}
