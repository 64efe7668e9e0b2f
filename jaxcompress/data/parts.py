"""The parts of a data set: images with their labels."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxcompress.data.order import Members, Shards, members_of
from jaxcompress.data.storage import EncodedImages, picked

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
  """Images with their labels.

  Attributes:
    images: (count, height, width, channels) uint8, in host memory or still encoded.
    labels: (count,) int32, positions in the data set's ``classes``.
    names: of the image files, below the folder that they were read from; None of other sets.

  Raises:
    ValueError: if shapes or dtypes are others, an image has no pixels, or there are more or fewer names.

  Examples:
    >>> len(Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32)))
    5
  """

  images: np.ndarray | EncodedImages
  labels: np.ndarray
  names: Sequence[str] | None = None

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
    if self.names is not None and len(self.names) != len(self.labels):
      raise ValueError(f"names: there are {len(self.names)} for {len(self.labels)} images.")

  @functools.cached_property
  def members(self) -> Members:
    """The places of each class's examples; see :func:`~jaxcompress.data.members_of`."""
    return members_of(self.labels)

  @functools.cached_property
  def shards(self) -> Shards | None:
    """The files that several of the images each lie in; None if there are none."""
    layout = self.images.source.layout() if isinstance(self.images, EncodedImages) else None
    if layout is None:
      return None
    order = np.lexsort((layout.place, layout.file)).astype(np.int32)
    sizes = np.bincount(layout.file, minlength=len(layout.files))
    there = np.flatnonzero(sizes).tolist()
    files = tuple(layout.files[i] for i in there)
    return Shards(files, tuple(sizes[there].tolist()), order)

  def pick(self, chosen: np.ndarray) -> "Split":
    """Some of the examples; images that lie on disk are read where they are needed.

    Args:
      chosen: (some,) places.
    """
    names = None if self.names is None else [self.names[i] for i in chosen]
    return Split(picked(self.images, chosen), self.labels[chosen], names)

  def __len__(self) -> int:
    return len(self.labels)

  def __repr__(self) -> str:
    return f"Split({len(self):,} images of {size_text(self)})"


def size_text(split: Split) -> str:
  """(height, width, channels) of a split's images, as they are told."""
  return "x".join(map(str, split.images.shape[1:]))
