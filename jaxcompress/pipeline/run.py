"""A whole compress run: from images to an integer file and a report."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, report, training
from jaxcompress.pipeline import deploying, networks, phases
from jaxcompress.pipeline.context import Context, Schedule
from jaxcompress.pipeline.deploying import note_float
from jaxcompress.pipeline.networks import Network
from jaxcompress.pipeline.options import Options
from jaxcompress.pipeline.presets import PRESETS
from jaxcompress.pipeline.search import Found, plan_candidates, search
from jaxcompress.training import processes

QUICK_IMAGES = 6000


def compress(
  options: Options,
  folder: str | os.PathLike,
  *,
  command: str = "",
  workers: int | None = None,
  console: Console | None = None,
) -> report.Results:
  """Trains, distils, quantizes, exports, verifies and reports; goes on where a run was killed.

  Args:
    options: what to do.
    folder: output; what an earlier part of the same run left in it is used.
    command: the command line, for the report.
    workers: processes that decode images, for data larger than memory; None: by the CPU's cores.
    console: progress goes here.

  Returns:
    The :class:`~jaxcompress.report.Results` that the report shows.

  With several processes (see :func:`~jaxcompress.training.join`) all call this alike, on a folder
  that all see; the first one writes. All devices share each batch.

  Raises:
    ValueError: for options that do not fit together, with the data or with the devices.
    PreemptedError: after SIGTERM; the run can be gone on with.

  Examples:
    It takes minutes; ``jaxcompress compress --quick --data digits --out OUT`` runs it.
  """
  console = console or Console(stderr=True)
  folder = pathlib.Path(folder)
  began = time.perf_counter()
  export.require_edge()  # now, not after minutes of training
  mesh = _all_devices(options)
  with console.status(f"reading {options.data}"):
    data = datasets.load(
      options.data,
      seed=options.seed,
      size=options.image_size,
      limit=QUICK_IMAGES if options.quick else None,
      flip=options.flip,
    )
  preset = PRESETS[options.preset]
  if preset.whole:
    data = data.with_validation_trained()
  count, shape = len(data.classes), data.image_shape
  student_width, teacher_width, quick_width = preset.widths
  student = networks.build(
    options.student, count, shape, options.width, student_width, preset.network
  )
  given = None
  if options.teacher_checkpoint is not None:
    teacher, given = networks.load(
      options.teacher_checkpoint,
      data.classes,
      shape,
      name=options.teacher,
      width=options.teacher_width,
      wanted=preset.network,
    )
  else:
    width = quick_width if options.quick else teacher_width
    name = options.teacher or preset.teacher
    teacher = networks.build(name, count, shape, options.teacher_width, width, preset.network)
  console.print(
    f"{data.name}: {len(data.train):,} training images of {count} classes,"
    f" {shape[0]} x {shape[1]} px; teacher {teacher.title}"
    f" ({teacher.summary.parameters:,} parameters), student {student.title}"
    f" ({student.summary.parameters:,})"
  )
  _tell(data, options, console)
  phases.check_losses(options, data.train, preset.preprocess, student, teacher)
  metrics_file = folder / "metrics.jsonl" if processes.is_first() else os.devnull
  with report.MetricsWriter(metrics_file) as metrics:
    run = Context(
      folder=folder,
      options=options,
      data=data,
      preset=preset,
      schedule=Schedule.of(options, len(data.train)),
      metrics=metrics,
      console=console,
      mesh=mesh,
      workers=workers,
    )
    if options.searches:
      plan_candidates(run, student)  # before anything is trained
    variables = _teach(run, teacher, given)
    if options.searches:
      found = _search(run, student, teacher, variables)
      student, made, searched = found.network, lambda: found.quantized, found.search
    else:
      trained = _train_student(run, student, teacher, variables)
      made, searched = trained.quantized, None

    def deploy() -> None:
      with console.status("running the .tflite on every test image"):
        results = deploying.deploy(run, student, made(), command, began)
      results = dataclasses.replace(results, search=searched)
      report.write_report(results, folder)
      shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    processes.once(deploy)
  return read_results(folder)


def _tell(data: datasets.Dataset, options: Options, console: Console) -> None:
  """What was noticed in reading the data, and whether images are mirrored."""
  hint = "" if options.flip is not None else "; --flip or --no-flip decides"
  mirrored = f"mirrored images are {'' if data.flip else 'not '}trained on too{hint}"
  for note in (*data.notes, mirrored):
    console.print(f"  {note}", markup=False, highlight=False)


def _all_devices(options: Options) -> Mesh | None:
  """A mesh of all devices of all processes, if there are several.

  Raises:
    ValueError: if they cannot share a batch, or there are several processes and a search, whose
      measurements may differ between them.
  """
  if options.searches and jax.process_count() > 1:
    raise ValueError(
      "max_size, max_macs, max_latency_ms: students are tried on one process, and this is one of"
      f" {jax.process_count()}; leave them or --coordinator out."
    )
  if jax.device_count() == 1:
    return None
  mesh = training.make_mesh()
  training.process_rows(mesh, options.batch_size)
  return mesh


def _teach(run: Context, teacher: Network, given: Any) -> Any:
  """The teacher's variables: given, of an earlier part of this run, or trained."""
  saved = run.folder / "teacher"
  if given is not None:
    variables = given
    note_float(run, "teacher", teacher, variables, steps=0)
  elif processes.shared(saved.exists()):  # an earlier part of this run finished it
    _, variables = networks.load(
      saved,
      run.data.classes,
      run.data.image_shape,
      name=teacher.name,
      width=teacher.width,
      wanted=run.preset.network,
    )
  else:
    variables = phases.train_teacher(run, teacher)
    steps = run.schedule.float_steps
    note_float(run, "teacher", teacher, variables, steps=steps)
    processes.once(
      lambda: networks.save(saved, teacher, variables, run.data.classes, run.preprocess)
    )
  return variables


