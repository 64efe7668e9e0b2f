"""Integer arithmetic of every leaf op: a table from its name to two functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress import ops
from jaxcompress.nn import Node
from jaxcompress.quantize.integer import xnnpack
from jaxcompress.quantize.integer.convolve import (
  accumulate,
  largest_accumulator,
  split_exactly,
)
from jaxcompress.quantize.integer.values import Grid, Integers, clip_range

Grids = Mapping[str, Grid]
Arrays = dict[str, Any]


class LeafArithmetic(NamedTuple):
  """How one leaf op runs on integers.

  Attributes:
    prepare: ``(node, grids, integers) -> (static, arrays)`` in numpy: what the compiled program
      depends on (hashable), and the numbers that it is called with. Raises ``ValueError`` for what
      the device would refuse.
    run: ``(static, arrays, *inputs) -> outputs`` under ``jit``, on integer-valued float32 arrays
      that hold ``q - zero_point``.
  """

  prepare: Callable[[Node, Grids, Integers | None], tuple[Any, Arrays]]
  run: Callable[..., tuple[jax.Array, ...]]


def channel_groups(node: Node) -> int:
  """Number of channel groups of a convolution.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.mobilenet_v2(width=0.25)).graph
    >>> [channel_groups(node) for node in graph.nodes[:2]]
    [1, 8]
  """
  groups = node.attrs["groups"]
  return node.input_shapes[0][-1] if groups == "depthwise" else groups


def averaging(node: Node) -> Integers:
  """The depthwise convolution that an average pool is where padded cells count as zeros."""
  channels, kernel = node.input_shapes[0][-1], node.attrs["kernel"]
  return Integers(
    np.ones((kernel, kernel, 1, channels), np.int8),
    np.full(channels, 1 / kernel**2, np.float32),
    np.zeros(channels, np.int32),
  )


def counts_padding(node: Node) -> bool:
  """Whether an average pool has padded cells that count."""
  return node.attrs["count_padding"] and any(map(any, pads_of(node)))


def pads_of(node: Node) -> tuple[tuple[int, int], tuple[int, int]]:
  """Cells added around the input of a convolution or pool."""
  attrs = node.attrs
  size = node.input_shapes[0][1:3]
  return ops.resolve_padding(attrs["padding"], size, attrs["kernel"], attrs["stride"])


def _clipping(node: Node, output: Grid) -> Arrays:
  low, high = clip_range(node.attrs.get("act"), output)
  return {"low": low, "high": high}


def _output(node: Node, grids: Grids) -> Grid:
  return grids[node.output]


def _prepare_weights(node: Node, grids: Grids, integers: Integers, groups: int):
  source, output = grids[node.inputs[0]], _output(node, grids)
  multipliers = xnnpack.multipliers(source, integers.scales, output)
  bound = largest_accumulator(integers.weights, source) + np.abs(integers.bias.astype(np.int64))
  if np.any(bound >= 2**31) or np.any(bound * multipliers.astype(np.float64) >= 2**31 - 2**8):
    raise ValueError(
      f"bias: sums reach {bound.max()}, {(bound * multipliers).max():.3g} output steps, which int32"
      " does not hold; quantize.assemble makes scales that fit."
    )
  spread = (1,) * (len(node.output_shapes[0]) - 1) + (-1,)
  static = (
    split_exactly(integers.weights, source),
    node.attrs.get("stride", 1),
    node.attrs.get("padding", "VALID"),
    groups,
  )
  return static, {
    "weights": integers.weights,
    "bias": integers.bias.reshape(spread),
    "multiplier": multipliers.reshape(spread),
    **_clipping(node, output),
  }


def _run_weights(static, arrays: Arrays, x):
  parts, stride, padding, groups = static
  total = accumulate(x, arrays["weights"], parts, stride=stride, padding=padding, groups=groups)
  return (
    xnnpack.requantize(total + arrays["bias"], arrays["multiplier"], arrays["low"], arrays["high"]),
  )


def _prepare_conv(node: Node, grids: Grids, integers: Integers):
  return _prepare_weights(node, grids, integers, channel_groups(node))


def _prepare_dense(node: Node, grids: Grids, integers: Integers):
  return _prepare_weights(node, grids, integers, 1)


def _run_dense(static, arrays: Arrays, x):
  return _run_weights(static, arrays, x.reshape(x.shape[0], -1))


def _prepare_add(node: Node, grids: Grids, integers):
  left, right = (grids[name] for name in node.inputs)
  output = _output(node, grids)
  constants = xnnpack.sum_constants(left, right, output)
  return None, {"constants": constants, **_clipping(node, output)}


def _run_add(static, arrays: Arrays, x, y):
  return (xnnpack.add(x, y, arrays["constants"], arrays["low"], arrays["high"]),)


def _prepare_activation(node: Node, grids: Grids, integers):
  """A rectifier on its own is the sum with zero: runtimes do that fast and alike."""
  source, output = grids[node.inputs[0]], _output(node, grids)
  constants = xnnpack.sum_constants(source, source, output)
  return None, {"constants": constants, **_clipping(node, output)}


def _run_activation(static, arrays: Arrays, x):
  zero = jnp.zeros((), jnp.float32)
  return (xnnpack.add(x, zero, arrays["constants"], arrays["low"], arrays["high"]),)


def _prepare_multiply(node: Node, grids: Grids, integers):
  left, right = (grids[name] for name in node.inputs)
  output = _output(node, grids)
  multiplier = xnnpack.product_multiplier(left, right, output)
  return None, {"multiplier": multiplier, **_clipping(node, output)}


def _run_multiply(static, arrays: Arrays, x, y):
  return (xnnpack.requantize(x * y, arrays["multiplier"], arrays["low"], arrays["high"]),)


def _prepare_mean(node: Node, grids: Grids, integers):
  source, output = grids[node.inputs[0]], _output(node, grids)
  height, width = node.input_shapes[0][1:3]
  return node.attrs["keepdims"], {
    "constants": xnnpack.mean_constants(source, output, height * width),
    "zero_point": np.float32(output.zero_point),
  }


def _run_mean(keepdims: bool, arrays: Arrays, x):
  y = xnnpack.mean(x, arrays["constants"], arrays["zero_point"])
  return (y if keepdims else y.reshape(y.shape[0], y.shape[-1]),)


def _same_grid(node: Node, grids: Grids) -> Grid:
  found = {grids[name] for name in (*node.inputs, *node.outputs)}
  if len(found) > 1:
    raise ValueError(
      f"grids: {node.op} copies integers, so its tensors must share one grid; it has"
      f" {', '.join(map(str, found))}."
    )
  return found.pop()


def _window_sums(static):
  kernel, stride, pads = static

  def total(x):
    window, steps = (1, kernel, kernel, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, steps, ((0, 0), *pads, (0, 0)))

  return total


def _prepare_average_pool(node: Node, grids: Grids, integers):
  grid = _same_grid(node, grids)
  if counts_padding(node):
    static, arrays = _prepare_weights(node, grids, averaging(node), node.input_shapes[0][-1])
    return ("weights", static), arrays
  pads, kernel, stride = pads_of(node), node.attrs["kernel"], node.attrs["stride"]
  sides = [
    _cells(size, kernel, stride, pair)
    for size, pair in zip(node.input_shapes[0][1:3], pads, strict=True)
  ]
  return ("pool", (kernel, stride, pads)), {
    "counts": np.outer(*sides).astype(np.int32).reshape(1, sides[0].size, sides[1].size, 1),
    "zero_point": np.int32(grid.zero_point),
  }


def _cells(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> np.ndarray:
  """Cells of each window along one axis that lie on the map."""
  before, after = pads
  starts = np.arange((size + before + after - kernel) // stride + 1) * stride - before
  return np.minimum(starts + kernel, size) - np.maximum(starts, 0)


def _run_average_pool(static, arrays: Arrays, x):
  kind, detail = static
  if kind == "weights":
    return _run_weights(detail, arrays, x)
  return (xnnpack.average(x, _window_sums(detail), arrays["counts"], arrays["zero_point"]),)


def _prepare_max_pool(node: Node, grids: Grids, integers):
  _same_grid(node, grids)
  return (node.attrs["kernel"], node.attrs["stride"], pads_of(node)), {}


def _run_max_pool(static, arrays: Arrays, x):
  kernel, stride, pads = static
  window, steps = (1, kernel, kernel, 1), (1, stride, stride, 1)
  return (lax.reduce_window(x, -jnp.inf, lax.max, window, steps, ((0, 0), *pads, (0, 0))),)


def _prepare_copy(read_attrs: Callable[[Mapping[str, Any]], Any]):
  def prepare(node: Node, grids: Grids, integers):
    _same_grid(node, grids)
    return read_attrs(node.attrs), {}

  return prepare


def _run_concat(static, arrays: Arrays, *xs):
  return (jnp.concatenate(xs, axis=-1),)


def _run_split(edges: tuple[int, ...], arrays: Arrays, x):
  return tuple(jnp.split(x, edges, axis=-1))


def _split_edges(attrs: Mapping[str, Any]) -> tuple[int, ...]:
  return tuple(int(edge) for edge in np.cumsum(attrs["sizes"])[:-1])


def _run_shuffle(groups: int, arrays: Arrays, x):
  y = x.reshape(*x.shape[:-1], groups, -1)
  return (jnp.swapaxes(y, -1, -2).reshape(x.shape),)


ARITHMETIC: Mapping[str, LeafArithmetic] = {
  "ConvNorm": LeafArithmetic(_prepare_conv, _run_weights),
  "BatchNorm": LeafArithmetic(_prepare_conv, _run_weights),
  "Dense": LeafArithmetic(_prepare_dense, _run_dense),
  "Add": LeafArithmetic(_prepare_add, _run_add),
  "Multiply": LeafArithmetic(_prepare_multiply, _run_multiply),
  "Activation": LeafArithmetic(_prepare_activation, _run_activation),
  "GlobalAvgPool": LeafArithmetic(_prepare_mean, _run_mean),
  "AvgPool": LeafArithmetic(_prepare_average_pool, _run_average_pool),
  "MaxPool": LeafArithmetic(_prepare_max_pool, _run_max_pool),
  "Concat": LeafArithmetic(_prepare_copy(lambda attrs: None), _run_concat),
  "Split": LeafArithmetic(_prepare_copy(_split_edges), _run_split),
  "ChannelShuffle": LeafArithmetic(_prepare_copy(lambda attrs: attrs["groups"]), _run_shuffle),
}
