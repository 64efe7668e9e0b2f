"""Integer arithmetic of every operation: a table from its name to what it is on integers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress import ops
from jaxcompress.nn import Node
from jaxcompress.nn.operations import channel_groups, pads_of
from jaxcompress.quantize.integer.convolve import (
  Parts,
  accumulate,
  largest_accumulator,
  split_exactly,
)
from jaxcompress.quantize.integer.functions import FUNCTIONS, GATES, activation_table, clip_range
from jaxcompress.quantize.integer.grid import (
  ASSEMBLE,
  HIGHEST,
  INT32,
  LOWEST,
  Grid,
  Integers,
  check_below,
  fits_int4,
)
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS, Kernels
from jaxcompress.quantize.integer.wide import LARGEST_SUM, Bytes, accumulate_wide, wide

Grids = Mapping[str, Grid]
Arrays = dict[str, Any]


class LeafArithmetic(NamedTuple):
  """Integer arithmetic of one operation.

  Attributes:
    prepare: ``(node, grids, integers, kernels) -> (static, arrays)`` in numpy: what the compiled
      program depends on (hashable), and the numbers and rules that it is called with. Raises
      ``ValueError`` for what the device would refuse.
    run: ``(static, arrays, *inputs) -> outputs`` under ``jit``, on integer-valued float32 arrays
      that hold ``q - zero_point``.
    least: ``(node, bits, inputs) -> scale``: the least of its output that all runtimes run, from the
      scales of its inputs.
    least_read: ``(node, bits, output, inputs) -> scales``: the least of its inputs, likewise.
    aligned: whether runtimes round alike with 16 bits only if the inputs' scales are a power of two
      apart.
  """

  prepare: Callable[[Node, Grids, Any, Kernels], tuple[Any, Arrays]]
  run: Callable[..., tuple[jax.Array, ...]]
  least: Callable[[Node, int, list[float]], float] = lambda node, bits, inputs: 0.0
  least_read: Callable[[Node, int, float, list[float]], list[float]] = (
    lambda node, bits, output, inputs: []
  )
  aligned: bool = False


def clipping(node: Node, output: Grid, kernels: Kernels) -> Arrays:
  """The ends of an output, after the activation function that is fused into its node."""
  low, high = clip_range(node.attrs.get("act"), output, kernels.ceiling)
  return {"low": low, "high": high}


def clip(steps: jax.Array, arrays: Arrays) -> jax.Array:
  """Steps between the ends that :func:`clipping` found, as float32."""
  return jnp.clip(steps.astype(jnp.float32), arrays["low"], arrays["high"])


def same_grid(node: Node, grids: Grids) -> Grid:
  """The grid that all tensors of a node share, which copies integers.

  Raises:
    ValueError: if they do not share one.
  """
  found = {grids[name] for name in (*node.inputs, *node.outputs)}
  if len(found) > 1:
    raise ValueError(
      f"grids: {node.op} copies integers, so its tensors must share one grid; it has"
      f" {', '.join(map(str, found))}."
    )
  return found.pop()


WIDEST = Grid(np.float32(1), LOWEST)  # its q - z reach as far from zero as any


class Sums(NamedTuple):
  """Everything that a compiled convolution or matrix product depends on.

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


def largest_sum(integers: Integers, source: Grid) -> np.ndarray:
  """(out,) float64: how far a layer's sums can get from zero, the bias included; exact to 2**53."""
  return largest_accumulator(integers.weights, source) + np.abs(integers.bias.astype(np.float64))


def prepare_weights(
  node: Node, grids: Grids, integers: Integers, rule: Any, groups: int
) -> tuple[Sums, Arrays]:
  """A layer's sums and constants, but for the ends of its output; ``rule`` is the kernels'.

  Raises:
    ValueError: if accumulators, of 32 bits or 64, do not hold a sum, or the runtime refuses a scale.
  """
  source, output = grids[node.inputs[0]], grids[node.output]
  is_wide = source.bits == 16
  reach = largest_sum(integers, source)
  check_below(LARGEST_SUM if is_wide else INT32, reach, "bias: sums", ASSEMBLE)
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


def run_weights(static: Sums, arrays: Arrays, x: jax.Array) -> tuple[jax.Array]:
  """The clipped output of a layer, as the only one of a tuple."""
  parts, stride, padding, groups, is_wide = static
  convolve = accumulate_wide if is_wide else accumulate
  total = convolve(x, arrays["weights"], parts, stride=stride, padding=padding, groups=groups)
  return (clip(arrays["rule"](total + arrays["bias"]), arrays),)


