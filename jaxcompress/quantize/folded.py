"""A convolution that trains with BatchNorm already folded into its rounded weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.layers import convolve
from jaxcompress.quantize.fake_quant import Levels, fake_quant


class BatchStatistics(NamedTuple):
  """Mean and variance of a convolution's outputs over a batch, (out,) each."""

  mean: jax.Array
  variance: jax.Array


def folded_train(
  x: jax.Array,
  kernel: jax.Array,
  gamma: jax.Array,
  beta: jax.Array,
  variance: jax.Array,
  scales: jax.Array,
  *,
  to: Levels,
  epsilon: float,
  stride: int = 1,
  padding: str = "SAME",
  groups: int = 1,
) -> tuple[jax.Array, BatchStatistics]:
  """The training forward pass with folded BatchNorm and correction.

  ``y = conv(x, Q(W gamma / s_r)) s_r / s_B + beta - gamma mu_B / s_B``, with the running deviation
  ``s_r`` and the batch's ``mu_B`` and ``s_B``. So weights are rounded on the grid of the
  deployed ones, which does not jitter with the batch, and outputs are normalised by the batch.
  The gradient passes through the batch's statistics; running ones and scales are constants.

  With one symmetric scale for each channel that follows the weights (:func:`~jaxcompress.quantize.absmax`),
  rounding commutes with folding and none of this is needed; it is for grids that are kept, or
  shared by channels.

  Args:
    x: (batch, height, width, in).
    kernel: (k, k, in / groups, out).
    gamma: (out,).
    beta: (out,).
    variance: (out,) running variance.
    scales: (out,) or scalar, of the folded weights.
    to: symmetric integers.
    epsilon: of BatchNorm.
    stride: of the convolution.
    padding: of the convolution.
    groups: of the convolution.

  Returns:
    ``(y, statistics)``; the statistics update the running ones.

  Examples:
    >>> x, one = jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.ones(1)
    >>> y, statistics = folded_train(
    ...   x, one.reshape(1, 1, 1, 1), one, 0 * one, one, one / 127, to=Levels(-127, 127, True), epsilon=0.0
    ... )
    >>> float(statistics.mean[0]), round(float(y.std()), 4)
    (1.5, 1.0)

  References:
    Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
    <https://arxiv.org/abs/1806.08342>`_, 2018, section 3.2.2.
  """
  shape: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups}
  spread = (1, 1, 1, -1)
  raw = convolve(x, kernel, **shape)
  mean = jnp.mean(raw, axis=(0, 1, 2))
  spread_out = jnp.mean(jnp.square(raw - mean.reshape(spread)), axis=(0, 1, 2))
  running = jnp.sqrt(jax.lax.stop_gradient(variance) + epsilon)
  batch = jnp.sqrt(spread_out + epsilon)
  grid = jnp.broadcast_to(jax.lax.stop_gradient(scales), running.shape).reshape(spread)
  rounded = fake_quant(kernel * (gamma / running).reshape(spread), grid, 0.0, to)
  y = convolve(x, rounded, **shape) * (running / batch).reshape(spread)
  shift = beta - gamma * mean / batch
  return y + shift.reshape(spread), BatchStatistics(mean, spread_out)
