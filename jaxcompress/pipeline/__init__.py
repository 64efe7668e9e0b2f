"""The run behind ``jaxcompress compress``."""

from jaxcompress.pipeline.options import Options, claim_folder, release_folder
from jaxcompress.pipeline.presets import PRESETS, Preset
from jaxcompress.pipeline.run import compress

__all__ = ["PRESETS", "Options", "Preset", "claim_folder", "compress", "release_folder"]
