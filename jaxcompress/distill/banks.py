"""Memory banks: a vector for every training example, contrasted with and renewed each step."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

Formulation = Literal["auto", "dense", "gather"]
FORMULATIONS = ("auto", "dense", "gather")


def init_bank(rng: jax.Array, examples: int, dim: int) -> jax.Array:
  """Rows before they are first written: U(-1, 1) / sqrt(dim / 3), not normalised.

  Returns:
    (examples, dim) float32.

  Examples:
    >>> init_bank(jax.random.key(0), 10, 4).shape
    (10, 4)
  """
  bound = 1 / math.sqrt(dim / 3)
  return jax.random.uniform(rng, (examples, dim), jnp.float32, -bound, bound)


def draw_contrast(rng: jax.Array, index: jax.Array, examples: int, negatives: int) -> jax.Array:
  """Each example's own place, then places of others, uniform with replacement.

  Args:
    rng: a key.
    index: (batch,) int32.
    examples: rows of the bank.
    negatives: others per example.

  Returns:
    (batch, 1 + negatives) int32; column 0 is ``index``, which occurs nowhere else in its row.

  Examples:
    >>> draw_contrast(jax.random.key(0), jnp.array([0, 1]), 2, 3).tolist()
    [[0, 1, 1, 1], [1, 0, 0, 0]]
  """
  own = index.reshape(-1, 1)
  others = jax.random.randint(rng, (index.shape[0], negatives), 0, examples - 1, jnp.int32)
  return jnp.concatenate([own, others + (others >= own)], axis=1)


def scores(
  vectors: jax.Array, bank: jax.Array, ids: jax.Array, formulation: Formulation = "auto"
) -> jax.Array:
  """Inner products of each vector with its own choice of rows, in float32.

  ``dense`` multiplies with the whole bank and picks: (batch, n) numbers. ``gather`` fetches the
  rows, one example at a time and again for the gradient, so that (batch, 1 + K, dim) never exists.

  Args:
    vectors: (batch, dim).
    bank: (n, dim); no gradient reaches it.
    ids: (batch, 1 + K) int32, in range.
    formulation: ``auto`` takes ``dense`` up to n = batch * K.

  Returns:
    (batch, 1 + K) float32.

  Examples:
    >>> bank, ids = jnp.arange(8.0).reshape(4, 2), jnp.array([[3, 0]])
    >>> scores(jnp.ones((1, 2)), bank, ids).tolist()
    [[13.0, 1.0]]
  """
  bank = jax.lax.stop_gradient(bank)
  exact = jax.lax.Precision.HIGHEST
  if formulation == "dense" or (formulation == "auto" and bank.shape[0] <= ids[:, 1:].size):
    products = jax.lax.dot_general(vectors, bank, (((1,), (1,)), ((), ())), precision=exact)
    return jnp.take_along_axis(products, ids, axis=1, mode="clip")

  @jax.checkpoint
  def of_one(vector_and_ids):
    vector, chosen = vector_and_ids
    return jnp.dot(bank.at[chosen].get(mode="clip"), vector, precision=exact)

  return jax.lax.map(of_one, (vectors, ids))


def write_rows(bank: jax.Array, index: jax.Array, rows: jax.Array, keep: jax.Array) -> jax.Array:
  """Replaces rows; where a place occurs twice in the batch, its last row wins on every backend.

  ``keep`` has a second use. XLA may write in place only once nothing reads the old bank any more.
  If ``keep`` depends on the results of all reads, that order is a dependency of the data, and a
  donated bank is never copied.

  Args:
    bank: (n, dim).
    index: (batch,) int32.
    rows: (batch, dim).
    keep: () bool; nothing is written where false.

  Returns:
    (n, dim).

  Examples:
    >>> rows = jnp.array([[1.0], [2.0], [3.0]])
    >>> write_rows(jnp.zeros((3, 1)), jnp.array([2, 0, 2]), rows, jnp.array(True)).ravel().tolist()
    [2.0, 0.0, 3.0]
  """
  place = jnp.arange(index.shape[0], dtype=index.dtype)
  later = place.reshape(1, -1) > place.reshape(-1, 1)
  repeated = jnp.any((index.reshape(-1, 1) == index.reshape(1, -1)) & later, axis=1)
  outside = bank.shape[0] + place  # each its own, so that indices stay unique
  target = jnp.where(keep & ~repeated, index, outside)
  return bank.at[target].set(rows, mode="drop", unique_indices=True)
