"""A whole compress run: from images to an integer file and a report."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxcompress import training
from jaxcompress.arguments import check_whole
from jaxcompress.files.extras import require
from jaxcompress.pipeline.contents import check_contents
from jaxcompress.pipeline.context import Context, PhaseSteps, read_progress
from jaxcompress.pipeline.folders import (
  CHECKPOINTS,
  check_options,
  is_finished,
  plan_epochs,
  read_results,
  working_in,
  write_epochs,
)
from jaxcompress.pipeline.given import NOTHING, Given
from jaxcompress.pipeline.networks import TrainedNetwork
from jaxcompress.pipeline.opening import Opened, keep_skipped, open_run
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.outcome import export_student
from jaxcompress.pipeline.outside import OutsideTeacher, free_again
from jaxcompress.pipeline.pretrained import Start
from jaxcompress.pipeline.search import plan_candidates
from jaxcompress.pipeline.students import (
  keeps_best,
  search_student,
  teach,
  train_student,
  transfer_student,
)
from jaxcompress.report import findings
from jaxcompress.report.metrics import MetricsWriter
from jaxcompress.report.results import Results
from jaxcompress.report.write import write_report
from jaxcompress.terminal import say, waiting
from jaxcompress.training import processes
from jaxcompress.training.sharding import process_rows

METRICS_FILE = "metrics.jsonl"


def carry_out(
  options: CompressOptions,
  folder: str | os.PathLike,
  *,
  given: Given = NOTHING,
  command: str = "",
  workers: int | None = None,
  console: Console | None = None,
) -> Results:
  """Trains, distils, quantizes, exports, verifies and reports; goes on where a run was killed.

  A finished run is left as it is, unless more epochs are asked for: then its networks are trained on.

  Args:
    options: what to do.
    folder: output; what an earlier part of the same run left in it is used.
    given: what Python gave beside the options.
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
    PreemptedError: after SIGTERM; the run can be resumed.
  """
  if workers is not None:
    check_whole("workers", workers, 0)
  console = console or Console(stderr=True)
  folder = pathlib.Path(folder)
  if processes.shared(is_finished(folder, options)):
    check_options(folder, options)
    results = read_results(folder)
    say(console, f"the run in {folder} is finished; nothing is done")
    if processes.shared((folder / CHECKPOINTS).is_dir()):  # it was killed at its very end
      with contextlib.suppress(ValueError), working_in(folder, options):  # unless more is trained
        processes.once(lambda: _tidy(folder))
    return results
  with working_in(folder, options):
    _work(options, folder, given, command, workers, console)
    return read_results(folder)


def _work(
  options: CompressOptions,
  folder: pathlib.Path,
  given: Given,
  command: str,
  workers: int | None,
  console: Console,
) -> None:
  """All of a run that is not finished."""
  began = time.perf_counter()
  require("tflite")  # now, not after minutes of training
  read_progress(folder)  # likewise: damaged files are told before the data are read
  MetricsWriter(folder / METRICS_FILE).rows()
  mesh = _all_devices(options)
  with free_again(folder / CHECKPOINTS):
    opened = open_run(options, folder / CHECKPOINTS, console, given)
    starts = {"student": opened.student_start, "teacher": opened.teacher_start}
    check_contents(folder, options, opened.data, starts)
    rounds = _rounds(options, folder, len(opened.data.train), opened.student_start is not None)
  data, preset, steps, student, teacher, _, teacher_start = opened
  processes.once(lambda: keep_skipped(data, folder, console))
  metrics_file = folder / METRICS_FILE if processes.is_first() else os.devnull
  with MetricsWriter(metrics_file) as metrics:
    shared = metrics, console, mesh, workers, rounds
    run = Context(folder, options, data, preset, steps, *shared, starts=_trained_on(opened))
    if options.searches:
      plan_candidates(run, student)  # before anything is trained
    trained: TrainedNetwork | OutsideTeacher | None = None
    if isinstance(teacher, OutsideTeacher):
      trained = teacher
    elif teacher is not student:  # else the student teaches itself, once it is trained
      trained = teach(run, teacher, teacher_start)
    if isinstance(trained, TrainedNetwork) and options.searches:
      made = search_student(run, student, trained)
    elif trained is None or keeps_best(run, "student"):
      made = transfer_student(run, student, trained)
    else:
      made = train_student(run, student, trained)

    def finish() -> None:
      with waiting(console, "running the .tflite on every test image"):
        results = export_student(
          run, made.trained.network, made.quantized, made.made_from, command, began
        )
      notes = (*made.notes, *((teacher.note,) if isinstance(teacher, OutsideTeacher) else ()))
      facts = dataclasses.replace(results.run, notes=(*results.run.notes, *notes))
      results = dataclasses.replace(results, run=facts)
      results = dataclasses.replace(results, search=made.search)
      run.save(folder / "student", made.trained)
      learned = teacher_start is None or teacher_start.new_head
      if isinstance(trained, TrainedNetwork) and learned and len(rounds) > 1:
        run.save(folder / "teacher", trained)
      say(console, findings.choice(results))
      write_report(results, folder)
      _tidy(folder)

    processes.once(finish)


def _tidy(folder: pathlib.Path) -> None:
  """Removes what only an unfinished run needs."""
  shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _trained_on(opened: Opened) -> dict[str, Start]:
  """Returns the pretrained weights of the networks that are trained, by role."""
  starts = {}
  if opened.student_start is not None:
    starts["student"] = opened.student_start
  if opened.teacher_start is not None and opened.teacher_start.new_head:
    starts["teacher"] = opened.teacher_start
  return starts


def _rounds(
  options: CompressOptions, folder: pathlib.Path, images: int, pretrained: bool
) -> tuple[int, ...]:
  """Steps in float at the end of each round of a run; a new round is written down.

  Raises:
    ValueError: if a round would have no steps.
  """
  epochs = processes.shared(plan_epochs(folder, options))
  steps = [
    PhaseSteps.of(dataclasses.replace(options, epochs=n), images, pretrained=pretrained).float_steps
    for n in epochs
  ]
  if len(steps) > 1 and steps[-1] <= steps[-2]:
    raise ValueError(
      f"epochs: {options.epochs:g} are {steps[-1]:,} steps, and the run in {folder} has"
      f" {steps[-2]:,} already, {steps[-2] * options.batch_size / images:.3g} epochs; give more, or"
      " leave it out."
    )
  if len(steps) > 1:
    processes.once(lambda: write_epochs(folder, epochs))
  return tuple(steps)


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
