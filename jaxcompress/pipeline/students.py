"""The networks of a run as they are trained: the teacher, the student alone and distilled, and the
better one of these two quantized."""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

from jaxcompress import quantize
from jaxcompress.pipeline import integers, networks, phases, transfer
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.outcome import better, note_float
from jaxcompress.pipeline.outside import OutsideTeacher
from jaxcompress.pipeline.pretrained import Start
from jaxcompress.pipeline.search import find_student
from jaxcompress.report.results import Search
from jaxcompress.terminal import say
from jaxcompress.training import processes

FLOAT_FOLDER = "float"


class Made(NamedTuple):
  """The student that is shipped.

  Attributes:
    trained: in float.
    quantized: the integer network.
    made_from: key of the float network: ``alone`` or ``distilled``.
    search: how it was found; None where it was given.
    notes: for the report.
  """

  trained: TrainedNetwork
  quantized: quantize.QuantizedModel
  made_from: str
  search: Search | None = None
  notes: tuple[str, ...] = ()


def teach(run: Context, teacher: Network, start: Start | None) -> TrainedNetwork:
  """The teacher: as it starts if it knows the classes, of an earlier part of this run, or trained."""
  if start is None or start.new_head:
    return train_in_rounds(run, "teacher", teacher)
  given = TrainedNetwork(teacher, start.variables)
  note_float(run, "teacher", given, steps=0)
  return given


def train_in_rounds(
  run: Context,
  key: str,
  network: Network,
  teacher: TrainedNetwork | OutsideTeacher | None = None,
) -> TrainedNetwork:
  """A network on labels alone or after a teacher, noted once its last round is done; a killed run goes on.

  A run that goes on with more epochs has a further round: it begins with what the round before it
  kept, with a schedule of its own, and keeps what validates better, before or after.

  Args:
    run: the run.
    key: ``teacher``, ``alone`` or ``distilled``.
    network: the network.
    teacher: of ``distilled``, whose phases keep what is best; else None.
  """
  role = "teacher" if key == "teacher" else "student"
  rounds = _rounds_of(run, role)
  number = _rounds_done(run, key)
  kept = _kept(run, key, number, network)
  for n in range(number + 1, len(run.rounds) + 1):
    start = None if kept is None else kept.variables
    steps, done = rounds[n - 1], rounds[n - 2] if n > 1 else 0
    if role in run.starts and start is None:
      start = _begin(run, role, network)
    if keeps_best(run, role):
      latest = transfer.tune(run, key, network, start, steps=steps, done=done, teacher=teacher)
    else:
      latest = phases.train_on_labels(run, key, network, steps=steps, start=start, done=done)
    kept = _keep(run, key, n, TrainedNetwork(network, latest), kept)
  assert kept is not None  # a run has a round
  if not run.noted(key):  # its note was deleted
    note_float(run, key, kept)
  return kept


def keeps_best(run: Context, role: str) -> bool:
  """Whether phases of ``student`` or ``teacher`` keep what validates best, and not what they end with:
  if it starts from weights, or patience is asked for."""
  return role in run.starts or run.options.patience is not None


def _begin(run: Context, role: str, network: Network) -> Any:
  """Returns the initial variables of a pretrained network; notes the accuracy of the student's."""
  began = time.perf_counter()
  variables = transfer.begin(run, role)
  if role == "student" and run.starts[role].new_head and not run.noted("head"):
    note_float(run, "head", TrainedNetwork(network, variables), steps=0)
    noted = run.recall().get("head")
    if noted is not None and processes.is_first():
      run.note(head=dataclasses.replace(noted, seconds=time.perf_counter() - began))
  return variables


def _rounds_of(run: Context, role: str) -> tuple[int, ...]:
  """Steps at the end of each round: fewer of a network that starts from weights."""
  images, pretrained = len(run.data.train), [name in run.starts for name in (role, "student")]
  own, students = (
    PhaseSteps.of(run.options, images, pretrained=one).float_steps for one in pretrained
  )
  return tuple(max(1, round(steps * own / students)) for steps in run.rounds)


def transfer_student(
  run: Context, student: Network, teacher: TrainedNetwork | OutsideTeacher | None
) -> Made:
  """A student alone, distilled, and the better one quantized, each phase for itself; see
  :func:`keeps_best`.

  Args:
    run: the run.
    student: the network.
    teacher: None: the student itself teaches, once it is trained alone.
  """
  alone = train_in_rounds(run, "alone", student)
  distilled = train_in_rounds(run, "distilled", student, alone if teacher is None else teacher)
  made_from = chosen(run)
  best = alone if made_from == "alone" else distilled
  quantized, notes = integers.to_integers(run, student, best.variables, teacher)
  return Made(best, quantized, made_from, notes=(*transfer.notes_of(run.recall()), *notes))


