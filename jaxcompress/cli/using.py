"""The commands that use a model file: predict and evaluate."""

import pathlib
import sys
from typing import Any

import typer

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command

MODEL = Argument(
  str,
  "A .tflite, .onnx, .jcz or .safetensors file; a folder of C; or a run's folder: OUT, OUT/student, OUT/teacher.",
  NEEDED,
)
OF_OTHERS: dict[str, Parameter] = {
  "labels": Parameter(str, "For a file that names no classes: a text file with one a line."),
  "pixels": Parameter(
    str, "For a file that does not say how it reads pixels: imagenet, 0..1, -1..1 or 0..255."
  ),
  "resize": Parameter(
    str, "Likewise, how pictures are resized: cover, squash, letterbox or pad [cover]."
  ),
  "image_size": Parameter(int, "Likewise, side of the images in pixels, where it reads any."),
}
FORMAT = Parameter(str, "table, json or csv.", "table")


@command(
  model=MODEL,
  images=Argument(list[str], "Image files, and folders of them.", NEEDED),
  top=Parameter(int, "Classes of each image, best first.", 1),
  format=FORMAT,
  **OF_OTHERS,
)
def predict(model: str, images: list[str], top: int, format: str, **given: Any) -> None:
  """Classify pictures with a model file: class and score of each.

  Scores are probabilities. Exit code 0: all were read; 1: some pictures cannot be read, which are
  listed, and the others are classified; 2: nothing was done.
  """
  from rich.console import Console

  from jaxcompress.report.predictions import PREDICTION_FORMATS
  from jaxcompress.terminal import say, waiting

  show = _choice(format, PREDICTION_FORMATS)
  notes = Console(stderr=True)
  pictures = find_pictures(images, notes)
  with waiting(notes, f"opening {model}"):
    classifier = _open(model, **given)
  found = []
  with waiting(notes, f"classifying {len(pictures):,} pictures") as status:
    for part in classifier.predictions(pictures, top=top):
      found += part
      status.update(f"{len(found):,} of {len(pictures):,} pictures")
  _put(show(found, model=str(classifier.path), score=classifier.how_scored))
  if classifier.ends_in == "sigmoid":
    say(notes, f"scores are {classifier.how_scored}")
  damaged = sum(one.error is not None for one in found)
  if damaged:
    say(notes, f"{damaged:,} of {len(found):,} pictures cannot be read")
    raise typer.Exit(1)


@command(
  model=MODEL,
  data=Parameter(str, "As for compress, such as folder:PATH [that of the model's run]."),
  split=Parameter(str, "test, validation, train or all.", "test"),
  seed=Parameter(int, "Random seed of the splits [the run's, or 0]."),
  format=FORMAT,
  **OF_OTHERS,
)
def evaluate(
  model: str, data: str | None, split: str, seed: int | None, format: str, **given: Any
) -> None:
  """Evaluate a model file on labelled images: top-1, top-5, and precision, recall and F1 by class.

  The data's classes are found among the model's by their names. CSV has a line for every class.
  """
  from rich.console import Console

  from jaxcompress.pipeline.evaluating import evaluate_on, run_of
  from jaxcompress.report.evaluation import EVALUATION_FORMATS, summary_line
  from jaxcompress.terminal import say

  show = _choice(format, EVALUATION_FORMATS)
  notes = Console(stderr=True)
  classifier = _open(model, **given)
  found = evaluate_on(classifier, data, split, seed=seed, console=notes)
  run = run_of(classifier.path)
  named = data if data is not None or run is None else run.data
  _put(show(found, model=str(classifier.path), data=named, split=split))
  if format == "csv":
    say(notes, summary_line(found))


def _open(model: str, labels: str | None, **given: Any) -> Any:
  """The model, with the classes of a file of names."""
  from jaxcompress.pipeline.classifier import Classifier

  classes = None
  if labels is not None:
    try:
      lines = pathlib.Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
      raise ValueError(f"labels: {labels} cannot be read ({error}).") from error
    classes = [line.strip() for line in lines if line.strip()]
  return Classifier.open(model, classes=classes, **given)


def find_pictures(given: list[str], notes: Any) -> list[pathlib.Path]:
  """The files that are named, and the images in the folders that are."""
  from jaxcompress.data import walk
  from jaxcompress.terminal import say

  found: list[pathlib.Path] = []
  left_out = walk.LeftOut()
  for path in map(pathlib.Path, given):
    if path.is_dir():
      inside = walk.images_below(path, left_out)
      if not inside:
        say(notes, f"{path} has no images")
      found += inside
    elif path.exists():
      found.append(path)
    else:
      raise ValueError(f"images: {path} does not exist; give image files, or folders of them.")
  if left_out.names:
    say(notes, f"left out: {left_out.text()}")
  if not found:
    raise ValueError(f"images: found none in {', '.join(given)}; give image files, or folders.")
  return found


def _choice(format: str, known: Any) -> Any:
  from jaxcompress.arguments import unknown

  if format not in known:
    raise unknown("format", format, known)
  return known[format]


def _put(shown: Any) -> None:
  """Prints tables, or writes text with the names' very bytes."""
  if not isinstance(shown, str):
    from rich.console import Console

    from jaxcompress.terminal import say

    console = Console()
    for part in shown if isinstance(shown, tuple) else (shown,):
      if isinstance(part, str):
        say(console, part)
      elif part.rows:
        console.print(part)
    return
  sys.stdout.flush()
  sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape"))
  sys.stdout.buffer.flush()
