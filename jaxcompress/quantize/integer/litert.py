"""LiteRT's optimized kernels on x86, which take over from XNNPACK where weights are int4.

They scale as TFLite's reference kernels do, but for the second rounding, whose halves go up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer import reference
from jaxcompress.quantize.integer.reference import (
  Factor,
  divide_by_power,
  doubling_high_product,
)
from jaxcompress.quantize.integer.values import Grid

LANES = 8  # channels at a time in the depthwise kernel


class Upward(NamedTuple):
  """A :class:`Factor` whose second rounding takes halves up, as these kernels do.

  Attributes:
    factor: of the first rounding.
    up: bool, the channels that it is about; in the others halves go away from zero.

  Examples:
    >>> half = reference.quantize_multiplier(0.25)
    >>> half(jnp.int32([-6])).tolist(), Upward(half, np.array([True]))(jnp.int32([-6])).tolist()
    ([-2], [-1])
  """

  factor: Factor
  up: np.ndarray

  def __call__(self, v: jax.Array) -> jax.Array:
    q31, left, right = self.factor
    u = doubling_high_product(v.astype(jnp.int32) << left, jnp.asarray(q31))
    half = jnp.where(right > 0, (u >> jnp.maximum(right - 1, 0)) & 1, 0)
    return jnp.where(self.up, (u >> right) + half, divide_by_power(u, right))


def convolution(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Upward:
  """As :func:`reference.convolution`, with the rounding of these kernels."""
  return Upward(reference.convolution(source, scales, output, reach), np.full(scales.shape, True))


def depthwise(source: Grid, scales: np.ndarray, output: Grid, reach: np.ndarray) -> Upward:
  """As :func:`convolution`, of a depthwise one: what is left of eights rounds as elsewhere."""
  whole = scales.shape[-1] // LANES * LANES
  up = np.broadcast_to(np.arange(scales.shape[-1]) < whole, scales.shape)
  return Upward(reference.convolution(source, scales, output, reach), up)
