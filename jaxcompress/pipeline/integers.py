"""Quantized networks of a run: trained with quantization or quantized without, whichever is better."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import quantize, training
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.pipeline.budgets import integer_top1
from jaxcompress.pipeline.context import EVAL_BATCH, Context, PhaseSteps, Score
from jaxcompress.pipeline.fitting import INT8, looked_at, train_best
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.phases import distillation_recipe, student_of
from jaxcompress.pipeline.transfer import Teacher, moving, some, taught
from jaxcompress.terminal import say, waiting
from jaxcompress.training.evaluation import collected

CALIBRATION = 512  # training images that choose the ranges of integers
LITTLE = 0.02  # of the validation images, which integers may get wrong without a word
PROBES = 128  # images on which integers are held against float
FIRST = (
  "bias_correction"  # the method of post-training quantization that fine-tuning is held against
)


def to_integers(
  run: Context, network: Network, variables: Any, teacher: Teacher | None
) -> tuple[quantize.QuantizedModel, tuple[str, ...]]:
  """Quantizes a network: fine-tuned with frozen statistics, or without training if that is better.

  Args:
    run: the run.
    network: the student.
    variables: its own in float, from which quantized training starts.
    teacher: whose logits the integers follow; None: those of the network in float.

  Returns:
    Of the two the one that gets more validation images right, judged by exact integers, or of equals
    that whose scores are nearer to those in float on strongly changed images; and notes for the report if that is the one without
    training, or worse than the network in float.
  """
  steps = run.steps.int_steps
  followed = TrainedNetwork(network, variables) if teacher is None else teacher
  model, cache, owned = taught(followed)
  recipe = distillation_recipe(run, network, model, PhaseSteps(0, steps))
  fitted = train_best(
    run,
    INT8,
    moving(recipe, run.options.freeze, network),
    steps,
    lambda state: _integer_rank(run, state),
    cache,
    name=INT8,
    done=run.done,
    from_step=1,
    student_variables=variables,
    teacher_variables=owned,
  )
  tuned = student_of(run, fitted.state).quantized()
  if run.options.prunes or run.options.cluster is not None:
    return tuned, ()  # a few steps more are part of what was asked for
  plain = _without_training(run, network, variables)
  notes = []
  probes = _probes(run, network, variables)
  kept, score, other = tuned, _score(run, tuned, probes), _score(run, plain, probes)
  if (other.top1, -other.away) > (score.top1, -score.away):
    notes.append(
      f"integers: with fine-tuning {_told(score)}, with quantization without training {_told(other)};"
      " the latter is taken"
    )
    kept, score = plain, other
  in_float = run.evaluate(network, variables, looked_at(run.data.validation))
  if score.top1 < in_float.top1:
    notes.append(_loses(score.top1, in_float.top1))
  for note in notes:
    say(run.console, note)
  return kept, tuple(notes)


def checked(
  run: Context, network: Network, variables: Any, tuned: quantize.QuantizedModel
) -> tuple[quantize.QuantizedModel, tuple[str, ...]]:
  """Holds a network that was trained with quantization against float, and mends or tells a loss.

  Args:
    run: the run.
    network: the student.
    variables: its own in float, from which quantized training started.
    tuned: the quantized network.

  Returns:
    The network: if it gets clearly fewer of the validation images right than in float, the one without
    training where that gets more; and notes for the report on what was lost. A run without validation
    images of its own keeps what was trained.
  """
  if run.preset.whole:
    return tuned, ()
  split = looked_at(run.data.validation)
  in_float = run.evaluate(network, variables, split).top1
  kept, score, notes = tuned, integer_top1(tuned, split), []
  if in_float - score <= _noise(in_float, len(split)):
    return tuned, ()
  if not run.options.prunes and run.options.cluster is None:  # these are part of what was asked for
    plain = _without_training(run, network, variables)
    other = integer_top1(plain, split)
    if other > score:
      notes.append(
        f"integers: trained with quantization {score:.2%} of the validation images are right, without training"
        f" {other:.2%}; the latter is taken"
      )
      kept, score = plain, other
  if in_float - score > _noise(in_float, len(split)):
    notes.append(_loses(score, in_float))
  for note in notes:
    say(run.console, note)
  return kept, tuple(notes)


def _noise(top1: float, count: int) -> float:
  """The difference between two shares of as many images that is no more than chance, or does not matter.

  Examples:
    >>> round(_noise(0.9, 2000), 3), round(_noise(0.9, 24), 3)
    (0.02, 0.173)
  """
  return max(LITTLE, 2 * (2 * top1 * (1 - top1) / count) ** 0.5)


def _loses(score: float, in_float: float) -> str:
  return (
    f"integers: they get {score:.2%} of validation images right, the network in float"
    f" {in_float:.2%}; more epochs may bring them closer"
  )


def _without_training(run: Context, network: Network, variables: Any) -> quantize.QuantizedModel:
  images = some(run.data.train, CALIBRATION, run.options.seed).images
  with waiting(run.console, "quantizing without training, to compare"):
    return quantize.post_training(
      network.module,
      variables,
      images[np.arange(len(images))],
      method=FIRST,
      bits=run.options.bits,
      preprocess=run.preprocess,
      progress=False,
      seed=run.options.seed,
    )


class _Followed(NamedTuple):
  """Accuracy of a quantized network, and its distance from the float one.

  Attributes:
    top1: share of the validation images that is right.
    away: mean Kullback-Leibler divergence from the network in float, on probes.
  """

  top1: float
  away: float


def _told(score: _Followed) -> str:
  return (
    f"{score.top1:.2%} of the validation images are right and {score.away:.2g} nats away from float"
  )


def _integer_rank(run: Context, state: training.CompressState) -> tuple[float, float]:
  """How good a state is at rounded numbers on validation images."""
  split = looked_at(run.data.validation)
  size = min(EVAL_BATCH, len(split))
  size += -size % (1 if run.mesh is None else run.mesh.size)
  batches = datasets.eval_batches(split, size, run.rows(size))
  score = _mean(collected(partial(training.eval_step, state), batches, run.mesh))
  return score.top1, -score.loss


class _Probes(NamedTuple):
  """Images that nothing was trained on as they are, and what the network in float says of them.

  Attributes:
    images: (count, height, width, channels) uint8: validation and training images, strongly changed.
    logits: (count, classes) float32.
  """

  images: np.ndarray
  logits: np.ndarray


def _probes(run: Context, network: Network, variables: Any) -> _Probes:
  """Images on which the float and the quantized network should agree."""
  data, preprocess = run.data, run.preprocess_of(network)
  parts = [some(data.validation, PROBES // 2, run.options.seed)]
  parts.append(some(data.train, PROBES - len(parts[0]), run.options.seed))
  pixels = np.concatenate([part.images[np.arange(len(part))] for part in parts])
  labels = np.concatenate([part.labels for part in parts])
  change = datasets.augmentation("strong", data.image_shape, flip=bool(data.flip))
  key = jax.random.key(run.options.seed)
  changed = jax.jit(change)(key, {"image": pixels, "label": labels})["image"]
  images = np.clip(np.rint(np.asarray(changed, np.float32)), 0, 255).astype(np.uint8)

  @jax.jit
  def logits(variables, images):
    output = network.module.apply(variables, preprocess(images), train=False)
    return as_endpoints(output).logits.astype(jax.numpy.float32)

  return _Probes(images, np.asarray(logits(variables, images)))


def _score(run: Context, quantized: quantize.QuantizedModel, probes: _Probes) -> _Followed:
  """How many validation images exact integers get right, and how near they are to float."""
  split = looked_at(run.data.validation)
  count = len(split)
  images = np.concatenate([split.images[np.arange(count)], probes.images])  # one program for all
  found, said = np.split(np.asarray(quantized(images), np.float32), [count])
  ours, theirs = (np.asarray(jax.nn.log_softmax(one)) for one in (said, probes.logits))
  away = np.sum(np.exp(theirs) * (theirs - ours), axis=-1)
  return _Followed(float(np.mean(found.argmax(-1) == split.labels)), float(np.mean(away)))


def _mean(sums: list[Any]) -> Score:
  total = {name: sum(float(one[name]) for one in sums) for name in sums[0]}
  return Score(total["correct"] / total["count"], total["loss"] / total["count"])
