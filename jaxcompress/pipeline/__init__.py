"""Whole runs, as behind ``jaxcompress compress``, ``quantize`` and ``export``."""

from typing import TYPE_CHECKING

from jaxcompress.on_demand import import_on_demand

if TYPE_CHECKING:
  from jaxcompress.pipeline.certifying import certify_model, check_model
  from jaxcompress.pipeline.classifier import Classifier
  from jaxcompress.pipeline.compressing import Compressed, compress
  from jaxcompress.pipeline.evaluating import evaluate_on
  from jaxcompress.pipeline.folders import read_results
  from jaxcompress.pipeline.options import CompressOptions
  from jaxcompress.pipeline.presets import PRESETS, Preset
  from jaxcompress.pipeline.quantize_options import QuantizeOptions
  from jaxcompress.pipeline.quantizing import export_model, quantize_model

__all__ = [
  "PRESETS",
  "Classifier",
  "CompressOptions",
  "Compressed",
  "Preset",
  "QuantizeOptions",
  "certify_model",
  "check_model",
  "compress",
  "evaluate_on",
  "export_model",
  "quantize_model",
  "read_results",
]

import_on_demand(__name__)
