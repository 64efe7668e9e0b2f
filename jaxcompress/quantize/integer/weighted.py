"""Integer arithmetic of convolutions and linear layers."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress import ops
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.bounds import ASSEMBLE, INT32, check_below
from jaxcompress.quantize.integer.convolve import (
  Parts,
  accumulate,
  largest_accumulator,
  split_exactly,
)
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clip, clipping
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.values import HIGHEST, LOWEST, Grid, Integers, fits_int4
from jaxcompress.quantize.integer.wide import LARGEST_SUM, Bytes, accumulate_wide, wide

WIDEST = Grid(np.float32(1), LOWEST)  # its q - z reach as far from zero as any


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


def convolution_kind(node: Node) -> str:
  """``"plain"``, ``"depthwise"`` or ``"grouped"``."""
  groups = channel_groups(node)
  if groups == 1:
    return "plain"
  return "depthwise" if groups == node.input_shapes[0][-1] else "grouped"


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


CONVOLUTION = LeafArithmetic(_prepare_conv, run_weights)
DENSE = LeafArithmetic(_prepare_dense, _run_dense)
