"""Sums over the batch a few images at a time, so that what is unfolded stays in the cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def images_per_group(batch: int, wanted: int) -> int:
  """The largest divisor of the batch up to ``wanted``, at least two; the whole batch if none is.

  Examples:
    >>> images_per_group(32, 5), images_per_group(32, 1), images_per_group(7, 4)
    (4, 2, 7)
  """
  sizes = range(2, max(wanted, 2) + 1)
  return max((n for n in sizes if batch % n == 0), default=batch)


def sum_over_groups(
  term: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, g: jax.Array, wanted: int
) -> jax.Array:
  """Sum of ``term(x[group], g[group])`` over groups of about ``wanted`` images, by ``lax.scan``.

  Args:
    term: a function of (n, ...) and (n, ...) that is additive over images; float32 or wider.
    x: (batch, ...).
    g: (batch, ...).
    wanted: images per group.

  Examples:
    >>> x = jnp.arange(8.0)
    >>> sum_over_groups(lambda a, b: jnp.sum(a * b), x, x, 2).item()
    140.0
  """
  batch = x.shape[0]
  size = images_per_group(batch, wanted)
  if size >= batch:
    return term(x, g)
  groups = [a.reshape(batch // size, size, *a.shape[1:]) for a in (x, g)]
  shape = jax.eval_shape(term, groups[0][0], groups[1][0])
  start = jnp.zeros(shape.shape, shape.dtype)
  return lax.scan(lambda total, group: (total + term(*group), None), start, tuple(groups))[0]
