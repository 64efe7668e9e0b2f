"""Whether mirrored images can be trained on."""

import re
from collections.abc import Sequence

import numpy as np

from jaxcompress.data.encoded import EncodedImages


def keeps_label(images: np.ndarray | EncodedImages, classes: Sequence[str]) -> bool:
  """Whether a mirrored image most likely still shows its class.

  Yes for colour photos. No where harm is likely: greyscale images (characters, scans, X-rays),
  classes that are single characters or bare numbers, and classes that say left or right.

  Args:
    images: (count, height, width, channels) uint8; of those on disk some are looked at.
    classes: names.

  Examples:
    >>> photos = np.array([[[[200, 90, 10]]]], np.uint8)
    >>> keeps_label(photos, ("cat", "dog")), keeps_label(photos, ("turn_left", "stop"))
    (True, False)
  """
  if all(len(name) == 1 or name.isdecimal() for name in classes):
    return False
  words = {word for name in classes for word in re.split(r"[\W_\d]+", name.lower())}
  if words & {"left", "right"}:
    return False
  pixels = images.sample() if isinstance(images, EncodedImages) else images
  return bool((pixels != pixels[..., :1]).any())
