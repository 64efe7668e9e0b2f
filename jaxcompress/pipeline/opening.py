"""The inputs of a run: its data and the two networks."""

import csv
import dataclasses
import io
import pathlib
from typing import Any, NamedTuple

from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.files.writing import write_atomically
from jaxcompress.pipeline import networks, phases, transfer
from jaxcompress.pipeline.context import PhaseSteps
from jaxcompress.pipeline.folders import SKIPPED_FILE
from jaxcompress.pipeline.given import NOTHING, Given, check_given
from jaxcompress.pipeline.networks import Network, SavedNetwork
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.outside import OutsideTeacher, open_outside
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.pretrained import (
  Role,
  Start,
  read_weights_for,
  start_of,
  with_found_classes,
)
from jaxcompress.report import text
from jaxcompress.terminal import literal, say, waiting

QUICK_IMAGES = 6000
STUDENT = "mobilenet_v2"  # where none is named
DEFAULT = CompressOptions.preset  # it is no published protocol


class Opened(NamedTuple):
  """Data and networks of a run, for its phases.

  Attributes:
    data: whose reader has the run's normalization.
    preset: how networks are trained.
    steps: of the phases.
    student: the small network.
    teacher: the large one.
    student_start: what the student starts from, or None: fresh variables.
    teacher_start: likewise; one without a new head knows the classes and teaches as it is.
  """

  data: datasets.Dataset
  preset: Preset
  steps: PhaseSteps
  student: Network
  teacher: Network | OutsideTeacher
  student_start: Start | None
  teacher_start: Start | None


def open_run(
  options: CompressOptions, home: pathlib.Path, console: Console, given: Given = NOTHING
) -> Opened:
  """Reads the data and builds the networks, or reads them.

  Images are read and normalized as for the student's weights, else as for the teacher's, else as the
  preset says. A teacher whose weights want another normalization gets its own of the same images.

  Args:
    options: of the run.
    home: where outputs of an outside teacher are kept while the run lasts.
    console: progress goes here.
    given: what Python gave beside the options.

  Raises:
    ValueError: if data, networks, weights and losses do not fit together.
  """
  check_given(options, given)
  pretrained = options.student_weights is not None
  if given.student is not None:
    pretrained = given.student.variables is not None
  if pretrained and options.searches:
    raise ValueError(
      "student_weights: they do not work with a budget, whose search trains students of other sizes; leave"
      " one of them out."
    )
  preset = PRESETS[options.preset].with_rate(options.learning_rate)
  if pretrained:
    preset = preset.for_weights()
  weights = _read_weights(options, preset, given)
  leading = weights.student or (weights.teacher if options.preset == DEFAULT else None)
  cropped = preset.crop is not None and options.augment is None and not options.taught_outside
  data = _open_data(options, leading, given, pretrained, cropped, console)
  preset = _normalized(options, preset, leading, data, console)
  data = dataclasses.replace(
    data, reader=dataclasses.replace(data.reader, preprocess=preset.preprocess)
  )
  if preset.whole:
    data = data.with_validation_trained()
  steps = PhaseSteps.of(options, len(data.train), pretrained=pretrained)
  student, student_start = _student(options, preset, weights.student, given, data, console)
  transfer.check_freeze(options.freeze, student)
  teacher: Network | OutsideTeacher
  if options.taught_outside:
    teacher_start = None
    teacher = open_outside(options, data, preset, home, steps.float_steps, console)
    taught_by = teacher.title
  else:
    teacher, teacher_start = _teacher(
      options, preset, weights.teacher, given, data, student_start, console
    )
    taught_by = f"{teacher.title} ({teacher.summary.parameters:,} parameters)"
  height, width, _ = data.image_shape
  say(
    console,
    f"{data.name}: {len(data.train):,} training images of {len(data.classes)} classes,"
    f" {height} x {width} px; teacher {taught_by}, student {student.title}"
    f" ({student.summary.parameters:,})",
  )
  phases.check_zeros(options, student)
  phases.check_losses(options, data.train, preset.preprocess, student, teacher)
  return Opened(data, preset, steps, student, teacher, student_start, teacher_start)


class _Weights(NamedTuple):
  student: SavedNetwork | None
  teacher: SavedNetwork | None


def _read_weights(options: CompressOptions, preset: Preset, given: Given) -> _Weights:
  """The networks of the files that the options name."""

  def read(role: Role, name: str | None, file: str | None, width: float | None):
    if file is None or getattr(given, role) is not None:
      return None
    return read_weights_for(name, file, role=role, width=width, wanted=preset.network)

  return _Weights(
    read("student", options.student, options.student_weights, options.width),
    read("teacher", options.teacher, options.teacher_weights, options.teacher_width),
  )


def _open_data(
  options: CompressOptions,
  leading: SavedNetwork | None,
  given: Given,
  pretrained: bool,
  cropped: bool,
  console: Console,
) -> datasets.Dataset:
  """The images, as the leading network reads them; where they are ``cropped`` they stay as they lie."""
  data = given.data
  if data is None:
    reader = None if leading is None else leading.reader
    asked: dict[str, Any] = {}
    if options.resize is not None:
      asked = {"resize": options.resize, "fill": None}
    if options.channels is not None:
      asked["channels"] = options.channels
    if asked:
      reader = dataclasses.replace(reader or datasets.ImageReader(), **asked)
    with waiting(console, f"reading {options.data}"):
      data = datasets.load(
        options.data,
        seed=options.seed,
        size=options.image_size,
        reader=reader,
        limit=QUICK_IMAGES if options.quick else None,
        flip=options.flip,
        group_by=options.group_by,
        strict=options.strict,
        in_memory=False if cropped else None,
      )
  elif options.flip is not None:
    data = dataclasses.replace(data, flip=options.flip)
  mirrored = pretrained if options.augment is None else options.augment != "none"
  data = datasets.decide_flip(data, asked=mirrored)
  tell_data(data, console)
  return data


