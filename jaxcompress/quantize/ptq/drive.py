"""Post-training quantization in one call: tries methods and keeps the best."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.quantize.fake_quant import check_bits
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.ptq.histograms import Calibrator, calibrator
from jaxcompress.quantize.ptq.inputs import (
  Batches,
  Preprocess,
  check_images,
  check_labels,
  trace_on,
)
from jaxcompress.quantize.ptq.judge import Judge
from jaxcompress.quantize.ptq.layer_levels import layer_levels
from jaxcompress.quantize.ptq.observe import check_batch_size
from jaxcompress.quantize.ptq.progress import meter
from jaxcompress.quantize.ptq.recipes import METHODS, Method, Network
from jaxcompress.quantize.rules import Rule

AUTO = "auto"
FEWEST_TO_SPLIT = 16  # fewer images are used for both calibration and choice
MOST_CALIBRATION, MOST_HELD_OUT = 512, 4096
SLACK = 1e-9  # shares are floats: 1 - 0.995 may exceed 0.005


class Trial(NamedTuple):
  """One method and what it is worth.

  Attributes:
    name: of the method.
    score: share of the held-out images that are right, or, without labels, on which the integer
      model decides as the float one. Where all images calibrate, it is of the same images.
    drop: how much lower that is than the float model's share.
    sqnr: signal-to-quantization-noise ratio of the logits, in decibels.
    seconds: that it took; what methods share is paid by the first.
  """

  name: str
  score: float
  drop: float
  sqnr: float
  seconds: float


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
) -> QuantizedModel:
  """Quantizes a trained model from a handful of images, without training.

  ``"auto"`` tries the methods in order of cost and keeps the one with the best score on held-out
  images; equal scores are decided by the signal-to-noise ratio of the logits. Scores are those of
  the exact integer model. With ``max_drop`` it stops at the first method that meets it; without,
  AdaRound is tried only if every cheaper method loses something.

  Half of the images (at most 512) calibrate and the others (at most 4096) decide; below 16 all do
  both. Without ``max_drop`` the best method, or the only one, then calibrates on all images (at most
  512). Memory is bounded by one batch, and by 256 MB of maps for AdaRound.

  Args:
    model: a linen module made of the leaf ops.
    variables: its ``params`` and ``batch_stats``.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    method: ``"auto"``, or one of ``"minmax"``, ``"ema"``, ``"percentile"``, ``"kl"``, ``"mse"``,
      ``"bias_correction"``, ``"equalize"``, ``"data_free"``, ``"adaround"``.
    bits: of the weights, 2 to 8.
    activation_bits: 8, or 16: nearer to float, on slower kernels; see
      :func:`~jaxcompress.quantize.w8a16`.
    symmetric: whether the zero points of activations are 0, as TensorRT has them; what is never
      below zero then has 128 levels.
    input_range: of what the network reads, in place of what the images have; such as
      :func:`jaxcompress.export.pixel_range` gives.
    rules: exceptions for some layers, as :func:`~jaxcompress.quantize.allocate_bits` gives them. Of
      a rule's quantizers only the integers count, since methods choose scales of their own.
    labels: (N,) integers, or None.
    max_drop: the largest loss of the score that is accepted, as a share: 0.005 is half a point.
      Without labels it is the share of images on which the integer model may decide otherwise.
    preprocess: maps images to what the network reads; kept in the result.
    batch_size: images at once.
    ranges: of activations, in place of each method's own; see
      :func:`~jaxcompress.quantize.ptq.observe.calibrate`.
    progress: whether a bar is shown on the standard error, if that is a terminal.
    seed: of the split and of AdaRound's samples.
    kernels: whose arithmetic evaluates the model; see :class:`~jaxcompress.quantize.QuantizedModel`.

  Returns:
    A :class:`~jaxcompress.quantize.QuantizedModel`.

  Raises:
    ValueError: if an argument is out of range, the images do not fit the model, or no method meets
      ``max_drop``.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> quantized = post_training(model, variables, images, method="minmax")
    >>> quantized(images).shape
    (4, 10)

  References:
    Nagel et al., `A White Paper on Neural Network Quantization
    <https://arxiv.org/abs/2106.08295>`_, 2021, section 3.
  """
  return search(
    model,
    variables,
    images,
    method=method,
    bits=bits,
    activation_bits=activation_bits,
    symmetric=symmetric,
    input_range=input_range,
    rules=rules,
    labels=labels,
    max_drop=max_drop,
    preprocess=preprocess,
    batch_size=batch_size,
    ranges=ranges,
    progress=progress,
    seed=seed,
    kernels=kernels,
  )[0]


def search(
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
) -> tuple[QuantizedModel, tuple[Trial, ...]]:
  """As :func:`post_training`, and tells what was tried.

  Returns:
    ``(quantized, trials)``: the best model, and every :class:`Trial` in order, as it was before the best
    method calibrated on all images.

  Raises:
    ValueError: as :func:`post_training`.

  Examples:
    >>> from jaxcompress.nn import Dense, GlobalAvgPool
    >>> class Network(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, *, train):
    ...     return Dense(2, name="classifier")(GlobalAvgPool(name="pool")(x))
    >>> variables = {"params": {"classifier": {"kernel": np.eye(3, 2), "bias": np.zeros(2)}}}
    >>> images = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    >>> quantized, trials = search(Network(), variables, images, method="minmax")
    >>> [trial.name for trial in trials], quantized(images).shape
    (['minmax'], (4, 2))
  """
  methods = _methods(method, ranges)
  check_bits("bits", bits, 8)
  if activation_bits not in (8, 16):
    raise ValueError(f"activation_bits: {activation_bits} is out of range; it must be 8 or 16.")
  if max_drop is not None and not 0 <= max_drop <= 1:
    raise ValueError(f"max_drop: {max_drop} is no share; it must be 0 to 1, such as 0.01.")
  images = check_images(images, preprocess)
  size = check_batch_size(batch_size, len(images))
  graph = trace_on(model, variables, images, preprocess)
  classes = graph.shape(graph.output)[-1]
  labels = None if labels is None else check_labels(labels, len(images), classes)
  deciding = len(methods) > 1 or max_drop is not None
  calibration, held_out = split(len(images), seed, deciding=deciding)
  variables = jax.device_get(variables)
  network = Network.of(graph, variables, Batches(images[calibration], preprocess, size))
  to, _ = layer_levels(network.sites, bits, activation_bits, rules)
  judge = Judge.of(network, Batches(images[held_out], preprocess, size), labels, held_out)
  enough = SLACK + (max_drop or 0.0)
  best: tuple[tuple[float, float], str, QuantizedModel] | None = None
  trials: list[Trial] = []

  def quantized_by(network: Network, plan: Method) -> QuantizedModel:
    return network.quantized(
      plan,
      to=to,
      widths=lambda sites: layer_levels(sites, bits, activation_bits, rules)[1],
      seed=seed,
      preprocess=preprocess,
      kernels=kernels,
      symmetric=symmetric,
      input_range=input_range,
      tick=shown.tick,
    )

  with meter(progress) as shown:
    for name, plan in methods.items():
      lossless = bool(trials) and min(trial.drop for trial in trials) <= enough
      if lossless and (max_drop is not None or plan.adaround):
        break
      shown.start(name, network.ticks(plan) + 1)
      started = time.perf_counter()
      quantized = quantized_by(network, plan)
      score, sqnr = judge(quantized)
      shown.tick()
      trials.append(
        Trial(name, score, judge.reference - score, sqnr, time.perf_counter() - started)
      )
      if best is None or (score, sqnr) > best[0]:
        best = ((score, sqnr), name, quantized)
    assert best is not None  # the first method is always tried
    _, name, quantized = best
    everything, _ = split(len(images), seed, deciding=False)
    if max_drop is None and len(everything) > len(calibration):
      network = Network.of(graph, variables, Batches(images[everything], preprocess, size))
      shown.start(f"{name}, all images", network.ticks(methods[name]))
      quantized = quantized_by(network, methods[name])
  _check_drop(trials, max_drop, judge, bits, rules)
  return quantized, tuple(trials)


def _methods(method: str, ranges: str | Calibrator | None) -> dict[str, Method]:
  """The methods to try, in order; with given ranges those that become equal are tried once."""
  if method != AUTO and method not in METHODS:
    raise ValueError(
      f"method: {method!r} is unknown; it must be one of {', '.join((AUTO, *METHODS))}."
    )
  chosen = dict(METHODS) if method == AUTO else {method: METHODS[method]}
  if ranges is None:
    return chosen
  given = calibrator(ranges)
  unique: dict[Method, str] = {}
  for name, plan in chosen.items():
    unique.setdefault(plan._replace(ranges=given), name)
  return {name: plan for plan, name in unique.items()}


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


def _check_drop(
  trials: list[Trial], max_drop: float | None, judge: Judge, bits: int, rules: Sequence[Rule]
) -> None:
  best = max(trials, key=lambda trial: (trial.score, trial.sqnr))
  if max_drop is None or best.drop <= max_drop + SLACK:
    return
  exceptions = " but for the rules" if rules else ""
  raise ValueError(
    f"max_drop: {max_drop:g} cannot be met; the best of {len(trials)} methods, {best.name!r}, loses"
    f" {best.drop:.4f} of {judge.reference:.4f} on {len(judge.wanted)} held-out images with"
    f" {bits}-bit weights{exceptions}; fine-tune instead, with quantize="
    f"jaxcompress.quantize.int8(bits={bits}{', rules=...' if rules else ''}) in"
    " a Recipe, or take more bits or images."
  )
