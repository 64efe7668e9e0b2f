"""Stochastic rounding: up or down, with the probabilities that keep the mean."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.quantizers.base import Quantizer, check_quantizer, named


@jax.custom_jvp
def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
  """``floor(x + u)``, ``u`` uniform in [0, 1): the mean is ``x``. The gradient is 1.

  Args:
    x: any shape; the result has the same dtype.
    key: of the noise.

  Examples:
    >>> y = stochastic_round(jnp.full(10_000, 0.3), jax.random.key(0))
    >>> sorted(set(y.tolist())), round(float(y.mean()), 1)
    ([0.0, 1.0], 0.3)

  References:
    Gupta et al., `Deep Learning with Limited Numerical Precision
    <https://arxiv.org/abs/1502.02551>`_, 2015, section 3.1.
  """
  noise = jax.random.uniform(key, x.shape)
  return jnp.floor(x.astype(jnp.float32) + noise).astype(x.dtype)


@stochastic_round.defjvp
def _round_jvp(primals, tangents):
  return stochastic_round(*primals), tangents[0]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def stochastic_fake_quant(
  x: jax.Array, scale: jax.Array, zero: jax.Array, key: jax.Array, to: Levels
) -> jax.Array:
  """:func:`~jaxcompress.quantize.fake_quant` with stochastic rounding; the gradient is the same.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    scale: broadcasts against ``x`` from the same rank or is a scalar.
    zero: zero point, shaped like ``scale``.
    key: of the noise.
    to: the integers; static.

  Examples:
    >>> from jaxcompress.quantize.fake_quant import levels
    >>> x = jnp.full(10_000, 0.3)
    >>> y = stochastic_fake_quant(x, 1.0, 0.0, jax.random.key(0), levels(8, symmetric=True))
    >>> round(float(y.mean()), 1)
    0.3

  References:
    Gupta et al., 2015.
  """
  return _forward(x, scale, zero, key, to)[0]


def _forward(x, scale, zero, key, to):
  v = x.astype(jnp.float32) * (1.0 / scale)
  code = jnp.floor(v + jax.random.uniform(key, x.shape)) + zero
  y = (jnp.minimum(jnp.maximum(code, to.low), to.high) - zero) * scale
  nearest = jnp.round(v) + zero
  return y.astype(x.dtype), (nearest >= to.low) & (nearest <= to.high)


def _backward(to, inside, g):
  del to
  return jnp.where(inside, g, jnp.zeros_like(g)), None, None, None


stochastic_fake_quant.defvjp(_forward, _backward)


@named
def stochastic(quantizer: Quantizer) -> Quantizer:
  """Rounds stochastically in training, on the grid of another quantizer.

  Without a key, and outside training, it rounds to nearest.

  Args:
    quantizer: one whose parameters are not trained, such as
      :func:`~jaxcompress.quantize.absmax` or :func:`~jaxcompress.quantize.ema_range`.

  Returns:
    A :class:`Quantizer` with the same parameters, state and grid.

  Raises:
    ValueError: if ``quantizer`` is none; at ``init``, if it trains parameters: their gradients would be lost.

  Examples:
    >>> from jaxcompress.quantize.quantizers import absmax
    >>> w = jnp.append(jnp.full((1000, 1), 0.3), jnp.array([[1.0]]), axis=0)
    >>> quantizer = stochastic(absmax(2))
    >>> y, _ = quantizer.apply((), (), w, train=True, rng=jax.random.key(0))
    >>> sorted(set(y[:, 0].tolist())), round(float(y[:-1].mean()), 1)
    ([0.0, 1.0], 0.3)

  References:
    Gupta et al., 2015.
  """
  check_quantizer("quantizer", quantizer)

  def init(x):
    params, state = quantizer.init(x)
    if jax.tree.leaves(params):
      raise ValueError(
        "quantizer: stochastic rounding needs a grid that is not trained; use absmax or a range."
      )
    return params, state

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    y, state = quantizer.apply(params, state, x, train=train, nonnegative=nonnegative)
    if rng is None or train is False:
      return y, state
    scale, zero = quantizer.grid(params, state, jax.lax.stop_gradient(x))
    noisy = stochastic_fake_quant(x, scale, zero, rng, quantizer.levels)
    return noisy if train is True else jnp.where(train, noisy, y), state

  return quantizer._replace(init=init, apply=apply)
