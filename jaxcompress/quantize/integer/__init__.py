"""Exact evaluation: the integer arithmetic of the device, in float32 convolutions."""

from jaxcompress.quantize.integer.leaf_ops import ARITHMETIC
from jaxcompress.quantize.integer.lower import (
  as_before,
  average_kernel,
  fixed_grid,
  is_linear,
  lower_averages,
  lower_grids,
  lower_hard_swish,
)
from jaxcompress.quantize.integer.pools import averaging, counts_padding, pads_of
from jaxcompress.quantize.integer.program import (
  Program,
  all_tensors,
  for_any_weights,
  prepare,
  run,
)
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.quantize.integer.values import (
  GATES,
  HARD_SIGMOID_GRID,
  HIGHEST,
  LOWEST,
  TYPES,
  GateGrids,
  Grid,
  Integers,
  with_bits,
)
from jaxcompress.quantize.integer.weighted import channel_groups

__all__ = [
  "ARITHMETIC",
  "GATES",
  "HARD_SIGMOID_GRID",
  "HIGHEST",
  "KERNELS",
  "LOWEST",
  "TYPES",
  "GateGrids",
  "Grid",
  "Integers",
  "Program",
  "all_tensors",
  "as_before",
  "average_kernel",
  "averaging",
  "channel_groups",
  "counts_padding",
  "fixed_grid",
  "for_any_weights",
  "is_linear",
  "lower_averages",
  "lower_grids",
  "lower_hard_swish",
  "pads_of",
  "prepare",
  "run",
  "with_bits",
]
