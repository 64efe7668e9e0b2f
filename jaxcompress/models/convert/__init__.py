"""Checkpoints of PyTorch models, and the way back."""

from jaxcompress.models.convert.normalization import Normalization, normalization_of
from jaxcompress.models.convert.sources import SOURCES
from jaxcompress.models.convert.transfer import from_torch, to_torch

__all__ = ["SOURCES", "Normalization", "from_torch", "normalization_of", "to_torch"]
