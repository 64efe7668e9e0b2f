"""A data set, as every source returns it: images and labels, in three parts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcompress.arguments import check_type, check_whole
from jaxcompress.data.arrays import of_arrays
from jaxcompress.data.copies import Skipped
from jaxcompress.data.parts import PARTS, Split, size_text
from jaxcompress.data.reader import ImageReader, Size
from jaxcompress.data.storage import Both, EncodedImages
from jaxcompress.data.walk import fault


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Dataset:
  """A data set for classification.

  Attributes:
    name: as given to :func:`~jaxcompress.data.load`.
    classes: names of the classes, in the order of the labels.
    train: what is trained on.
    validation: held out of the training images; settings are chosen on it.
    test: looked at once, at the end.
    flip: whether mirrored images are trained on: a mirrored image keeps its label. None: open, see
      :func:`~jaxcompress.data.decide_flip`.
    notes: lines on what was noticed when the set was read, such as files that were left out.
    skipped: all image files that were left out because they are damaged or copies, with the reasons.
    sizes: (height, width) of the smallest picture, the median one and the largest by their areas, before
      they were brought to one size; None where that is not known.
    reader: how a picture becomes an image of the set; None: in the default way, at the images' size.

  Raises:
    ValueError: if the parts' images differ in shape, there are none to train on, a label names no
      class, or a class has a name that cannot be written everywhere: no text, blank, not UTF-8, with
      control characters.

  Examples:
    >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
    >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
    >>> data.image_shape, data.flip
    ((8, 8, 3), None)
  """

  name: str
  classes: tuple[str, ...]
  train: Split
  validation: Split
  test: Split
  flip: bool | None = None
  notes: tuple[str, ...] = ()
  skipped: tuple[Skipped, ...] = ()
  sizes: tuple[Size, ...] | None = None
  reader: Any = None

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
    if self.reader is None:
      object.__setattr__(
        self, "reader", ImageReader(self.image_shape[:2], channels=_channels(self))
      )
    check_type("reader", self.reader, ImageReader, "a data.ImageReader")

  @classmethod
  def from_arrays(
    cls,
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
    flip: bool | None = None,
    strict: bool = False,
  ) -> "Dataset":
    """A data set of arrays or of any sequence: NumPy's, JAX's, PyTorch's, lists, data sets of others.

    What is not given is split off: 20 % of each class to test and 10 % for validation, by the seed;
    without a test part, validation is it. Damaged images and copies in several classes or parts are
    left out and counted, as with folders.

    Args:
      images: an array, (count, height, width), with 1 or 3 channels last or first; or a sequence of
        images, each such an array, of Pillow's, or a path. Without ``labels`` a sequence of pairs
        ``(image, label)`` or of mappings with ``image`` and ``label``. Sequences that make their items
        when they are asked need not fit in memory.

        Pixels are uint8 of 0 to 255. Other numbers are taken where it is certain what they mean: whole
        ones of 0 to 255, those divided by 255, and truth values.
      labels: (count,) or (count, 1) whole numbers of any dtype, truth values or names; or rows of one 1
        among zeros.
      classes: names of the classes, of which numbers are the positions. None: the numbers or names that
        occur, sorted; or what ``images.classes`` says, as torchvision's sets do.
      validation: ``(images, labels)``, or a sequence of pairs; settings are chosen on it.
      test: likewise, looked at once, at the end.
      name: of the set.
      seed: of the splits.
      reader: how pictures become images; None: arrays of one shape keep it, in one array or one by
        one, and so do Pillow's images of one size up to 64 pixels, as RGB. Others are brought to the most frequent size if none is larger than 64 pixels, else to
        224, as RGB.
      limit: at most this many images in each part, with the classes' shares kept.
      in_memory: whether pixels are kept, or made each time when they are needed; None: if they take at
        most half of the memory.
      flip: whether mirrored images are trained on; None: open.
      strict: whether it is an error where images would be left out.

    Raises:
      ValueError: if images or labels are something else, do not fit each other, or what their numbers
        mean is not certain; if there are fewer than two classes, or too few images of one.

    Examples:
      >>> pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
      >>> Dataset.from_arrays(pixels, np.arange(20) % 2, classes=["cat", "dog"])
      Dataset('arrays', train 14, validation 2, test 4, 32x32x3, 2 classes)
    """
    check_choices(seed, limit, flip)
    found = of_arrays(
      images,
      labels,
      classes=classes,
      validation=validation,
      test=test,
      name=name,
      seed=seed,
      reader=reader,
      limit=limit,
      in_memory=in_memory,
      strict=strict,
    )
    return cls(flip=flip, **found)

  def __repr__(self) -> str:
    counts = (f"{name} {len(getattr(self, name)):,}" for name in PARTS)
    return f"Dataset({self.name!r}, {', '.join(counts)}, {size_text(self.train)}, {len(self.classes)} classes)"

  def with_validation_trained(self) -> "Dataset":
    """Returns the set with its validation images trained on too; they are still evaluated.

    Examples:
      >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
      >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
      >>> len(data.with_validation_trained().train)
      4
    """
    parts = (self.train, self.validation)
    first, second = (part.images for part in parts)
    if isinstance(first, EncodedImages) and isinstance(second, EncodedImages):
      joined: Any = EncodedImages(Both(first.source, second.source), first.reader)
    else:
      joined = np.concatenate([first, second])
    labels = np.concatenate([part.labels for part in parts])
    names = [part.names for part in parts]
    both = None if None in names else [name for part in names for name in part or ()]
    return dataclasses.replace(self, train=Split(joined, labels, both))

  def to_metadata(self) -> dict[str, Any]:
    """Entries for the metadata of model files: ``classes``, ``image_shape``, and those of the reader.

    Examples:
      >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
      >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
      >>> sorted(data.to_metadata())
      ['classes', 'image_shape', 'preprocess', 'reader']
    """
    facts = {"classes": list(self.classes), "image_shape": list(self.image_shape)}
    return {**facts, **self.reader.to_metadata()}

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels) of every image."""
    return self.train.images.shape[1:]


def check_choices(seed: Any, limit: Any, flip: Any) -> None:
  """Checks what every source of a data set takes.

  Args:
    seed: of splits and choices, a whole number of 64 bits.
    limit: of images in each part, or None.
    flip: True, False or None.

  Raises:
    ValueError: if one is something else.

  Examples:
    >>> check_choices(0, None, "yes")
    Traceback (most recent call last):
    ValueError: flip: 'yes' must be True, False or None.
  """
  check_whole("seed", seed, 0)
  if seed >= 2**64:
    raise ValueError(f"seed: {seed} must be a whole number below 2**64.")
  if limit is not None:
    check_whole("limit", limit, 1)
  if not any(flip is choice for choice in (None, True, False)):
    raise ValueError(f"flip: {flip!r} must be True, False or None.")


def _channels(data: Dataset) -> int:
  """Returns the channels of a reader of pictures; sets of arrays may have other numbers of them."""
  return 1 if data.image_shape[-1] == 1 else 3
