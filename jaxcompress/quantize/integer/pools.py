"""Pools and means on integers."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.nn import Node
from jaxcompress.nn.operations import pads_of, slide_of, window_of
from jaxcompress.quantize.integer.grid import (
  Integers,
)
from jaxcompress.quantize.integer.leaf import (
  Arrays,
  Grids,
  LeafArithmetic,
  clip,
  clipping,
  same_grid,
)
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS, Kernels
from jaxcompress.quantize.integer.weighted import prepare_weights, run_weights


def averaging(node: Node) -> Integers:
  """The depthwise convolution that an average pool is where padded cells count as zeros."""
  channels, window = node.input_shapes[0][-1], window_of(node)
  return Integers(
    np.ones((*window, 1, channels), np.int8),
    np.full(channels, 1 / math.prod(window), np.float32),
    np.zeros(channels, np.int32),
  )


def counts_padding(node: Node) -> bool:
  """Whether an average pool has padded cells that count."""
  return node.attrs["count_padding"] and any(map(any, pads_of(node)))


def covers(node: Node) -> bool:
  """Whether the window of a pool is the whole map, without padding."""
  return window_of(node) == node.input_shapes[0][1:3] and not any(map(any, pads_of(node)))


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
  if kernels.whole_is_mean and covers(node):
    rule = kernels.mean(grid, grid, math.prod(window_of(node)))
    return ("mean", True), {"rule": rule, **clipping(node, grid, kernels)}
  window, (stride, pads, _) = window_of(node), slide_of(node)
  axes = zip(node.input_shapes[0][1:3], window, stride, pads, strict=True)
  sides = [_cells(*axis) for axis in axes]
  counts = np.outer(*sides)[None, :, :, None]
  rule = kernels.average(grid, counts)
  static = (window, stride, pads, counts.shape[1:3])
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
  if kind == "mean":
    return _run_mean(detail, arrays, x)
  (height, width), (down, right), pads, shape = detail
  rows, columns = (shape[0] - 1) * down + 1, (shape[1] - 1) * right + 1
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  cells = [
    x[:, i : i + rows : down, j : j + columns : right] for i in range(height) for j in range(width)
  ]
  return (clip(arrays["rule"](cells), arrays),)


def _prepare_max_pool(node: Node, grids: Grids, integers, kernels: Kernels):
  same_grid(node, grids)
  return (window_of(node), *slide_of(node)[:2]), {}


def _run_max_pool(static, arrays: Arrays, x):
  window, stride, pads = static
  sides = ((1, *window, 1), (1, *stride, 1), ((0, 0), *pads, (0, 0)))
  return (lax.reduce_window(x, -jnp.inf, lax.max, *sides),)


def _least_mean(node: Node, bits: int, inputs: list[float]) -> float:
  ratios = RATIOS[bits]
  return inputs[0] * MARGIN / min(ratios["mean"][1], _count(node) * ratios["cell"][1])


def _least_mean_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * _count(node) * RATIOS[bits]["cell"][0]]


def _count(node: Node) -> float:
  """Cells of a mean."""
  return float(np.prod(node.input_shapes[0][1:3]))


MEAN = LeafArithmetic(_prepare_mean, _run_mean, least=_least_mean, least_read=_least_mean_read)
AVERAGE_POOL = LeafArithmetic(_prepare_average_pool, _run_average_pool)
MAX_POOL = LeafArithmetic(_prepare_max_pool, _run_max_pool)
