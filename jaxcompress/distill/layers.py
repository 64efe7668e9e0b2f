"""What losses train and compute on top of features."""

import math

import jax
import jax.numpy as jnp

Linear = dict[str, jax.Array]


def init_linear(rng: jax.Array, inputs: int, outputs: int) -> Linear:
  """A linear layer, initialised as PyTorch's: all numbers U(-1, 1) / sqrt(inputs).

  Returns:
    ``{"kernel": (inputs, outputs), "bias": (outputs,)}``, float32.

  Examples:
    >>> layer = init_linear(jax.random.key(0), 16, 4)
    >>> layer["kernel"].shape, bool(jnp.all(jnp.abs(layer["kernel"]) <= 0.25))
    ((16, 4), True)
  """
  bound = 1 / math.sqrt(inputs)
  numbers = jax.random.uniform(rng, (inputs + 1, outputs), jnp.float32, -bound, bound)
  return {"kernel": numbers[:-1], "bias": numbers[-1]}


def linear(layer: Linear, x: jax.Array) -> jax.Array:
  """``x @ kernel + bias`` in full float32 precision on every backend; (batch, ...) is flattened.

  Examples:
    >>> linear({"kernel": jnp.eye(2), "bias": jnp.ones(2)}, jnp.zeros((1, 2))).tolist()
    [[1.0, 1.0]]
  """
  x = x.reshape(x.shape[0], -1)
  y = jnp.dot(x, layer["kernel"], precision=jax.lax.Precision.HIGHEST)
  return y + layer["bias"].reshape(1, -1)


def unit(x: jax.Array) -> jax.Array:
  """Vectors on the last axis divided by their length, without an epsilon.

  The zero vector stays zero and has zero gradient.

  Examples:
    >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    >>> jax.grad(lambda x: unit(x).sum())(jnp.zeros(2)).tolist()
    [0.0, 0.0]
  """
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  zero = square == 0
  return jnp.where(zero, 0.0, x / jnp.sqrt(jnp.where(zero, 1.0, square)))
