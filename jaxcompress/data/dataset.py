"""A data set, as every source returns it: images and labels, in three parts."""

import dataclasses
from typing import Any

import numpy as np

from jaxcompress.data.storage import Both, EncodedImages
from jaxcompress.data.walk import fault

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
  """Images with their labels.

  Attributes:
    images: (count, height, width, channels) uint8, in host memory or still encoded.
    labels: (count,) int32, positions in the data set's ``classes``.

  Raises:
    ValueError: if shapes or dtypes are others, or an image has no pixels.

  Examples:
    >>> len(Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32)))
    5
  """

  images: np.ndarray | EncodedImages
  labels: np.ndarray

  def __post_init__(self):
    if self.images.dtype != np.uint8 or self.images.ndim != 4:
      raise ValueError(
        f"images: {self.images.dtype} of shape {self.images.shape} must be uint8 "
        "(count, height, width, channels)."
      )
    if 0 in self.images.shape[1:]:
      raise ValueError(
        f"images: shape {self.images.shape} has images without pixels; height, width and channels must"
        " be 1 or more."
      )
    if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
      raise ValueError(
        f"labels: {self.labels.dtype} of shape {self.labels.shape} must be int32 "
        f"({len(self.images)},), one for each image."
      )

  def __len__(self) -> int:
    return len(self.labels)

  def __repr__(self) -> str:
    return f"Split({len(self):,} images of {_size(self)})"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Dataset:
  """A data set for classification.

  Attributes:
    name: as given to :func:`~jaxcompress.data.load`.
    classes: names of the classes, in the order of the labels.
    train: what is trained on.
    validation: held out of the training images; settings are chosen on it.
    test: looked at once, at the end.
    flip: whether mirrored images are trained on: a mirrored image keeps its label.
    notes: lines on what was noticed when the set was read, such as files that were left out.

  Raises:
    ValueError: if the parts' images differ in shape, there are none to train on, a label names no
      class, or a class has a name that cannot be written everywhere: no text, blank, not UTF-8, with
      control characters.

  Examples:
    >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
    >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
    >>> data.image_shape, data.flip
    ((8, 8, 3), False)
  """

  name: str
  classes: tuple[str, ...]
  train: Split
  validation: Split
  test: Split
  flip: bool = False
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    for name in self.classes:
      if wrong := fault(name):
        raise ValueError(f"classes: {name!r} {wrong}; give the class another name.")
    if not len(self.train):
      raise ValueError("train: there are no images; give one or more.")
    for name in PARTS:
      part = getattr(self, name)
      if part.images.shape[1:] != self.image_shape:
        raise ValueError(
          f"{name}: images of shape {part.images.shape[1:]} differ from those of train, "
          f"{self.image_shape}; resize them to one size."
        )
      if len(part) and not 0 <= part.labels.min() <= part.labels.max() < len(self.classes):
        raise ValueError(
          f"{name}: labels {part.labels.min()} to {part.labels.max()} do not fit the "
          f"{len(self.classes)} classes; they must be 0 to {len(self.classes) - 1}."
        )

  def __repr__(self) -> str:
    counts = (f"{name} {len(getattr(self, name)):,}" for name in PARTS)
    return f"Dataset({self.name!r}, {', '.join(counts)}, {_size(self.train)}, {len(self.classes)} classes)"

  def with_validation_trained(self) -> "Dataset":
    """The set with its validation images trained on too; they are looked at all the same.

    Examples:
      >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
      >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
      >>> len(data.with_validation_trained().train)
      4
    """
    parts = (self.train, self.validation)
    first, second = (part.images for part in parts)
    if isinstance(first, EncodedImages) and isinstance(second, EncodedImages):
      joined: Any = EncodedImages(Both(first.source, second.source), first.size)
    else:
      joined = np.concatenate([first, second])
    labels = np.concatenate([part.labels for part in parts])
    return dataclasses.replace(self, train=Split(joined, labels))

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels) of every image."""
    return self.train.images.shape[1:]


def _size(split: Split) -> str:
  """(height, width, channels) of a split's images, as they are told."""
  return "x".join(map(str, split.images.shape[1:]))
