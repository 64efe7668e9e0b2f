"""Ranges of activations from a few images, a batch at a time."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Graph, fold
from jaxcompress.nn.execute import Layer, execute, folded_layers
from jaxcompress.quantize import ranges as running
from jaxcompress.quantize.grid import activation_levels, affine
from jaxcompress.quantize.integer import Grid
from jaxcompress.quantize.ptq.histograms import BINS, Bounds, Calibrator, Seen, calibrator
from jaxcompress.quantize.ptq.inputs import Batches, Preprocess, check_images, trace_on
from jaxcompress.quantize.sites import Sites, find_sites

DECAY = 0.9  # of moving ranges: calibration sees few batches
FIXED: dict[str, Bounds] = {"hard_sigmoid": (0.0, 1.0)}
Tick = Callable[[], None]


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
    share a grid have equal ones.

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
  images = check_images(images, preprocess)
  sites = find_sites(trace_on(model, variables, images, preprocess))
  layers = folded_layers(fold(sites.graph, jax.device_get(variables)))
  batches = Batches(images, preprocess, check_batch_size(batch_size, len(images)))
  seen = observe(sites, layers, batches)
  if chosen.counts:
    seen = add_counts(sites, layers, batches, seen)
  return choose_ranges(sites, seen, chosen)


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


def observe(
  sites: Sites, layers: Mapping[str, Layer], batches: Batches, tick: Tick = lambda: None
) -> dict[str, Seen]:
  """The extremes of the float network's tensors, by grid: one pass over the images.

  Args:
    sites: where tensors are rounded.
    layers: weights and biases by name.
    batches: of images.
    tick: called after every batch.

  Raises:
    ValueError: if a tensor is not finite.
  """
  keys, nonnegative = grid_keys(sites), _nonnegative_keys(sites)
  state: tuple[np.ndarray, ...] | None = None
  for x, _ in batches:
    state = _widen(state, np.asarray(_extremes(sites, layers, x)))
    tick()
  seen = {}
  for key, low, high, ends in zip(keys, *(state or ()), strict=True):
    if not (np.isfinite(low) and np.isfinite(high)):
      raise ValueError(
        f"variables: tensor {key!r} is not finite on these images ({low} to {high}); train with a"
        " lower learning rate."
      )
    seen[key] = Seen(
      float(low), float(high), (float(ends[0]), float(ends[1])), nonnegative=key in nonnegative
    )
  return seen


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


def _widen(state, batch: np.ndarray):
  """One batch's (keys, 2) extremes added to the extremes so far and to their moving average."""
  if state is None:
    return batch[:, 0], batch[:, 1], batch
  lows, highs, average = state
  start: Any = (average[:, 0], average[:, 1], np.int32(1))  # NumPy's arrays do as well as JAX's
  lowest: Any = batch[:, 0]
  highest: Any = batch[:, 1]
  moved = running.ema(running.Range(*start), lowest, highest, DECAY, debias=False)
  ends = np.stack([np.asarray(moved.low), np.asarray(moved.high)], axis=1)
  return np.minimum(lows, batch[:, 0]), np.maximum(highs, batch[:, 1]), ends


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


def _rounded(sites: Sites, layers: Mapping[str, Layer], x: jax.Array) -> dict[str, list[jax.Array]]:
  """The tensors that are rounded, by grid, under ``jit``."""
  key_of = sites.key_of
  found: dict[str, list[jax.Array]] = {key: [] for key in grid_keys(sites)}

  def record(tensor, array):
    if tensor in sites.rounded:
      found[key_of[tensor]].append(array)
    return array

  execute(sites.graph, layers, x, record)
  return found


@partial(jax.jit, static_argnums=0)
def _extremes(sites, layers, x):
  """(keys, 2) smallest and largest values; filled-up images repeat a real one, so they may count."""
  nonnegative = _nonnegative_keys(sites)
  ends = []
  for key, arrays in _rounded(sites, layers, x).items():
    pairs = [running.minimum_maximum(a, nonnegative=key in nonnegative) for a in arrays]
    low, high = zip(*pairs, strict=True)
    ends.append(jnp.stack([jnp.min(jnp.stack(low)), jnp.max(jnp.stack(high))]))
  return jnp.stack(ends)


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
  found = _rounded(sites, layers, x).values()
  weight = weight.astype(jnp.int32)
  totals = []
  for low, high, arrays in zip(lows, highs, found, strict=True):
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
