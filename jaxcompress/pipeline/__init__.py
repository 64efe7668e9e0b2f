"""The run behind ``jaxcompress compress``."""

from jaxcompress.pipeline.options import Options, claim_folder, release_folder
from jaxcompress.pipeline.run import compress

__all__ = ["Options", "claim_folder", "compress", "release_folder"]
