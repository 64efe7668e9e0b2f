"""Errors of a quantized network, layer by layer, against the float network that it was made from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.nn import INPUT, Graph, fold, kernel_shape
from jaxcompress.nn.foreign import check_made
from jaxcompress.nn.outputs import holds_classes
from jaxcompress.nn.select import Selector, layers_of, select
from jaxcompress.quantize.analysis.findings import Analysis, LayerAnalysis
from jaxcompress.quantize.analysis.switched import (
  Passes,
  Plan,
  Seen,
  Switches,
  join,
  look,
  numbers_of,
  run_passes,
)
from jaxcompress.quantize.integer.grid import HIGHEST, Integers
from jaxcompress.quantize.integer.lower import as_before, lower_gates
from jaxcompress.quantize.model import QUANTIZED, QuantizedModel
from jaxcompress.quantize.ptq.images import Preprocess, read_images
from jaxcompress.quantize.sites import Sites, find_sites, fused_sites
from jaxcompress.quantize.storage import bits_of
from jaxcompress.terminal import meter

FORMS = ("depthwise", "pointwise")  # that say more than an operation's name


def analyze(
  quantized: QuantizedModel,
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  layers: Selector | None = None,
  preprocess: Preprocess | None = None,
  batch_size: int = 32,
  progress: bool = True,
) -> Analysis:
  """Measures how much quantizing each layer, alone and with all layers before it, changes the outputs.

  Outputs, codes, dead channels and the errors of the whole are those of exact evaluation. For the
  isolated and the cumulative error the network runs in float, with the real numbers that the
  integers stand for and rounded outputs, once for every layer and question: one program is
  compiled for all. Memory is bounded by one batch.

  Layers are those of the model: what a hard-swish becomes on the device counts as one layer, and a
  rectifier belongs to the layer into which it was fused. Ops that only move values have no row.

  Args:
    quantized: of this model, from training or :func:`~jaxcompress.quantize.post_training`.
    model: a linen module made of the leaf ops.
    variables: its ``params`` and ``batch_stats``, in float.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    layers: to which it keeps, a selector (:mod:`jaxcompress.nn.select`); None: all.
    preprocess: maps images to what the network reads; None: that of ``quantized``.
    batch_size: images at once.
    progress: whether a bar is shown on the standard error, if that is a terminal.

  Returns:
    An :class:`Analysis`.

  Raises:
    ValueError: if ``quantized`` is not a quantized model, or is of another model, the images do not fit, or ``layers``
      selects nothing.

  Examples:
    >>> from jaxcompress import models, quantize
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> quantized = quantize.post_training(model, variables, images, method="minmax")
    >>> analysis = analyze(quantized, model, variables, images)
    >>> analysis.layers[1].name, analysis.layers[1].bits
    ('stem', 8)

  References:
    Nagel et al., `A White Paper on Neural Network Quantization
    <https://arxiv.org/abs/2106.08295>`_, 2021, section 3.7 (debugging).
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  preprocess = quantized.preprocess if preprocess is None else preprocess
  graph, batches = read_images(model, variables, images, preprocess, batch_size)
  fused = find_sites(graph).graph
  device, apart = as_before(quantized.graph)  # the rounding of steps between grids is left out
  _check_same(fused, device)
  plan = _plan(fused, fused_sites(device, apart), frozenset(quantized.moves))
  ends = {tensor for _, tensor in device.outputs}
  numbers = numbers_of(
    fold(fused, jax.device_get(variables)),
    [_real_layers(quantized)],
    {tensor: quantized.grids[tensor] for tensor in plan.rounded | ends},
    quantized.moves,
  )
  arrays = jax.device_put(quantized.program.arrays)
  known = {name: layer for name, layer in layers_of(fused).items() if name in plan.layers}
  chosen = select(layers, known)
  kernels = {node.name for node in device.nodes if kernel_shape(node) is not None}
  weighted = [name for name in chosen if name in kernels]
  switches = _questions(plan.layers, chosen, weighted)
  passes = Passes(0.0, 0.0)
  found: Any = None
  with meter(progress) as (start, tick, _):
    start("analysis", batches.count)
    for x, weight in batches.with_tick(tick):
      sums = jax.device_get(run_passes(plan, numbers, switches, x, weight))
      passes = Passes(*(a + b.astype(np.float64) for a, b in zip(passes, sums, strict=True)))
      part = jax.device_get(look(plan, quantized.program.steps, numbers, arrays, x, weight))
      found = part if found is None else join(found, part)
  asked = {name: known[name].kinds for name in chosen}
  return _analysis(plan, fused, quantized, asked, weighted, passes, found, len(batches.images))


def _check_same(fused: Graph, device: Graph) -> None:
  """The quantized graph is the model's, with hard-swishes written out or not."""

  def shapes(graph: Graph) -> list[tuple]:
    return [(n.name, n.op, n.inputs, n.output_shapes[0][1:]) for n in graph.nodes]

  if shapes(device) not in (shapes(fused), shapes(lower_gates(fused))):
    theirs = {node.name for node in device.nodes}
    other = next((node.name for node in fused.nodes if node.name not in theirs), None)
    reason = f"it has no layer {other!r}" if other else "the shapes of its layers differ"
    raise ValueError(f"quantized: it is of another model ({reason}); pass the one it was made of.")