def convolution_kind(node: Node) -> str:
  """``"plain"``, ``"depthwise"`` or ``"grouped"``."""
  groups = channel_groups(node)
  if groups == 1:
    return "plain"
  return "depthwise" if groups == node.input_shapes[0][-1] else "grouped"


def _prepare_conv(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  groups = channel_groups(node)
  rule = kernels.convolution
  if fits_int4(integers.weights):
    rule = kernels.narrow.get(convolution_kind(node), rule)
  static, arrays = prepare_weights(node, grids, integers, rule, groups)
  return static, arrays | clipping(node, grids[node.output], kernels)


def _prepare_dense(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  static, arrays = prepare_weights(node, grids, integers, kernels.dense, 1)
  return static, arrays | clipping(node, grids[node.output], kernels)


def _run_dense(static, arrays: Arrays, x):
  return run_weights(static, arrays, x.reshape(x.shape[0], -1))


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


def _prepare_mean(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  height, width = node.input_shapes[0][1:3]
  rule = kernels.mean(source, output, height * width)
  return node.attrs["keepdims"], {"rule": rule, **clipping(node, output, kernels)}


def _run_mean(keepdims: bool, arrays: Arrays, x):
  y = clip(arrays["rule"](x), arrays)
  return (y if keepdims else y.reshape(y.shape[0], y.shape[-1]),)


def _prepare_average_pool(node: Node, grids: Grids, integers, kernels: Kernels):
  grid = same_grid(node, grids)
  if counts_padding(node):
    channels = node.input_shapes[0][-1]
    sums, arrays = prepare_weights(node, grids, averaging(node), kernels.convolution, channels)
    return ("weights", sums), arrays | clipping(node, grid, kernels)
  pads, kernel, stride = pads_of(node), node.attrs["kernel"], node.attrs["stride"]
  sides = [
    _cells(size, kernel, stride, pair)
    for size, pair in zip(node.input_shapes[0][1:3], pads, strict=True)
  ]
  counts = np.outer(*sides)[None, :, :, None]
  rule = kernels.average(grid, counts)
  static = (kernel, stride, pads, counts.shape[1:3])
  return ("pool", static), {"rule": rule, **clipping(node, grid, kernels)}


def _cells(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> np.ndarray:
  """Cells of each window along one axis that lie on the map."""
  before, after = pads
  starts = np.arange((size + before + after - kernel) // stride + 1) * stride - before
  return np.minimum(starts + kernel, size) - np.maximum(starts, 0)


def _run_average_pool(static, arrays: Arrays, x):
  kind, detail = static
  if kind == "weights":
    return run_weights(detail, arrays, x)
  kernel, stride, pads, shape = detail
  rows, columns = ((size - 1) * stride + 1 for size in shape)
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  cells = [
    x[:, i : i + rows : stride, j : j + columns : stride]
    for i in range(kernel)
    for j in range(kernel)
  ]
  return (clip(arrays["rule"](cells), arrays),)


def _prepare_max_pool(node: Node, grids: Grids, integers, kernels: Kernels):
  same_grid(node, grids)
  return (node.attrs["kernel"], node.attrs["stride"], pads_of(node)), {}


def _run_max_pool(static, arrays: Arrays, x):
  kernel, stride, pads = static
  window, steps = (1, kernel, kernel, 1), (1, stride, stride, 1)
  return (lax.reduce_window(x, -jnp.inf, lax.max, window, steps, ((0, 0), *pads, (0, 0))),)


def _prepare_add(node: Node, grids: Grids, integers, kernels: Kernels):
  (left, right), output = (grids[name] for name in node.inputs), grids[node.output]
  rule = kernels.addition(left, right, output)
  return None, {"rule": rule, **clipping(node, output, kernels)}


def _run_add(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x, y), arrays),)


def _prepare_multiply(node: Node, grids: Grids, integers, kernels: Kernels):
  (left, right), output = (grids[name] for name in node.inputs), grids[node.output]
  rule = kernels.product(left, right, output)
  return None, {"rule": rule, **clipping(node, output, kernels)}


def _run_multiply(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x.astype(jnp.int32) * y.astype(jnp.int32)), arrays),)


def _prepare_activation(node: Node, grids: Grids, integers, kernels: Kernels):
  """A table of all codes, or sums with a constant, which TFLite's runtimes run fast and alike."""
  source, output = grids[node.inputs[0]], grids[node.output]
  table = activation_table(kernels.tables, node.attrs["act"], source, output)
  if table is not None:
    return "table", {"table": table, "lowest": np.int32(source.low)}
  if node.attrs["act"] == "hard_sigmoid":
    gate = GATES[output.bits]
    rule, constant = kernels.shift(source, gate.three, gate.relu6), gate.three.high
  else:
    rule, constant = kernels.shift(source, source, output), 0
  return "sum", {"rule": rule, "constant": np.float32(constant), **clipping(node, output, kernels)}


def _run_activation(static, arrays: Arrays, x):
  if static == "table":
    return (jnp.asarray(arrays["table"])[x.astype(jnp.int32) - arrays["lowest"]],)
  return (clip(arrays["rule"](x, arrays["constant"]), arrays),)


def _prepare_requantize(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  return None, {"rule": kernels.requantization(source, output), **clipping(node, output, kernels)}


def _run_requantize(static, arrays: Arrays, x):
  return (clip(arrays["rule"](x), arrays),)


def _prepare_copy(read_attrs: Callable[[Mapping[str, Any]], Any]):
  def prepare(node: Node, grids: Grids, integers, kernels: Kernels):
    same_grid(node, grids)
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


def _at_most(kind: str) -> Callable[[Node, int, list[float]], float]:
  """The least output scale of what scales each input to it."""
  return lambda node, bits, inputs: max(inputs) * MARGIN / RATIOS[bits][kind][1]


def _least_sum_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * RATIOS[bits]["add"][0]] * len(inputs)


def _least_product(node: Node, bits: int, inputs: list[float]) -> float:
  return inputs[0] * inputs[1] * MARGIN / RATIOS[bits]["multiply"][1]


def _least_product_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * RATIOS[bits]["multiply"][0] / inputs[1]]


