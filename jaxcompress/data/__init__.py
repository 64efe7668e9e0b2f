"""Images to train on: built-in sets, folders, tensorflow-datasets; order, augmentation, scaling."""

from jaxcompress.data.augment import Augment
from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.load import load
from jaxcompress.data.order import batch_at, batch_indices, eval_batches
from jaxcompress.data.preprocess import Preprocess
from jaxcompress.data.unlabelled import calibration_images

__all__ = [
  "Augment",
  "Dataset",
  "Preprocess",
  "Split",
  "batch_at",
  "batch_indices",
  "calibration_images",
  "eval_batches",
  "load",
]
