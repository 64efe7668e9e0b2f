"""Batch normalization in one pass over memory each way.

XLA's derivative of the textbook formula reads the activations four times; the custom gradient
below needs two sums, and its statistics come from one pass, shifted by the running mean so that
``E[x^2] - E[x]^2`` does not cancel. Both pairs of sums are :func:`jaxcompress.ops.sums.channel_sums`.

A batch whose parts are normalised each by its own statistics is (parts, examples of each, ..., channels)
here, and what would be (channels,) is (parts, channels).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops.parts import by_part, part_count
from jaxcompress.ops.sums import channel_moments, channel_sums


class Norm(NamedTuple):
  """Settings of the batch normalization in a :class:`ConvNorm`.

  Attributes:
    epsilon: added to the variance.
    momentum: share of the old running statistics kept at each step (Flax's convention: PyTorch's
      0.1 is 0.9 here).
    zero: start the scale at zero, for the last normalization of a residual branch (Goyal et al.,
      2017, section 5.1).

  Examples:
    >>> from jaxcompress.nn import ConvNorm
    >>> ConvNorm(8, norm=Norm(epsilon=1e-3, momentum=0.99)).norm
    Norm(epsilon=0.001, momentum=0.99, zero=False)
  """

  epsilon: float = 1e-5
  momentum: float = 0.9
  zero: bool = False


def batch_statistics(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance over all axes but the last, in float32, reading ``x`` once.

  Args:
    x: (..., channels), any float dtype.
    shift: (channels,) float32, anything near the mean; the running mean does. (parts, channels): the
      statistics are of each part.

  Returns:
    ``(mean, variance)``, like ``shift``, float32 each.

  Examples:
    >>> mean, variance = batch_statistics(jnp.array([[1001.0], [1003.0]]), jnp.array([1000.0]))
    >>> mean.item(), variance.item()
    (1002.0, 1.0)
  """
  centred = wide(x) - spread(shift, x)
  sums = of_each_part(channel_sums, shift)
  first, second = sums(centred, jnp.square(centred))
  return _mean_and_variance(first, second, x.size // shift.size, shift)


def of_each_part(reduce: Callable, statistic: jax.Array) -> Callable:
  """A reduction of what has such a statistic: of each part if there is one for each."""
  return reduce if statistic.ndim == 1 else jax.vmap(reduce)


def careful_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The same by the textbook: the mean first, then the deviations from it, which cannot cancel.

  Sums are over each example, and then over the examples, so that long ones lose no digits either.

  Args:
    x: (batch, ..., channels), any float dtype.

  Returns:
    ``(mean, variance, rest)``, (channels,) float32 each; ``rest`` is what float32 cannot hold of the
    mean, which the means of several batches that are far from zero need.

  Examples:
    >>> mean, variance, rest = careful_statistics(jnp.array([[2.0**24], [2.0**24 + 2], [2.0**24 + 2]]))
    >>> mean.item() - 2**24, round(variance.item(), 4), round(rest.item(), 4)
    (2.0, 0.8889, -0.6667)
  """

  def mean_of(x):
    return jnp.mean(jnp.mean(x.reshape(len(x), -1, x.shape[-1]), 1), 0)

  x = jax.lax.stop_gradient(wide(x))
  # Rounded: a compiler may join the multiplication that ends a mean to a subtraction from it.
  info = jnp.finfo(x.dtype)
  centre = jax.lax.reduce_precision(mean_of(x), info.nexp, info.nmant - 1)
  centred = x - spread(centre, x)
  rest = mean_of(centred)  # next to nothing: what rounding left
  mean = centre + rest
  variance = jnp.maximum(mean_of(jnp.square(centred)) - jnp.square(rest), 0.0)
  return mean, variance, (centre - mean) + rest


def _mean_and_variance(first, second, count, shift):
  first, second = first / count, second / count
  return first + shift, jnp.maximum(second - jnp.square(first), 0.0)


class Statistics(NamedTuple):
  """Measures of a batch, which the :func:`affine` map of its normalization reads.

  Attributes:
    mean: (channels,) float32.
    variance: likewise.
    ends: the smallest and the largest value of each channel, (2, channels) like the input, or
      (parts, 2, channels) where devices hold parts of it; or None.
  """

  mean: jax.Array
  variance: jax.Array
  ends: jax.Array | None = None


def statistics(
  x: jax.Array, running: Statistics, live: bool | jax.Array, *, ends: bool = False
) -> Statistics:
  """Returns the batch's statistics where ``live``, else the running ones; without gradient.

  No branch is compiled where ``live`` is known when tracing.

  Args:
    x: (..., channels), any float dtype.
    running: the running ones.
    live: bool or scalar bool array.
    ends: whether to find the ends in the same pass, if the batch is sure to be read.
  """
  x = jax.lax.stop_gradient(x)
  if live is True and ends:
    (first, second), found = _sums_and_ends(wide(x), running.mean)
    mean, variance = _mean_and_variance(first, second, x.size // running.mean.size, running.mean)
    return Statistics(mean, variance, found.astype(x.dtype))
  measure = lambda: Statistics(*batch_statistics(x, running.mean))  # noqa: E731
  if isinstance(live, bool):
    return measure() if live else running
  return jax.lax.cond(live, measure, lambda: running)


def _sums_and_ends(x: jax.Array, shift: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Sums of ``x - shift`` and of its square, and the ends of each channel, on each device if many."""
  if shift.ndim == 1 and part_count(x) > 1:
    found = by_part(lambda part: channel_moments(part, shift), x)
    return tuple(jnp.sum(found[:, :2], 0)), found[:, 2:]
  *sums, low, high = of_each_part(channel_moments, shift)(x, shift)
  return tuple(sums), jnp.stack((low, high), -2)


def wide(x: jax.Array) -> jax.Array:
  """The array in float32 or wider."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def spread(channels: jax.Array, x: jax.Array) -> jax.Array:
  """One number per channel, or per part and channel, in the rank of ``x``."""
  *parts, count = channels.shape
  return channels.reshape((*parts, *(1,) * (x.ndim - len(parts) - 1), count))


def normalise(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  found: Statistics,
  live: bool | jax.Array,
  epsilon: float,
) -> jax.Array:
  """The normalised ``x`` by its :func:`statistics`; differentiable in reverse."""
  return _normalise(x, scale, bias, frame(x, found, live, epsilon))


class Frame(NamedTuple):
  """Numbers that the normalization of one batch is computed by.

  Attributes:
    mean: (channels,) or (parts, channels) float32.
    inverse: of the deviation; likewise.
    share: of one value in the statistics: one over their count, 0 where they are the running ones;
      None where that is known when tracing.
  """

  mean: jax.Array
  inverse: jax.Array
  share: jax.Array | None


def frame(x: jax.Array, found: Statistics, live: bool | jax.Array, epsilon: float) -> Frame:
  """The frame of ``x`` by its :func:`statistics`."""
  share = None if live is False else jnp.where(live, found.mean.size / x.size, 0.0)
  return Frame(found.mean, jax.lax.rsqrt(found.variance + epsilon), share)


@jax.custom_vjp
def _normalise(x, scale, bias, by):
  return affine(x, scale, bias, by)[0]


def _forward(x, scale, bias, by):
  return affine(x, scale, bias, by)[0], (x, scale, by)


def _backward(residuals, g):
  x, scale, by = residuals
  g, centred = wide(g), wide(x) - spread(by.mean, x)
  sums = of_each_part(channel_sums, by.mean)(g, g * centred)
  dx = input_gradient(g, centred, sums, scale, by)
  return dx.astype(x.dtype), over_parts(sums[1] * by.inverse), over_parts(sums[0]), None


def over_parts(channels: jax.Array) -> jax.Array:
  """The sum over parts of what each has, (channels,)."""
  return channels if channels.ndim == 1 else jnp.sum(channels, 0)


_normalise.defvjp(_forward, _backward)


def affine(
  x: jax.Array, scale: jax.Array, bias: jax.Array, by: Frame
) -> tuple[jax.Array, jax.Array]:
  """The normalised ``x``, in its dtype, and ``x - mean``."""
  centred = wide(x) - spread(by.mean, x)
  y = centred * spread(_times(scale, by.inverse), x) + spread(bias, x)
  return y.astype(x.dtype), centred


def input_gradient(
  g: jax.Array, centred: jax.Array, sums: Sequence[jax.Array], scale: jax.Array, by: Frame
) -> jax.Array:
  """Returns the gradient with respect to the input.

  Args:
    g: gradient with respect to the output.
    centred: the input less its mean.
    sums: of ``g`` alone, and of ``g`` times ``centred``.
    scale: of each channel.
    by: the statistics.
  """
  if by.share is not None:  # through the statistics of the batch
    d_bias, d_scale = sums[0], sums[1] * by.inverse
    g = g - spread(d_bias * by.share, g) - centred * spread(d_scale * by.inverse * by.share, g)
  return g * spread(_times(scale, by.inverse), g)


def _times(scale: jax.Array, inverse: jax.Array) -> jax.Array:
  return spread(scale, inverse) * inverse
