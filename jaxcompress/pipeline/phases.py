"""The training phases of a run: teacher, student alone, student distilled and then quantized."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxcompress import data as datasets
from jaxcompress import distill, prune, quantize, training
from jaxcompress.arguments import VIEW
from jaxcompress.distill.zoo import Parsed
from jaxcompress.nn.select import on_network
from jaxcompress.pipeline.best import trimmed
from jaxcompress.pipeline.budgets import LOW_BITS
from jaxcompress.pipeline.checks import UNSTRUCTURED
from jaxcompress.pipeline.context import SEEN_FIRST, Context, PhaseSteps
from jaxcompress.pipeline.fitting import INT8, Part, train
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.outside import OutsideTeacher
from jaxcompress.prune.shares import DISTRIBUTIONS

FIRST_STAGE = 1 / 8  # of the steps, for losses that have one: 30 of 240 epochs in RepDistiller
AGAIN = 0.3  # of the learning rate, in a further round of a network that loses nothing
GROWN = 1 / 4  # of the steps, after which a fresh network begins to lose weights


def train_on_labels(
  run: Context,
  phase: str,
  network: Network,
  *,
  steps: int | None = None,
  start: Any = None,
  done: int = 0,
) -> Any:
  """Trains a network without a teacher, as many steps as distillation gets; a student pruned if asked.

  Args:
    run: the run.
    phase: ``teacher`` or ``alone``, under which checkpoints and metrics are kept.
    network: the network.
    steps: others than the run's, those that were done before included.
    start: its variables, trained before; None: fresh ones.
    done: steps that were done before, in earlier rounds.

  Returns:
    Its variables.
  """
  protocol = run.preset.protocol_of(network.name)
  steps = (steps or run.steps.float_steps) - done
  speed = speed_of(done, prunes=phase != "teacher" and run.options.prunes)
  protocol = dataclasses.replace(protocol, learning_rate=speed * protocol.learning_rate)
  optimizer = protocol.optimizer(steps)
  if phase != "teacher":
    optimizer = pruned(optimizer, run.options, steps, trained=start is not None)
  loss = distill.cross_entropy(protocol.label_smoothing)
  recipe = recipe_of(run, network, optimizer=optimizer, loss=loss)
  parts = [Part(phase, steps, done)]
  state = train(run, phase, network, recipe, parts, student_variables=start, done=done)
  return run.here(state.averaged.variables)


def quantize_alone(
  run: Context, network: Network, start: Any, *, rules: tuple[quantize.Rule, ...] = ()
) -> training.CompressState:
  """Fine-tunes a student with quantization on labels alone.

  Args:
    run: the run.
    network: the student.
    start: its variables.
    rules: bits of single layers.

  Returns:
    The last state, without what only training needs, on one device of this process.
  """
  protocol, steps = run.preset.protocol_of(network.name), run.steps.int_steps
  rate = optax.cosine_decay_schedule(protocol.fine_tuning * protocol.learning_rate, steps)
  recipe = recipe_of(
    run,
    network,
    optimizer=pruned(protocol.optimizer_at(rate), run.options, 0, trained=True),
    loss=distill.cross_entropy(protocol.label_smoothing),
    quantize=integers(run.options, rules, 0),
  )
  parts = [Part(INT8, steps)]
  state = train(run, INT8, network, recipe, parts, student_variables=start, done=run.done)
  return student_of(run, state)


def distill_student(
  run: Context,
  network: Network,
  teacher: TrainedNetwork | OutsideTeacher,
  on_float: Callable[[Any], bool | None] = lambda variables: None,
  *,
  phase: str = "distilled",
  steps: PhaseSteps | None = None,
  start: Any = None,
  done: int = 0,
  rules: tuple[quantize.Rule, ...] = (),
) -> training.CompressState:
  """Distils the student, then fine-tunes it with quantization: one recipe, one compiled step per stage.

  Args:
    run: the run.
    network: the student.
    teacher: the teacher.
    on_float: called with the student's variables when distillation in float has ended; where it
      returns False they are not quantized.
    phase: under which checkpoints and metrics are kept; ``distilled`` keeps those of quantized steps apart.
    steps: others than the run's, those that were done before included; either part may have none.
    start: the student's variables, trained before; None: fresh ones.
    done: steps in float that were done before, in earlier rounds.
    rules: bits of single layers.

  Returns:
    The last state, without what only training needs, on one device of this process.
  """
  float_steps, int_steps = steps or run.steps
  counts = PhaseSteps(float_steps - done, int_steps)
  outside = teacher if isinstance(teacher, OutsideTeacher) else None
  model = teacher if isinstance(teacher, OutsideTeacher) else teacher.network
  speed = speed_of(done, prunes=run.options.prunes)
  recipe = distillation_recipe(run, network, model, counts, rules, speed, trained=start is not None)
  end = lambda state: on_float(run.here(state.averaged.variables))  # noqa: E731
  integers = (INT8, 0) if phase == "distilled" else (phase, counts.float_steps)
  state = train(
    run,
    phase,
    network,
    recipe,
    [Part(phase, counts.float_steps, done, end), Part(integers[0], int_steps, integers[1])],
    None if outside is None else outside.cache,
    teacher_variables=(teacher.variables if isinstance(teacher, TrainedNetwork) else None,),
    student_variables=start,
    done=done,
  )
  return student_of(run, state)


def student_of(run: Context, state: training.CompressState) -> training.CompressState:
  """A state without what only training needs, on one device of this process."""
  return run.here(trimmed(state).replace(placement=None))


def distillation_recipe(
  run: Context,
  network: Network,
  teacher: Network | OutsideTeacher,
  steps: PhaseSteps | None = None,
  rules: tuple[quantize.Rule, ...] = (),
  speed: float = 1.0,
  *,
  trained: bool = False,
) -> training.Recipe:
  """The recipe of a student and its teacher: in float, pruned if asked, then quantized.

  Without steps in float nothing would train what a loss has of its own, such as a regressor; then
  only the teacher's logits are followed.

  Args:
    run: the run.
    network: the student.
    teacher: the teacher.
    steps: others than the run's.
    rules: bits of single layers.
    speed: factor of the learning rate in float.
    trained: whether the student begins with variables that were trained.
  """
  float_steps, int_steps = steps or run.steps
  images = len(run.data.train)
  asked = (
    losses_of(run.options, images) if float_steps else distill.parse("kd", num_examples=images)
  )
  first = asked.first if float_steps else None
  first_steps = 0 if first is None else max(1, round(FIRST_STAGE * float_steps))
  main_steps = float_steps - first_steps  # the optimizer counts them from 0
  protocol = run.protocol_of("student", network)
  fine_tune = optax.cosine_decay_schedule(
    protocol.fine_tuning * protocol.learning_rate, max(1, int_steps)
  )
  rate = fine_tune
  if main_steps:
    own = dataclasses.replace(protocol, learning_rate=speed * protocol.learning_rate)
    rate = optax.join_schedules([own.rate(main_steps), fine_tune], [main_steps])

  apart = tuple(name for name in asked.weights if name != "labels") if protocol.delta else ()
  if first is not None or "labels" not in asked.weights:
    apart = ()

  def optimizer_at(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    optimizer = protocol.optimizer_at(rate, apart=bool(apart))
    return pruned(optimizer, run.options, main_steps, trained=trained)

  stages: tuple[training.Stage, ...] = ()
  if first is not None:
    constant = optax.constant_schedule(asked.first_stage_rate(protocol.learning_rate))
    stages = (training.Stage(first, asked.moves, first_steps, optimizer_at(constant)),)
  return recipe_of(
    run,
    network,
    optimizer=optimizer_at(rate),
    **({} if asked.views == 1 else {"augment": augmented(run, asked.views)}),
    **taught_by(teacher),
    ema=protocol.ema,
    loss=asked.loss,
    trainable=asked.trainable,
    stages=stages,
    apart=apart,
    quantize=integers(run.options, rules, float_steps) if int_steps else None,
  )


def taught_by(teacher: Network | OutsideTeacher) -> dict[str, Any]:
  """The teachers of a recipe, and what the student sees if that is not what it sees alone."""
  if isinstance(teacher, OutsideTeacher):
    return {"teachers": (training.CachedTeacher(),), "augment": teacher.cache.augment}
  if teacher.preprocess is not None:  # its own, of the same images
    return {"teachers": (distill.adapter(teacher.module, preprocess=teacher.preprocess),)}
  return {"teachers": (teacher.module,)}


def integers(
  options: CompressOptions, rules: tuple[quantize.Rule, ...], start: int
) -> quantize.Quantization:
  """The plan of the quantized steps.

  Args:
    options: of the run.
    rules: bits of single layers.
    start: the first of these steps; BatchNorm's statistics are frozen from there on.
  """
  shared: dict[str, Any] = {"rules": rules, "start_step": start, "freeze_norm_step": start}
  if options.cluster is not None:
    return quantize.clustered(options.cluster, **shared)
  plan = quantize.int8(options.bits, **shared)
  return dataclasses.replace(plan, weights=for_few_bits(quantize.absmax(options.bits)))


def for_few_bits(weights: quantize.Quantizer) -> quantize.Quantizer:
  """A quantizer of weights, or that of as many bits whose steps are trained, where there are few."""
  bits = weights.levels.high.bit_length() + 1
  return weights if bits > LOW_BITS else quantize.lsq(bits)


def speed_of(done: int, *, prunes: bool) -> float:
  """Factor of the learning rate: a network that loses weights or channels learns at the full one.

  Args:
    done: steps of earlier rounds.
    prunes: whether weights become zero.

  Examples:
    >>> speed_of(0, prunes=False), speed_of(1000, prunes=True), speed_of(1000, prunes=False)
    (1.0, 1.0, 0.3)
  """
  return AGAIN if done and not prunes else 1.0


def pruned(
  optimizer: optax.GradientTransformation, options: CompressOptions, steps: int, *, trained: bool
) -> optax.GradientTransformation:
  """An optimizer that prunes as was asked, until the half of some steps, while the rate is high.

  Args:
    optimizer: what trains.
    options: nothing is pruned if they ask for nothing.
    steps: that training in float takes.
    trained: whether the network was trained before; a fresh one loses nothing in the first quarter.
  """
  schedule = prune.agp_within(steps, begin=0.0 if trained else GROWN)
  if options.sparsity_pattern not in (None, UNSTRUCTURED):
    return prune.n_m(optimizer, options.sparsity_pattern, schedule=schedule)
  if options.sparsity is None:
    return optimizer
  found: Any = options.sparsity_distribution or DISTRIBUTIONS[0]
  return prune.magnitude(
    optimizer, sparsity=options.sparsity, distribution=found, schedule=schedule
  )


def check_zeros(options: CompressOptions, student: Network) -> None:
  """Finds out before any training whether the student can have so many zeros.

  Raises:
    ValueError: if not.
  """
  optimizer = pruned(optax.identity(), options, 0, trained=False)
  with on_network(lambda: student.summary.graph):
    jax.eval_shape(optimizer.init, student.summary.variables["params"])


def losses_of(options: CompressOptions, images: int) -> Parsed:
  """The losses that the options ask for, with a number of training images."""
  return distill.parse(options.distill, num_examples=images)


def check_losses(
  options: CompressOptions,
  train: datasets.Split,
  preprocess: datasets.Preprocess,
  student: Network,
  teacher: Network | OutsideTeacher,
) -> None:
  """Finds out before any training whether the losses fit the two networks; computes nothing.

  Raises:
    ValueError: if they do not.
  """
  asked = losses_of(options, len(train))
  few = min(SEEN_FIRST, options.batch_size)
  example = datasets.batch_at(train, few, seed=0, position=0)
  if asked.views > 1 and isinstance(teacher, OutsideTeacher):
    raise ValueError(
      f"distill: {options.distill!r} compares {asked.views} views of each image, and the outputs of"
      f" {teacher.title} are of one; name a model as teacher, or another loss."
    )
  example = jax.tree.map(lambda x: np.concatenate([x] * asked.views), example)
  example[VIEW] = np.repeat(np.eye(asked.views, dtype=bool), few, axis=0)  # as data.Views marks it
  variables = [student.summary.variables]
  if isinstance(teacher, OutsideTeacher):
    example = teacher.cache.with_outputs(example, few, position=0)
  else:
    variables.append(teacher.summary.variables)

  def try_losses(variables, batch):
    images = preprocess(batch["image"])
    own, *others = variables
    if isinstance(teacher, OutsideTeacher):
      taught = training.CachedTeacher().from_batch(batch, teacher.cache.augment)
    else:
      read = teacher.preprocess or preprocess
      taught = teacher.module.apply(others[0], read(batch["image"]), train=False)
    networks = (student.module.apply(own, images, train=False), (taught,))
    of_teacher = others[0]["params"] if others else None
    params = {"student_params": own["params"], "teacher_params": (of_teacher,)}
    for loss in filter(None, (asked.first, asked.loss)):
      made = loss.init(jax.random.key(0), *networks, batch)
      loss.update(*made, *networks, batch, **params)

  jax.eval_shape(try_losses, tuple(variables), example)


def augmented(run: Context, views: int = 1) -> Callable[..., Any]:
  """How the step changes images of a run, and into how many views of each."""
  cropped = run.crop is not None
  return run.preset.augmented(run.data, run.options.augment, cropped=cropped, views=views)


def recipe_of(run: Context, network: Network, **parts: Any) -> training.Recipe:
  """The recipe of a network in a run.

  Args:
    run: the run.
    network: what is trained.
    **parts: of a :class:`~jaxcompress.training.Recipe`, also in place of what the run says.
  """
  return training.Recipe(
    **{
      "student": network.module,
      "augment": augmented(run),
      "ema": run.preset.protocol_of(network.name).ema,
      "frozen_rate": 1.0,  # FINE_TUNE has lowered it already
      "preprocess": run.preprocess_of(network),
      **parts,
    }
  )