def _plan(fused: Graph, sites: Sites, moved: frozenset[str]) -> Plan:
  device, rounded = sites.graph, sites.rounded
  known = {node.name for node in fused.nodes}
  owner = {INPUT: INPUT} | {
    node.name: node.name if node.name in known else node.name.rpartition("/")[0]
    for node in device.nodes
  }
  busy = {owner[n.name] for n in device.nodes if rounded & set(n.outputs)}
  layers = (INPUT, *(node.name for node in fused.nodes if node.name in busy))
  place = {name: i for i, name in enumerate(layers)}
  owned = tuple((node, place.get(name, 0)) for node, name in owner.items())
  return Plan(device, layers, owned, rounded, moved)


def _real_layers(quantized: QuantizedModel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Weights and biases that the integers stand for; a hard-sigmoid's ``(y + 3) / 6`` taken back."""
  layers = {}
  for node in quantized.graph.nodes:
    if node.name in quantized.layers:
      integers = quantized.layers[node.name]
      scales = integers.scales.astype(np.float64)
      bias = integers.bias * (float(quantized.grids[node.inputs[0]].scale) * scales)
      weights = integers.weights * scales
      gate = node.attrs.get("act") == "hard_sigmoid"
      layers[node.name] = (6 * weights, 6 * bias - 3) if gate else (weights, bias)
  return layers


def _questions(layers: Sequence[str], chosen: Sequence[str], weighted: Sequence[str]) -> Switches:
  """Passes: in float, on integers, each layer alone, all up to each, and each layer's weights alone."""
  alone, up_to = np.eye(len(layers), dtype=bool), np.tri(len(layers), dtype=bool)
  places, places_of_weights = (
    [layers.index(name) for name in names] for names in (chosen, weighted)
  )
  only = alone[places_of_weights]
  whole = np.stack([np.zeros(len(layers), bool), np.ones(len(layers), bool)])
  return Switches(
    np.concatenate([whole, alone[places], up_to[places], only]).astype(np.int32),
    np.concatenate([whole, alone[places], up_to[places], np.zeros_like(only)]),
  )


def _analysis(plan, fused, quantized, kinds, weighted, passes, seen: Seen, images: int) -> Analysis:
  """The rows, from sums over all images."""
  _, alone, up_to, only = np.split(passes.errors, np.cumsum([2, len(kinds), len(kinds)]))
  only_weights = dict(zip(weighted, only[..., 2].sum(-1), strict=True))
  nodes, rows = {node.name: node for node in fused.nodes}, []
  for k, (name, words) in enumerate(kinds.items()):
    i = plan.layers.index(name)
    low, high = seen.low[i], seen.high[i]
    integers = quantized.layers[name] if name in weighted else None
    dead = () if integers is None else _dead(integers, low, high)
    tensor, op = (INPUT, INPUT) if name == INPUT else (nodes[name].output, nodes[name].op)
    rows.append(
      LayerAnalysis(
        name=name,
        op=next((word for word in FORMS if word in words), op),
        bits=None if integers is None else bits_of(integers.weights),
        sqnr=ratio(*seen.powers[i]),
        isolated_sqnr=_whole_ratio(alone[k]),
        isolated_kl=_mean(alone[k, :, 2].sum(), images),
        weights_kl=_mean(only_weights[name], images) if name in only_weights else None,
        cumulative_sqnr=_whole_ratio(up_to[k]),
        cumulative_kl=_mean(up_to[k, :, 2].sum(), images),
        codes_used=float(high.max() - low.min() + 1) / 2 ** quantized.grids[tensor].bits,
        weight_codes_used=None if integers is None else _weight_codes(integers),
        saturation=float(passes.clipped[1, i]) / images,
        channels=len(low),
        dead=dead,
        kinds=tuple(sorted(words)),
      )
    )
  signal, noise = _powers(seen.errors)
  agreement = (
    float(seen.agree) / images if holds_classes(fused) else 1 - noise / max(signal, 1e-300)
  )
  kl = _mean(seen.errors[:, 2].sum(), images)
  return Analysis(tuple(rows), _whole_ratio(seen.errors), kl, agreement, images)


def _powers(errors: np.ndarray) -> tuple[float, float]:
  """Signal and noise of the outputs, each as if its signal were that of the first one; a mean."""
  signal, noise, _ = np.asarray(errors, np.float64).T
  return signal[0], float(np.mean(noise * (signal[0] / np.maximum(signal, 1e-300))))


def _whole_ratio(errors: np.ndarray) -> float:
  """:func:`ratio` of the mean noise of all outputs."""
  return ratio(*_powers(errors))


def ratio(signal: float, noise: float) -> float:
  """Signal-to-noise ratio in decibels.

  Examples:
    >>> ratio(100.0, 1.0), ratio(1.0, 0.0)
    (20.0, inf)
  """
  if noise == 0:
    return math.inf
  return 10 * math.log10(max(float(signal), 1e-300) / float(noise))


def _mean(total: float, images: int) -> float:
  """A divergence is never negative, but for rounding."""
  return max(0.0, float(total) / images)


def _weight_codes(integers: Integers) -> float:
  return float(int(integers.weights.max()) - int(integers.weights.min()) + 1) / (2 * HIGHEST + 1)


def _dead(integers: Integers, low: np.ndarray, high: np.ndarray) -> tuple[int, ...]:
  weights = integers.weights.reshape(-1, integers.weights.shape[-1])
  return tuple(np.flatnonzero(~weights.any(axis=0) | (low == high)).tolist())
