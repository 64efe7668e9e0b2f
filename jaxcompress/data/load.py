"""Data sets by name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from jaxcompress.arguments import check_type, check_whole
from jaxcompress.data.bundled import digits, glyphs
from jaxcompress.data.cifar import cifar
from jaxcompress.data.dataset import Dataset, check_choices
from jaxcompress.data.folder import folder
from jaxcompress.data.huggingface import saved
from jaxcompress.data.idx import fashion_mnist, idx, mnist
from jaxcompress.data.npz import archive
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.shards import shards
from jaxcompress.data.tables import table
from jaxcompress.data.tfds import tfds

BUNDLED: dict[str, Callable[..., Dataset]] = {"glyphs": glyphs, "digits": digits}
INSTALLED: dict[str, Callable[..., Dataset]] = {  # where packages put them, or at a path
  "fashion-mnist": fashion_mnist,
  "mnist": mnist,
}
ELSEWHERE: dict[str, Callable[..., Dataset]] = {  # with a name or path after a colon
  "folder": folder,
  "csv": table,
  "npz": archive,
  "hf": saved,
  "wds": shards,
  "idx": idx,
  "cifar": cifar,
  "tfds": tfds,
}
SPECS = {  # as they are written
  "glyphs": "glyphs",
  "digits": "digits",
  "fashion-mnist": "fashion-mnist",
  "mnist": "mnist",
  "folder": "folder:PATH",
  "csv": "csv:FILE",
  "npz": "npz:FILE",
  "hf": "hf:FOLDER",
  "wds": "wds:FILES",
  "idx": "idx:FOLDER",
  "cifar": "cifar:PATH",
  "tfds": "tfds:NAME",
}
ENDINGS = {
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "csv",
  ".npz": "npz",
  ".parquet": "hf",
  ".tar": "wds",
}
NAMED = ("folder", "csv")  # whose images have names to group by
STRICT = (*NAMED, *INSTALLED, "npz", "hf", "wds", "idx", "cifar")  # which may have damage or copies


def load(
  spec: str,
  *,
  seed: int = 0,
  size: int | None = None,
  reader: ImageReader | None = None,
  limit: int | None = None,
  in_memory: bool | None = None,
  flip: bool | None = None,
  group_by: str | None = None,
  strict: bool = False,
) -> Dataset:
  """Loads a data set into memory, or finds its images where they lie if they would not fit.

  Args:
    spec: ``"glyphs"``, ``"digits"``, ``"folder:PATH"``, ``"csv:FILE"``, ``"npz:FILE"``, ``"hf:FOLDER"``,
      ``"wds:FILES"``, ``"fashion-mnist"`` or ``"mnist"`` (perhaps with ``":FOLDER"``), ``"idx:FOLDER"``,
      ``"cifar:PATH"``, ``"tfds:NAME"`` or ``"tfds:NAME@DATA_DIR"``.
    seed: of what is rendered or split.
    size: side of the images in pixels; by default 32 for the built-in sets, else the images' own
      size from 28 to 64 pixels, 32 for smaller and 224 for larger ones.
    reader: how pictures become images, but of the built-in sets; its size, if it has one, counts where
      ``size`` is not given. None: the default one.
    limit: at most this many images in each part.
    in_memory: likewise whether images are decoded now, or each time when they are needed
      (see :class:`~jaxcompress.data.Stream`); None: now, if they take at most half of the memory.
    flip: whether mirrored images are trained on, which is right where a mirrored image keeps its
      label: a cat's does, a "b" becomes a "d". None: yes for Fashion-MNIST, CIFAR and some sets of
      photos in tensorflow-datasets, where it is known to be right, no for glyphs and digits, else open: see
      :func:`~jaxcompress.data.decide_flip`.
    group_by: of folders and tables: a regular expression on file names, such as ``"(patient[0-9]+)_"``;
      images in whose names it finds the same text stay in one part.
    strict: but of the built-in sets and tfds: whether damaged images, and copies in several classes or parts, are an error;
      else they are left out, counted in ``notes`` and listed in ``skipped``. Of published sets (MNIST's
      files and CIFAR's) such copies are counted, but kept.

  Returns:
    A :class:`Dataset`.

  Raises:
    ValueError: if the name is unknown, a number is out of range, or the data are not usable.

  Examples:
    >>> load("digits", limit=100).train.images.shape
    (100, 32, 32, 3)
  """
  check_choices(seed, limit, flip)
  if size is not None:
    check_whole("size", size, 1)
  if not isinstance(spec, str):
    raise ValueError(f"data: {spec!r} must be text, such as 'glyphs' or 'folder:PATH'.")
  kind, colon, rest = spec.partition(":")
  sources = INSTALLED | (ELSEWHERE if colon else BUNDLED)
  if kind not in sources or (colon and not rest):
    raise _unknown(spec, kind, bool(colon))
  check_type("reader", reader, ImageReader | None, "a data.ImageReader, or None")
  reader = reader or ImageReader()
  reader = reader if size is None else reader.at(size)
  options: dict[str, Any] = {"seed": seed, "limit": limit}
  if kind in STRICT:
    options["strict"] = strict
  if kind in NAMED:
    options["group_by"] = group_by
  elif group_by is not None:
    raise ValueError(f"group_by: {spec} has no file names to group by; leave it out.")
  if kind in BUNDLED:
    if reader.channels != 3:
      raise ValueError(f"channels: {kind} is in RGB, got {reader.channels}; leave it out.")
    drawn = {} if reader.size is None else {"size": _side(reader)}
    found = sources[kind](**options, **drawn)
    found = dataclasses.replace(found, reader=reader.at(found.image_shape[:2]))
  else:
    found = sources[kind](rest or None, reader=reader, in_memory=in_memory, **options)
  return found if flip is None else dataclasses.replace(found, flip=flip)


def _unknown(spec: str, kind: str, colon: bool) -> ValueError:
  """Returns the error for an unknown name: it suggests the nearest one, then lists all."""
  known = [*SPECS.values()]
  near = f"{kind} is written {SPECS[kind]}; " if kind in SPECS else ""
  path = pathlib.Path(spec).expanduser()
  if not near and spec and os.path.exists(path):
    ending = ENDINGS.get(path.suffix.lower())
    ending = "folder" if path.is_dir() else ending
    near = f"did you mean {ending}:{spec}? " if ending else ""
  must = "It must" if near.endswith("? ") else "it must"
  return ValueError(
    f"data: {spec!r} is unknown; {near}{must} be {', '.join(known[:-1])} or {known[-1]}."
  )


def _side(reader: ImageReader) -> int:
  """Returns the side of the square images that the built-in sets draw.

  Raises:
    ValueError: if it reads no squares.
  """
  height, width = reader.size
  if height != width:
    raise ValueError(f"size: the built-in sets are squares, got {height} x {width}; give one side.")
  return height
