"""Integer arithmetic of every leaf op: a table from its name to two functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress import ops
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.convolve import (
  Parts,
  accumulate,
  largest_accumulator,
  split_exactly,
)
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.values import (
  GATES,
  HIGHEST,
  LOWEST,
  Grid,
  Integers,
  clip_range,
)
from jaxcompress.quantize.integer.wide import LARGEST_SUM, Bytes, accumulate_wide, wide

Grids = Mapping[str, Grid]
Arrays = dict[str, Any]
WIDEST = Grid(np.float32(1), LOWEST)  # its q - z reach as far from zero as any


class LeafArithmetic(NamedTuple):
  """How one leaf op runs on integers.

  Attributes:
    prepare: ``(node, grids, integers, kernels) -> (static, arrays)`` in numpy: what the compiled
      program depends on (hashable), and the numbers and rules that it is called with. Raises
      ``ValueError`` for what the device would refuse.
    run: ``(static, arrays, *inputs) -> outputs`` under ``jit``, on integer-valued float32 arrays
      that hold ``q - zero_point``.
  """

  prepare: Callable[[Node, Grids, Any, Kernels], tuple[Any, Arrays]]
  run: Callable[..., tuple[jax.Array, ...]]


class Sums(NamedTuple):
  """What a compiled convolution or matrix product depends on.

  Attributes:
    parts: intervals of input channels whose sums are exact.
    stride: step in both directions.
    padding: as for :func:`jaxcompress.ops.conv`.
    groups: number of channel groups.
    is_wide: whether the input has 16 bits.
  """

  parts: Parts
  stride: int
  padding: ops.Padding
  groups: int
  is_wide: bool

  def for_any(self, weights: np.ndarray) -> "Sums":
    """The same for all weights of this shape and all grids of the input.

    Examples:
      >>> Sums(((0, 600),), 1, "SAME", 1, False).for_any(np.zeros((600, 4), np.int8)).parts
      ((0, 518), (518, 600))
    """
    largest = np.full(weights.shape, HIGHEST, np.int8)
    return self._replace(parts=split_exactly(largest, Bytes() if self.is_wide else WIDEST))


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


def _clipping(node: Node, output: Grid, kernels: Kernels) -> Arrays:
  low, high = clip_range(node.attrs.get("act"), output, kernels.ceiling)
  return {"low": low, "high": high}


def _clip(steps: jax.Array, arrays: Arrays) -> jax.Array:
  return jnp.clip(steps.astype(jnp.float32), arrays["low"], arrays["high"])


def _output(node: Node, grids: Grids) -> Grid:
  return grids[node.output]


def _prepare_weights(node: Node, grids: Grids, integers: Integers, rule, groups: int):
  source, output = grids[node.inputs[0]], _output(node, grids)
  is_wide = source.bits == 16
  reach = largest_accumulator(integers.weights, source) + np.abs(integers.bias.astype(np.int64))
  if np.any(reach >= (LARGEST_SUM if is_wide else 2**31)):
    raise ValueError(
      f"bias: sums reach {reach.max()}, which accumulators do not hold; quantize.assemble makes"
      " scales that fit."
    )
  spread = (1,) * (len(node.output_shapes[0]) - 1) + (-1,)
  bias = integers.bias.reshape(spread)
  static = Sums(
    split_exactly(integers.weights, Bytes() if is_wide else source),
    node.attrs.get("stride", 1),
    node.attrs.get("padding", "VALID"),
    groups,
    is_wide,
  )
  return static, {
    "weights": integers.weights,
    "bias": wide(bias) if is_wide else bias,
    "rule": rule(source, integers.scales.reshape(spread), output, reach.reshape(spread)),
  }


def _run_weights(static: Sums, arrays: Arrays, x):
  parts, stride, padding, groups, is_wide = static
  convolve = accumulate_wide if is_wide else accumulate
  total = convolve(x, arrays["weights"], parts, stride=stride, padding=padding, groups=groups)
  return (_clip(arrays["rule"](total + arrays["bias"]), arrays),)


def _prepare_conv(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  clipping = _clipping(node, _output(node, grids), kernels)
  groups = channel_groups(node)
  static, arrays = _prepare_weights(node, grids, integers, kernels.convolution, groups)
  return static, arrays | clipping


def _prepare_dense(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  static, arrays = _prepare_weights(node, grids, integers, kernels.dense, 1)
  return static, arrays | _clipping(node, _output(node, grids), kernels)


def _run_dense(static, arrays: Arrays, x):
  return _run_weights(static, arrays, x.reshape(x.shape[0], -1))


def _prepare_add(node: Node, grids: Grids, integers, kernels: Kernels):
  left, right = (grids[name] for name in node.inputs)
  output = _output(node, grids)
  rule = kernels.addition(left, right, output)
  return None, {"rule": rule, **_clipping(node, output, kernels)}


def _run_add(static, arrays: Arrays, x, y):
  return (_clip(arrays["rule"](x, y), arrays),)


def _prepare_activation(node: Node, grids: Grids, integers, kernels: Kernels):
  """A table of all codes, or sums with a constant, which TFLite's runtimes run fast and alike.

  A rectifier is the sum with zero. A hard-sigmoid is the sum with three, saturated at 0 and 6, then
  a sixth of it: the same codes on the grid from 0 to 1.
  """
  source, output = grids[node.inputs[0]], _output(node, grids)
  table = kernels.table(node.attrs["act"], source, output)
  if table is not None:
    return "table", {"table": table, "lowest": np.int32(source.low)}
  clipping = _clipping(node, output, kernels)
  if node.attrs["act"] == "hard_sigmoid":
    gate = GATES[output.bits]
    rule, constant = kernels.shift(source, gate.three, gate.relu6), gate.three.high
  else:
    rule, constant = kernels.shift(source, source, output), 0
  return "sum", {"rule": rule, "constant": np.float32(constant), **clipping}


def _run_activation(static, arrays: Arrays, x):
  if static == "table":
    return (arrays["table"][x.astype(jnp.int32) - arrays["lowest"]],)
  return (_clip(arrays["rule"](x, arrays["constant"]), arrays),)


def _prepare_multiply(node: Node, grids: Grids, integers, kernels: Kernels):
  left, right = (grids[name] for name in node.inputs)
  output = _output(node, grids)
  rule = kernels.product(left, right, output)
  return None, {"rule": rule, **_clipping(node, output, kernels)}


def _run_multiply(static, arrays: Arrays, x, y):
  return (_clip(arrays["rule"](x.astype(jnp.int32) * y.astype(jnp.int32)), arrays),)


def _prepare_requantize(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], _output(node, grids)
  if source.bits == output.bits:
    raise ValueError(
      f"grids: a Requantize is between widths; {node.inputs[0]!r} and {node.output!r} both have"
      f" {source.bits} bits."
    )
  return None, {"rule": kernels.requantization(source, output), **_clipping(node, output, kernels)}


def _run_requantize(static, arrays: Arrays, x):
  return (_clip(arrays["rule"](x), arrays),)


def _prepare_mean(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], _output(node, grids)
  height, width = node.input_shapes[0][1:3]
  rule = kernels.mean(source, output, height * width)
  return node.attrs["keepdims"], {"rule": rule, **_clipping(node, output, kernels)}


def _run_mean(keepdims: bool, arrays: Arrays, x):
  y = _clip(arrays["rule"](x), arrays)
  return (y if keepdims else y.reshape(y.shape[0], y.shape[-1]),)


def _same_grid(node: Node, grids: Grids) -> Grid:
  found = {grids[name] for name in (*node.inputs, *node.outputs)}
  if len(found) > 1:
    raise ValueError(
      f"grids: {node.op} copies integers, so its tensors must share one grid; it has"
      f" {', '.join(map(str, found))}."
    )
  return found.pop()


def _prepare_average_pool(node: Node, grids: Grids, integers, kernels: Kernels):
  grid = _same_grid(node, grids)
  if counts_padding(node):
    channels = node.input_shapes[0][-1]
    static, arrays = _prepare_weights(node, grids, averaging(node), kernels.convolution, channels)
    return ("weights", static), arrays | _clipping(node, grid, kernels)
  pads, kernel, stride = pads_of(node), node.attrs["kernel"], node.attrs["stride"]
  sides = [
    _cells(size, kernel, stride, pair)
    for size, pair in zip(node.input_shapes[0][1:3], pads, strict=True)
  ]
  counts = np.outer(*sides)[None, :, :, None]
  rule = kernels.average(grid, counts)
  static = (kernel, stride, pads, counts.shape[1:3])
  return ("pool", static), {"rule": rule, **_clipping(node, grid, kernels)}


def _cells(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> np.ndarray:
  """Cells of each window along one axis that lie on the map."""
  before, after = pads
  starts = np.arange((size + before + after - kernel) // stride + 1) * stride - before
  return np.minimum(starts + kernel, size) - np.maximum(starts, 0)


def _run_average_pool(static, arrays: Arrays, x):
  kind, detail = static
  if kind == "weights":
    return _run_weights(detail, arrays, x)
  kernel, stride, pads, shape = detail
  rows, columns = ((size - 1) * stride + 1 for size in shape)
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  cells = [
    x[:, i : i + rows : stride, j : j + columns : stride]
    for i in range(kernel)
    for j in range(kernel)
  ]
  return (_clip(arrays["rule"](cells), arrays),)


def _prepare_max_pool(node: Node, grids: Grids, integers, kernels: Kernels):
  _same_grid(node, grids)
  return (node.attrs["kernel"], node.attrs["stride"], pads_of(node)), {}


def _run_max_pool(static, arrays: Arrays, x):
  kernel, stride, pads = static
  window, steps = (1, kernel, kernel, 1), (1, stride, stride, 1)
  return (lax.reduce_window(x, -jnp.inf, lax.max, window, steps, ((0, 0), *pads, (0, 0))),)


def _prepare_copy(read_attrs: Callable[[Mapping[str, Any]], Any]):
  def prepare(node: Node, grids: Grids, integers, kernels: Kernels):
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
  "Requantize": LeafArithmetic(_prepare_requantize, _run_requantize),
  "GlobalAvgPool": LeafArithmetic(_prepare_mean, _run_mean),
  "AvgPool": LeafArithmetic(_prepare_average_pool, _run_average_pool),
  "MaxPool": LeafArithmetic(_prepare_max_pool, _run_max_pool),
  "Concat": LeafArithmetic(_prepare_copy(lambda attrs: None), _run_concat),
  "Split": LeafArithmetic(_prepare_copy(_split_edges), _run_split),
  "ChannelShuffle": LeafArithmetic(_prepare_copy(lambda attrs: attrs["groups"]), _run_shuffle),
}
