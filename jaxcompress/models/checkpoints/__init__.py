"""Checkpoints of PyTorch models, and the way back."""

from jaxcompress.models.checkpoints.normalization import Normalization, normalization_of
from jaxcompress.models.checkpoints.sources import SOURCES
from jaxcompress.models.checkpoints.transfer import from_torch, to_torch

__all__ = ["SOURCES", "Normalization", "from_torch", "normalization_of", "to_torch"]
