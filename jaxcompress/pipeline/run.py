"""A whole compress run: from images to an integer file and a report."""

import dataclasses
import os
import pathlib
import shutil
import time

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import training
from jaxcompress.arguments import check_whole
from jaxcompress.export.extras import require
from jaxcompress.files.values import one_line, parse_json
from jaxcompress.pipeline import networks, phases
from jaxcompress.pipeline.context import Context, PhaseSteps, read_progress
from jaxcompress.pipeline.folders import (
  CHECKPOINTS,
  REPORT_FILE,
  check_options,
  is_finished,
  working_in,
)
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.outcome import export_student, note_float
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.search import FoundStudent, find_student, plan_candidates
from jaxcompress.report import text
from jaxcompress.report.metrics import MetricsWriter
from jaxcompress.report.results import Results
from jaxcompress.report.write import from_json, write_report
from jaxcompress.terminal import say, waiting
from jaxcompress.training import processes
from jaxcompress.training.sharding import process_rows

QUICK_IMAGES = 6000
METRICS_FILE = "metrics.jsonl"
DEFAULT = CompressOptions.preset  # it is no published protocol


def compress(
  options: CompressOptions,
  folder: str | os.PathLike,
  *,
  command: str = "",
  workers: int | None = None,
  console: Console | None = None,
) -> Results:
  """Trains, distils, quantizes, exports, verifies and reports; goes on where a run was killed.

  A finished run is left as it is.

  Args:
    options: what to do.
    folder: output; what an earlier part of the same run left in it is used.
    command: the command line, for the report.
    workers: processes that decode images, for data larger than memory; 0: threads of this one; None:
      by the CPU's cores.
    console: progress goes here.

  Returns:
    The :class:`~jaxcompress.report.Results` that the report shows.

  With several processes (see :func:`~jaxcompress.training.processes.join_processes`) all call this
  alike, on a folder that all see; the first one writes. All devices share each batch.

  Raises:
    ValueError: for options that do not fit together, with the data, with the devices or with the
      folder's run; if another run works in the folder, or a file of it is damaged.
    PreemptedError: after SIGTERM; the run can be gone on with.

  Examples:
    It takes minutes; ``jaxcompress compress --quick --data digits --out OUT`` runs it.
  """
  if workers is not None:
    check_whole("workers", workers, 0)
  console = console or Console(stderr=True)
  folder = pathlib.Path(folder)
  if processes.shared(is_finished(folder)):
    check_options(folder, options)
    results = read_results(folder)
    say(console, f"the run in {folder} is finished; nothing is done")
    return results
  with working_in(folder, options):
    _work(options, folder, command, workers, console)
    return read_results(folder)


def _work(
  options: CompressOptions,
  folder: pathlib.Path,
  command: str,
  workers: int | None,
  console: Console,
) -> None:
  """All of a run that is not finished."""
  began = time.perf_counter()
  require("tflite")  # now, not after minutes of training
  read_progress(folder)  # likewise: damaged files are told before the data are read
  MetricsWriter(folder / METRICS_FILE).rows()
  mesh, checkpoint, taught = _all_devices(options), options.teacher_checkpoint, networks.Facts()
  if checkpoint is not None:
    taught = networks.read_facts(checkpoint)
  with waiting(console, f"reading {options.data}"):
    data = datasets.load(
      options.data,
      seed=options.seed,
      size=options.image_size or taught.side,
      limit=QUICK_IMAGES if options.quick else None,
      flip=options.flip,
    )
  preset = _as_taught(options, taught, data.image_shape, console)
  if preset.whole:
    data = data.with_validation_trained()
  classes, shape, wanted = data.classes, data.image_shape, preset.network
  student_width, teacher_width, quick_width = preset.widths
  student = networks.build(
    options.student, len(classes), shape, options.width, student_width, wanted
  )
  name, width, given = options.teacher, options.teacher_width, None
  if checkpoint is None:
    default = quick_width if options.quick else teacher_width
    teacher = networks.build(name or preset.teacher, len(classes), shape, width, default, wanted)
  else:
    given = networks.load_teacher(checkpoint, classes, shape, name=name, width=width, wanted=wanted)
    teacher = given.network
  say(
    console,
    f"{data.name}: {len(data.train):,} training images of {len(classes)} classes,"
    f" {shape[0]} x {shape[1]} px; teacher {teacher.title}"
    f" ({teacher.summary.parameters:,} parameters), student {student.title}"
    f" ({student.summary.parameters:,})",
  )
  _tell(data, options, console)
  phases.check_losses(options, data.train, preset.preprocess, student, teacher)
  steps = PhaseSteps.of(options, len(data.train))
  metrics_file = folder / METRICS_FILE if processes.is_first() else os.devnull
  with MetricsWriter(metrics_file) as metrics:
    run = Context(folder, options, data, preset, steps, metrics, console, mesh, workers)
    searched = None
    if options.searches:
      plan_candidates(run, student)  # before anything is trained
    trained = _teach(run, teacher, given)
    if options.searches:
      found = _search(run, student, trained)
      student, searched = found.trained.network, found.search
      quantized = lambda: found.quantized  # noqa: E731
    else:
      quantized = _train_student(run, student, trained).quantized

    def finish() -> None:
      with waiting(console, "running the .tflite on every test image"):
        results = export_student(run, student, quantized(), command, began)
      write_report(dataclasses.replace(results, search=searched), folder)
      shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    processes.once(finish)


