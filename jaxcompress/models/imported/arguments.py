"""Checks of the importers' arguments before anything is traced."""

import inspect
from typing import Any

from jaxcompress.arguments import shown
from jaxcompress.nn.foreign import FUNCTION, Kind, described, kind_of, way_of

ARRAY = "an array or a jax.ShapeDtypeStruct (batch, height, width, channels)"


def shape_of(images: Any) -> tuple[int, ...]:
  """The shape of the images that a network is to read.

  Raises:
    ValueError: if they are no batch of images.

  Examples:
    >>> import numpy as np
    >>> shape_of(np.ones((1, 8, 8, 3)))
    (1, 8, 8, 3)
  """
  if not hasattr(images, "shape"):
    raise ValueError(f"images must be {ARRAY}, got {shown(images)}.")
  shape = tuple(images.shape)
  if len(shape) == 3:
    raise ValueError(
      f"images: shape {shape} must be (batch, height, width, channels); of one image pass image[None]."
    )
  if len(shape) != 4:
    raise ValueError(f"images: shape {shape} must be (batch, height, width, channels).")
  return shape


def check_kind(argument: str, value: Any, kind: Kind, wanted: str) -> None:
  """Checks that a model is of the kind that an importer takes; of another it says the importer.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_kind("model", {}, FUNCTION, "a function")
    Traceback (most recent call last):
    ValueError: model must be a function, got {}.
  """
  found = kind_of(value)
  if found is not kind:
    raise ValueError(f"{argument} must be {wanted}, got {described(value)}{way_of(found)}.")


def check_apply(value: Any) -> None:
  """Checks that a value is a function, and no module, which other importers take.

  Functions that Equinox wraps are modules of its own, and functions all the same.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_apply(lambda variables, images: images)
  """
  found = kind_of(value)
  wrapped = type(value).__module__.startswith("equinox.")
  if callable(value) and not inspect.isclass(value) and (found in (None, FUNCTION) or wrapped):
    return
  raise ValueError(
    f"apply must be a function (variables, images) -> logits, got {described(value)}{way_of(found)}."
  )
