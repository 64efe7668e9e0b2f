"""Where a quantized network hurts, and how many bits each of its layers needs."""

from jaxcompress.quantize.analysis.analyze import analyze
from jaxcompress.quantize.analysis.budget import Allocation, allocate_bits, choose_bits
from jaxcompress.quantize.analysis.rows import Analysis, LayerAnalysis
from jaxcompress.quantize.analysis.sensitivity import (
  LayerSensitivity,
  Sensitivity,
  sensitivity,
)
from jaxcompress.quantize.analysis.suggest import Suggestion, suggest, suggested_rules

__all__ = [
  "Allocation",
  "Analysis",
  "LayerAnalysis",
  "LayerSensitivity",
  "Sensitivity",
  "Suggestion",
  "allocate_bits",
  "analyze",
  "choose_bits",
  "sensitivity",
  "suggest",
  "suggested_rules",
]
