"""Operations with weights on integers: convolutions and matrix products."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress import ops
from jaxcompress.nn import Node
from jaxcompress.nn.operations import channel_groups
from jaxcompress.nn.structure import OPERATOR
from jaxcompress.quantize.integer.convolve import (
  Parts,
  accumulate,
  largest_accumulator,
  split_exactly,
)
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
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clip, clipping
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.wide import LARGEST_SUM, Bytes, accumulate_wide, wide

WIDEST = Grid(np.float32(1), LOWEST)  # its q - z reach as far from zero as any


class Sums(NamedTuple):
  """Everything that a compiled convolution or matrix product depends on.

  Attributes:
    parts: intervals of input channels whose sums are exact.
    stride: as for :func:`jaxcompress.ops.conv`.
    padding: likewise.
    groups: number of channel groups.
    is_wide: whether the input has 16 bits.
    dilation: as the stride.
  """

  parts: Parts
  stride: ops.Sides
  padding: ops.Padding
  groups: int
  is_wide: bool
  dilation: ops.Sides = 1

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
    node.attrs.get("dilation", 1),
  )
  return static, {
    "weights": integers.weights,
    "bias": wide(bias) if is_wide else bias,
    "rule": rule(source, integers.scales.reshape(spread), output, reach.reshape(spread)),
  }


def run_weights(static: Sums, arrays: Arrays, x: jax.Array) -> tuple[jax.Array]:
  """The clipped output of a layer, as the only one of a tuple."""
  how = {field: getattr(static, field) for field in ("stride", "padding", "groups", "dilation")}
  convolve = accumulate_wide if static.is_wide else accumulate
  total = convolve(x, arrays["weights"], static.parts, **how)
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


def as_map(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a tensor with its values in cells of one map.

  Examples:
    >>> as_map((1, 8)), as_map((1, 4, 4, 8))
    ((1, 1, 1, 8), (1, 4, 4, 8))
  """
  return shape if len(shape) == 4 else (shape[0], math.prod(shape[1:-1]), 1, shape[-1])


def _prepare_pointwise(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  inputs, outputs = (tuple(map(as_map, s)) for s in (node.input_shapes, node.output_shapes))
  node = node._replace(input_shapes=inputs, output_shapes=outputs)
  return _prepare_conv(node, grids, integers, kernels)


def _run_pointwise(static, arrays: Arrays, x):
  rows = math.prod(x.shape[1:-1])  # the batch may be of any size
  cells = x if x.ndim == 4 else x.reshape(-1, rows, 1, x.shape[-1])
  (y,) = run_weights(static, arrays, cells)
  return (y.reshape(*x.shape[:-1], y.shape[-1]),)


def _prepare_dense(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  if OPERATOR in node.attrs and not kernels.dense_is_convolution:
    raise ValueError(
      "LiteRT rounds a FULLY_CONNECTED of 16-bit integers in its own way, which is not known here;"
      " that of TFLite-Micro is."
    )
  node = node._replace(output_shapes=((1, node.output_shapes[0][-1]),))  # rows are as images
  static, arrays = prepare_weights(node, grids, integers, kernels.dense, 1)
  return static, arrays | clipping(node, grids[node.output], kernels)


def _run_dense(static, arrays: Arrays, x):
  count, features = arrays["weights"].shape
  (y,) = run_weights(static, arrays, x.reshape(-1, count))
  reads_rows = math.prod(x.shape[1:]) != count
  return (y.reshape(*x.shape[:-1], features) if reads_rows else y,)


CONVOLUTION = LeafArithmetic(_prepare_conv, run_weights)
POINTWISE = LeafArithmetic(_prepare_pointwise, _run_pointwise)
DENSE = LeafArithmetic(_prepare_dense, _run_dense)
