"""Images without labels, for calibration."""

import pathlib

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.walk import SUFFIXES, LeftOut, images_below


def calibration_images(
  path: str, *, size: int, crop: float = 1.0, limit: int = 1024, seed: int = 0
) -> np.ndarray:
  """Any images from a folder and the folders in it, whatever they are of.

  Args:
    path: the folder; PNG and JPEG files are read, hidden names and folders of systems are left out.
    size: side of the images.
    crop: share of the shorter side that the square in the middle takes, as in evaluation on
      ImageNet (0.875: resized to 256 pixels, of which 224 are kept).
    limit: at most this many images, chosen at random.
    seed: of the choice.

  Returns:
    (count, size, size, 3) uint8.

  Raises:
    ValueError: if the folder is missing or has no images, or images are damaged.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (40, 30)).save(folder + "/any.png")
    >>> calibration_images(folder, size=16).shape
    (1, 16, 16, 3)
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise ValueError(f"calibration: {path!r} is no folder; give one with images in it.")
  found = images_below(root, left_out := LeftOut())
  if not found:
    beside = f" (left out: {left_out.text()})" if left_out.names else ""
    raise ValueError(
      f"calibration: {path!r} has no images; put {', '.join(SUFFIXES)} files in it{beside}."
    )
  order = np.random.default_rng(seed).permutation(len(found))
  chosen = [found[i] for i in np.sort(order[:limit])]
  side = round(size / crop)
  edge = (side - size) // 2
  whole = images.decode(chosen, (side, side))
  return np.ascontiguousarray(whole[:, edge : edge + size, edge : edge + size])
