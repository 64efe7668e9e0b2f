"""Random boxes of pictures as they are stored, read in place of the whole: the usual recipe for ImageNet."""

import dataclasses
import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxcompress.arguments import check_type
from jaxcompress.data.reader import ImageFile, ImageReader, Size
from jaxcompress.data.reading import flattened

Interval = tuple[float, float]
TRIES = 10
CROPS = 3  # in the seeds of boxes, beside those of orders
FINER = 2  # times the wanted size that a JPEG is decoded to at least
TURNED = 5  # and above: EXIF orientations that swap the sides


class Box(NamedTuple):
  """A box in a picture, in pixels."""

  top: int
  left: int
  height: int
  width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropOnRead:
  """A random box of the original picture, scaled to the size of the images, instead of the whole picture.

  It is what torchvision's ``RandomResizedCrop`` does: an area uniform in ``scale``, a ratio log-uniform in
  ``ratio``, anywhere; where none of ten tries fits into the picture, the largest box in the middle whose
  ratio is allowed. :class:`~jaxcompress.data.RandomResizedCrop` instead cuts from images that were brought
  to one size, of which the sides and, after scaling, the detail are gone.

  It is for sets that are not in memory: :func:`~jaxcompress.data.batch_at` and
  :class:`~jaxcompress.data.Stream` take it as ``crop=``. The box is a function of the seed, the position
  and the place in the batch, whichever process reads it. Evaluation reads pictures whole.

  Attributes:
    scale: range of the box's area, as a share of the picture's.
    ratio: range of its width over its height.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> picture = Image.new("RGB", (500, 375), "red")
    >>> rng = np.random.default_rng(0)
    >>> CropOnRead()(picture, ImageReader(32), rng).shape
    (32, 32, 3)

  References:
    Szegedy et al., `Going Deeper with Convolutions <https://arxiv.org/abs/1409.4842>`_, 2015,
    section 6.
  """

  scale: Interval = (0.08, 1.0)
  ratio: Interval = (3 / 4, 4 / 3)

  def __post_init__(self):
    check_ranges(self.scale, self.ratio)

  def __call__(
    self, source: ImageFile, reader: ImageReader, rng: np.random.Generator
  ) -> np.ndarray:
    """Reads a box of one image.

    Args:
      source: a path, the bytes of a file, or an image of Pillow's.
      reader: gives the size, the filter and the channels.
      rng: of the box.

    Returns:
      (height, width, channels) uint8.

    Raises:
      ValueError: if the reader has no size.
      OSError: if the image is damaged; Pillow raises almost anything.
    """
    check_type("size", reader.size, tuple, "a size of the reader, such as ImageReader(224)")
    if isinstance(source, Image.Image):
      image = flattened(ImageOps.exif_transpose(source))
      whole = image.height, image.width
      box = self.box(whole, rng)
    else:
      with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        whole = file.height, file.width
        if file.getexif().get(0x0112, 1) >= TURNED:
          whole = whole[::-1]
        box = self.box(whole, rng)
        scale = FINER * max(reader.size[0] / box.height, reader.size[1] / box.width)
        if file.format == "JPEG" and scale < 1:  # decodes at a half, a quarter or an eighth
          file.draft("RGB", (math.ceil(file.width * scale), math.ceil(file.height * scale)))
        image = flattened(ImageOps.exif_transpose(file))
    image = image.convert("RGB" if reader.channels == 3 else "L")
    y, x = image.height / whole[0], image.width / whole[1]  # 1 unless it was decoded at a fraction
    left, top = box.left * x, box.top * y
    right, bottom = (box.left + box.width) * x, (box.top + box.height) * y
    right, bottom = min(right, image.width), min(bottom, image.height)
    first = math.floor(left), math.floor(top)
    image = image.crop(
      (*first, math.ceil(right), math.ceil(bottom))
    )  # a filter would reach outside
    inner = (left - first[0], top - first[1], right - first[0], bottom - first[1])
    height, width = reader.size
    scaled = image.resize((width, height), Image.Resampling[reader.filter.upper()], inner)
    return np.asarray(scaled).reshape(height, width, reader.channels)

  def box(self, size: Size, rng: np.random.Generator) -> Box:
    """Draws a box.

    Args:
      size: (height, width) of a picture.
      rng: where the numbers come from.

    Examples:
      >>> CropOnRead(scale=(0.25, 0.25), ratio=(1.0, 1.0)).box((8, 8), np.random.default_rng(0))[2:]
      (4, 4)
      >>> CropOnRead(ratio=(1.0, 1.0), scale=(1.0, 1.0)).box((8, 32), np.random.default_rng(0))
      Box(top=0, left=12, height=8, width=8)
    """
    height, width = size
    low, high = (math.log(ratio) for ratio in self.ratio)
    for share, shape in rng.random((TRIES, 2)).tolist():
      area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
      ratio = math.exp(low + (high - low) * shape)
      wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
      if 0 < wide <= width and 0 < tall <= height:
        top, left = (int(rng.integers(room + 1)) for room in (height - tall, width - wide))
        return Box(top, left, tall, wide)
    tall, wide = height, width
    if width / height < self.ratio[0]:
      tall = min(height, max(1, round(width / self.ratio[0])))
    elif width / height > self.ratio[1]:
      wide = min(width, max(1, round(height * self.ratio[1])))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def box_rng(seed: int, place: int) -> np.random.Generator:
  """Where the box of an example comes from.

  Args:
    seed: of the order.
    place: in the stream of examples: ``position * batch_size`` and its place in the batch.
  """
  return np.random.default_rng((seed, CROPS, place))


def check_ranges(scale: Interval, ratio: Interval) -> None:
  """Raises ``ValueError`` unless both are ranges of shares and of positive numbers."""
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"scale: {scale} must be ascending shares in (0, 1].")
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(f"ratio: {ratio} must be ascending and positive.")
