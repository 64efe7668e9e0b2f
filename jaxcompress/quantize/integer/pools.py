"""Integer arithmetic of means and pools."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.nn import Node
from jaxcompress.ops.padding import resolve_padding
from jaxcompress.quantize.integer.leaf import (
  Arrays,
  Grids,
  LeafArithmetic,
  clip,
  clipping,
  same_grid,
)
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.values import Integers
from jaxcompress.quantize.integer.weighted import prepare_weights, run_weights


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
  return resolve_padding(attrs["padding"], size, attrs["kernel"], attrs["stride"])


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


MEAN = LeafArithmetic(_prepare_mean, _run_mean)
AVERAGE_POOL = LeafArithmetic(_prepare_average_pool, _run_average_pool)
MAX_POOL = LeafArithmetic(_prepare_max_pool, _run_max_pool)
