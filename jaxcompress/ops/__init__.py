"""Convolutions, NHWC, with fast custom gradients, sums over channels and ranges."""

from jaxcompress.ops.allocator import keep_freed_memory
from jaxcompress.ops.convolution import conv, depthwise_conv, pointwise_conv
from jaxcompress.ops.dispatch import XLA_ONLY, Formulations, formulations
from jaxcompress.ops.padding import Padding, resolve_padding
from jaxcompress.ops.sums import channel_sums, extremes, total

__all__ = [
  "XLA_ONLY",
  "Formulations",
  "Padding",
  "channel_sums",
  "conv",
  "depthwise_conv",
  "extremes",
  "formulations",
  "keep_freed_memory",
  "pointwise_conv",
  "resolve_padding",
  "total",
]
