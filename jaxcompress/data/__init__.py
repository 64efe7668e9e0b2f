"""Images to train on: built-in sets, folders, tensorflow-datasets; order, augmentation, scaling."""

from jaxcompress.data.augment.basic import Augment, Views, compose
from jaxcompress.data.augment.boxes import RandomErasing, RandomResizedCrop
from jaxcompress.data.augment.color import ColorJitter
from jaxcompress.data.augment.mixing import Mix
from jaxcompress.data.augment.randaugment import RandAugment
from jaxcompress.data.batches import InputError, Stream, batch_at, batch_indices, eval_batches
from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.folder import calibration_images
from jaxcompress.data.images import DamagedError
from jaxcompress.data.load import load
from jaxcompress.data.preprocess import Preprocess
from jaxcompress.data.teacher_cache import PerExample, TeacherCache, cache_teacher

__all__ = [
  "Augment",
  "ColorJitter",
  "DamagedError",
  "Dataset",
  "InputError",
  "Mix",
  "PerExample",
  "Preprocess",
  "RandAugment",
  "RandomErasing",
  "RandomResizedCrop",
  "Split",
  "Stream",
  "TeacherCache",
  "Views",
  "batch_at",
  "batch_indices",
  "cache_teacher",
  "calibration_images",
  "compose",
  "eval_batches",
  "load",
]
