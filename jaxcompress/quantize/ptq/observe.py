"""Passes of a float network over images: extremes, histograms and peaks of its tensors, and grids."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Graph
from jaxcompress.nn.execute import Layer, execute
from jaxcompress.nn.operations import joins
from jaxcompress.quantize.fake_quant import (
  Range,
  activation_levels,
  affine,
  minimum_maximum,
  moving_range,
)
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.ptq.calibrators import BINS, Bounds, Calibrator, Seen
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.sites import Sites

DECAY = 0.9  # of moving ranges: calibration sees few batches
FIXED: dict[str, Bounds] = {"hard_sigmoid": (0.0, 1.0)}
Extremes = dict[str, np.ndarray]  # (batches, 2) smallest and largest values, by tensor


def float_tensors(
  graph: Graph, layers: Mapping[str, Layer], x: jax.Array, wanted: Collection[str]
) -> dict[str, jax.Array]:
  """Runs a float network and keeps some of its tensors; to be traced."""
  found = {}

  def record(tensor, array):
    if tensor in wanted:
      found[tensor] = array
    return array

  execute(graph, layers, x, record)
  return found


def extremes(sites: Sites, layers: Mapping[str, Layer], batches: Batches) -> Extremes:
  """Finds the extremes of the float network's tensors in every batch: one pass over the images.

  Args:
    sites: where tensors are rounded; what is concatenated is looked at as well.
    layers: weights and biases by name.
    batches: of images.

  Raises:
    ValueError: if a tensor is not finite.
  """
  joined = {node.output for node in sites.graph.nodes if joins(node)}
  tensors = tuple(tensor for tensor, _ in sites.keys if tensor in sites.rounded | joined)
  found = [np.asarray(_extremes(sites.graph, tensors, layers, x)) for x, _ in batches]
  by_tensor = dict(zip(tensors, np.stack(found, axis=1), strict=True))
  for tensor, ends in by_tensor.items():
    if not np.isfinite(ends).all():
      raise ValueError(
        f"variables: tensor {tensor!r} is not finite on these images ({ends[:, 0].min()} to"
        f" {ends[:, 1].max()}); train with a lower learning rate."
      )
  return by_tensor


@partial(jax.jit, static_argnums=(0, 1))
def _extremes(graph, tensors, layers, x):
  """(tensors, 2) smallest and largest values; filled-up images repeat a real one, so they may count."""
  found = float_tensors(graph, layers, x, tensors)
  return jnp.stack([jnp.stack(minimum_maximum(found[tensor])) for tensor in tensors])


def ranges_of(found: Extremes) -> dict[str, Bounds]:
  """The ranges that hold all extremes, by tensor."""
  return {
    tensor: (float(ends[:, 0].min()), float(ends[:, 1].max())) for tensor, ends in found.items()
  }


def by_grid(sites: Sites, found: Extremes) -> dict[str, Seen]:
  """Joins the extremes of the tensors that share a grid.

  Args:
    sites: where tensors are rounded.
    found: of the tensors.
  """
  seen = {}
  for key, tensors in _rounded_by_grid(sites).items():
    lows, highs = np.stack([found[tensor] for tensor in tensors]).transpose(2, 1, 0)
    low, high, nonnegative = lows.min(axis=1), highs.max(axis=1), sites.nonnegative >= set(tensors)
    if nonnegative:
      low = np.minimum(low, 0)
    seen[key] = Seen(
      float(low.min()), float(high.max()), _average(low, high), nonnegative=nonnegative
    )
  return seen


def _rounded_by_grid(sites: Sites) -> dict[str, list[str]]:
  """The rounded tensors of every grid, in order."""
  found: dict[str, list[str]] = {}
  for tensor, key in sites.keys:
    if tensor in sites.rounded:
      found.setdefault(key, []).append(tensor)
  return found


def _average(lows: np.ndarray, highs: np.ndarray) -> Bounds:
  """The moving average of (batches,) extremes, in order."""
  average = Range(lows[0], highs[0], jnp.ones((), jnp.int32))
  for low, high in zip(lows[1:], highs[1:], strict=True):
    average = moving_range(average, low, high, DECAY, debias=False)
  return float(average.low), float(average.high)


def add_counts(
  sites: Sites, layers: Mapping[str, Layer], batches: Batches, seen: Mapping[str, Seen]
) -> dict[str, Seen]:
  """Adds histograms between the extremes: a second pass over the same images."""
  ends = np.array([(one.low, one.high) for one in seen.values()], np.float32)
  totals = np.zeros((len(seen), BINS))
  for x, weight in batches:
    totals += np.asarray(_histograms(sites, layers, ends, x, weight))
  return {
    key: one._replace(counts=total) for (key, one), total in zip(seen.items(), totals, strict=True)
  }


@partial(jax.jit, static_argnums=0)
def _histograms(sites, layers, ends, x, weight):
  """(keys, BINS) int32 counts of one batch."""
  found = float_tensors(sites.graph, layers, x, sites.rounded)
  weight = weight.astype(jnp.int32)
  totals = []
  for (low, high), tensors in zip(ends, _rounded_by_grid(sites).values(), strict=True):
    inverse = BINS / jnp.maximum(high - low, 1e-30)
    total = jnp.zeros(BINS, jnp.int32)
    for array in (found[tensor] for tensor in tensors):
      place = jnp.clip((array - low) * inverse, 0, BINS - 1).astype(jnp.int32)
      each = jnp.broadcast_to(weight.reshape((-1,) + (1,) * (array.ndim - 1)), array.shape)
      total = total.at[place.ravel()].add(each.ravel())
    totals.append(total)
  return jnp.stack(totals)


def channel_peaks(
  graph: Graph, layers: Mapping[str, Layer], batches: Batches
) -> dict[str, np.ndarray]:
  """(channels,) largest outputs of layers with ReLU6, by name; one more pass if there are any."""
  outputs = tuple(
    (node.name, node.output)
    for node in graph.nodes
    if node.attrs.get("act") == "relu6" and node.name in layers
  )
  peaks: dict[str, np.ndarray] = {}
  for x, _ in batches if outputs else ():
    found = jax.device_get(_peaks(graph, outputs, layers, x))
    peaks = {name: np.maximum(peaks.get(name, 0), peak) for name, peak in found.items()}
  return peaks


@partial(jax.jit, static_argnums=(0, 1))
def _peaks(graph, outputs, layers, x):
  found = float_tensors(graph, layers, x, dict(outputs).values())
  return {
    name: jnp.max(found[output], axis=tuple(range(found[output].ndim - 1)))
    for name, output in outputs
  }


def choose_ranges(
  sites: Sites,
  seen: Mapping[str, Seen],
  chosen: Calibrator,
  bits: Mapping[str, int],
) -> dict[str, Bounds]:
  """Chooses the range of every tensor; what an activation function fixes is not left to the images.

  Tensors of 16 bits keep their whole range: they have levels enough.
  """
  bounds = {}
  for key, values in seen.items():
    whole = values.high <= values.low or bits[key] > 8
    low, high = (values.low, values.high) if whole else chosen.choose(values)
    bounds[key] = (float(low), float(high))
  key_of = sites.key_of
  for node in sites.graph.nodes:
    if node.attrs.get("act") in FIXED and node.op != "Activation":
      bounds[key_of[node.output]] = FIXED[node.attrs["act"]]
  return {tensor: bounds[key] for tensor, key in sites.keys}


def grids_of(
  bounds: Mapping[str, Bounds], bits: Mapping[str, int] | None = None
) -> dict[str, Grid]:
  """Makes grids of ranges.

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
