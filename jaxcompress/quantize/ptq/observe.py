"""Ranges of activations from a few images, a batch at a time."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Graph, fold
from jaxcompress.nn.execute import Layer, execute, folded_layers
from jaxcompress.quantize.fake_quant import (
  Range,
  activation_levels,
  affine,
  minimum_maximum,
  moving_range,
)
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.ptq.apart import choose_apart
from jaxcompress.quantize.ptq.histograms import BINS, Bounds, Calibrator, Seen, calibrator
from jaxcompress.quantize.ptq.inputs import Batches, Preprocess, check_images, trace_on
from jaxcompress.quantize.sites import Apart, Sites, find_sites

DECAY = 0.9  # of moving ranges: calibration sees few batches
FIXED: dict[str, Bounds] = {"hard_sigmoid": (0.0, 1.0)}
Tick = Callable[[], None]
Extremes = dict[str, np.ndarray]  # (batches, 2) smallest and largest values, by tensor


def calibrate(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  ranges: str | Calibrator = "minmax",
  batch_size: int = 32,
  preprocess: Preprocess | None = None,
) -> dict[str, Bounds]:
  """Ranges of every tensor that a device rounds.

  Memory is bounded by one batch. Min-max and EMA take one pass over the images, the others two:
  histograms of 2048 bins lie between the extremes that the first pass found.

  Args:
    model: a linen module made of the leaf ops.
    variables: its variables.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    ranges: ``"minmax"``, ``"ema"``, ``"percentile"``, ``"mse"``, ``"kl"``, ``"aciq"``, or a
      :class:`~jaxcompress.quantize.ptq.histograms.Calibrator`.
    batch_size: images at once.
    preprocess: maps images to what the network reads.

  Returns:
    ``{tensor: (low, high)}`` of every tensor of the graph with fused activations; tensors that
    share a grid have equal ones. Those that are joined with others far larger than they share none
    if another op reads them, too.

  Raises:
    ValueError: if the images are empty, not finite, or do not fit the model, or ``ranges`` is
      unknown.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> calibrate(model, variables, np.ones((2, 8, 8, 3), np.float32))["input"]
    (1.0, 1.0)
  """
  chosen = calibrator(ranges)
  sites, layers, batches = _prepared(model, variables, images, preprocess, batch_size)
  found = extremes(sites, layers, batches)
  sites = find_sites(sites.graph, _apart(sites, found))
  seen = by_grid(sites, found)
  if chosen.counts:
    seen = add_counts(sites, layers, batches, seen)
  return choose_ranges(sites, seen, chosen)


def grids_apart(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  preprocess: Preprocess | None = None,
  batch_size: int = 32,
) -> tuple[tuple[str, str], ...]:
  """Pairs of a node and a tensor that it reads, which had better not share a grid in a trained network.

  :func:`~jaxcompress.quantize.post_training` finds them itself. For fine-tuning they are given to the
  plan, such as ``int8(apart=grids_apart(...))``, since a network's ranges are known only once it is
  trained.

  Args:
    model: a linen module made of the leaf ops.
    variables: its trained ``params`` and ``batch_stats``.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    preprocess: maps images to what the network reads.
    batch_size: images at once.

  Returns:
    The pairs, in order of their names; none where all tensors that are joined are alike.

  Raises:
    ValueError: if the images do not fit the model.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> grids_apart(model, variables, jax.numpy.ones((2, 8, 8, 3)))
    ()
  """
  sites, layers, batches = _prepared(model, variables, images, preprocess, batch_size)
  return tuple(sorted(_apart(sites, extremes(sites, layers, batches))))


def _prepared(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  preprocess: Preprocess | None,
  batch_size: int,
) -> tuple[Sites, dict[str, Layer], Batches]:
  """Where a network is rounded, its folded layers, and batches of checked images."""
  images = check_images(images, preprocess)
  sites = find_sites(trace_on(model, variables, images, preprocess))
  layers = folded_layers(fold(sites.graph, jax.device_get(variables)))
  return sites, layers, Batches(images, preprocess, check_batch_size(batch_size, len(images)))


def _apart(sites: Sites, found: Extremes) -> Apart:
  return choose_apart(sites, {tensor: range_of(ends) for tensor, ends in found.items()})


def check_batch_size(batch_size: int, count: int) -> int:
  """The batch size, no larger than the number of images.

  Raises:
    ValueError: if it is not positive.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size: {batch_size} must be at least 1.")
  return min(batch_size, count)


