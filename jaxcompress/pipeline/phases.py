"""The training phases of a run: teacher, student alone, student distilled and then quantized."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import optax

from jaxcompress import data as datasets
from jaxcompress import distill, prune, quantize, training
from jaxcompress.data.storage import EncodedImages
from jaxcompress.distill.zoo import Parsed
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.options import SPARSITY_SHARES, UNSTRUCTURED, CompressOptions
from jaxcompress.pipeline.presets import FINE_TUNE
from jaxcompress.terminal import say

FIRST_STAGE = 1 / 8  # of the steps, for losses that have one: 30 of 240 epochs in RepDistiller
RECOVERY = 0.3  # of the learning rate, for networks that were trained before
MASKS = 40  # that are chosen over the steps in which sparsity grows


def train_on_labels(run: Context, phase: str, network: Network) -> Any:
  """Trains a network from scratch without a teacher, as many steps as distillation gets.

  Args:
    run: the run.
    phase: ``teacher`` or ``alone``, under which checkpoints and metrics are kept.
    network: the network.

  Returns:
    Its variables.
  """
  protocol = run.preset.protocol_of(network.name)
  optimizer = protocol.optimizer(run.steps.float_steps)
  loss = distill.cross_entropy(protocol.label_smoothing)
  recipe = _recipe(run, network, optimizer=optimizer, loss=loss)
  state = _train(run, phase, network, recipe, run.steps.float_steps)
  return run.here(state.averaged.variables)


def distill_student(
  run: Context,
  network: Network,
  teacher: TrainedNetwork,
  on_float: Callable[[Any], None] | None = None,
  *,
  phase: str = "distilled",
  steps: PhaseSteps | None = None,
  start: Any = None,
  rules: tuple[quantize.Rule, ...] = (),
) -> training.CompressState:
  """Distils the student, then fine-tunes it at integers: one recipe, one compiled step per stage.

  Args:
    run: the run.
    network: the student.
    teacher: the teacher.
    on_float: called with the student's variables when distillation in float has ended.
    phase: under which checkpoints and metrics are kept.
    steps: others than the run's; either part may have none.
    start: the student's variables, trained before; it then learns more slowly. None: fresh ones.
    rules: bits of single layers.

  Returns:
    The last state, without what only training needs, on one device of this process.
  """
  steps = steps or run.steps
  recipe = distillation_recipe(
    run, network, teacher.network, steps, rules, RECOVERY if start is not None else 1.0
  )
  hooks = {}
  if on_float is not None:
    hooks[steps.float_steps] = lambda state: on_float(run.here(state.averaged.variables))
  state = _train(
    run,
    phase,
    network,
    recipe,
    sum(steps),
    hooks,
    teacher_variables=(teacher.variables,),
    student_variables=start,
  )
  student = state.replace(teachers=(), loss_state=(), opt_state=(), placement=None)
  return run.here(student)


def distillation_recipe(
  run: Context,
  network: Network,
  teacher: Network,
  steps: PhaseSteps | None = None,
  rules: tuple[quantize.Rule, ...] = (),
  speed: float = 1.0,
) -> training.Recipe:
  """The recipe of a student and its teacher: in float, pruned if asked, then at integers.

  Without steps in float nothing would train what a loss has of its own, such as a regressor; then
  only the teacher's logits are followed.

  Args:
    run: the run.
    network: the student.
    teacher: the teacher.
    steps: others than the run's.
    rules: bits of single layers.
    speed: factor of the learning rate in float.
  """
  float_steps, int_steps = steps or run.steps
  images = len(run.data.train)
  asked = (
    losses_of(run.options, images) if float_steps else distill.parse("kd", num_examples=images)
  )
  first = asked.first if float_steps else None
  first_steps = 0 if first is None else max(1, round(FIRST_STAGE * float_steps))
  main_steps = float_steps - first_steps  # the optimizer counts them from 0
  protocol = run.preset.protocol_of(network.name)
  fine_tune = optax.cosine_decay_schedule(FINE_TUNE * protocol.learning_rate, max(1, int_steps))
  rate = fine_tune
  if main_steps:
    own = dataclasses.replace(protocol, learning_rate=speed * protocol.learning_rate)
    rate = optax.join_schedules([own.rate(main_steps), fine_tune], [main_steps])

  def optimizer_at(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return pruned(protocol.optimizer_at(rate), run.options, main_steps)

  stages: tuple[training.Stage, ...] = ()
  if first is not None:
    constant = optax.constant_schedule(asked.first_stage_rate(protocol.learning_rate))
    stages = (training.Stage(first, asked.moves, first_steps, optimizer_at(constant)),)
  return _recipe(
    run,
    network,
    optimizer=optimizer_at(rate),
    teachers=(teacher.module,),
    loss=asked.loss,
    trainable=asked.trainable,
    stages=stages,
    quantize=_integers(run.options, rules, float_steps) if int_steps else None,
  )


def _integers(
  options: CompressOptions, rules: tuple[quantize.Rule, ...], start: int
) -> quantize.Quantization:
  """The plan of the steps at integers."""
  shared: dict[str, Any] = {"rules": rules, "start_step": start, "freeze_norm_step": start}
  if options.cluster is not None:
    return quantize.clustered(options.cluster, **shared)
  return quantize.int8(options.bits, **shared)


def pruned(
  optimizer: optax.GradientTransformation, options: CompressOptions, steps: int
) -> optax.GradientTransformation:
  """An optimizer that prunes as was asked, from the first to the third quarter of some steps.

  Args:
    optimizer: what trains.
    options: nothing is pruned if they ask for nothing.
    steps: that training in float takes; the last quarter mends what pruning did.
  """
  begin = steps // 4
  end = max(begin + 1, 3 * steps // 4)
  schedule = prune.agp(begin, end, every=max(1, (end - begin) // MASKS))
  if options.sparsity_pattern not in (None, UNSTRUCTURED):
    return prune.n_m(optimizer, options.sparsity_pattern, schedule=schedule)
  if options.sparsity is None:
    return optimizer
  shares = SPARSITY_SHARES[options.sparsity_distribution or next(iter(SPARSITY_SHARES))]
  return prune.magnitude(optimizer, sparsity=options.sparsity, schedule=schedule, **shares)


def losses_of(options: CompressOptions, images: int) -> Parsed:
  """The losses that the options ask for, with a number of training images."""
  return distill.parse(options.distill, num_examples=images)


def check_losses(
  options: CompressOptions,
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
  hooks: Mapping[int, Callable[[Any], None]] = MappingProxyType({}),
  **variables: Any,
) -> training.CompressState:
  """Trains one phase from its newest checkpoint, or from the start."""
  options, split = run.options, run.data.train
  seed = _phase_seed(options.seed, phase)

  rows = run.rows(options.batch_size)

  def batch_at(position: int) -> dict[str, Any]:
    return datasets.batch_at(split, options.batch_size, seed=seed, position=position, rows=rows)

  stream = None
  if isinstance(split.images, EncodedImages):
    stream = batch_at = datasets.Stream(
      split, options.batch_size, seed=seed, stop=steps, rows=rows, workers=run.workers
    )

  def log_top1(position: int, state: training.CompressState) -> None:
    top1 = run.top1(network, state.averaged.variables, run.data.validation)
    run.metrics.write(phase, position, top1=top1)

  first = datasets.batch_at(split, options.batch_size, seed=seed, position=0)  # whole everywhere
  state = training.init_state(recipe, jax.random.key(seed), first, **variables)
  if run.mesh is not None:
    state = training.shard(state, run.mesh)
  with (
    stream or contextlib.nullcontext(),
    training.Checkpoints(
      run.folder / "checkpoints" / phase,
      every=min(100, max(1, steps // 10)),
      warn=partial(say, run.console),
    ) as checkpoints,
  ):
    if checkpoints.latest() is not None:
      state = checkpoints.restore(state)
    position = int(state.position)
    run.metrics.rewind(phase, position)
    due: dict[int, Callable[[Any], None]] = {
      **{at: partial(log_top1, at) for at in _quarters(run.steps.float_steps) if at > position},
      **{at: hook for at, hook in hooks.items() if at >= position},
    }
    state = training.fit(
      state,
      batch_at,
      steps=steps,
      name=phase,
      on_log=lambda row: run.metrics.write(phase, int(row.pop("step")), **row),
      hooks=due,
      checkpoints=checkpoints,
      console=run.console,
    )
  return state


def _quarters(steps: int) -> tuple[int, ...]:
  """Positions inside a phase at which held-out images are looked at."""
  return tuple(steps * i // 4 for i in (1, 2, 3) if steps >= 4)


def _phase_seed(seed: int, phase: str) -> int:
  """The student alone and the distilled one start alike and see the same data; a teacher does not."""
  return 2 * seed + (phase == "teacher")
