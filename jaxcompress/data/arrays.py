"""Data sets from arrays and sequences of images."""

import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxcompress.arguments import shown
from jaxcompress.data.gather import Files, gathered
from jaxcompress.data.images import SMALL
from jaxcompress.data.labels import as_labels
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.sources import Item, as_array, as_levels, channels_last, image_of
from jaxcompress.data.splits import random_order

LABELS = ("label", "labels", "target", "class", "fine_label", "coarse_label")  # of mappings
PAIR = "(images, labels), or a sequence of pairs"


def of_arrays(
  images: Any,
  labels: Any = None,
  *,
  classes: Sequence[str] | None = None,
  validation: Any = None,
  test: Any = None,
  name: str = "arrays",
  seed: int = 0,
  reader: ImageReader | None = None,
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> dict[str, Any]:
  """The fields of a data set; see :meth:`jaxcompress.data.Dataset.from_arrays`."""
  given = {"train": (images, labels)}
  for part, one in (("validation", validation), ("test", test)):
    if one is not None:
      given[part] = one if isinstance(one, tuple) and len(one) == 2 else (one, None)
  found = {part: _examples(part, *one) for part, one in given.items()}
  parts = {part: (one.sources, one.labels) for part, one in found.items()}
  if classes is None:
    classes = _known_classes(images, parts["train"])
  every = set().union(*(one.shapes for one in found.values()))
  shapes = set() if None in every else {shape for shape in every if shape is not None}
  if reader is None:
    reader = ImageReader(channels=1 if {shape[2] for shape in shapes} == {1} else 3)
  if reader.size is None and len({shape[:2] for shape in shapes}) == 1:
    height, width, _ = next(iter(shapes))
    reader = reader.at((height, width))
  return assembled(
    name,
    parts,
    classes,
    seed=seed,
    reader=reader,
    limit=limit,
    in_memory=in_memory,
    strict=strict,
  )


def assembled(
  name: str,
  parts: Mapping[str, tuple[list[Any], Any]],
  classes: Sequence[str] | None,
  *,
  seed: int,
  reader: ImageReader,
  limit: int | None,
  in_memory: bool | None,
  strict: bool,
  notes: Sequence[str] = (),
) -> dict[str, Any]:
  """The fields of a data set, from pictures and labels of any kind.

  Args:
    name: of the set.
    parts: pictures and labels of each part.
    classes: of the labels, see :func:`~jaxcompress.data.labels.as_labels`.
    seed: of the splits.
    reader: how pictures become images.
    limit: at most this many images in each part.
    in_memory: whether pixels are kept.
    strict: whether it is an error where images would be left out.
    notes: that the set has beside others.

  Raises:
    ValueError: if labels are no labels, or do not fit the pictures.
  """
  found, numbers, renamed = as_labels({p: got[1] for p, got in parts.items()}, classes, name)
  files, start = {}, 0
  for part, (sources, _) in parts.items():
    count = len(sources)
    if not count and part != "train":
      raise ValueError(
        f"{part}: there are no images; leave it out, and some of the others are split off."
      )
    if count != len(numbers[part]):
      raise ValueError(f"labels: there are {len(numbers[part])} for {count} images of {part}.")
    order = random_order(count, seed)
    files[part] = Files(
      sources, numbers[part], order, np.arange(start, start + count), np.arange(count)
    )
    start += count
  return gathered(
    name,
    found,
    files,
    pathlib.Path(),
    reader=reader,
    limit=limit,
    in_memory=in_memory,
    strict=strict,
    notes=(*notes, *renamed),
  )


class _Examples(NamedTuple):
  """Pictures of a part, and their labels.

  Attributes:
    sources: of the pictures.
    labels: of any kind.
    shapes: (height, width, channels) that arrays have; None among them is of what is no array.
  """

  sources: list[Any]
  labels: Any
  shapes: set[tuple[int, ...] | None]


def _examples(part: str, images: Any, labels: Any) -> _Examples:
  """Pictures of a part, and labels of any kind."""
  where = "images" if part == "train" else part
  if isinstance(images, Iterator | types.GeneratorType) or not hasattr(images, "__len__"):
    raise ValueError(
      f"{where}: {shown(images)} has no length; give an array or a sequence, such as list(images)."
    )
  if isinstance(images, str | bytes | Mapping | set | frozenset):
    raise ValueError(
      f"{where}: {shown(images)} must be an array or a sequence of images, or {PAIR}."
    )
  if labels is not None and not hasattr(labels, "__len__"):
    labels = list(labels) if isinstance(labels, Iterator) else labels
  if hasattr(images, "shape") and hasattr(images, "dtype"):
    if labels is None:
      raise ValueError(f"{where}: an array has no labels in it; give {PAIR}.")
    return _of_array(where, as_array(images), labels)
  found = _of_sequence(part, where, images, labels is None)
  return found if labels is None else found._replace(labels=labels)


def _of_array(where: str, images: np.ndarray, labels: Any) -> _Examples:
  """Items of an array of equal images."""
  try:
    pixels = as_levels(channels_last(images))
  except ValueError as error:
    raise ValueError(f"{where}: {error}.") from error
  part = "train" if where == "images" else where
  items = [Item(f"{part}/{i}", pixels, i) for i in range(len(pixels))]
  return _Examples(items, labels, {pixels.shape[1:]})


def _of_sequence(part: str, where: str, images: Any, paired: bool) -> _Examples:
  """Items of a sequence, each of which is looked at once, and their labels if they have them."""
  sources: list[Any] = []
  labels: list[Any] = []
  shapes: set[tuple[int, ...] | None] = set()
  high, floats = 0.0, False
  for i in range(len(images)):
    try:
      example = images[i]
    except Exception as error:
      raise ValueError(
        f"{where}: example {i} cannot be read ({type(error).__name__}: {error})."
      ) from error
    if paired:
      labels.append(_label(where, example, i))
    elif isinstance(example, tuple | Mapping):
      raise ValueError(f"{where}: its examples have labels already; leave labels out.")
    image = image_of(example)
    if isinstance(image, str | pathlib.Path):
      sources.append(pathlib.Path(image).expanduser())
      shapes.add(None)
      continue
    sources.append(Item(f"{part}/{i}", images, i))
    if isinstance(image, bytes):
      shapes.add(None)
    elif isinstance(image, Image.Image):
      shapes.add(None if max(image.size) > SMALL else (image.height, image.width, 3))
    else:
      pixels = as_array(image)
      shapes.add(_shape(pixels))
      if pixels.dtype.kind in "iuf" and pixels.dtype != np.uint8 and pixels.size:
        floats, high = True, max(high, float(np.nan_to_num(pixels).max()))
  if floats:
    white = 255 if high > 1 else 1
    sources = [
      Item(one.name, one.sequence, one.place, white) if isinstance(one, Item) else one
      for one in sources
    ]
  return _Examples(sources, labels, shapes)


def _shape(pixels: np.ndarray) -> tuple[int, ...] | None:
  """Returns height, width and channels of an image; None if it is not one, an error where it is read."""
  try:
    return channels_last(pixels[None]).shape[1:]
  except ValueError:
    return None


def _label(where: str, example: Any, place: int) -> Any:
  """The label of an example that holds one."""
  if isinstance(example, Mapping):
    found = next((example[name] for name in LABELS if name in example), None)
    if found is None or image_of(example) is None:
      raise ValueError(
        f"{where}: example {place} has {', '.join(map(str, example))}; it must have image and label."
      )
    return _plain(found)
  if not isinstance(example, tuple) or len(example) != 2:
    raise ValueError(
      f"{where}: example {place}, {shown(example)}, has no label; give labels, or pairs of image and label."
    )
  return _plain(example[1])


def _plain(label: Any) -> Any:
  return label if isinstance(label, str | int) else as_array(label).tolist()


def _known_classes(images: Any, examples: tuple[list[Any], Any]) -> list[str] | None:
  """The classes that a data set of others names itself, such as torchvision's."""
  names = getattr(images, "classes", None)
  if isinstance(names, list | tuple) and names and all(isinstance(n, int) for n in examples[1]):
    return [str(name) for name in names]
  return None