def _least_mean(node: Node, bits: int, inputs: list[float]) -> float:
  ratios = RATIOS[bits]
  return inputs[0] * MARGIN / min(ratios["mean"][1], _count(node) * ratios["cell"][1])


def _least_mean_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * _count(node) * RATIOS[bits]["cell"][0]]


def _count(node: Node) -> float:
  """Cells of a mean."""
  return float(np.prod(node.input_shapes[0][1:3]))


def _least_activation(node: Node, bits: int, inputs: list[float]) -> float:
  function = FUNCTIONS[node.attrs["act"]]
  if function.grids:
    return 0.0
  if function.clips:
    return _at_most("add")(node, bits, inputs)
  return inputs[0] * MARGIN / function.ratio


def _least_activation_read(
  node: Node, bits: int, output: float, inputs: list[float]
) -> list[float]:
  function = FUNCTIONS[node.attrs["act"]]
  if not function.clips:
    return [function.least]
  end = float(GATES[bits].relu6.scale) if function.grids else output  # of a sum with three
  return _least_sum_read(node, bits, end, inputs)


CONVOLUTION = LeafArithmetic(_prepare_conv, run_weights)
ARITHMETIC: Mapping[str, LeafArithmetic] = {
  "ConvNorm": CONVOLUTION,
  "BatchNorm": CONVOLUTION,
  "Dense": LeafArithmetic(_prepare_dense, _run_dense),
  "Add": LeafArithmetic(
    _prepare_add, _run_add, least=_at_most("add"), least_read=_least_sum_read, aligned=True
  ),
  "Multiply": LeafArithmetic(
    _prepare_multiply, _run_multiply, least=_least_product, least_read=_least_product_read
  ),
  "Activation": LeafArithmetic(
    _prepare_activation, _run_activation, least=_least_activation, least_read=_least_activation_read
  ),
  "Requantize": LeafArithmetic(_prepare_requantize, _run_requantize, least=_at_most("requantize")),
  "GlobalAvgPool": LeafArithmetic(
    _prepare_mean, _run_mean, least=_least_mean, least_read=_least_mean_read
  ),
  "AvgPool": LeafArithmetic(_prepare_average_pool, _run_average_pool),
  "MaxPool": LeafArithmetic(_prepare_max_pool, _run_max_pool),
  "Concat": LeafArithmetic(_prepare_copy(lambda attrs: None), _run_concat),
  "Split": LeafArithmetic(_prepare_copy(_split_edges), _run_split),
  "ChannelShuffle": LeafArithmetic(_prepare_copy(lambda attrs: attrs["groups"]), _run_shuffle),
}
"""The integer arithmetic of operations by their names."""
