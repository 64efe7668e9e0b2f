"""Convolutions, NHWC, with fast custom gradients, sums over channels and ranges."""

from jaxcompress.ops.allocator import keep_freed_memory
from jaxcompress.ops.convolution import conv, depthwise_conv, pointwise_conv
from jaxcompress.ops.dispatch import formulations
from jaxcompress.ops.padding import Padding, Sides

__all__ = [
  "Padding",
  "Sides",
  "conv",
  "depthwise_conv",
  "formulations",
  "keep_freed_memory",
  "pointwise_conv",
]