def _normalized(
  options: CompressOptions,
  preset: Preset,
  leading: SavedNetwork | None,
  data: datasets.Dataset,
  console: Console,
) -> Preset:
  """The preset with the normalization of the run."""
  if leading is not None and leading.reader is not None:
    if leading.reader.preprocess != preset.preprocess:
      say(console, f"images are normalized as for the weights of {leading.title}")
    return dataclasses.replace(preset, preprocess=leading.reader.preprocess)
  if leading is not None:
    say(
      console,
      f"how images were normalized for the weights of {leading.title} is not known; they are as the preset"
      " says",
    )
  if options.preset == DEFAULT:  # which leaves it open
    return dataclasses.replace(preset, preprocess=data.reader.preprocess)
  return preset


def _student(
  options: CompressOptions,
  preset: Preset,
  saved: SavedNetwork | None,
  given: Given,
  data: datasets.Dataset,
  console: Console,
) -> tuple[Network, Start | None]:
  """The student, and what it starts from."""
  classes, shape = data.classes, data.image_shape
  if given.student is not None:
    if given.student.variables is None:
      return given.student.network("student", shape, len(classes)), None
    start = given.student.start("student", shape, len(classes))
    return start.network, start
  if saved is None:
    name, width = options.student or STUDENT, preset.widths[0]
    return networks.build(name, len(classes), shape, options.width, width, preset.network), None
  start = start_of(
    with_found_classes(saved, data), classes, shape, role="student", seed=options.seed
  )
  _tell_start("student", saved, start, classes, options.student_weights, console)
  return start.network, start


def _teacher(
  options: CompressOptions,
  preset: Preset,
  saved: SavedNetwork | None,
  given: Given,
  data: datasets.Dataset,
  student: Start | None,
  console: Console,
) -> tuple[Network, Start | None]:
  """The teacher, and what it starts from; where none is named, from what the student starts from."""
  classes, shape = data.classes, data.image_shape
  if given.teacher is not None:
    if given.teacher.variables is None:
      return given.teacher.network("teacher", shape, len(classes)), None
    start = given.teacher.start("teacher", shape, len(classes))
    return start.network, start
  unnamed = saved is None and options.teacher is None and options.preset == DEFAULT
  if unnamed and student is not None:
    say(
      console, f"no teacher is named: {student.network.title}, trained alone, teaches a second one"
    )
    return student.network, student
  if saved is None:
    _, usual, quick = preset.widths
    name, width = options.teacher or preset.teacher, options.teacher_width
    default = quick if options.quick else usual
    return networks.build(name, len(classes), shape, width, default, preset.network), None
  start = start_of(
    with_found_classes(saved, data), classes, shape, role="teacher", seed=options.seed
  )
  if not start.new_head and saved.image_shape not in (None, tuple(shape)):
    trained = text.shape(saved.image_shape or ())
    raise ValueError(
      f"image_size: the teacher in {options.teacher_weights} was trained on images of {trained} and"
      f" the run's are {text.shape(tuple(shape))}; they must be the same: leave image_size out, or"
      " name another teacher."
    )
  _tell_start("teacher", saved, start, classes, options.teacher_weights, console)
  network = start.network
  if start.reader is not None and start.reader.preprocess != preset.preprocess:
    say(console, "  the teacher reads the same images, normalized as for its own weights")
    network = network._replace(preprocess=start.reader.preprocess)
  return network, start._replace(network=network)


def _tell_start(
  role: Role,
  saved: SavedNetwork,
  start: Start,
  classes: tuple[str, ...],
  file: str | None,
  console: Console,
) -> None:
  """Says what a network starts from, and what becomes of its head."""
  if start.new_head:
    had = models.summarize(saved.module).graph
    count = had.shape(had.output)[-1]
    known = "other" if count == len(classes) else f"{count:,}"
    head = f"its head was of {known} classes and is a new one"
  elif saved.classes is None:
    head = "its head names no classes, is right on most training images, and is kept"
  elif saved.classes != tuple(classes):
    head = "its head knows the classes in another order, and is reordered"
  else:
    head = "its head knows the classes"
  say(console, f"{role} {start.network.title} starts from {file}: {head}")


def tell_data(data: datasets.Dataset, console: Console) -> None:
  """Shows the images of each class and part, their sizes, and what was noticed in reading them."""
  for line in str(datasets.summary(data)).splitlines():
    say(console, f"  {line}")


def keep_skipped(data: datasets.Dataset, folder: pathlib.Path, console: Console) -> None:
  """Writes all image files that were left out, with the reasons, to ``skipped.csv``, if there are any."""
  if not data.skipped:
    return
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  rows.writerow(data.skipped[0]._fields)
  rows.writerows([literal(value) for value in one] for one in data.skipped)
  path = write_atomically(folder / SKIPPED_FILE, text.getvalue())
  count = (
    "the image that is" if len(data.skipped) == 1 else f"all {len(data.skipped):,} images that are"
  )
  say(console, f"  {path} lists {count} left out")
