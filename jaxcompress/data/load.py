"""Data sets by name."""

import dataclasses
from typing import Any

from jaxcompress.arguments import check_whole
from jaxcompress.data.bundled import digits, glyphs
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.folder import folder
from jaxcompress.data.tfds import tfds

BUNDLED = {"glyphs": glyphs, "digits": digits}
ELSEWHERE = {"tfds": tfds, "folder": folder}  # with a name or path after a colon


def load(
  spec: str,
  *,
  seed: int = 0,
  size: int | None = None,
  limit: int | None = None,
  in_memory: bool | None = None,
  flip: bool | None = None,
) -> Dataset:
  """Loads a data set into memory, or finds its images where they lie if they would not fit.

  Args:
    spec: ``"glyphs"``, ``"digits"``, ``"tfds:NAME"``, ``"tfds:NAME@DATA_DIR"`` or
      ``"folder:PATH"``.
    seed: of what is rendered or split.
    size: side of the images in pixels; by default 32 for the built-in sets, else the images' own
      size from 28 to 64 pixels, 32 for smaller and 224 for larger ones.
    limit: at most this many images in each part.
    in_memory: of folders and tfds: whether images are decoded now, or each time when they are needed
      (see :class:`~jaxcompress.data.Stream`); None: now, if they take at most half of the memory.
    flip: whether mirrored images are trained on, which is right where a mirrored image keeps its
      label: a cat's does, a "b" becomes a "d". None: no, but for some sets of photos in
      tensorflow-datasets where it is known to be right.

  Returns:
    A :class:`Dataset`.

  Raises:
    ValueError: if the name is unknown, a number is out of range, or the data are not usable.

  Examples:
    >>> load("digits", limit=100).train.images.shape
    (100, 32, 32, 3)
  """
  check_whole("seed", seed, 0)
  for name, value in (("size", size), ("limit", limit)):
    if value is not None:
      check_whole(name, value, 1)
  if seed >= 2**64:
    raise ValueError(f"seed: {seed} must be a whole number below 2**64.")
  if flip not in (None, True, False):
    raise ValueError(f"flip: {flip!r} must be True, False or None.")
  if not isinstance(spec, str):
    raise ValueError(f"data: {spec!r} must be text, such as 'glyphs' or 'folder:PATH'.")
  kind, colon, rest = spec.partition(":")
  if kind not in (ELSEWHERE if colon else BUNDLED) or (colon and not rest):
    choices = "glyphs, digits, tfds:NAME or folder:PATH"
    raise ValueError(f"data: {spec!r} is unknown; it must be {choices}.")
  options: dict[str, Any] = {"seed": seed, "limit": limit} | (
    {} if size is None else {"size": size}
  )
  if colon:
    found = ELSEWHERE[kind](rest, in_memory=in_memory, **options)
  else:
    found = BUNDLED[kind](**options)
  return found if flip is None else dataclasses.replace(found, flip=flip)
