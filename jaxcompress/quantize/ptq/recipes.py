"""Methods of post-training quantization by name, and how one is carried out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import INPUT, Folded, Graph, fold
from jaxcompress.nn.execute import folded_layers
from jaxcompress.quantize.codes import assemble
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import centred
from jaxcompress.quantize.model import Move, QuantizedModel
from jaxcompress.quantize.ptq.apart import choose_apart
from jaxcompress.quantize.ptq.correct import correct_with_images, correct_with_moments
from jaxcompress.quantize.ptq.equalize import equalize
from jaxcompress.quantize.ptq.histograms import Bounds, Calibrator, Seen, calibrator
from jaxcompress.quantize.ptq.inputs import Batches
from jaxcompress.quantize.ptq.moments import Moments, moments_of
from jaxcompress.quantize.ptq.observe import (
  Extremes,
  Tick,
  add_counts,
  by_grid,
  channel_peaks,
  choose_ranges,
  extremes,
  grids_of,
  range_of,
)
from jaxcompress.quantize.ptq.rounding import adaround
from jaxcompress.quantize.ptq.weights import choose_scales, rounded_weights
from jaxcompress.quantize.sites import Sites, find_sites

Widths = Callable[[Sites], Mapping[str, int]]


class Method(NamedTuple):
  """How a float network becomes an integer one.

  Attributes:
    ranges: of activations.
    weights: how their scales are chosen, ``"absmax"`` or ``"mse"``.
    equalize: whether scales are moved between layers first, and high biases absorbed.
    correction: of biases: None, ``"images"`` or ``"moments"``.
    adaround: whether the rounding of every weight is learned; needs no correction.
  """

  ranges: str | Calibrator
  weights: str = "absmax"
  equalize: bool = False
  correction: str | None = None
  adaround: bool = False


METHODS: Mapping[str, Method] = {  # in order of cost
  "minmax": Method("minmax"),
  "ema": Method("ema"),
  "percentile": Method("percentile"),
  "kl": Method("kl"),
  "mse": Method("mse", weights="mse"),
  "bias_correction": Method("mse", correction="images"),
  "equalize": Method("mse", equalize=True),
  "data_free": Method("mse", equalize=True, correction="moments"),
  "adaround": Method("mse", weights="mse", adaround=True),
}
"""All methods of quantization after training by name, in the order of their cost."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A float network and what calibration saw of it.

  Attributes:
    sites: where tensors are rounded.
    folded: layers whose factors are ones.
    moments: of what layers with BatchNorm compute before their activation.
    batches: of the images for calibration.
    moves: of the tensors whose channels equalization moved, by name.
  """

  sites: Sites
  folded: Mapping[str, Folded]
  moments: Mapping[str, Moments]
  batches: Batches
  moves: Mapping[str, Move] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, graph: Graph, variables: Mapping[str, Any], batches: Batches) -> "Network":
    """The network of a traced graph."""
    sites = find_sites(graph)
    folded = {
      name: Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
      for name, layer in fold(sites.graph, variables).items()
    }
    return cls(sites, folded, moments_of(sites.graph, variables), batches)

  @functools.cached_property
  def equalized(self) -> "Network":
    """The same network with scales moved between layers."""
    graph = self.sites.graph
    peaks = channel_peaks(graph, self.layers, self.batches)
    equalized = equalize(graph, self.folded, self.moments, peaks)
    return Network(self.sites, equalized.folded, equalized.moments, self.batches, equalized.moves)

  @functools.cached_property
  def layers(self) -> dict[str, Any]:
    """Weights and biases on the device."""
    return folded_layers(self.folded)

  @functools.cached_property
  def _cache(self) -> dict[str, Any]:
    return {}

  def extremes(self, tick: Tick) -> Extremes:
    """What calibration sees of every tensor; the pass over the images is made once."""
    if "extremes" not in self._cache:
      self._cache["extremes"] = extremes(self.sites, self.layers, self.batches, tick)
    return self._cache["extremes"]

  def with_own_grids(self, widths: Widths, input_range: Bounds | None, tick: Tick) -> "Network":
    """The network whose tensors keep grids of their own where that pays; found once."""
    if "parted" not in self._cache:
      found = self.extremes(tick)
      ranges = {tensor: range_of(ends) for tensor, ends in found.items()}
      if input_range is not None:
        ranges[INPUT] = input_range
      apart = choose_apart(self.sites, ranges, widths(self.sites))
      parted = dataclasses.replace(self, sites=find_sites(self.sites.graph, apart))
      parted._cache["extremes"] = found
      self._cache["parted"] = parted
    return self._cache["parted"]

  def seen(self, *, counts: bool, tick: Tick) -> dict[str, Seen]:
    """What calibration sees by grid; each pass over the images is made once."""
    seen = by_grid(self.sites, self.extremes(tick))
    if not counts:
      return seen
    if "counts" not in self._cache:
      self._cache["counts"] = add_counts(self.sites, self.layers, self.batches, seen, tick)
    return self._cache["counts"]

  def quantized(
    self,
    method: Method,
    *,
    to: Mapping[str, Levels],
    widths: Widths,
    seed: int,
    preprocess: Any,
    kernels: str,
    symmetric: bool,
    input_range: Bounds | None,
    tick: Tick,
  ) -> QuantizedModel:
    """The integer model that a method makes.

    Args:
      method: what is done.
      to: the integers of the weights, by name.
      widths: gives the bits of activations, 8 or 16 by tensor, on the sites that they have.
      seed: of AdaRound's samples.
      preprocess: kept in the model.
      kernels: whose arithmetic evaluates it.
      input_range: of what the network reads; None: what was seen.
      symmetric: whether the zero points of activations are 0.
      tick: called after every batch or layer.
    """
    if input_range is not None:
      low, high = input_range
      if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(
          f"input_range: {input_range} must be two finite numbers, the smaller one first."
        )
    network = self.equalized if method.equalize else self
    network = network.with_own_grids(widths, input_range, tick)
    graph, folded = network.sites.graph, network.folded
    chosen, bits = calibrator(method.ranges), widths(network.sites)
    seen = network.seen(counts=chosen.counts, tick=tick)
    bounds = choose_ranges(network.sites, seen, chosen, bits)
    if input_range is not None:
      key_of = network.sites.key_of
      bounds |= {tensor: input_range for tensor in bounds if key_of[tensor] == key_of[INPUT]}
    grids = grids_of(bounds, bits)
    if symmetric:
      grids = {tensor: centred(grid) for tensor, grid in grids.items()}
    scales, codes = choose_scales(folded, to, method.weights), None
    rounded = {
      name: rounded_weights(layer, scales[name], to[name]) for name, layer in folded.items()
    }
    if method.correction == "images":
      folded = correct_with_images(graph, folded, rounded, self.batches, tick)
    elif method.correction == "moments":
      folded = correct_with_moments(graph, folded, rounded, network.moments)
    if method.adaround:
      codes, folded = adaround(
        network.sites, folded, scales, grids, self.batches, to=to, seed=seed, tick=tick
      )
    return assemble(
      graph,
      folded,
      scales,
      grids,
      codes=codes,
      levels=to,
      preprocess=preprocess,
      kernels=kernels,
      moves=network.moves,
      apart=network.sites.apart,
    )

  def ticks(self, method: Method) -> int:
    """About how often a method ticks."""
    passes = 1 + calibrator(method.ranges).counts + (method.correction == "images")
    return passes * self.batches.count + method.adaround * len(self.folded)
