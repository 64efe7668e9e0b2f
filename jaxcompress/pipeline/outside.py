"""Teachers of a run that are no networks of this package: an .onnx file, or stored outputs."""

import contextlib
import math
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress.data.preprocess import PIXELS
from jaxcompress.data.storage import in_chunks
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.presets import Preset
from jaxcompress.terminal import say, waiting

MOST_CYCLES = 8  # augmentations of each image that the teacher sees
FOLDER = "outputs"


class OutsideTeacher(NamedTuple):
  """A teacher whose outputs are cached for a run.

  Attributes:
    title: as a person writes it.
    cache: of its outputs for the training images.
    top1: of the test images, or None where it has no outputs of them.
  """

  title: str
  cache: datasets.TeacherCache
  top1: float | None

  @property
  def note(self) -> str:
    """A sentence for the report."""
    score = "" if self.top1 is None else f", which reaches {self.top1:.2%} top-1 on the test images"
    return f"the teacher is {self.title}{score}"


def open_outside(
  options: CompressOptions,
  data: datasets.Dataset,
  preset: Preset,
  folder: pathlib.Path,
  float_steps: int,
  console: Console,
) -> OutsideTeacher:
  """Runs a teacher on all training images, or reads its outputs.

  A file sees as many augmentations of each image as there are epochs, up to :data:`MOST_CYCLES`;
  stored outputs are of the images as they are, which the student then sees as they are too.

  Args:
    options: whose ``teacher`` is a path.
    data: of the run.
    preset: of the run.
    folder: where outputs are kept while the run lasts.
    float_steps: of distillation.
    console: progress goes here.

  Raises:
    ValueError: if the file or the outputs cannot be used, or their classes are not the data's.
  """
  path = pathlib.Path(options.teacher or "")
  if jax.process_count() > 1:
    raise ValueError(
      f"teacher: {path} teaches a run of one process, and this is one of {jax.process_count()}."
    )
  top1 = None
  if path.suffix.lower() == ".onnx":
    logits, _, pooled = (options.teacher_outputs or "").partition(",")
    teacher = datasets.OnnxTeacher(path, None, logits.strip() or None, pooled.strip() or None)
    preprocess = _pixels(options, teacher)
    top1 = _top1(teacher, preprocess, data)
    cycles = min(MOST_CYCLES, math.ceil(float_steps * options.batch_size / len(data.train)))
    augment = datasets.PerExample(preset.augmented(data, options.augment), seed=options.seed)
    with waiting(console, f"running {path.name} on every training image, {cycles} times"):
      cache = datasets.cache_teacher(
        folder / FOLDER,
        teacher,
        None,
        data.train,
        augment=augment,
        preprocess=preprocess,
        cycles=max(1, cycles),
      )
  else:
    with waiting(console, f"reading outputs in {path}"):
      cache = datasets.cache_teacher(
        folder / FOLDER, datasets.StoredTeacher(path), None, data.train, augment=None
      )
    say(console, "the student sees images as they are, as the teacher did")
  _check_classes(path, cache.logits.shape[-1], data)
  found = OutsideTeacher(path.name, cache, top1)
  say(console, found.note)
  return found


@contextlib.contextmanager
def free_again(folder: pathlib.Path) -> Iterator[None]:
  """Removes outputs that were kept for a run which a mistake ends before it has made anything else.

  Args:
    folder: that :func:`open_outside` was given.
  """
  try:
    yield
  except ValueError:
    if folder.is_dir() and [child.name for child in folder.iterdir()] == [FOLDER]:
      shutil.rmtree(folder)
    raise


def _pixels(options: CompressOptions, teacher: datasets.OnnxTeacher) -> datasets.Preprocess | None:
  """How a file reads pixels: as was asked for, or as it says."""
  if options.teacher_pixels is not None:
    return PIXELS[options.teacher_pixels]
  if teacher.preprocess is None and teacher.dtype != np.uint8:
    raise ValueError(
      f"teacher_pixels: {teacher.path} reads floats and does not state how pixels are normalized; give one"
      f" of {', '.join(PIXELS)}."
    )
  return teacher.preprocess


def _top1(
  teacher: datasets.OnnxTeacher, preprocess: datasets.Preprocess | None, data: datasets.Dataset
) -> float:
  hits, place = 0, 0
  for chunk in in_chunks(data.test.images):
    logits = np.asarray(teacher(chunk if preprocess is None else preprocess(chunk)).logits)
    _check_classes(pathlib.Path(teacher.path), logits.shape[-1], data)
    labels = data.test.labels[place : place + len(chunk)]
    hits, place = hits + int(np.sum(np.argmax(logits, -1) == labels)), place + len(chunk)
  return hits / max(1, place)


def _check_classes(path: pathlib.Path, count: int, data: datasets.Dataset) -> None:
  if count != len(data.classes):
    raise ValueError(
      f"teacher: {path} knows {count} classes and the data has {len(data.classes)}; they must be the"
      " same, in the same order."
    )
