"""Images to train on: built-in sets, folders, tables, arrays, sets of others; order, augmentation, scaling."""

from typing import TYPE_CHECKING

from jaxcompress.on_demand import import_on_demand

if TYPE_CHECKING:
  from jaxcompress.data.augment.basic import Augment, Views, compose
  from jaxcompress.data.augment.boxes import RandomErasing, RandomResizedCrop
  from jaxcompress.data.augment.color import ColorJitter
  from jaxcompress.data.augment.fixmatch import FixMatchAugment
  from jaxcompress.data.augment.mixing import Mix
  from jaxcompress.data.augment.randaugment import RandAugment
  from jaxcompress.data.augment.strengths import augmentation
  from jaxcompress.data.batches import InputError, Stream, batch_at, eval_batches
  from jaxcompress.data.copies import Skipped
  from jaxcompress.data.crops import CropOnRead
  from jaxcompress.data.dataset import Dataset
  from jaxcompress.data.folder import calibration_images
  from jaxcompress.data.images import DamagedError
  from jaxcompress.data.load import load
  from jaxcompress.data.mirroring import decide_flip, unsafe_to_mirror
  from jaxcompress.data.onnx_teacher import OnnxTeacher
  from jaxcompress.data.order import (
    ByShards,
    Shards,
    balanced_indices,
    batch_indices,
    class_weights,
    members_of,
  )
  from jaxcompress.data.parts import Split
  from jaxcompress.data.preprocess import Preprocess
  from jaxcompress.data.reader import ImageReader
  from jaxcompress.data.stored_teacher import StoredTeacher
  from jaxcompress.data.summary import Summary, summary
  from jaxcompress.data.teacher_cache import PerExample, TeacherCache, cache_teacher

__all__ = [
  "Augment",
  "ByShards",
  "ColorJitter",
  "CropOnRead",
  "DamagedError",
  "Dataset",
  "FixMatchAugment",
  "ImageReader",
  "InputError",
  "Mix",
  "OnnxTeacher",
  "PerExample",
  "Preprocess",
  "RandAugment",
  "RandomErasing",
  "RandomResizedCrop",
  "Shards",
  "Skipped",
  "Split",
  "StoredTeacher",
  "Stream",
  "Summary",
  "TeacherCache",
  "Views",
  "augmentation",
  "balanced_indices",
  "batch_at",
  "batch_indices",
  "cache_teacher",
  "calibration_images",
  "class_weights",
  "compose",
  "decide_flip",
  "eval_batches",
  "load",
  "members_of",
  "summary",
  "unsafe_to_mirror",
]

import_on_demand(__name__)