def _as_taught(
  options: CompressOptions, taught: networks.Facts, shape: tuple[int, ...], console: Console
) -> Preset:
  """The preset, with images normalized as the stored teacher's; the default one leaves that open.

  Raises:
    ValueError: if the teacher was trained on images of another size, or normalized otherwise than
      by a published protocol.
  """
  preset, folder = PRESETS[options.preset], options.teacher_checkpoint
  if taught.image_shape is not None and taught.image_shape != tuple(shape):
    raise ValueError(
      f"image_size: the teacher in {folder} was trained on images of {text.shape(taught.image_shape)} and"
      f" the run's are {text.shape(tuple(shape))}; they must be the same: leave image_size out, or"
      " name another teacher."
    )
  if taught.preprocess in (None, preset.preprocess):
    return preset
  if options.preset != DEFAULT:
    raise ValueError(
      f"teacher_checkpoint: {folder} reads images that are normalized otherwise than preset"
      f" {options.preset} does; take the preset that it was trained with."
    )
  say(console, f"images are normalized as those of the teacher in {folder}")
  return dataclasses.replace(preset, preprocess=taught.preprocess)


def _tell(data: datasets.Dataset, options: CompressOptions, console: Console) -> None:
  """Says what was noticed in reading the data, and whether images are mirrored."""
  hint = "" if options.flip is not None else " (flip decides)"
  mirrored = f"images are {'' if data.flip else 'not '}mirrored in training{hint}"
  for note in (*data.notes, mirrored):
    say(console, f"  {note}")


def _all_devices(options: CompressOptions) -> Mesh | None:
  """A mesh of all devices of all processes, if there are several.

  Raises:
    ValueError: if they cannot share a batch, or there are several processes and a search, whose
      measurements may differ between them.
  """
  if options.searches and jax.process_count() > 1:
    raise ValueError(
      "max_size, max_macs, max_latency_ms: students are tried on one process, and this is one of"
      f" {jax.process_count()}; leave them or the coordinator out."
    )
  if jax.device_count() == 1:
    return None
  mesh = training.make_mesh()
  process_rows(mesh, options.batch_size)
  return mesh


def _teach(run: Context, teacher: Network, given: TrainedNetwork | None) -> TrainedNetwork:
  """The teacher: given, of an earlier part of this run, or trained."""
  saved = run.folder / "teacher"
  if given is not None:
    note_float(run, "teacher", given, steps=0)
    return given
  if processes.shared(saved.exists()):  # an earlier part of this run finished it
    trained = TrainedNetwork(teacher, networks.read_network(saved).variables)
    if not run.noted("teacher"):  # its note was deleted
      note_float(run, "teacher", trained)
    return trained
  trained = TrainedNetwork(teacher, phases.train_on_labels(run, "teacher", teacher))
  note_float(run, "teacher", trained)
  processes.once(lambda: run.save(saved, trained))
  return trained


def _train_alone(run: Context, student: Network) -> None:
  """The student on labels alone, noted once it is done."""
  if not run.noted("alone"):
    alone = TrainedNetwork(student, phases.train_on_labels(run, "alone", student))
    note_float(run, "alone", alone)


def _keep_distilled(run: Context, distilled: TrainedNetwork, steps: int | None = None) -> None:
  """Exports, notes and saves the student in float."""
  note_float(run, "distilled", distilled, steps)
  processes.once(lambda: run.save(run.folder / "student", distilled))


def _search(run: Context, student: Network, teacher: TrainedNetwork) -> FoundStudent:
  """The best student within the budget; the same network is trained on labels alone too."""
  found = find_student(run, student, teacher)
  say(run.console, f"kept: {found.trained.network.title}")
  _train_alone(run, found.trained.network)
  _keep_distilled(run, found.trained, found.measured.steps - run.steps.int_steps)
  noted = run.recall()["distilled"]
  run.note(distilled=dataclasses.replace(noted, seconds=found.measured.seconds))
  return found


def _train_student(
  run: Context, student: Network, teacher: TrainedNetwork
) -> training.CompressState:
  """The student alone, distilled, and at integers; float models are noted as they are done."""
  _train_alone(run, student)
  keep = lambda latest: _keep_distilled(run, TrainedNetwork(student, latest))  # noqa: E731
  state = phases.distill_student(run, student, teacher, keep)
  if not run.noted("distilled"):  # its note was deleted
    variables = networks.read_network(run.folder / "student").variables
    note_float(run, "distilled", TrainedNetwork(student, variables))
  return state


def read_results(folder: str | os.PathLike) -> Results:
  """The results that a finished run wrote.

  Raises:
    ValueError: if there is no readable report.
  """
  path = pathlib.Path(folder) / REPORT_FILE
  try:
    return from_json(parse_json(path.read_bytes()))
  except OSError as error:
    raise ValueError(f"folder: {path} cannot be read ({error.strerror}).") from error
  except ValueError as error:
    raise ValueError(f"folder: {path} is no readable report ({one_line(error)}).") from error
