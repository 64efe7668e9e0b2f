"""Convolution as XLA does it: the formulation of the backends where that is fast."""

import jax
from jax import lax

from jaxcompress.ops.padding import Pads

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def xla_conv(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """``lax.conv_general_dilated`` on NHWC images and an HWIO kernel, with its own gradients.

  Examples:
    >>> import jax.numpy as jnp
    >>> xla_conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), 1, ((1, 1), (1, 1))).shape
    (1, 4, 4, 5)
  """
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=DIMENSIONS, feature_group_count=groups
  )
