"""Post-training quantization in one call: tries algorithms and keeps the best."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.arguments import check_whole
from jaxcompress.nn.checks import is_number
from jaxcompress.nn.execute import execute_outputs
from jaxcompress.nn.outputs import holds_classes
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import check_bits
from jaxcompress.quantize.integer.grid import HIGHEST
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.ptq.algorithms import ALGORITHMS, Algorithm, Subject
from jaxcompress.quantize.ptq.calibrators import Calibrator, calibrator
from jaxcompress.quantize.ptq.images import Batches, Preprocess, read_images, read_labels
from jaxcompress.quantize.quantizers.uniform import absmax, minmax_range
from jaxcompress.quantize.rules import Rule
from jaxcompress.terminal import meter

AUTO = "auto"
FEWEST_TO_SPLIT = 16  # fewer images are used for both calibration and choice
MOST_CALIBRATION, MOST_HELD_OUT = 512, 4096
SLACK = 1e-9  # shares are floats: 1 - 0.995 may exceed 0.005
SCORED = 0.1  # what a further score takes, as a share of a pass that compiles its program
CLEAN = 30.0  # decibels from which a network that loses nothing is as good as the float one


class Trial(NamedTuple):
  """An algorithm and what it is worth.

  Attributes:
    name: of the algorithm.
    score: share of the held-out images that are right, or, without labels, on which the integer
      model decides as the float one: by the logits, of a map for each pixel. Where no output holds
      scores of classes (see :func:`~jaxcompress.nn.outputs.holds_classes`), 1 less the noise in the
      outputs, as a share of the signal. Where all images calibrate, it is of the same images.
    drop: how much lower that is than the float model's share.
    sqnr: signal-to-quantization-noise ratio in decibels, of the mean noise of all outputs. The signal
      is how the outputs vary from image to image: what is the same for all of them tells nothing.
    seconds: that it took; what algorithms share is paid by the first.
  """

  name: str
  score: float
  drop: float
  sqnr: float
  seconds: float


class Ahead(NamedTuple):
  """The algorithms that may still be tried.

  Attributes:
    names: of the algorithms, in order; those after one that is good enough are not tried.
    seconds: that all of them take, about, if what they compute for the first time takes as long as
      it did so far.
  """

  names: tuple[str, ...]
  seconds: float


Better = Callable[[QuantizedModel, Trial, Ahead], None]


def post_training(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  method: str = AUTO,
  bits: int = 8,
  activation_bits: int = 8,
  symmetric: bool = False,
  input_range: tuple[float, float] | None = None,
  rules: Sequence[Rule] = (),
  labels: Any = None,
  max_drop: float | None = None,
  preprocess: Preprocess | None = None,
  batch_size: int = 32,
  ranges: str | Calibrator | None = None,
  progress: bool = True,
  seed: int = 0,
  kernels: str = "xnnpack",
  on_trial: Callable[[Trial], None] = lambda trial: None,
  on_better: Better | None = None,
) -> QuantizedModel:
  """Quantizes a trained model with a handful of calibration images, without training.

  ``"auto"`` tries the algorithms of :data:`~jaxcompress.quantize.ALGORITHMS` in order of cost, but for
  ``"ema"``, ``"percentile"`` and ``"kl"``, which gain nothing over their neighbours on any network measured, and
  keeps the one with the best score on held-out images; equal scores are decided by the
  signal-to-noise ratio of the outputs. Scores are those of the exact integer model. It goes on only
  where that can pay. With ``max_drop`` it stops at the first one that meets it. Without, weights of 8
  bits need no more than the first one that loses nothing and keeps 30 dB, and no learned rounding; with
  fewer bits all cheap ones are tried, and ``"qdrop"`` if each of them loses something.

  Half of the images (at most 512) calibrate and the others (at most 4096) decide; below 16 all do
  both. Without ``max_drop`` the best one, or the only one, then calibrates on all images (at most
  512). Memory is bounded by one batch, and by 1 GB of maps for ``"qdrop"`` and
  ``"brecq"``, 256 MB for AdaRound.

  Args:
    model: a linen module made of the leaf ops, of one output or several.
    variables: its ``params`` and ``batch_stats``.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    method: ``"auto"``, or one of ``"minmax"``, ``"ema"``, ``"percentile"``, ``"kl"``, ``"mse"``,
      ``"bias_correction"``, ``"equalize"``, ``"data_free"``, ``"qdrop"``, ``"brecq"``, ``"adaround"``.
    bits: of the weights, 2 to 8.
    activation_bits: 8; 16: nearer to float, on slower kernels (see
      :func:`~jaxcompress.quantize.w8a16`); or 2 to 7, in files of 8-bit integers that hold no more
      values than so many bits have. The input, the outputs, what the last layer reads, what sums alone
      read and what no rectifier can bound keep 8.
    symmetric: whether the zero points of activations are 0, as TensorRT has them; what is never
      below zero then has 128 levels.
    input_range: of what the network reads, in place of what the images have; such as
      :func:`jaxcompress.export.pixel_range` gives.
    rules: exceptions for some layers, as :func:`~jaxcompress.quantize.allocate_bits` gives them. Of
      a rule's quantizers only the integers count, since algorithms choose scales of their own; a rule gives
      activations the bits that ``activation_bits`` may have, such as 8 where it has 4.
    labels: (N,) integers, or None; for logits (batch, classes).
    max_drop: the largest loss of the score that is accepted, as a share: 0.005 is half a point.
      Without labels it is the share of images on which the integer model may decide otherwise, or,
      without classes, that of noise in the outputs.
    preprocess: maps images to what the network reads; kept in the result.
    batch_size: images at once.
    ranges: of activations, in place of each algorithm's own: ``"minmax"``, ``"ema"``,
      ``"percentile"``, ``"mse"``, ``"kl"``, ``"aciq"``, or a
      :class:`~jaxcompress.quantize.ptq.calibrators.Calibrator`. Min-max and EMA take one pass over
      the images, the others two.
    progress: whether a bar is shown on the standard error, if that is a terminal.
    seed: of the split and of the samples that rounding is learned on.
    kernels: whose arithmetic evaluates the model; see :class:`~jaxcompress.quantize.QuantizedModel`.
    on_trial: told of every :class:`Trial` once it is made, before the best algorithm calibrates on
      all images; ``trials.append`` of a list keeps them.
    on_better: given ``(quantized, trial, ahead)`` whenever a model is better than those before and
      meets ``max_drop``: calibrated like the one that is returned, which is the last of them. So the
      first one can be used while others are tried; ``ahead`` is an :class:`Ahead`. If it raises, as
      an interruption does, the search ends there.

  Returns:
    A :class:`~jaxcompress.quantize.QuantizedModel`.

  Raises:
    ValueError: if an argument is out of range, the images do not fit the model, or no algorithm
      meets ``max_drop``.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> trials = []
    >>> quantized = post_training(model, variables, images, method="mse", on_trial=trials.append)
    >>> quantized(images).shape, [trial.name for trial in trials]
    ((4, 10), ['mse'])

  References:
    Nagel et al., `A White Paper on Neural Network Quantization
    <https://arxiv.org/abs/2106.08295>`_, 2021, section 3.
  """
  algorithms = _algorithms(method, ranges)
  check_bits("bits", bits, 8)
  if activation_bits not in (*range(2, 9), 16):
    raise ValueError(
      f"activation_bits: {activation_bits} is out of range; it must be 2 to 8, or 16."
    )
  check_whole("seed", seed, 0)
  if max_drop is not None and not (is_number(max_drop) and 0 <= max_drop <= 1):
    raise ValueError(
      f"max_drop must be a fraction between 0 and 1, such as 0.01, got {max_drop!r}."
    )
  if input_range is not None:
    ends = tuple(input_range) if isinstance(input_range, Iterable) else ()
    if len(ends) != 2 or not all(map(is_number, ends)) or not ends[0] < ends[1]:
      raise ValueError(
        f"input_range: {input_range!r} must be two finite numbers, the smaller one first."
      )
  graph, batches = read_images(model, variables, images, preprocess, batch_size)
  count = len(batches.images)
  labels = None if labels is None else read_labels(labels, count, graph)
  calibration, held_out = split(count, seed, deciding=len(algorithms) > 1 or max_drop is not None)
  plan = Quantization(
    weights=absmax(bits),
    activations=minmax_range(activation_bits),
    rules=tuple(rules),
    kernels=kernels,
  )
  options = {"symmetric": symmetric, "input_range": input_range, "seed": seed}
  variables = jax.device_get(variables)
  everything, _ = split(count, seed, deciding=False)
  enough = SLACK + (max_drop or 0.0)
  best: tuple[Trial, QuantizedModel] | None = None
  final: QuantizedModel | None = None  # of the best one, on all images
  tried: list[Trial] = []
  waiting = list(algorithms)
  with meter(progress) as (start, tick, hide):
    watched = batches.with_tick(tick)
    plain = Subject.of(graph, variables, watched.at(calibration), plan, **options)
    judge = _judge(plain, batches.at(held_out), None if labels is None else labels[held_out])
    subject = plain.shifted()
    narrow = bool(subject.few) or any(to.high < HIGHEST for to in subject.to.values())

    @functools.cache
    def whole() -> Subject:
      return Subject.of(graph, variables, watched.at(everything), plan, **options).shifted()

    def finished(name: str, quantized: QuantizedModel) -> QuantizedModel:
      if max_drop is not None or len(everything) == len(calibration):
        return quantized
      start(f"{name}, all images", whole().ticks(algorithms[name]))
      return whole().quantized(algorithms[name])

    while waiting:
      name = waiting.pop(0)
      start(name, subject.ticks(algorithms[name]) + 1)
      started = time.perf_counter()
      quantized = subject.quantized(algorithms[name])
      trial = Trial(name, *judge(quantized), time.perf_counter() - started)
      tick()
      on_trial(trial)
      tried.append(trial)
      waiting = _worthwhile(waiting, tried, algorithms, max_drop=max_drop, narrow=narrow)
      if best is not None and (trial.score, trial.sqnr) <= (best[0].score, best[0].sqnr):
        continue
      best, final = (trial, quantized), None
      if on_better is not None and (max_drop is None or trial.drop <= enough):
        final = finished(name, quantized)
        made, coming = (
          frozenset[Any]().union(*(subject.passes(algorithms[one]) for one in names))
          for names in ([one.name for one in tried], waiting)
        )
        hide()
        on_better(final, trial, _ahead(tried, waiting, len(made), len(coming - made)))
    assert best is not None  # the first algorithm is always tried
    trial, quantized = best
    if final is None:
      final = finished(trial.name, quantized)
  if max_drop is not None and trial.drop > enough:
    raise ValueError(
      f"max_drop: {max_drop:g} cannot be met; the best of {len(tried)} methods, {trial.name!r},"
      f" loses {trial.drop:.4f} of {trial.score + trial.drop:.4f} on {len(held_out)} held-out images"
      f" with {bits}-bit weights{' but for the rules' if rules else ''}; fine-tune instead, with"
      f" quantize=jaxcompress.quantize.int8(bits={bits}{', rules=...' if rules else ''}) in a Recipe,"
      " or take more bits or images."
    )
  return final


def _ahead(tried: Sequence[Trial], waiting: Sequence[str], made: int, coming: int) -> Ahead:
  """Estimates the time of the waiting algorithms from ``made`` past passes and ``coming`` new ones.

  Examples:
    >>> _ahead([Trial("minmax", 1.0, 0.0, 25.0, seconds=8.0)], ["ema", "kl"], 1, 1).seconds
    4.8
  """
  each = sum(trial.seconds for trial in tried) / (made + 1)  # the first score is computed anew, too
  return Ahead(tuple(waiting), each * (coming + SCORED * len(waiting)))


def _worthwhile(
  names: Sequence[str],
  tried: Sequence[Trial],
  algorithms: Mapping[str, Algorithm],
  *,
  max_drop: float | None,
  narrow: bool,
) -> list[str]:
  """Returns the next algorithms that may pay, after what was tried; ``narrow``: below 8 bits."""
  meets = any(trial.drop <= SLACK + (max_drop or 0.0) for trial in tried)
  if max_drop is not None:
    return [] if meets else list(names)
  learned = any(algorithms[trial.name].learns for trial in tried)
  if not narrow and any(trial.drop <= SLACK and trial.sqnr >= CLEAN for trial in tried):
    return []
  slow = [name for name in names if algorithms[name].learns]
  worthwhile = slow[:1] if narrow and not meets and not learned else []
  return [name for name in names if name not in slow or name in worthwhile]


def _algorithms(method: str, ranges: str | Calibrator | None) -> dict[str, Algorithm]:
  """The algorithms to try, in order; with given ranges those that become equal are tried once."""
  if method != AUTO and method not in ALGORITHMS:
    raise ValueError(
      f"method: {method!r} is unknown; it must be one of {', '.join((AUTO, *ALGORITHMS))}."
    )
  searched = {name: algorithm for name, algorithm in ALGORITHMS.items() if algorithm.searched}
  chosen = searched if method == AUTO else {method: ALGORITHMS[method]}
  if ranges is None:
    return chosen
  given = calibrator(ranges)
  unique: dict[Algorithm, str] = {}
  for name, algorithm in chosen.items():
    unique.setdefault(algorithm._replace(ranges=given), name)
  return {name: algorithm for algorithm, name in unique.items()}


def split(count: int, seed: int, *, deciding: bool = True) -> tuple[np.ndarray, np.ndarray]:
  """Positions of the images that calibrate, and of those that decide.

  Args:
    count: of the images.
    seed: of their order.
    deciding: whether anything is to be decided; otherwise images that calibrate are scored, too.

  Examples:
    >>> [len(part) for part in split(64, 0)], [len(part) for part in split(3, 0)]
    ([32, 32], [3, 3])
    >>> [len(part) for part in split(64, 0, deciding=False)]
    [64, 64]
  """
  if count < FEWEST_TO_SPLIT:
    return np.arange(count), np.arange(count)
  order = np.random.default_rng(seed).permutation(count)
  if not deciding:
    return np.sort(order[:MOST_CALIBRATION]), np.sort(order[:MOST_HELD_OUT])
  first = min(count // 2, MOST_CALIBRATION)
  return np.sort(order[:first]), np.sort(order[first : first + MOST_HELD_OUT])


def _judge(
  subject: Subject, batches: Batches, labels: np.ndarray | None
) -> Callable[[QuantizedModel], tuple[float, float, float]]:
  """Tells of integer models what they are worth on some images: score, drop and SQNR of a trial."""
  graph, layers = subject.sites.graph, subject.layers
  parts = [
    {name: np.asarray(array)[weight > 0] for name, array in _outputs(graph, layers, x).items()}
    for x, weight in batches
  ]
  real = {name: np.concatenate([part[name] for part in parts]) for name, _ in graph.outputs}
  logits = graph.outputs[0][0]
  decided = real[logits].argmax(axis=-1)
  wanted = decided if labels is None else labels
  reference = float(np.mean(decided == wanted))
  several = len(decided) > 1  # of one image nothing varies
  means = {name: array.mean(axis=0) if several else 0.0 for name, array in real.items()}

  def judge(quantized: QuantizedModel) -> tuple[float, float, float]:
    codes = quantized.outputs(quantized.quantize_input(batches.images))
    found = {name: quantized.real(name, array) for name, array in codes.items()}
    score = 1 - _mean_noise(real, found)
    if holds_classes(graph):
      score = float(np.mean(found[logits].argmax(axis=-1) == wanted))
    varying, of_these = (
      {name: array[name] - means[name] for name in real} for array in (real, found)
    )
    return score, reference - score, _in_decibels(_mean_noise(varying, of_these))

  return judge


def _mean_noise(signals: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
  return float(np.mean([noise_share(signals[name], found[name]) for name in signals]))


def noise_share(signal: np.ndarray, approximation: np.ndarray) -> float:
  """``sum (s - a)**2 / sum s**2``.

  Examples:
    >>> round(noise_share(np.ones(4), np.full(4, 0.9)), 6)
    0.01
  """
  signal = np.asarray(signal, np.float64)
  noise = np.square(signal - approximation).sum()
  return float(noise / max(np.square(signal).sum(), 1e-300))


def decibels(signal: np.ndarray, approximation: np.ndarray) -> float:
  """``10 log10(sum s**2 / sum (s - a)**2)``.

  Examples:
    >>> round(decibels(np.ones(4), np.full(4, 0.9)), 6)
    20.0
  """
  return _in_decibels(noise_share(signal, approximation))


def _in_decibels(noise: float) -> float:
  return float(-10 * np.log10(noise)) if noise else float("inf")


_outputs = functools.partial(jax.jit, static_argnums=0)(execute_outputs)
