"""Strengths of augmentation by name: none, light, medium or strong."""

from collections.abc import Sequence
from typing import Literal, get_args

from jaxcompress.arguments import unknown
from jaxcompress.data.augment.basic import Augment, Composed, Transform, compose
from jaxcompress.data.augment.boxes import RandomErasing, RandomResizedCrop
from jaxcompress.data.augment.color import ColorJitter
from jaxcompress.data.augment.randaugment import NAMES, RandAugment

Strength = Literal["none", "light", "medium", "strong"]
STRENGTHS: tuple[str, ...] = get_args(Strength)
SHIFT = 1 / 16  # of a side
GREY = 128  # what moves in from outside, and what is erased
SLOW = ("equalize", "sharpness")  # on CPUs four fifths of the time of all would be theirs
OPERATIONS = tuple(name for name in NAMES if name not in SLOW)


def augmentation(strength: Strength, image_shape: Sequence[int], *, flip: bool = False) -> Composed:
  """The augmentation of a strength, for ``Recipe(augment=...)``.

  ========== ==========================================================================
  none       nothing
  light      shifts of up to a sixteenth of the shorter side
  medium     boxes of 50 to 100 % of the area, brought to the whole size; brightness,
             contrast and saturation up to 20 % more or less
  strong     boxes of 25 to 100 %; RandAugment with two quick operations of magnitude 9;
             a box of up to a fifth of the area, in every fourth image, is grey
  ========== ==========================================================================

  Images that are neither grey nor RGB have no colours, so these stay as they are.

  Args:
    strength: ``"none"``, ``"light"``, ``"medium"`` or ``"strong"``.
    image_shape: (height, width, channels) of the images, such as ``data.image_shape``.
    flip: whether every other image, by chance, is mirrored as well, with any strength.

  Returns:
    A transform, equal for equal arguments.

  Raises:
    ValueError: if the strength is unknown.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> augment = augmentation("medium", (32, 32, 3), flip=True)
    >>> batch = {"image": jnp.zeros((2, 32, 32, 3), jnp.uint8), "label": jnp.array([0, 1])}
    >>> augment(jax.random.key(0), batch)["image"].shape
    (2, 32, 32, 3)
  """
  if strength not in STRENGTHS:
    raise unknown("strength", strength, STRENGTHS)
  height, width, channels = image_shape
  mirror: tuple[Transform, ...] = (Augment(crop=0, flip=True),) if flip else ()
  coloured = channels in (1, 3)
  if strength == "light":
    return compose(Augment(crop=max(1, round(SHIFT * min(height, width))), flip=flip))
  if strength == "medium":
    saturation = 0.2 if channels == 3 else 0.0
    jitter = ColorJitter(brightness=0.2, contrast=0.2, saturation=saturation)
    return compose(RandomResizedCrop(scale=(0.5, 1.0)), *mirror, *[jitter] * coloured)
  if strength == "strong":
    return compose(
      RandomResizedCrop(scale=(0.25, 1.0)),
      *mirror,
      *[RandAugment(ops=OPERATIONS, fill=GREY)] * coloured,
      RandomErasing(probability=0.25, scale=(0.02, 0.2), fill=GREY),
    )
  return compose(*mirror)
