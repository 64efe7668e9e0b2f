"""The training phases of a run: teacher, student alone, student distilled and then quantized."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import distill, export, quantize, training
from jaxcompress.pipeline.networks import Network
from jaxcompress.pipeline.options import Options
from jaxcompress.pipeline.presets import FINE_TUNE, Preset
from jaxcompress.report import MetricsWriter, read_metrics

FIRST_STAGE = 1 / 8  # of the steps, for losses that have one: 30 of 240 epochs in RepDistiller
STEPS = 1000  # where no number of epochs is given, and the set is not small
SMALL_STEPS, SMALL_EPOCHS = 400, 25  # a small set gets so many epochs, but no fewer steps
EVAL_BATCH = 250
PROGRESS_FILE = "progress.json"


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Steps of each phase.

  Attributes:
    float_steps: of the teacher, of the student alone, and of distillation in float.
    int_steps: of quantized fine-tuning after distillation.
  """

  float_steps: int
  int_steps: int

  @classmethod
  def of(cls, options: Options, images: int) -> "Schedule":
    """The schedule for a number of training images.

    Examples:
      >>> Schedule.of(Options(epochs=2, batch_size=50), 1000)
      Schedule(float_steps=40, int_steps=8)
      >>> [Schedule.of(Options(), images).float_steps for images in (100, 1258, 24_000)]
      [400, 491, 1000]
    """
    if options.epochs is not None:
      steps = max(1, round(options.epochs * images / options.batch_size))
    elif options.quick:
      steps = STEPS // 5
    else:
      epochs = round(SMALL_EPOCHS * images / options.batch_size)
      steps = min(STEPS, max(SMALL_STEPS, epochs))
    return cls(steps, max(1, steps // 5))


@dataclasses.dataclass(frozen=True)
class Context:
  """What every phase needs.

  Attributes:
    folder: of the run's output.
    options: of the run.
    data: images in memory.
    preset: how networks are trained.
    schedule: steps of each phase.
    metrics: rows go here.
    console: progress goes here.
  """

  folder: pathlib.Path
  options: Options
  data: datasets.Dataset
  preset: Preset
  schedule: Schedule
  metrics: MetricsWriter
  console: Console

  @property
  def preprocess(self) -> datasets.Preprocess:
    """Maps images to what networks read."""
    return self.preset.preprocess

  def recall(self) -> dict[str, Any]:
    """Facts that earlier phases noted."""
    path = self.folder / PROGRESS_FILE
    return json.loads(path.read_text()) if path.exists() else {}

  def note(self, **facts: Any) -> None:
    """Keeps facts for the report, also over a kill."""
    text = json.dumps({**self.recall(), **facts}, indent=2) + "\n"
    export.write_atomically(self.folder / PROGRESS_FILE, text)

  def top1(self, network: Network, variables: Any, split: datasets.Split) -> float:
    """Accuracy of a float network on a split, a share."""
    batches = datasets.eval_batches(split, min(EVAL_BATCH, len(split)))
    return training.evaluate(network.module, variables, batches, preprocess=self.preprocess)["top1"]

  def seconds(self, *phases: str) -> float:
    """Training time that the metrics of some phases add up to, compilation included."""
    rows = [row for row in read_metrics(self.metrics.path) if row["phase"] in phases]
    return sum(row.get("seconds", 0.0) for row in rows)


def train_teacher(run: Context, network: Network) -> Any:
  """Trains the teacher from scratch; its variables."""
  recipe = _labels_alone(run, network)
  return _train(run, "teacher", network, recipe, run.schedule.float_steps).averaged.variables


def train_alone(run: Context, network: Network) -> Any:
  """Trains the student on labels alone, as many steps as distillation gets; its variables."""
  recipe = _labels_alone(run, network)
  return _train(run, "alone", network, recipe, run.schedule.float_steps).averaged.variables


def distill_student(
  run: Context,
  network: Network,
  teacher: Network,
  teacher_variables: Any,
  on_float: Callable[[Any], None],
) -> training.CompressState:
  """Distils the student, then fine-tunes it at integers: one recipe, one compiled step per stage.

  Args:
    run: the run.
    network: the student.
    teacher: the teacher.
    teacher_variables: its variables.
    on_float: called with the student's variables when distillation in float has ended.

  Returns:
    The last state.
  """
  float_steps, int_steps = run.schedule.float_steps, run.schedule.int_steps
  recipe = distillation_recipe(run, network, teacher)
  return _train(
    run,
    "distilled",
    network,
    recipe,
    float_steps + int_steps,
    teacher_variables=(teacher_variables,),
    hooks={float_steps: lambda state: on_float(state.averaged.variables)},
  )


def distillation_recipe(run: Context, network: Network, teacher: Network) -> training.Recipe:
  """The recipe of a student and its teacher: in float, then at integers."""
  float_steps, int_steps = run.schedule.float_steps, run.schedule.int_steps
  asked = losses_of(run.options, len(run.data.train))
  first_steps = 0 if asked.first is None else max(1, round(FIRST_STAGE * float_steps))
  main_steps = max(1, float_steps - first_steps)  # the optimizer counts them from 0
  protocol = run.preset.protocol_of(network.name)
  fine_tune = optax.cosine_decay_schedule(FINE_TUNE * protocol.learning_rate, int_steps)
  rate = optax.join_schedules([protocol.rate(main_steps), fine_tune], [main_steps])
  return _recipe(
    run,
    network,
    optimizer=protocol.optimizer_at(rate),
    teachers=(teacher.module,),
    loss=asked.loss,
    trainable=asked.trainable,
    stages=() if asked.first is None else (training.Stage(asked.first, asked.moves, first_steps),),
    quantize=quantize.uniform(
      run.options.bits, start_step=float_steps, freeze_norm_step=float_steps
    ),
  )


def losses_of(options: Options, images: int) -> distill.Parsed:
  """The losses that the options ask for, with a number of training images."""
  return distill.parse(options.distill, num_examples=images)


def check_losses(
  options: Options,
  train: datasets.Split,
  preprocess: datasets.Preprocess,
  student: Network,
  teacher: Network,
) -> None:
  """Finds out before any training whether the losses fit the two networks; computes nothing.

  Raises:
    ValueError: if they do not.
  """
  asked = losses_of(options, len(train))
  example = datasets.batch_at(train, options.batch_size, seed=0, position=0)

  def try_losses(variables, batch):
    images = preprocess(batch["image"])
    outputs = [
      network.module.apply(own, images, train=False)
      for network, own in zip((student, teacher), variables, strict=True)
    ]
    networks = (outputs[0], (outputs[1],))
    params = {"student_params": variables[0]["params"], "teacher_params": (variables[1]["params"],)}
    for loss in filter(None, (asked.first, asked.loss)):
      made = loss.init(jax.random.key(0), *networks, batch)
      loss.update(*made, *networks, batch, **params)

  jax.eval_shape(try_losses, (student.summary.variables, teacher.summary.variables), example)


def _labels_alone(run: Context, network: Network) -> training.Recipe:
  """The recipe of a network that no teacher helps."""
  protocol = run.preset.protocol_of(network.name)
  optimizer = protocol.optimizer(run.schedule.float_steps)
  loss = distill.cross_entropy(protocol.label_smoothing)
  return _recipe(run, network, optimizer=optimizer, loss=loss)


def _recipe(run: Context, network: Network, **parts: Any) -> training.Recipe:
  return training.Recipe(
    student=network.module,
    augment=run.preset.augment(run.data),
    ema=run.preset.protocol_of(network.name).ema,
    preprocess=run.preprocess,
    **parts,
  )


def _train(
  run: Context,
  phase: str,
  network: Network,
  recipe: training.Recipe,
  steps: int,
  *,
  teacher_variables: tuple[Any, ...] = (),
  hooks: dict[int, Callable[[Any], None]] | None = None,
) -> training.CompressState:
  """Trains one phase from its newest checkpoint, or from the start."""
  options, split = run.options, run.data.train
  seed = _phase_seed(options.seed, phase)

  def batch_at(position: int) -> dict[str, Any]:
    return datasets.batch_at(split, options.batch_size, seed=seed, position=position)

  def log_top1(position: int) -> Callable[[Any], None]:
    def log(state: training.CompressState) -> None:
      top1 = run.top1(network, state.averaged.variables, run.data.validation)
      run.metrics.write(phase, position, top1=top1)

    return log

  state = training.init_state(
    recipe, jax.random.key(seed), batch_at(0), teacher_variables=teacher_variables
  )
  checkpoints = training.Checkpoints(
    run.folder / "checkpoints" / phase, every=min(100, max(1, steps // 10))
  )
  try:
    if checkpoints.latest() is not None:
      state = checkpoints.restore(state)
    position = int(state.position)
    run.metrics.rewind(phase, position)
    hooks = {
      **{at: log_top1(at) for at in _quarters(run.schedule.float_steps) if at > position},
      **{at: hook for at, hook in (hooks or {}).items() if at >= position},
    }
    state = training.fit(
      state,
      batch_at,
      steps=steps,
      name=phase,
      on_log=lambda row: run.metrics.write(phase, int(row.pop("step")), **row),
      hooks=hooks,
      checkpoints=checkpoints,
      console=run.console,
    )
  finally:
    checkpoints.close()
  return state


def _quarters(steps: int) -> tuple[int, ...]:
  """Positions inside a phase at which held-out images are looked at."""
  return tuple(steps * i // 4 for i in (1, 2, 3) if steps >= 4)


def _phase_seed(seed: int, phase: str) -> int:
  """The student alone and the distilled one start alike and see the same data; a teacher does not."""
  return 2 * seed + (phase == "teacher")
