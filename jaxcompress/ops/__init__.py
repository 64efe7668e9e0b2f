"""Convolutions, NHWC, with fast custom gradients, sums over channels and ranges."""

from jaxcompress.ops.allocator import keep_freed_memory
from jaxcompress.ops.convolution import conv, depthwise_conv, pointwise_conv
from jaxcompress.ops.dispatch import (
  ANYWHERE,
  XLA_ONLY,
  Formulations,
  exact_convolutions,
  formulations,
  traced_for,
)
from jaxcompress.ops.padding import Padding, resolve_padding
from jaxcompress.ops.sums import channel_moments, channel_sums, extremes, sums_of, total

__all__ = [
  "ANYWHERE",
  "XLA_ONLY",
  "Formulations",
  "Padding",
  "channel_moments",
  "channel_sums",
  "conv",
  "depthwise_conv",
  "exact_convolutions",
  "extremes",
  "formulations",
  "keep_freed_memory",
  "pointwise_conv",
  "resolve_padding",
  "sums_of",
  "total",
  "traced_for",
]
