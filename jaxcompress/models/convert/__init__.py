"""Checkpoints of PyTorch models, and the way back."""

from jaxcompress.models.convert.sources import SOURCES
from jaxcompress.models.convert.transfer import from_torch, to_torch

__all__ = ["SOURCES", "from_torch", "to_torch"]
