"""Memory banks: a vector for every training example, contrasted with and renewed each step."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

Formulation = Literal["auto", "dense", "gather"]
FORMULATIONS = ("auto", "dense", "gather")
ROWS_AT_ONCE = 16384  # that "gather" fetches: 8 MB of 128 numbers each
EXACT = jax.lax.Precision.HIGHEST


def init_bank(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Rows before they are first written: U(-1, 1) / sqrt(dim / 3), not normalised.

  Returns:
    An array of that shape, (..., dim) float32.

  Examples:
    >>> init_bank(jax.random.key(0), (10, 4)).shape
    (10, 4)
  """
  bound = 1 / math.sqrt(shape[-1] / 3)
  return jax.random.uniform(rng, shape, jnp.float32, -bound, bound)


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
  others = below(examples - 1, rng, (index.shape[0], negatives))
  return jnp.concatenate([own, others + (others >= own)], axis=1)


def below(bound: int | jax.Array, rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Numbers from 0 to ``bound - 1``: 32 random bits each, modulo ``bound``.

  Their shares differ by at most ``bound / 2^32``; ``jax.random.randint`` draws twice as many bits
  to be nearer, which was a fifth of the time of CRD's loss on a CPU.

  Args:
    bound: broadcasts against ``shape``, int32, at least 1.
    rng: a key.
    shape: of the result.

  Returns:
    ``shape``, int32.

  Examples:
    >>> below(1, jax.random.key(0), (3,)).tolist()
    [0, 0, 0]
  """
  bits = jax.random.bits(rng, shape, jnp.uint32)
  return (bits % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def scores(
  vectors: jax.Array, bank: jax.Array, ids: jax.Array, formulation: Formulation = "auto"
) -> jax.Array:
  """Inner products of each vector with its own choice of rows, in float32.

  ``dense`` multiplies with the whole bank and picks: (batch, n) numbers. ``gather`` fetches the
  rows, of a few examples at a time and again for the gradient, so that (batch, K, dim) never exists.

  Args:
    vectors: (batch, dim).
    bank: (n, dim); no gradient reaches it.
    ids: (batch, K) int32, in range.
    formulation: ``auto`` takes ``dense`` up to n = batch * K.

  Returns:
    (batch, K) float32.

  Examples:
    >>> bank, ids = jnp.arange(8.0).reshape(4, 2), jnp.array([[3, 0]])
    >>> scores(jnp.ones((1, 2)), bank, ids).tolist()
    [[13.0, 1.0]]
  """
  bank = jax.lax.stop_gradient(bank)
  if is_dense(formulation, bank.shape[0], ids.size):
    products = jax.lax.dot_general(vectors, bank, (((1,), (1,)), ((), ())), precision=EXACT)
    return jnp.take_along_axis(products, ids, axis=1, mode="clip")

  @jax.checkpoint
  def of_one(vector_and_ids):
    vector, chosen = vector_and_ids
    return jnp.dot(bank.at[chosen].get(mode="clip"), vector, precision=EXACT)

  together = max(1, min(len(ids), ROWS_AT_ONCE // ids.shape[1]))
  return jax.lax.map(of_one, (vectors, ids), batch_size=together)


def is_dense(formulation: Formulation, rows: int, wanted: int) -> bool:
  """Whether ``wanted`` scores are picked from a product with all of a bank's rows.

  Examples:
    >>> is_dense("auto", 100, 100), is_dense("auto", 101, 100)
    (True, False)
  """
  return formulation == "dense" or (formulation == "auto" and rows <= wanted)


def write_rows(bank: jax.Array, index: jax.Array, rows: jax.Array, keep: jax.Array) -> jax.Array:
  """Replaces rows; where a place occurs twice in the batch, its last row wins on every backend.

  ``keep`` has a second use. XLA may write in place only once nothing reads the old bank any more.
  If ``keep`` depends on the results of all reads, that order is a dependency of the data, and a
  donated bank is never copied.

  Args:
    bank: (n, dim), or (strata, rows, dim), whose strata are counted through.
    index: (batch,) int32; beyond the end nothing is written, but such places must differ.
    rows: (batch, dim).
    keep: () bool, or (batch,), where a place in doubt is kept or dropped in all its occurrences;
      nothing is written where false.

  Returns:
    The bank.

  Examples:
    >>> rows = jnp.array([[1.0], [2.0], [3.0]])
    >>> write_rows(jnp.zeros((3, 1)), jnp.array([2, 0, 2]), rows, jnp.array(True)).ravel().tolist()
    [2.0, 0.0, 3.0]
  """
  place = jnp.arange(index.shape[0], dtype=index.dtype)
  later = place.reshape(1, -1) > place.reshape(-1, 1)
  repeated = jnp.any((index.reshape(-1, 1) == index.reshape(1, -1)) & later, axis=1)
  flat = bank.reshape(-1, bank.shape[-1])
  outside = flat.shape[0] + place  # each its own, so that indices stay unique
  target = jnp.where(keep & ~repeated, index, outside)
  return flat.at[target].set(rows, mode="drop", unique_indices=True).reshape(bank.shape)
