"""Several sums, or the smallest and the largest value, in one pass over memory.

XLA on CPU gives every reduction a loop of its own and materializes what they share. One variadic
``lax.reduce`` over short blocks keeps all running sums of a block in registers; the sums of the
blocks that remain are small. (Beyond 32 the loop over a block is not unrolled, which is slower.)
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

LONGEST_BLOCK = 16
LONGEST_BLOCK_OF_MANY = 6  # a long loop with three sums is not unrolled, nor made of vectors


def reduce_together(arrays: Sequence[jax.Array], axis: int) -> tuple[jax.Array, ...]:
  """Sums of arrays of one shape and dtype over one axis, by a single ``lax.reduce``.

  Examples:
    >>> a, b = reduce_together((jnp.ones((2, 3)), jnp.full((2, 3), 2.0)), 1)
    >>> a.tolist(), b.tolist()
    ([3.0, 3.0], [6.0, 6.0])
  """
  zero = jnp.zeros((), arrays[0].dtype)
  return tuple(lax.reduce(tuple(arrays), (zero,) * len(arrays), _add, (axis,)))


def _add(a, b):
  return tuple(p + q for p, q in zip(a, b, strict=True))


def blocks_of(x: jax.Array, longest: int = LONGEST_BLOCK) -> tuple[int, ...] | None:
  """The shape (batch, blocks, block, channels) in which blocks are reduced; None: none fit.

  Blocks lie within an image, so a sharded batch stays in place.
  """
  inner = math.prod(x.shape[1:-1])
  block = max(n for n in range(1, longest + 1) if inner % n == 0)
  return None if block == 1 else (x.shape[0], inner // block, block, x.shape[-1])


def sums_together(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """:func:`sums_apart` in one pass.

  Args:
    *arrays: (batch, ..., channels), of one shape and dtype.

  Returns:
    As many arrays of shape (channels,).

  Examples:
    >>> [sums.tolist() for sums in sums_together(jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1)))]
    [[6.0], [0.0]]
  """
  shape = blocks_of(arrays[0], LONGEST_BLOCK if len(arrays) < 3 else LONGEST_BLOCK_OF_MANY)
  if shape is None:
    return sums_apart(*arrays)
  sums = reduce_together([x.reshape(shape) for x in arrays], 2)
  return tuple(jnp.sum(part, axis=(0, 1)) for part in sums)


def sums_apart(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Sums of arrays over all axes but the last, which XLA on GPU and TPU fuses by itself."""
  return tuple(jnp.sum(x, tuple(range(x.ndim - 1))) for x in arrays)


def total_together(x: jax.Array) -> jax.Array:
  """:func:`total_apart` in one pass, which takes in what makes ``x``.

  A lone sum XLA on CPU takes apart from what it sums; two halves of it, in one reduction, it does
  not.

  Examples:
    >>> float(total_together(jnp.ones((2, 4, 4, 3))))
    96.0
  """
  inner = math.prod(x.shape[1:-1])
  halves = [n for n in range(2, LONGEST_BLOCK + 1, 2) if inner % n == 0]
  if not halves or x.ndim < 2:
    return total_apart(x)
  half = max(halves) // 2
  blocks = x.reshape(x.shape[0], -1, 2, half, x.shape[-1])
  first, second = reduce_together((blocks[:, :, 0], blocks[:, :, 1]), 2)
  return jnp.sum(jnp.sum(first + second, axis=(0, 1)))


def total_apart(x: jax.Array) -> jax.Array:
  """The sum of all numbers; channels stay apart first, so that short sums are exact."""
  return jnp.sum(jnp.sum(x, tuple(range(x.ndim - 1)))) if x.ndim else x


def extremes_together(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """:func:`extremes_apart` in one pass, which takes in what makes ``x``.

  Examples:
    >>> low, high = extremes_together(jnp.arange(8.0).reshape(1, 4, 2))
    >>> float(low), float(high)
    (0.0, 7.0)
  """
  shape = blocks_of(x) if x.ndim > 1 else None
  if shape is None:
    return extremes_apart(x)
  blocks = x.reshape(shape)
  ends = tuple(jnp.full((), end, x.dtype) for end in (jnp.inf, -jnp.inf))
  low, high = lax.reduce((blocks, blocks), ends, _extend, (2,))
  return jnp.min(low), jnp.max(high)


def _extend(a, b):
  return lax.min(a[0], b[0]), lax.max(a[1], b[1])


def extremes_apart(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value."""
  return jnp.min(x), jnp.max(x)
