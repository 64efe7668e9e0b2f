"""Activations with fewer than 8 bits in files of 8-bit integers, where every runtime saturates them.

Codes of ``b`` bits from zero up are int8 from ``128 - 2**b`` on, with the zero point there: a rectifier
cuts them off below, and int8 itself above. What may lie below zero is shifted first: ``relu(y + c)``
takes the place of ``y``, and the biases of what reads it make up for ``c``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Folded, Graph, Node, kernel_shape
from jaxcompress.nn.operations import pads_of
from jaxcompress.quantize.integer.grid import HIGHEST, Grid
from jaxcompress.quantize.model import Move
from jaxcompress.quantize.ptq.calibrators import Bounds
from jaxcompress.quantize.ptq.moments import Moments
from jaxcompress.quantize.sites import Sites

LINEAR = ("ConvNorm", "Dense")


class Shifted(NamedTuple):
  """A network whose signed tensors are shifted and rectified.

  Attributes:
    graph: with the rectifiers.
    folded: layers with biases that make up for the shifts.
    moments: of what layers compute before their activation.
    moves: what was done to tensors, by name.
    clipped: names of the nodes that got a rectifier.
  """

  graph: Graph
  folded: dict[str, Folded]
  moments: dict[str, Moments]
  moves: dict[str, Move]
  clipped: frozenset[str]


def shiftable(sites: Sites) -> tuple[str, ...]:
  """The tensors that may lie below zero and can be shifted, in order.

  They are written by a convolution, a linear layer or a sum, each without an activation function, and
  read by convolutions without padding, linear layers, and sums whose other summand has a bias that
  nothing else sees. What sums alone read, such as the end of a residual branch, keeps 8 bits: the
  published methods leave it in float.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize.sites import find_sites
    >>> sites = find_sites(models.summarize(models.mobilenet_v2(), 32).graph)
    >>> shiftable(sites)[:3]
    ('stage0_block0/project', 'stage1_block0/project', 'stage1_block1/add')
  """
  graph = sites.graph
  found = []
  for node in graph.nodes:
    tensor, readers = node.output, graph.consumers(node.output)
    written = _is_linear(node) or _summand(graph, node) is not None
    fits = all(_absorbs(graph, reader, tensor) for reader in readers)
    if (
      written
      and node.attrs.get("act") is None
      and tensor in sites.rounded - sites.nonnegative
      and not graph.is_output(tensor)
      and fits
      and any(_is_linear(reader) for reader in readers)
    ):
      found.append(tensor)
  return tuple(found)


def _is_linear(node: Node) -> bool:
  return node.op in LINEAR


def _summand(graph: Graph, node: Node) -> str | None:
  """The input of a sum that a layer without an activation function writes for it alone, if any."""
  if node.op != "Add":
    return None
  for tensor in node.inputs:
    writer = graph.producer(tensor) if tensor != INPUT else None
    if writer is None or not _is_linear(writer) or writer.attrs.get("act") is not None:
      continue
    if len(graph.consumers(tensor)) == 1 and not graph.is_output(tensor):
      return tensor if node.inputs.count(tensor) == 1 else None
  return None


def _absorbs(graph: Graph, reader: Node, tensor: str) -> bool:
  """Whether biases can make up for a shift of what a node reads."""
  if reader.op == "Add":
    return _summand(graph, reader) not in (None, tensor)
  if reader.op == "Dense":
    return True
  return reader.op == "ConvNorm" and not np.any(pads_of(reader))


def shift(
  graph: Graph,
  folded: Mapping[str, Folded],
  moments: Mapping[str, Moments],
  lows: Mapping[str, float],
) -> Shifted:
  """Shifts tensors up by as much as they lie below zero, and rectifies them.

  Args:
    graph: with fused activations.
    folded: of every node that has a kernel, with factors of one.
    moments: of the outputs of layers with BatchNorm.
    lows: the lowest value that each of :func:`shiftable` keeps, by tensor.
  """
  by = {tensor: max(0.0, -float(low)) for tensor, low in lows.items()}
  bias = {name: np.array(layer.bias, np.float64) for name, layer in folded.items()}
  means = {name: np.zeros_like(one.mean) for name, one in moments.items()}
  moves, nodes, clipped = {}, [], set()
  for node in graph.nodes:
    up, host = by.get(node.output, 0.0), node.name
    if node.op == "Add":
      summand = _summand(graph, node)
      others = sum(by.get(tensor, 0.0) for tensor in node.inputs if tensor != summand)
      up_host = up - others
      writer = None if summand is None else graph.producer(summand)
      host = "" if writer is None else writer.name
    else:
      up_host = up
    if up_host:
      bias[host] = bias[host] + up_host
      if host in means:
        means[host] = means[host] + up_host
    if node.op in LINEAR:
      below = by.get(node.inputs[0], 0.0)
      kernel = np.asarray(folded[node.name].kernel, np.float64)
      bias[node.name] = bias[node.name] - below * kernel.reshape(-1, kernel.shape[-1]).sum(axis=0)
    if node.output in by:
      channels = node.output_shapes[0][-1]
      clipped.add(node.name)
      moves[node.output] = Move(np.ones(channels), np.full(channels, -up))
      node = node._replace(attrs=FrozenDict({**node.attrs, "act": "relu"}))
    nodes.append(node)
  return Shifted(
    graph._replace(nodes=tuple(nodes)),
    {name: layer._replace(bias=bias[name]) for name, layer in folded.items()},
    {name: one._replace(mean=one.mean + means[name]) for name, one in moments.items()},
    moves,
    frozenset(clipped),
  )


def readers_of(graph: Graph, below: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Finds by how much what layers read was shifted up, by the names of the layers."""
  layers = (node for node in graph.nodes if node.op in LINEAR)
  return {node.name: below[node.inputs[0]] for node in layers if node.inputs[0] in below}


