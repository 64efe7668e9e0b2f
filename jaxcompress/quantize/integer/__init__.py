"""Exact evaluation: the integer arithmetic of the device, in float32 convolutions."""

from jaxcompress.quantize.integer.leaf_ops import (
  ARITHMETIC,
  averaging,
  channel_groups,
  counts_padding,
  pads_of,
)
from jaxcompress.quantize.integer.program import Program, prepare, run
from jaxcompress.quantize.integer.values import HIGHEST, LOWEST, Grid, Integers, clip_range

__all__ = [
  "ARITHMETIC",
  "HIGHEST",
  "LOWEST",
  "Grid",
  "Integers",
  "Program",
  "averaging",
  "channel_groups",
  "clip_range",
  "counts_padding",
  "pads_of",
  "prepare",
  "run",
]
