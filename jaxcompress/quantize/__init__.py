"""Integers: grids, quantizers, the transforms that apply them, and exact evaluation."""

from jaxcompress.quantize.config import Quantization, int8, uniform
from jaxcompress.quantize.grid import Levels, affine, fake_quant, levels, to_integers
from jaxcompress.quantize.integer import Grid, Integers
from jaxcompress.quantize.integers import assemble
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.quantizers import Quantizer, absmax, ema_range
from jaxcompress.quantize.ranges import Range
from jaxcompress.quantize.transform import (
  ActivationPass,
  QuantVariables,
  Sites,
  find_sites,
  init_quantizers,
  quantize_activations,
  quantize_kernels,
)

__all__ = [
  "ActivationPass",
  "Grid",
  "Integers",
  "Levels",
  "QuantVariables",
  "Quantization",
  "QuantizedModel",
  "Quantizer",
  "Range",
  "Sites",
  "absmax",
  "affine",
  "assemble",
  "ema_range",
  "fake_quant",
  "find_sites",
  "init_quantizers",
  "int8",
  "levels",
  "quantize_activations",
  "quantize_kernels",
  "to_integers",
  "uniform",
]
