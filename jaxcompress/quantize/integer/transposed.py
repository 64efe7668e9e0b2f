"""Transposed convolutions on integers: ordinary ones, whose phases are interleaved."""

from typing import NamedTuple

import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn import Node
from jaxcompress.nn.operations import pads_of
from jaxcompress.ops.padding import Pair, both
from jaxcompress.ops.transposed import Phases, interleave, phase_kernel, phases
from jaxcompress.quantize.integer.grid import Integers
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clipping
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.weighted import Sums, prepare_weights, run_weights


class Interleaved(NamedTuple):
  """Everything that a compiled transposed convolution depends on.

  Attributes:
    sums: of the ordinary convolution.
    stride: along height and width.
    plan: how its phases are put together.
  """

  sums: Sums
  stride: Pair
  plan: Phases

  def for_any(self, weights: np.ndarray) -> "Interleaved":
    """The same for all weights of this shape and all grids of the input."""
    return self._replace(sums=self.sums.for_any(weights))


def plan_of(node: Node) -> Phases:
  """The ordinary convolution that a node is."""
  attrs = node.attrs
  return phases(node.input_shapes[0][1:3], attrs["kernel"], attrs["stride"], pads_of(node))


def by_phases(node: Node, integers: Integers) -> Integers:
  """A node's integers as those of the convolution with all phases."""
  stride = both(node.attrs["stride"])
  weights, count = phase_kernel(integers.weights, stride), stride[0] * stride[1]
  return Integers(weights, np.tile(integers.scales, count), np.tile(integers.bias, count))


def _prepare(node: Node, grids: Grids, integers: Integers, kernels: Kernels):
  plan = plan_of(node)
  attrs = {**node.attrs, "stride": 1, "padding": plan.pads}
  ordinary = node._replace(attrs=FrozenDict(attrs))
  phased = by_phases(node, integers)
  sums, arrays = prepare_weights(ordinary, grids, phased, kernels.convolution, 1)
  static = Interleaved(sums, both(node.attrs["stride"]), plan)
  return static, arrays | clipping(node, grids[node.output], kernels)


def _run(static: Interleaved, arrays: Arrays, x):
  (y,) = run_weights(static.sums, arrays, x)
  return (interleave(y, static.stride, static.plan),)


TRANSPOSED = LeafArithmetic(_prepare, _run)
