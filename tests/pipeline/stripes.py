"""Images of two classes that a small network tells apart in seconds."""

import numpy as np

from jaxcompress import data as datasets

SIDE = 12


def stripes(count, seed):
  """Images whose stripes lie or stand."""
  labels = np.arange(count, dtype=np.int32) % 2
  images = np.random.default_rng(seed).integers(0, 99, (count, SIDE, SIDE, 3)).astype(np.uint8)
  images[labels == 0, ::3] += 150
  images[labels == 1, :, ::3] += 150
  return datasets.Split(images, labels, [f"{i}.png" for i in range(count)])
