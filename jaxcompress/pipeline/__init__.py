"""The runs behind ``jaxcompress compress``, ``quantize`` and ``export``."""

from jaxcompress.pipeline.budgets import Budget
from jaxcompress.pipeline.exporting import ExportOptions, export_model
from jaxcompress.pipeline.folders import claim_folder, claim_together, release_folder
from jaxcompress.pipeline.formats import parse_formats
from jaxcompress.pipeline.options import Options
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.pipeline.quantizing import quantize_model
from jaxcompress.pipeline.run import compress, read_results
from jaxcompress.pipeline.torch_quantizing import quantize_torch

__all__ = [
  "PRESETS",
  "Budget",
  "ExportOptions",
  "Options",
  "Preset",
  "QuantizeOptions",
  "claim_folder",
  "claim_together",
  "compress",
  "export_model",
  "parse_formats",
  "quantize_model",
  "quantize_torch",
  "read_results",
  "release_folder",
]