def grids_of(
  bounds: Mapping[str, Bounds], bits: Mapping[str, int] | None = None
) -> dict[str, Grid]:
  """Grids of ranges.

  Args:
    bounds: by tensor.
    bits: 8 or 16 by tensor; 8 where it says nothing.

  Examples:
    >>> grids_of({"x": (0.0, 25.5)})
    {'x': Grid(scale=np.float32(0.1), zero_point=-128, bits=8)}
  """
  low, high = np.array(list(bounds.values()), np.float32).T
  found = {
    width: [np.asarray(array) for array in affine(low, high, activation_levels(width))]
    for width in (8, 16)
  }
  grids = {}
  for i, tensor in enumerate(bounds):
    width = (bits or {}).get(tensor, 8)
    scales, zeros = found[width]
    grids[tensor] = Grid(np.float32(scales[i]), int(zeros[i]), width)
  return grids


def choose_ranges(
  sites: Sites,
  seen: Mapping[str, Seen],
  chosen: Calibrator,
  bits: Mapping[str, int] | None = None,
) -> dict[str, Bounds]:
  """The range of every tensor; what an activation function fixes is not left to the images.

  Tensors of 16 bits keep their whole range: they have levels enough.
  """
  bounds = {}
  for key, values in seen.items():
    whole = values.high <= values.low or (bits or {}).get(key, 8) > 8
    low, high = (values.low, values.high) if whole else chosen.choose(values)
    bounds[key] = (float(low), float(high))
  key_of = sites.key_of
  for node in sites.graph.nodes:
    if node.attrs.get("act") in FIXED and node.op != "Activation":
      bounds[key_of[node.output]] = FIXED[node.attrs["act"]]
  return {tensor: bounds[key] for tensor, key in sites.keys}


def extremes(
  sites: Sites, layers: Mapping[str, Layer], batches: Batches, tick: Tick = lambda: None
) -> Extremes:
  """The extremes of the float network's tensors in every batch: one pass over the images.

  Args:
    sites: where tensors are rounded; what is concatenated is looked at as well.
    layers: weights and biases by name.
    batches: of images.
    tick: called after every batch.

  Raises:
    ValueError: if a tensor is not finite.
  """
  tensors, found = _observed(sites), []
  for x, _ in batches:
    found.append(np.asarray(_extremes(sites, layers, x)))
    tick()
  by_tensor = dict(zip(tensors, np.stack(found, axis=1), strict=True))
  for tensor, ends in by_tensor.items():
    if not np.isfinite(ends).all():
      raise ValueError(
        f"variables: tensor {tensor!r} is not finite on these images ({ends[:, 0].min()} to"
        f" {ends[:, 1].max()}); train with a lower learning rate."
      )
  return by_tensor


def observe(
  sites: Sites, layers: Mapping[str, Layer], batches: Batches, tick: Tick = lambda: None
) -> dict[str, Seen]:
  """What :func:`extremes` sees, by grid."""
  return by_grid(sites, extremes(sites, layers, batches, tick))


def by_grid(sites: Sites, found: Extremes) -> dict[str, Seen]:
  """The extremes of the tensors that share a grid.

  Args:
    sites: where tensors are rounded.
    found: of the tensors.
  """
  nonnegative, seen = _nonnegative_keys(sites), {}
  for key, tensors in _tensors_of(sites).items():
    lows, highs = np.stack([found[tensor] for tensor in tensors]).transpose(2, 1, 0)
    low = lows.min(axis=1)
    low, high = np.minimum(low, 0) if key in nonnegative else low, highs.max(axis=1)
    seen[key] = Seen(
      float(low.min()), float(high.max()), _average(low, high), nonnegative=key in nonnegative
    )
  return seen


def range_of(ends: np.ndarray) -> Bounds:
  """The range that holds (batches, 2) extremes."""
  return float(ends[:, 0].min()), float(ends[:, 1].max())


def add_counts(
  sites: Sites,
  layers: Mapping[str, Layer],
  batches: Batches,
  seen: Mapping[str, Seen],
  tick: Tick = lambda: None,
) -> dict[str, Seen]:
  """What was seen with histograms between the extremes: a second pass over the same images."""
  lows, highs = (
    np.array([getattr(one, end) for one in seen.values()], np.float32) for end in Seen._fields[:2]
  )
  totals = np.zeros((len(seen), BINS))
  for x, weight in batches:
    totals += np.asarray(_histograms(sites, layers, lows, highs, x, weight))
    tick()
  return {
    key: one._replace(counts=total) for (key, one), total in zip(seen.items(), totals, strict=True)
  }


