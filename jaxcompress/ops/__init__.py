"""Convolutions, NHWC, with fast custom gradients."""

from jaxcompress.ops.convolution import conv, depthwise_conv, pointwise_conv
from jaxcompress.ops.dispatch import Formulations, formulations
from jaxcompress.ops.padding import Padding, resolve_padding

__all__ = [
  "Formulations",
  "Padding",
  "conv",
  "depthwise_conv",
  "formulations",
  "pointwise_conv",
  "resolve_padding",
]
