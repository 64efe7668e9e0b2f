"""Evaluation of a model file on a data set by name, as behind ``jaxcompress evaluate``."""

import pathlib
from typing import Any

import numpy as np
from rich.console import Console

from jaxcompress.arguments import counted, unknown
from jaxcompress.data import copies
from jaxcompress.data.folder import labelled_files
from jaxcompress.data.load import load
from jaxcompress.data.walk import printable
from jaxcompress.pipeline.checks import OptionError
from jaxcompress.pipeline.classifier import SPLITS, Classifier
from jaxcompress.pipeline.folders import OPTIONS_FILE, read_options
from jaxcompress.pipeline.opening import QUICK_IMAGES
from jaxcompress.pipeline.options import SIGN, CompressOptions
from jaxcompress.report.evaluation import Evaluation
from jaxcompress.terminal import say, waiting

FOLDER = "folder:"


def evaluate_on(
  classifier: Classifier,
  data: str | None = None,
  split: str = "test",
  *,
  seed: int | None = None,
  console: Console | None = None,
) -> Evaluation:
  """Evaluates a network on a data set.

  A network of a run is evaluated on the run's splits: they are made with its seed and groups. Of a
  folder ``"all"`` takes every image, whatever its splits, but those that a run leaves out too: damaged
  ones, copies in several classes, and copies in a later split of the folder's own; it may have any number of classes and
  images.

  Args:
    classifier: the network.
    data: as for :func:`jaxcompress.data.load`; None: that of the network's run.
    split: ``"test"``, ``"validation"``, ``"train"`` or ``"all"``.
    seed: of the splits; None: the run's, or 0.
    console: what was noticed goes here.

  Raises:
    ValueError: if there are no such data, they have a class that the network does not know, or no
      images in the split.
  """
  if split not in SPLITS:
    raise unknown("split", split, SPLITS)
  console = console or Console(quiet=True)
  run = run_of(classifier.path)
  limit = None
  if data is None:
    if run is None:
      raise OptionError(
        f"data: it is missing, and the run of {classifier.path} is unknown; add ",
        ", or another set.",
        data=f"{FOLDER}PATH",
      )
    if run.data.startswith(SIGN):
      raise OptionError(
        f"data: it is missing, and the run of {classifier.path} had a Dataset from Python; evaluate there with"
        " classifier.evaluate(data), or add ",
        ".",
        data=f"{FOLDER}PATH",
      )
    data, limit = run.data, QUICK_IMAGES if run.quick else None
  own = run if run is not None and _place(run.data) == _place(data) else None
  if own is not None and split != "test":
    say(console, "the network was trained on some of these images")
  if split == "all" and data.startswith(FOLDER):
    return _on_files(classifier, data.removeprefix(FOLDER), console)
  more: dict[str, Any] = {}
  if own is not None:
    seed = own.seed if seed is None else seed
    more = {"group_by": own.group_by}
  with waiting(console, f"reading {data}"):
    found = load(data, seed=seed or 0, reader=classifier.reader, limit=limit, **more)
  for note in found.notes:
    say(console, note)
  if own is None and split == "test" and data.startswith(FOLDER):
    count = sum(len(part) for part in (found.train, found.validation, found.test))
    say(console, f"{len(found.test):,} of {count:,} images are the test split; split all takes all")
  with waiting(console, f"running {classifier.path}"):
    return classifier.evaluate(found, split)


def run_of(path: pathlib.Path) -> CompressOptions | None:
  """The options of the run that a network's file or folder is of; None: of none."""
  for folder in path.absolute().parents[:2]:  # OUT/student.tflite, OUT/float/student.tflite
    if (folder / OPTIONS_FILE).is_file():
      return read_options(folder)
  return None


def _on_files(classifier: Classifier, path: str, console: Console) -> Evaluation:
  """Evaluates on the images of a folder; those that a run would leave out are counted and named."""
  files = labelled_files(path)
  for note in files.notes:
    say(console, note)
  places = classifier.places_of(files.classes)
  with waiting(console, f"reading {counted(len(files.paths), 'image')}"):
    skipped = files.copies(classifier.reader)
  for note in copies.notes(tuple(skipped.values())):
    say(console, note)
  kept = [i for i in range(len(files.paths)) if i not in skipped]
  paths, classes = [files.paths[i] for i in kept], files.labels[kept]
  with waiting(console, f"running {classifier.path} on {counted(len(paths), 'image')}"):
    logits, errors = classifier.logits_and_errors(paths)
  for place, reason in sorted(errors.items()):
    say(console, f"left out: {printable(str(paths[place]))} cannot be read ({reason})")
  labels = np.delete(classes, list(errors))
  if not len(labels):
    raise ValueError(f"data: no image of {path!r} can be used; replace them.")
  return Evaluation.of(classifier.classes, logits, places[labels])


def _place(data: str) -> str:
  """A data set's name, with the whole path of a folder."""
  if not data.startswith(FOLDER):
    return data
  return FOLDER + str(pathlib.Path(data.removeprefix(FOLDER)).expanduser().resolve())
