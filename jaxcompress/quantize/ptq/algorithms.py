"""Algorithms of post-training quantization by name, and how one is carried out."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import INPUT, Folded, Graph, fold
from jaxcompress.nn.execute import Layer, folded_layers
from jaxcompress.quantize.codes import assemble
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import Grid, centred
from jaxcompress.quantize.model import Move, QuantizedModel
from jaxcompress.quantize.ptq.adaround import adaround
from jaxcompress.quantize.ptq.apart import choose_apart
from jaxcompress.quantize.ptq.blocks import find_blocks
from jaxcompress.quantize.ptq.calibrators import Bounds, Calibrator, Seen, calibrator
from jaxcompress.quantize.ptq.correct import correct_with_images, correct_with_moments
from jaxcompress.quantize.ptq.equalize import equalize
from jaxcompress.quantize.ptq.few_bits import (
  few_grid,
  few_grids,
  make_up,
  readers_of,
  shift,
  shiftable,
)
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.learn_block import TICKS, Settings
from jaxcompress.quantize.ptq.moments import Moments, moments_of
from jaxcompress.quantize.ptq.observe import (
  Extremes,
  add_counts,
  by_grid,
  channel_peaks,
  choose_ranges,
  extremes,
  grids_of,
  ranges_of,
)
from jaxcompress.quantize.ptq.reconstruct import reconstruct
from jaxcompress.quantize.ptq.weights import choose_scales, layer_levels, rounded_weights
from jaxcompress.quantize.sites import Sites, find_sites, fused_sites


class Algorithm(NamedTuple):
  """A way in which a float network becomes an integer one.

  Attributes:
    ranges: of activations.
    weights: how their scales are chosen, ``"absmax"`` or ``"mse"``.
    equalize: whether scales are moved between layers first, and high biases absorbed.
    correction: of biases: None, ``"images"`` or ``"moments"``.
    adaround: whether the rounding of every weight is learned, layer by layer; needs no correction.
    reconstruct: how blocks of layers are learned, which needs neither; or None.
    searched: whether a search tries it: no, where its neighbours are as good on every network measured.
  """

  ranges: str | Calibrator
  weights: str = "absmax"
  equalize: bool = False
  correction: str | None = None
  adaround: bool = False
  reconstruct: Settings | None = None
  searched: bool = True

  @property
  def learns(self) -> bool:
    """Whether the rounding of weights is learned, which takes many times as long as all else."""
    return self.adaround or self.reconstruct is not None


ALGORITHMS: Mapping[str, Algorithm] = {  # in order of cost
  "minmax": Algorithm("minmax"),
  "ema": Algorithm("ema", searched=False),
  "percentile": Algorithm("percentile", searched=False),
  "kl": Algorithm("kl", searched=False),
  "mse": Algorithm("mse", weights="mse"),
  "bias_correction": Algorithm("mse", correction="images"),
  "equalize": Algorithm("mse", equalize=True),
  "data_free": Algorithm("mse", equalize=True, correction="moments"),
  "qdrop": Algorithm("mse", weights="mse", reconstruct=Settings(kept=0.5)),
  "brecq": Algorithm("mse", weights="mse", reconstruct=Settings()),
  "adaround": Algorithm("mse", weights="mse", adaround=True),
}
"""All algorithms of quantization after training by name, in the order of their cost."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """A float network that is to be quantized, and what calibration saw of it, each pass once.

  Attributes:
    sites: where tensors are rounded if all that can share a grid do.
    folded: layers whose factors are ones.
    moments: of what layers with BatchNorm compute before their activation.
    batches: of the images for calibration.
    plan: the integers that are asked for, and whose arithmetic; of its quantizers only the levels
      count.
    to: the integers of the weights, by name.
    symmetric: whether the zero points of activations are 0.
    input_range: of what the network reads; None: what was seen.
    seed: of the samples that rounding is learned on.
    moves: of the tensors whose channels equalization or few bits moved, by name.
    clipped: nodes that got a rectifier for few bits.
    below: (channels,) by how much tensors were shifted up for them, by name.
  """

  sites: Sites
  folded: Mapping[str, Folded]
  moments: Mapping[str, Moments]
  batches: Batches
  plan: Quantization
  to: Mapping[str, Levels]
  symmetric: bool = False
  input_range: Bounds | None = None
  seed: int = 0
  moves: Mapping[str, Move] = dataclasses.field(default_factory=dict)
  clipped: frozenset[str] = frozenset()
  below: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(
    cls,
    graph: Graph,
    variables: Mapping[str, Any],
    batches: Batches,
    plan: Quantization,
    **options: Any,
  ) -> "Subject":
    """The network of a traced graph.

    Raises:
      ValueError: if a rule matches no layer, or asks for what integer files do not hold, or if grids are
        to be symmetric and have few bits.
    """
    sites = find_sites(graph)
    folded = {
      name: Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
      for name, layer in fold(sites.graph, variables).items()
    }
    moments = moments_of(sites.graph, variables)
    to, bits = layer_levels(sites, plan)
    if options.get("symmetric") and (fewest := min(bits.values())) < 8:
      raise ValueError(
        f"symmetric: activations of {fewest} bits have a zero point at their lowest code; leave it out, or"
        " give them 8 bits."
      )
    return cls(sites, folded, moments, batches, plan, to, **options)

  def shifted(self) -> "Subject":
    """The same network, in which what is asked to have fewer than 8 bits can have them.

    See ``ptq.few_bits``. The lower ends of tensors that are shifted are those of the least squared error.
    """
    bits, key_of, choose = self.asked, self.apart.key_of, calibrator("mse").choose
    tensors = [tensor for tensor in shiftable(self.sites) if bits[tensor] < 8]
    if not tensors:
      return self
    seen = {t: self.counted[key_of[t]]._replace(bits=bits[t]) for t in tensors}
    lows = {t: choose(seen[t])[0] for t in tensors}
    found = shift(self.sites.graph, self.folded, self.moments, lows)
    return dataclasses.replace(
      self,
      sites=fused_sites(found.graph),
      folded=found.folded,
      moments=found.moments,
      moves=found.moves,
      clipped=found.clipped,
      below={name: -move.shift for name, move in found.moves.items()},
    )

  @functools.cached_property
  def equalized(self) -> "Subject":
    """The same network with scales moved between layers."""
    graph = self.sites.graph
    peaks = channel_peaks(graph, self.layers, self.batches)
    found = equalize(graph, self.folded, self.moments, peaks)._asdict()
    for name, move in self.moves.items():  # shifts come first, and are scaled with the channels
      after = found["moves"].get(name, Move(np.ones_like(move.scale), np.zeros_like(move.scale)))
      shifted = after.shift + move.shift / after.scale
      found["moves"] |= {name: Move(move.scale * after.scale, shifted)}
      found.setdefault("below", {})[name] = self.below[name] / after.scale
    return dataclasses.replace(self, **found)

  @functools.cached_property
  def layers(self) -> dict[str, Layer]:
    """Weights and biases on the device."""
    return folded_layers(self.folded)

  @functools.cached_property
  def extremes(self) -> Extremes:
    """The extremes of every tensor in each batch."""
    return extremes(self.sites, self.layers, self.batches)

  @functools.cached_property
  def apart(self) -> Sites:
    """Where tensors are rounded, with grids of their own where that pays."""
    ranges = ranges_of(self.extremes)
    if self.input_range is not None:
      ranges[INPUT] = self.input_range
    _, bits = layer_levels(self.sites, self.plan)
    return find_sites(self.sites.graph, choose_apart(self.sites, ranges, bits))

  @functools.cached_property
  def asked(self) -> dict[str, int]:
    """Bits that activations are asked to have, 2 to 8 or 16 by tensor."""
    return layer_levels(self.apart, self.plan)[1]

  @functools.cached_property
  def bits(self) -> dict[str, int]:
    """Bits of the integers that hold them, 8 or 16 by tensor."""
    return {tensor: max(8, bits) for tensor, bits in self.asked.items()}

  @functools.cached_property
  def few(self) -> dict[str, int]:
    """The grids that have fewer than 8 bits, and how many."""
    return few_grids(self.apart, self.asked)

  @functools.cached_property
  def seen(self) -> dict[str, Seen]:
    """The values that calibration sees, by grid."""
    seen = by_grid(self.apart, self.extremes)
    return seen | {key: seen[key]._replace(bits=bits) for key, bits in self.few.items()}

  @functools.cached_property
  def counted(self) -> dict[str, Seen]:
    """The same with histograms."""
    return add_counts(self.apart, self.layers, self.batches, self.seen)

  def ranges(self, chosen: Calibrator) -> dict[str, Bounds]:
    """The range of every tensor; see :func:`choose_ranges`."""
    seen, key_of = self.counted if chosen.counts else self.seen, self.apart.key_of
    bounds = choose_ranges(self.apart, seen, chosen, self.bits)
    if self.input_range is not None:
      bounds |= {name: self.input_range for name in bounds if key_of[name] == key_of[INPUT]}
    return bounds

  def grids(self, algorithm: Algorithm) -> dict[str, Grid]:
    """The grid of every tensor that an algorithm starts from."""
    bounds, key_of = self.ranges(calibrator(algorithm.ranges)), self.apart.key_of
    grids = grids_of(bounds, self.bits)
    if self.symmetric:
      grids = {tensor: centred(grid) for tensor, grid in grids.items()}
    few = {t: few_grid(bounds[t], self.few[key_of[t]]) for t in grids if key_of[t] in self.few}
    return grids | few

  def quantized(self, algorithm: Algorithm) -> QuantizedModel:
    """The integer model that an algorithm makes."""
    if algorithm.equalize:
      return self.equalized.quantized(algorithm._replace(equalize=False))
    graph, folded, to = self.sites.graph, self.folded, self.to
    grids = self.grids(algorithm)
    scales, codes = choose_scales(folded, to, algorithm.weights), None
    rounded = {
      name: rounded_weights(layer, scales[name], to[name]) for name, layer in folded.items()
    }
    below = readers_of(graph, self.below)
    if (
      algorithm.correction is None and not algorithm.learns
    ):  # others see the errors that shifts make
      folded = make_up(folded, rounded, below)
    if algorithm.correction == "images":
      folded = correct_with_images(graph, folded, rounded, self.batches)
    elif algorithm.correction == "moments":
      folded = correct_with_moments(graph, folded, rounded, self.moments)
    if algorithm.adaround:
      codes, folded = adaround(
        self.apart, folded, scales, grids, self.batches, to=to, seed=self.seed
      )
    if algorithm.reconstruct is not None:
      found = reconstruct(
        self.apart,
        folded,
        scales,
        grids,
        self.batches,
        to=to,
        settings=algorithm.reconstruct,
        few=self.few,
        clipped=self.clipped,
        below=below,
        seed=self.seed,
      )
      codes, folded, scales, grids = found.codes, found.folded, found.scales, found.grids
    return assemble(
      graph,
      folded,
      scales,
      grids,
      codes=codes,
      levels=to,
      preprocess=self.batches.preprocess,
      kernels=self.plan.kernels,
      moves=self.moves,
      apart=self.apart.apart,
    )

  def passes(self, algorithm: Algorithm) -> frozenset[tuple[str, bool]]:
    """Names the passes of an algorithm over the images; passes that algorithms share run once."""
    kinds = {
      "extremes": True,
      "counts": calibrator(algorithm.ranges).counts,
      "peaks": algorithm.equalize,
      "correction": algorithm.correction == "images",
    }
    layers = self.folded if algorithm.learns else ()
    names = (*(kind for kind, asked in kinds.items() if asked), *layers)
    return frozenset((name, algorithm.equalize) for name in names)

  def ticks(self, algorithm: Algorithm) -> int:
    """About how often the batches are told of something while an algorithm runs."""
    layers = len(self.folded) if algorithm.learns else 0
    steps = layers
    if algorithm.reconstruct is not None:
      steps = TICKS * len(find_blocks(self.sites.graph, layerwise=algorithm.reconstruct.layerwise))
    return (len(self.passes(algorithm)) - layers + algorithm.learns) * self.batches.count + steps
