"""Integers: grids, quantizers, the transforms that apply them, and exact evaluation."""

from jaxcompress.quantize.config import Quantization, int8, uniform
from jaxcompress.quantize.grid import Levels, affine, fake_quant, levels, to_integers
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
  "Levels",
  "QuantVariables",
  "Quantization",
  "Quantizer",
  "Range",
  "Sites",
  "absmax",
  "affine",
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
