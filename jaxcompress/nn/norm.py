"""Batch normalization in one pass over memory each way.

XLA's derivative of the textbook formula reads the activations four times; the custom gradient
below needs two sums, and its statistics come from one pass, shifted by the running mean so that
``E[x^2] - E[x]^2`` does not cancel. Both pairs of sums are :func:`jaxcompress.ops.channel_sums`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress import ops


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
  centred = _wide(x) - _spread(shift, x)
  sums = ops.channel_sums(centred, jnp.square(centred))
  count = x.size // x.shape[-1]
  first, second = sums[0] / count, sums[1] / count
  return first + shift, jnp.maximum(second - jnp.square(first), 0.0)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _spread(channels: jax.Array, x: jax.Array) -> jax.Array:
  """A vector of one number per channel in the rank of ``x``."""
  return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def batch_norm(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  running_mean: jax.Array,
  running_variance: jax.Array,
  live: bool | jax.Array,
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
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
    running ones, and carry no gradient. Differentiable in reverse by ``x``, ``scale``, ``bias``.

  Examples:
    >>> ones, zeros = jnp.ones(1), jnp.zeros(1)
    >>> y, mean, _ = batch_norm(jnp.array([[1.0], [3.0]]), ones, zeros, zeros, ones, True, 0.0)
    >>> y.ravel().tolist(), mean.item()
    ([-1.0, 1.0], 2.0)
  """
  static = live if isinstance(live, bool) else None
  running = (running_mean, running_variance)
  rider = _riders.value
  sink = None if rider is None else rider.sink
  y, mean, variance, along = _batch_norm(x, scale, bias, sink, running, live, static, epsilon)
  if rider is not None:
    rider.along = along
  return y, mean, variance


class Rider:
  """A sum that a batch normalization takes along in the reduction of its backward pass.

  Attributes:
    sink: scalar float32; its gradient is the sum of the gradient by ``along``.
    along: zeros, float32, of the normalised array's shape, once there was a normalization.
  """

  def __init__(self, sink: jax.Array):
    self.sink, self.along = sink, None


_riders = jax.make_user_context(default_value=None)


@contextmanager
def riding(sink: jax.Array) -> Iterator[Rider]:
  """Lets the batch normalization called inside take along the sum that is a scalar's gradient.

  An operation behind the normalization that has a scalar parameter, such as the step of a
  quantizer, needs the sum of an expression of the very arrays that the normalization's backward
  pass reads. It returns that expression, not summed, as its gradient by ``along``; the
  normalization sums it in the same pass as its own and returns it as the gradient by ``sink``.

  Args:
    sink: scalar float32, the parameter.

  Yields:
    A :class:`Rider`; its ``along`` stays None where nothing was normalised.

  Examples:
    >>> ones, zeros = jnp.ones(1), jnp.zeros(1)
    >>> def loss(sink):
    ...   with riding(sink) as rider:
    ...     batch_norm(jnp.array([[1.0], [3.0]]), ones, zeros, zeros, ones, True, 0.0)
    ...   return jnp.sum(rider.along * jnp.array([[2.0], [5.0]]))
    >>> jax.grad(loss)(1.0).item()
    7.0
  """
  rider = Rider(sink)
  with _riders(rider):
    yield rider


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _batch_norm(x, scale, bias, sink, running, live, static, epsilon):
  return _forward(x, scale, bias, sink, running, live, static, epsilon)[0]


def _forward(x, scale, bias, sink, running, live, static, epsilon):
  """``static`` is ``live`` where that is known when tracing, so that no branch is compiled."""
  if static is None:
    mean, variance = jax.lax.cond(live, lambda: batch_statistics(x, running[0]), lambda: running)
  else:
    mean, variance = batch_statistics(x, running[0]) if static else running
  inverse = jax.lax.rsqrt(variance + epsilon)
  y = (_wide(x) - _spread(mean, x)) * _spread(scale * inverse, x) + _spread(bias, x)
  along = None if sink is None else jnp.zeros_like(y)
  return (y.astype(x.dtype), mean, variance, along), (x, scale, mean, inverse, live)


def _backward(static, epsilon, residuals, cotangents):
  del epsilon
  x, scale, mean, inverse, live = residuals
  g = _wide(cotangents[0])
  centred = _wide(x) - _spread(mean, x)
  along = () if cotangents[3] is None else (cotangents[3],)
  d_bias, moment, *rest = ops.channel_sums(g, g * centred, *along)
  d_sink = jnp.sum(rest[0]) if rest else None
  d_scale = moment * inverse
  if static is not False:  # through the statistics of the batch
    share = jnp.where(live, x.shape[-1] / x.size, 0.0)
    g = g - _spread(d_bias * share, x) - centred * _spread(d_scale * inverse * share, x)
  dx = g * _spread(scale * inverse, x)
  return dx.astype(x.dtype), d_scale, d_bias, d_sink, None, None


_batch_norm.defvjp(_forward, _backward)
