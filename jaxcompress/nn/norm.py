"""Batch normalization in one pass over memory each way.

XLA's derivative of the textbook formula reads the activations four times; the custom gradient
below needs two sums, and its statistics come from one pass, shifted by the running mean so that
``E[x^2] - E[x]^2`` does not cancel.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Norm(NamedTuple):
  """How a :class:`ConvNorm` normalises.

  Attributes:
    epsilon: added to the variance.
    momentum: share of the old running statistics kept at each step (Flax's convention: PyTorch's
      0.1 is 0.9 here).
    zero: start the scale at zero, for the last normalization of a residual branch (Goyal et al.,
      2017, section 5.1).
  """

  epsilon: float = 1e-5
  momentum: float = 0.9
  zero: bool = False


def batch_statistics(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance over all axes but the last, in float32, reading ``x`` once.

  Args:
    x: (..., channels), any float dtype.
    shift: (channels,) float32, anything near the mean; the running mean does.

  Returns:
    ``(mean, variance)``, (channels,) float32 each.

  Examples:
    >>> mean, variance = batch_statistics(jnp.array([[1001.0], [1003.0]]), jnp.array([1000.0]))
    >>> mean.item(), variance.item()
    (1002.0, 1.0)
  """
  axes = tuple(range(x.ndim - 1))
  centred = x.astype(jnp.float32) - shift.reshape((1,) * len(axes) + (-1,))
  first, second = jnp.mean(centred, axes), jnp.mean(jnp.square(centred), axes)
  return first + shift, jnp.maximum(second - jnp.square(first), 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def batch_norm(x, scale, bias, running_mean, running_variance, live, epsilon):
  """Normalises over the batch where ``live``, and by the running statistics elsewhere.

  ``y = (x - m) / sqrt(v + epsilon) * scale + bias`` (Ioffe & Szegedy, 2015, algorithm 1).

  Args:
    x: (..., channels), any float dtype; the result has the same.
    scale: (channels,) float32, gamma.
    bias: (channels,) float32, beta.
    running_mean: (channels,) float32.
    running_variance: (channels,) float32.
    live: bool or scalar bool array; whether the batch's own statistics are used. It can change
      from step to step without recompilation, which is how statistics are frozen in mid-run.
    epsilon: added to the variance; static.

  Returns:
    ``(y, mean, variance)``; the statistics are those of the batch where ``live``, else the
    running ones, and carry no gradient.

  Examples:
    >>> ones, zeros = jnp.ones(1), jnp.zeros(1)
    >>> y, mean, _ = batch_norm(jnp.array([[1.0], [3.0]]), ones, zeros, zeros, ones, True, 0.0)
    >>> y.ravel().tolist(), mean.item()
    ([-1.0, 1.0], 2.0)
  """
  return _forward(x, scale, bias, running_mean, running_variance, live, epsilon)[0]


def _forward(x, scale, bias, running_mean, running_variance, live, epsilon):
  running = (running_mean, running_variance)
  if live is True:
    mean, variance = batch_statistics(x, running_mean)
  elif live is False:
    mean, variance = running
  else:
    mean, variance = jax.lax.cond(live, lambda: batch_statistics(x, running_mean), lambda: running)
  inverse = jax.lax.rsqrt(variance + epsilon)
  spread = (1,) * (x.ndim - 1) + (-1,)
  slope = scale * inverse
  y = x * slope.reshape(spread) + (bias - mean * slope).reshape(spread)
  return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse, live)


def _backward(epsilon, residuals, cotangents):
  del epsilon
  x, scale, mean, inverse, live = residuals
  g = cotangents[0].astype(jnp.float32)
  axes, spread = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + (-1,)
  normalised = (x - mean.reshape(spread)) * inverse.reshape(spread)
  d_bias, d_scale = jnp.sum(g, axes), jnp.sum(g * normalised, axes)
  weight = jnp.where(live, 1.0 / (x.size / x.shape[-1]), 0.0)
  dx = g - (d_bias * weight).reshape(spread) - normalised * (d_scale * weight).reshape(spread)
  dx = dx * (scale * inverse).reshape(spread)
  return dx.astype(x.dtype), d_scale, d_bias, None, None, None


batch_norm.defvjp(_forward, _backward)