def train_student(run: Context, student: Network, teacher: TrainedNetwork | OutsideTeacher) -> Made:
  """The student alone, distilled, and the better one quantized, with the teacher if it had one."""
  alone = train_in_rounds(run, "alone", student)
  done, last = _rounds_done(run, "distilled"), len(run.rounds)
  state, goes_on = None, False
  if done == last and not run.noted("distilled"):  # its note was deleted
    distilled = _kept(run, "distilled", done, student)
    assert distilled is not None
    note_float(run, "distilled", distilled)
  for n in range(1, last + 1):
    if n < done or (n == done and (n < last or chosen(run) == "alone")):
      continue
    before = _kept(run, "distilled", n - 1, student)

    def keep(latest, n=n, before=before):
      nonlocal goes_on
      kept = _keep(run, "distilled", n, TrainedNetwork(student, latest), before)
      goes_on = n == last and kept is not before and chosen(run) == "distilled"
      return goes_on

    goes_on = n == last  # unless this is told otherwise; it is asked at the end in float alone
    state = phases.distill_student(
      run,
      student,
      teacher,
      keep,
      steps=PhaseSteps(run.rounds[n - 1], run.steps.int_steps),
      start=None if before is None else before.variables,
      done=_steps_before(run, n),
    )
  made_from = chosen(run)
  best = alone if made_from == "alone" else _kept(run, "distilled", last, student)
  assert best is not None
  if state is None or not goes_on:
    state = phases.quantize_alone(run, student, best.variables)
  quantized, notes = integers.checked(run, student, best.variables, state.quantized())
  return Made(best, quantized, made_from, notes=notes)


def search_student(run: Context, student: Network, teacher: TrainedNetwork) -> Made:
  """The best student within the budget; the same network is trained on labels alone beside it."""
  found = find_student(run, student, teacher)
  say(run.console, f"kept: {found.trained.network.title}")
  train_in_rounds(run, "alone", found.trained.network)
  note_float(run, "distilled", found.trained, found.measured.steps - run.steps.int_steps)
  noted = run.recall()["distilled"]
  run.note(distilled=dataclasses.replace(noted, seconds=found.measured.seconds))
  notes = (found.note,) if found.note else ()
  return Made(found.trained, found.quantized, "distilled", found.search, notes)


def chosen(run: Context) -> str:
  """Which student is shipped: ``distilled`` or ``alone``; published protocols without held-out
  images do not choose."""
  if run.preset.whole:
    return "distilled"
  return processes.shared(better(run.recall()) if processes.is_first() else "")


def _home(run: Context, key: str, number: int) -> pathlib.Path:
  """Where what a round kept is: the first teacher under a name of its own, the others with the files."""
  if number > 1:
    return run.folder / FLOAT_FOLDER / f"{key}-{number}"
  return run.folder / key if key == "teacher" else run.folder / FLOAT_FOLDER / key


def _rounds_done(run: Context, key: str) -> int:
  """The last round of a network that is done; 0: none is."""
  numbers = range(1, len(run.rounds) + 1)
  done = (n for n in numbers if _home(run, key, n).exists())
  return processes.shared(max(done, default=0))


def _steps_before(run: Context, number: int) -> int:
  return run.rounds[number - 2] if number > 1 else 0


def _kept(run: Context, key: str, number: int, network: Network) -> TrainedNetwork | None:
  """Reads the network that a round kept; None before the first round."""
  if number == 0:
    return None
  return TrainedNetwork(network, networks.read_network(_home(run, key, number)).variables)


def _keep(
  run: Context, key: str, number: int, latest: TrainedNetwork, before: TrainedNetwork | None
) -> TrainedNetwork:
  """Writes what validates better, after a round or before it, and notes that of the last round."""
  images = run.data.validation
  score = run.evaluate(*latest, images)
  if before is not None:
    old = run.evaluate(*before, images)
    if (old.top1, -old.loss) > (score.top1, -score.loss):
      say(
        run.console,
        f"{key}: more epochs did not improve it, {score.top1:.2%} of the validation images against"
        f" {old.top1:.2%}; the earlier weights are kept",
      )
      latest, score = before, old
  home = _home(run, key, number)

  def save() -> None:
    home.parent.mkdir(exist_ok=True)
    run.save(home, latest)

  processes.once(save)
  if number == len(run.rounds):
    note_float(run, key, latest, score=score)
  return latest
