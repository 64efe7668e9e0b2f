"""Convolution as XLA does it: the formulation of the backends where that is fast."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.ops.padding import Pads

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def xla_conv(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """``lax.conv_general_dilated`` on NHWC images and an HWIO kernel, with its own gradients.

  Padding outside ``0 .. k - 1`` is applied beforehand: the input gradient would then be a
  convolution with negative padding, for which XLA on CPU (jaxlib 0.10.2) reads uninitialised memory.

  Examples:
    >>> xla_conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), 1, ((1, 1), (1, 1))).shape
    (1, 4, 4, 5)
  """
  usual = zip(pads, kernel.shape[:2], strict=True)
  if not all(0 <= pad < k for pair, k in usual for pad in pair):
    edges = ((0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0))
    x, pads = lax.pad(x, jnp.zeros((), x.dtype), edges), ((0, 0), (0, 0))
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=DIMENSIONS, feature_group_count=groups
  )
