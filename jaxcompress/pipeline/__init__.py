"""The runs behind ``jaxcompress compress`` and ``jaxcompress quantize``."""

from jaxcompress.pipeline.options import Options, claim_folder, release_folder
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.pipeline.quantizing import quantize_model
from jaxcompress.pipeline.run import compress

__all__ = [
  "PRESETS",
  "Options",
  "Preset",
  "QuantizeOptions",
  "claim_folder",
  "compress",
  "quantize_model",
  "release_folder",
]