def _average(lows: np.ndarray, highs: np.ndarray) -> Bounds:
  """The moving average of (batches,) extremes, in order."""
  average = Range(lows[0], highs[0], jnp.ones((), jnp.int32))
  for low, high in zip(lows[1:], highs[1:], strict=True):
    average = moving_range(average, low, high, DECAY, debias=False)
  return float(average.low), float(average.high)


def grid_keys(sites: Sites) -> tuple[str, ...]:
  """Names of the grids, in the order of the tensors."""
  return tuple(dict.fromkeys(key for _, key in sites.keys))


def _nonnegative_keys(sites: Sites) -> set[str]:
  """Grids of which no rounded tensor can be below zero."""
  key_of = sites.key_of
  return {
    key
    for key in grid_keys(sites)
    if all(t in sites.nonnegative for t in sites.rounded if key_of[t] == key)
  }


def _tensors_of(sites: Sites) -> dict[str, list[str]]:
  """The rounded tensors of every grid, in order."""
  found: dict[str, list[str]] = {key: [] for key in grid_keys(sites)}
  for tensor, key in sites.keys:
    if tensor in sites.rounded:
      found[key].append(tensor)
  return found


def _observed(sites: Sites) -> tuple[str, ...]:
  """The tensors whose extremes are of interest, in order."""
  joined = {node.output for node in sites.graph.nodes if node.op == "Concat"}
  return tuple(tensor for tensor, _ in sites.keys if tensor in sites.rounded | joined)


def _arrays(
  graph: Graph, layers: Mapping[str, Layer], x: jax.Array, wanted: Collection[str]
) -> dict[str, jax.Array]:
  """Tensors of the float network, under ``jit``."""
  found = {}

  def record(tensor, array):
    if tensor in wanted:
      found[tensor] = array
    return array

  execute(graph, layers, x, record)
  return found


@partial(jax.jit, static_argnums=0)
def _extremes(sites, layers, x):
  """(tensors, 2) smallest and largest values; filled-up images repeat a real one, so they may count."""
  wanted = _observed(sites)
  found = _arrays(sites.graph, layers, x, wanted)
  return jnp.stack([jnp.stack(minimum_maximum(found[tensor])) for tensor in wanted])


def channel_peaks(
  graph: Graph, layers: Mapping[str, Layer], batches: Batches, tick: Tick = lambda: None
) -> dict[str, np.ndarray]:
  """(channels,) largest outputs of the layers with ReLU6, by name; one more pass if there are any."""
  names = tuple(n.name for n in graph.nodes if n.attrs.get("act") == "relu6" and n.name in layers)
  peaks: dict[str, np.ndarray] = {}
  for x, _ in batches if names else ():
    found = jax.device_get(_peaks(graph, names, layers, x))
    peaks = {name: np.maximum(peaks.get(name, 0), found[name]) for name in names}
    tick()
  return peaks


@partial(jax.jit, static_argnums=(0, 1))
def _peaks(graph, names, layers, x):
  output = {node.output: node.name for node in graph.nodes if node.name in names}
  peaks = {}

  def record(tensor, array):
    if tensor in output:
      peaks[output[tensor]] = jnp.max(array, axis=tuple(range(array.ndim - 1)))
    return array

  execute(graph, layers, x, record)
  return peaks


@partial(jax.jit, static_argnums=0)
def _histograms(sites, layers, lows, highs, x, weight):
  """(keys, BINS) int32 counts of one batch."""
  found, tensors_of = _arrays(sites.graph, layers, x, sites.rounded), _tensors_of(sites)
  weight = weight.astype(jnp.int32)
  totals = []
  for low, high, tensors in zip(lows, highs, tensors_of.values(), strict=True):
    arrays = [found[tensor] for tensor in tensors]
    inverse = BINS / jnp.maximum(high - low, 1e-30)
    total = jnp.zeros(BINS, jnp.int32)
    for array in arrays:
      place = jnp.clip((array - low) * inverse, 0, BINS - 1).astype(jnp.int32)
      each = jnp.broadcast_to(weight.reshape((-1,) + (1,) * (array.ndim - 1)), array.shape)
      total = total.at[place.ravel()].add(each.ravel())
    totals.append(total)
  return jnp.stack(totals)


def rounding_visitor(
  grids: Mapping[str, Grid], rounded: frozenset[str]
) -> Callable[[str, Any], jax.Array]:
  """A visitor for :func:`~jaxcompress.nn.execute.execute` that rounds tensors to their grids."""

  def visit(tensor: str, array: jax.Array) -> jax.Array:
    if tensor not in rounded:
      return array
    grid = grids[tensor]
    return jnp.clip(jnp.round(array * (1 / grid.scale)), grid.low, grid.high) * grid.scale

  return visit
