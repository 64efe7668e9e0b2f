"""Several sums, or the smallest and the largest value, in one pass over memory.

XLA on CPU gives every reduction a loop of its own and materializes what they share. One variadic
``lax.reduce`` over short blocks keeps all running sums of a block in registers; the sums of the
blocks that remain are small. (Beyond 32 the loop over a block is not unrolled, which is slower.)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LONGEST_BLOCK = 16
FEW = 4096  # numbers that it costs nothing to write once more
LONGEST_BLOCK_OF_MANY = 8  # a long loop with much arithmetic is not unrolled, nor made of vectors


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
  """:func:`sums_apart` in one pass, which takes in what makes the arrays.

  A lone sum XLA on CPU takes apart from what it sums; two halves of it, in one reduction, it does
  not.

  Args:
    *arrays: (batch, ..., channels), of one shape and dtype.

  Returns:
    As many arrays of shape (channels,).

  Examples:
    >>> [sums.tolist() for sums in sums_together(jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1)))]
    [[6.0], [0.0]]
  """
  shape = blocks_of(arrays[0])
  if shape is None:
    return sums_apart(*arrays)
  blocks = [x.reshape(shape) for x in arrays]
  if len(blocks) == 1 and shape[2] % 2 == 0:
    first, second = reduce_together(_halves(blocks[0]), 2)
    return (jnp.sum(first + second, axis=(0, 1)),)
  return tuple(jnp.sum(part, axis=(0, 1)) for part in reduce_together(blocks, 2))


def _halves(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
  half = blocks.shape[2] // 2
  return blocks[:, :, :half], blocks[:, :, half:]


def sums_apart(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Sums of arrays over all axes but the last, which XLA on GPU and TPU fuses by itself."""
  return tuple(jnp.sum(x, tuple(range(x.ndim - 1))) for x in arrays)


def sums_of_blocks(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
  """:func:`sums_of_whole` in one pass, with ``function`` applied to blocks.

  What it computes is then computed in the loop of the sums, even where the same expression of the
  whole arrays is needed elsewhere, which would be written to memory for both. Two halves of a block
  are added before, so that the loop over what remains is short.

  Examples:
    >>> [a.tolist() for a in sums_of_blocks(lambda x: (x, x + 1), jnp.ones((2, 4, 1)))]
    [[8.0], [16.0]]
  """
  shape = blocks_of(arrays[0], LONGEST_BLOCK_OF_MANY)
  if shape is None:
    return sums_of_whole(function, *arrays)
  blocks = [x.reshape(shape) for x in arrays]
  if shape[2] % 2:
    terms = function(*blocks)
  else:
    first, second = zip(*map(_halves, blocks), strict=True)
    terms = _add(function(*first), function(*second))
  return tuple(jnp.sum(part, axis=(0, 1)) for part in reduce_together(terms, 2))


def sums_of_whole(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
  """:func:`sums_apart` of the arrays that an elementwise function makes."""
  return sums_apart(*function(*arrays))


def moments_together(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, ...]:
  """:func:`moments_apart` in one pass.

  Examples:
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> [a.item() for a in moments_together(x, jnp.ones(1))]
    [2.0, 6.0, 0.0, 3.0]
  """
  shape = blocks_of(x)
  if shape is None:
    return moments_apart(x, shift)
  blocks = x.reshape(shape)
  centred = blocks - shift.reshape(1, 1, 1, -1)
  starts = tuple(jnp.full((), start, x.dtype) for start in (0.0, 0.0, jnp.inf, -jnp.inf))
  operands = (centred, jnp.square(centred), blocks, blocks)
  first, second, low, high = lax.reduce(operands, starts, _add_and_extend, (2,))
  return (
    jnp.sum(first, axis=(0, 1)),
    jnp.sum(second, axis=(0, 1)),
    jnp.min(low, axis=(0, 1)),
    jnp.max(high, axis=(0, 1)),
  )


def _add_and_extend(a, b):
  return (*_add(a[:2], b[:2]), *_extend(a[2:], b[2:]))


def moments_apart(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, ...]:
  """Returns for each channel the sums of ``x - shift`` and of its square, the least and the largest ``x``."""
  axes = tuple(range(x.ndim - 1))
  centred = x - shift.reshape((1,) * (x.ndim - 1) + (-1,))
  return (*sums_apart(centred, jnp.square(centred)), jnp.min(x, axes), jnp.max(x, axes))


def extremes_together(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """:func:`extremes_apart` in one pass, which takes in what makes ``x``.

  Examples:
    >>> low, high = extremes_together(jnp.arange(8.0).reshape(1, 4, 2))
    >>> float(low), float(high)
    (0.0, 7.0)
  """
  shape = blocks_of(x) if x.ndim > 1 else None
  if shape is not None:
    ends = tuple(jnp.full((), end, x.dtype) for end in (jnp.inf, -jnp.inf))
    blocks = x.reshape(shape)
    low, high = lax.reduce((blocks, blocks), ends, _extend, (2,))
    both = jnp.stack((-low.ravel(), high.ravel()))
  elif x.size <= FEW:
    both = x.reshape(1, -1) * np.array([[-1], [1]], x.dtype)
  else:
    return extremes_apart(x)
  most = jnp.max(both, 1)  # one program instead of two
  return -most[0], most[1]


def _extend(a, b):
  return lax.min(a[0], b[0]), lax.max(a[1], b[1])


def extremes_apart(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value."""
  return jnp.min(x), jnp.max(x)


class Reductions(NamedTuple):
  """Functions of one formulation; see :mod:`jaxcompress.ops.sums` for what they compute."""

  sums: Callable[..., tuple[jax.Array, ...]]
  sums_of: Callable[..., tuple[jax.Array, ...]]
  moments: Callable[..., tuple[jax.Array, ...]]
  extremes: Callable[..., tuple[jax.Array, jax.Array]]


APART = Reductions(sums_apart, sums_of_whole, moments_apart, extremes_apart)
TOGETHER = Reductions(sums_together, sums_of_blocks, moments_together, extremes_together)
