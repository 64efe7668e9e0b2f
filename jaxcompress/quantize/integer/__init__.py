"""Exact evaluation: the integer arithmetic of the device, in float32 convolutions."""

from jaxcompress.quantize.integer.leaf_ops import (
  ARITHMETIC,
  averaging,
  channel_groups,
  counts_padding,
  pads_of,
)
from jaxcompress.quantize.integer.lower import fixed_grid, lower_hard_swish
from jaxcompress.quantize.integer.program import Program, all_tensors, prepare, run
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.quantize.integer.values import (
  HARD_SIGMOID_GRID,
  HIGHEST,
  LOWEST,
  RELU6_GRID,
  SIXTH_GRID,
  THREE_GRID,
  Grid,
  Integers,
)

__all__ = [
  "ARITHMETIC",
  "HARD_SIGMOID_GRID",
  "HIGHEST",
  "KERNELS",
  "LOWEST",
  "RELU6_GRID",
  "SIXTH_GRID",
  "THREE_GRID",
  "Grid",
  "Integers",
  "Program",
  "all_tensors",
  "averaging",
  "channel_groups",
  "counts_padding",
  "fixed_grid",
  "lower_hard_swish",
  "pads_of",
  "prepare",
  "run",
]
