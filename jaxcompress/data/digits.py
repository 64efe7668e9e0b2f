"""Real handwriting that comes with scikit-learn: 1,797 digits."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.splits import at_most, random_order, three_way


def digits(*, seed: int = 0, size: int = 32, limit: int | None = None) -> Dataset:
  """Handwritten digits, 8 x 8 pixels with 17 levels, smoothly enlarged and in three equal channels.

  Args:
    seed: of the split into 70 % to train on, 10 % for validation and 20 % to test.
    size: side of the images in pixels.
    limit: at most this many images in each part, with the classes' shares kept.

  Returns:
    A :class:`Dataset` of (size, size, 3) images.

  Raises:
    ValueError: if ``size`` is out of range.

  Examples:
    >>> data = digits()
    >>> len(data.train), len(data.validation), len(data.test)
    (1259, 179, 359)

  References:
    Alpaydin & Kaynak, `Optical Recognition of Handwritten Digits
    <https://archive.ics.uci.edu/dataset/80>`_, 1998.
  """
  if not 8 <= size <= 512:
    raise ValueError(f"size: {size} is out of range; digits are 8 to 512 pixels.")
  pixels, labels = load_digits(return_X_y=True)
  labels = labels.astype(np.int32)
  order = random_order(len(labels), seed)

  def part(chosen: np.ndarray) -> Split:
    chosen = chosen[at_most(labels[chosen], order[chosen], limit)]
    return Split(np.stack([_enlarge(pixels[i], size) for i in chosen]), labels[chosen])

  train, validation, test = map(part, three_way(labels, order))
  classes = tuple(map(str, range(10)))
  return Dataset(name="digits", classes=classes, train=train, validation=validation, test=test)


def _enlarge(pixels: np.ndarray, size: int) -> np.ndarray:
  """A picture of 64 levels from 0 to 16, as (size, size, 3) uint8."""
  small = Image.fromarray((pixels.reshape(8, 8) * (255 / 16)).astype(np.float32))
  large = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
  grey = np.clip(np.rint(large), 0, 255).astype(np.uint8)
  return np.repeat(grey[:, :, None], 3, axis=-1)