def _train_alone(run: Context, student: Network) -> None:
  """The student on labels alone, noted once it is done."""
  if not processes.shared("alone" in run.recall()):
    alone = phases.train_alone(run, student)
    note_float(run, "alone", student, alone, steps=run.schedule.float_steps)


def _keep_distilled(run: Context, student: Network, distilled: Any, steps: int) -> None:
  """Exports, notes and saves the student in float."""

  def save_student() -> None:
    folder = run.folder / "student"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    networks.save(folder, student, distilled, run.data.classes, run.preprocess)

  note_float(run, "distilled", student, distilled, steps=steps)
  processes.once(save_student)


def _search(run: Context, student: Network, teacher: Network, variables: Any) -> Found:
  """The best student within the budget; the same network is trained on labels alone too."""
  found = search(run, student, teacher, variables)
  run.console.print(f"kept: {found.network.title}", highlight=False)
  _train_alone(run, found.network)
  steps = found.result.steps - run.schedule.int_steps
  _keep_distilled(run, found.network, found.variables, steps)
  run.note(distilled={**run.recall()["distilled"], "seconds": found.result.seconds})
  return found


def _train_student(
  run: Context, student: Network, teacher: Network, variables: Any
) -> training.CompressState:
  """The student alone, distilled, and at integers; float models are noted as they are done."""
  _train_alone(run, student)

  def on_float(distilled: Any) -> None:
    _keep_distilled(run, student, distilled, run.schedule.float_steps)

  return phases.distill_student(run, student, teacher, variables, on_float)


def read_results(folder: str | os.PathLike) -> report.Results:
  """The results that a finished run wrote.

  Raises:
    ValueError: if there is no readable report.
  """
  path = pathlib.Path(folder) / "report.json"
  try:
    return report.from_json(json.loads(path.read_text()))
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(f"folder: {path} is no readable report ({error}).") from error
