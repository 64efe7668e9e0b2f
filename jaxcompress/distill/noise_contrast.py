"""Noise-contrastive estimation: which of some scores is the true one, and which are noise."""

import math

import jax
import jax.numpy as jnp

EPSILON = 1e-7  # CRD's authors add it to the noise probability


def log_sum(positive: jax.Array, negative: jax.Array, owned: jax.Array) -> jax.Array:
  """Log of the summed exponentials of one device's scores, () float32."""
  own = jax.nn.logsumexp(jnp.where(owned, positive, -jnp.inf))
  return jnp.logaddexp(own, jax.nn.logsumexp(negative))


def noise_contrastive(
  positive: jax.Array, negative: jax.Array, noise: float, owned: jax.Array | bool = True
) -> jax.Array:
  """Noise-contrastive estimation from log-scores, summed, stable for any of them.

  ``-sum_i log(P_i / (P_i + c + e)) - sum_ik log(c / (N_ik + c + e))`` with ``c = K / n`` and
  ``e = 1e-7``.

  Args:
    positive: (batch,), logarithms of normalised scores ``P``.
    negative: of any shape, of ``N``.
    noise: ``c``.
    owned: (batch,) bool, which of ``positive`` count.

  Returns:
    () float32.

  Examples:
    >>> even = jnp.log(jnp.full(2, 0.25))  # P = N = c = 1/4: twice log 2
    >>> round(float(noise_contrastive(even[:1], even[1:], 0.25)), 4)
    1.3863
  """
  log_noise = math.log(noise + EPSILON)
  positive = jnp.sum(jnp.where(owned, jax.nn.softplus(log_noise - positive), 0.0))
  floor = negative.size * (log_noise - math.log(noise))
  return positive + jnp.sum(jax.nn.softplus(negative - log_noise)) + floor