def made_up(below: Any, error: Any) -> jax.Array:
  """Computes what a bias must lose where weights are rounded: (out,), since the shift stays.

  Without it, the rounding errors of all weights of an output add up, times the shift.

  Args:
    below: (channels,) by how much what the layer reads was shifted up; of a linear layer that
      flattens a map also (inputs,).
    error: (..., inputs of a group, out) rounded weights without the float ones.

  Examples:
    >>> made_up(np.array([2.0, 2.0]), np.array([[0.1, 0.0], [0.2, -0.1]])).round(3).tolist()
    [0.6000000238418579, -0.20000000298023224]
  """
  inputs, outputs = error.shape[-2:]
  below = jnp.tile(below, max(1, inputs // len(below)))  # a map's channels, cell after cell
  groups = len(below) // inputs
  total = jnp.reshape(error, (-1, inputs, groups, outputs // groups)).sum(axis=0)
  return jnp.einsum("gc,cgo->go", jnp.reshape(below, (groups, inputs)), total).ravel()


def make_up(
  folded: Mapping[str, Folded],
  kernels: Mapping[str, np.ndarray],
  below: Mapping[str, np.ndarray],
) -> dict[str, Folded]:
  """Layers with biases that make up for the shift of what they read with their rounded kernels."""
  found = dict(folded)
  for name, up in below.items():
    lost = made_up(up, kernels[name] - folded[name].kernel)
    found[name] = folded[name]._replace(bias=folded[name].bias - np.asarray(lost, np.float64))
  return found


def few_grids(sites: Sites, bits: Mapping[str, int]) -> dict[str, int]:
  """The grids that have fewer than 8 bits, and how many: those of tensors that are nowhere below zero.

  The input, the outputs and what the last layer reads keep 8, as in the published settings.

  Args:
    sites: of a graph whose signed tensors are shifted.
    bits: that are asked for, by tensor.
  """
  graph, key_of = sites.graph, sites.key_of
  kept = {key_of[tensor] for tensor in (INPUT, *(tensor for _, tensor in graph.outputs))}
  layers = [node for node in graph.nodes if kernel_shape(node) is not None]
  for tensor in layers[-1].inputs if layers else ():
    kept.add(key_of[tensor])
    while (node := graph.producer(tensor)) and kernel_shape(node) is None and len(node.inputs) == 1:
      tensor = node.inputs[0]  # of a pool
      kept.add(key_of[tensor])
  signed = {key_of[tensor] for tensor in sites.rounded - sites.nonnegative}
  fixed = {key_of[tensor] for tensor in sites.gates}
  return {
    key: bits[key]
    for key in {key_of[tensor] for tensor in sites.rounded}
    if key not in kept | signed | fixed and bits[key] < 8
  }


def few_grid(bounds: Bounds, bits: int) -> Grid:
  """The grid of ``bits`` bits from zero to the upper bound.

  Examples:
    >>> grid = few_grid((0.0, 3.0), 4)
    >>> grid.zero_point, grid.high, round(float(grid.scale), 6)
    (112, 15, 0.2)
  """
  steps = 2**bits - 1
  return Grid(np.float32(max(bounds[1], 1e-30) / steps), HIGHEST - steps)
