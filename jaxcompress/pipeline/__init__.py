"""Whole runs, as behind ``jaxcompress compress``, ``quantize`` and ``export``."""

from jaxcompress.pipeline.options import CompressOptions, QuantizeOptions
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.quantizing import export_model, quantize_model
from jaxcompress.pipeline.run import compress, read_results

__all__ = [
  "PRESETS",
  "CompressOptions",
  "Preset",
  "QuantizeOptions",
  "compress",
  "export_model",
  "quantize_model",
  "read_results",
]
