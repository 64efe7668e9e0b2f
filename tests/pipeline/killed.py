"""A run with a new head and a teacher in a process that kills itself: ``python killed.py OUT [POINT]``."""

import os
import pathlib
import signal
import sys

import jax
import numpy as np

import jaxcompress as jc
from jaxcompress import data as datasets
from jaxcompress import export, models
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import integers, run, students, transfer
from jaxcompress.report.metrics import MetricsWriter

SIDE = 8


def die(*_, **__):
  """No finally, no flush: as power that fails."""
  os.kill(os.getpid(), signal.SIGKILL)


def after(function):
  """Calls it, and dies."""

  def called(*arguments, **options):
    function(*arguments, **options)
    die()

  return called


def when(function, condition):
  """Dies in place of the first call that is like this."""

  def called(*arguments, **options):
    if condition(*arguments):
      die()
    return function(*arguments, **options)

  return called


def reaching(phase, step):
  return lambda writer, name, at: name == phase and at >= step


def beginning(key):
  return lambda run, name, *_: name == key


WRITE, NOTE, TRAIN = MetricsWriter.write, students.note_float, students.train_in_rounds
POINTS = {  # where a run dies, in the order in which it comes there: what is replaced, and by what
  "teacher, amid": (MetricsWriter, "write", when(WRITE, reaching("teacher", 5))),
  "teacher, kept but not noted": (students, "note_float", when(NOTE, beginning("teacher"))),
  "head, found": (transfer, "save_variables", die),
  "head, half written": (transfer, "save_variables", after(transfer.save_variables)),
  "head, kept but not noted": (students, "note_float", when(NOTE, beginning("head"))),
  "fine-tuning, amid": (MetricsWriter, "write", when(WRITE, reaching("alone", 5))),
  "fine-tuning, at its end": (transfer, "drawn_back", die),
  "fine-tuning, kept but not noted": (students, "note_float", when(NOTE, beginning("alone"))),
  "distillation, before": (students, "train_in_rounds", when(TRAIN, beginning("distilled"))),
  "distillation, amid": (MetricsWriter, "write", when(WRITE, reaching("distilled", 5))),
  "distillation, kept but not noted": (students, "note_float", when(NOTE, beginning("distilled"))),
  "integers, before": (integers, "to_integers", die),
  "integers, amid": (MetricsWriter, "write", when(WRITE, reaching("int8", 2))),
  "integers, compared": (integers, "_score", die),
  "export, before": (run, "export_student", die),
  "export, amid": (export, "packed", when(export.packed, lambda *_: True)),
  "report, before": (run, "write_report", die),
  "report, after": (run, "write_report", after(run.write_report)),
}


def stripes(count, seed):
  """Lying and standing stripes in noise."""
  labels = np.arange(count, dtype=np.int32) % 2
  images = np.random.default_rng(seed).integers(0, 140, (count, SIDE, SIDE, 3)).astype(np.uint8)
  images[labels == 0, ::3] += 110
  images[labels == 1, :, ::3] += 110
  return datasets.Split(images, labels)


def compress(out):
  """The run, which goes on where it was."""
  parts = {"train": stripes(32, 0), "validation": stripes(12, 1), "test": stripes(12, 2)}
  student = models.resnet8(2)
  return jc.compress(
    datasets.Dataset(name="stripes", classes=("lying", "standing"), **parts),
    student=student,
    student_variables=init_variables(student, jax.random.key(3), (SIDE, SIDE, 3)),
    new_head=True,
    teacher="resnet8",
    epochs=3,
    batch_size=8,
    out=out,
    resume=pathlib.Path(out).exists(),
    quiet=True,
  )


if __name__ == "__main__":
  for point in sys.argv[2:]:
    setattr(*POINTS[point])
  compress(sys.argv[1])
