"""Random shift, flip and mixup, what small images need; and augmentations put together."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import (
  VIEW,
  check_batch,
  check_callable,
  check_range,
  check_type,
  check_whole,
)
from jaxcompress.data.augment.mixing import MOST_ALPHA, mix

Pad = Literal["edge", "zero"]
Transform = Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random shift, flip and mixup; hashable, so it can be part of a recipe.

  Attributes:
    crop: every image is shifted by up to this many pixels each way. The same as a random crop of
      the padded image.
    flip: whether every other image, by chance, is mirrored.
    mixup: ``alpha``; the images and labels of a batch are mixed with those of their neighbours in
      the batch, ``weight * own + (1 - weight) * neighbour`` with one weight a batch from
      Beta(alpha, alpha). The larger share is always the own one, which changes nothing in
      distribution and leaves ``label`` the likelier class. 0: no mixup.
    classes: number of classes; needed by ``mixup``.
    pad: what a shift leaves in the gap: the ``"edge"`` pixels once more, or ``"zero"``.

  Raises:
    ValueError: if a number is negative, ``pad`` is unknown, or ``mixup`` has no ``classes``.

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
  pad: Pad = "edge"

  def __post_init__(self):
    check_whole("crop", self.crop, 0)
    check_type("flip", self.flip, bool | np.bool_, "True or False")
    check_range("mixup", self.mixup, 0, MOST_ALPHA)
    if self.pad not in ("edge", "zero"):
      raise ValueError(f"pad: {self.pad!r} is unknown; it must be 'edge' or 'zero'.")
    if self.classes is not None:
      check_whole("classes", self.classes, 1)
    elif self.mixup:
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
    check_batch(batch)
    crop_key, flip_key, mixup_key = jax.random.split(rng, 3)
    batch = dict(batch)
    if self.crop:
      batch["image"] = random_shift(crop_key, batch["image"], self.crop, self.pad)
    if self.flip:
      batch["image"] = random_flip(flip_key, batch["image"])
    if self.mixup and self.classes is not None:
      weight = jax.random.beta(mixup_key, self.mixup, self.mixup)
      batch |= mix(batch, jnp.maximum(weight, 1 - weight), self.classes)
    return batch


def random_shift(rng: jax.Array, images: jax.Array, reach: int, pad: Pad = "edge") -> jax.Array:
  """Shifts every image by whole pixels, -reach to reach in both directions.

  Examples:
    >>> random_shift(jax.random.key(0), jnp.ones((2, 4, 4, 1)), 2).sum().item()
    32.0
  """
  count, height, width = images.shape[:3]
  offsets = jax.random.randint(rng, (2, count, 1), -reach, reach + 1)
  rows, columns = (
    jnp.arange(side).reshape(1, -1) + offset
    for side, offset in zip((height, width), offsets, strict=True)
  )
  which = jnp.arange(count).reshape(-1, 1, 1)
  shifted = images[
    which,
    jnp.clip(rows, 0, height - 1).reshape(count, -1, 1),
    jnp.clip(columns, 0, width - 1).reshape(count, 1, -1),
  ]
  if pad == "edge":
    return shifted
  inside = ((rows >= 0) & (rows < height)).reshape(count, -1, 1, 1)
  inside &= ((columns >= 0) & (columns < width)).reshape(count, 1, -1, 1)
  return jnp.where(inside, shifted, jnp.zeros((), images.dtype))


def random_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors every image left to right with probability one half."""
  mirrored = jax.random.bernoulli(rng, shape=(images.shape[0], 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class Composed:
  """Returned by :func:`compose`; equal ones are equal, so a step compiles once for them."""

  transforms: tuple[Transform, ...]

  def __post_init__(self):
    _check(self.transforms)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Applies all of them, each with a key of its own."""
    for place, transform in enumerate(self.transforms):
      batch = transform(jax.random.fold_in(rng, place), batch)
    return dict(batch)


def compose(*transforms: Transform) -> Composed:
  """Puts transforms one after another, for ``Recipe(augment=...)``.

  Args:
    *transforms: each ``(rng, batch) -> batch``.

  Returns:
    A transform.

  Raises:
    ValueError: if one cannot be called.

  Examples:
    >>> from jaxcompress.data import RandomErasing
    >>> augment = compose(Augment(crop=4, flip=True), RandomErasing())
    >>> augment(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8)})["image"].shape
    (2, 8, 8, 3)
  """
  return Composed(transforms)


@dataclasses.dataclass(frozen=True)
class Views:
  """Augments each image in several ways: the whole batch in the first, then in the second, ...

  Labels, places in the training set and everything else are repeated, so the batch is as many times
  larger, and a loss that averages over examples averages over views as well. Losses of several views
  know such a batch by its ``view`` (batch, views) bool, which says of which one each example is.

  Attributes:
    transforms: each ``(rng, batch) -> batch`` that keeps the batch's form; they get keys of their own.

  Raises:
    ValueError: if there are none, or one cannot be called.

  Examples:
    >>> from jaxcompress.data import RandAugment
    >>> weak = Augment(crop=4, flip=True)
    >>> augment = Views((weak, compose(weak, RandAugment())))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "label": jnp.array([4, 7])}
    >>> augmented = augment(jax.random.key(0), batch)
    >>> augmented["label"].tolist(), augmented["view"][:, 1].tolist()
    ([4, 7, 4, 7], [False, False, True, True])
  """

  transforms: tuple[Transform, ...]

  def __post_init__(self):
    if not isinstance(self.transforms, tuple) or not self.transforms:
      raise ValueError(f"transforms: {self.transforms!r} must be a tuple of at least one.")
    _check(self.transforms)

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Puts the views of a batch one after another."""
    keys = jax.random.split(rng, len(self.transforms))
    views = [view(key, batch) for view, key in zip(self.transforms, keys, strict=True)]
    batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), *views)
    size = len(batch["image"])
    which = jnp.repeat(jnp.eye(len(views), dtype=bool), size // len(views), axis=0)
    if VIEW in batch:  # of views of views
      which = (which[:, :, None] & batch[VIEW][:, None]).reshape(size, -1)
    return {**batch, VIEW: which}


def _check(transforms: tuple[Transform, ...]) -> None:
  for i, transform in enumerate(transforms):
    check_callable(f"transforms[{i}]", transform, "(rng, batch) -> batch")
