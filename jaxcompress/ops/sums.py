"""Sums over batch and space for statistics of channels, and the ends of a tensor's range."""

import jax

from jaxcompress.ops.dispatch import pick


def channel_sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums of two arrays over all axes but the last; on CPU in one pass over both.

  Args:
    a: (batch, ..., channels), float32 or wider.
    b: of the same shape and dtype; usually an expression of the arrays that make up ``a``.

  Returns:
    ``(sum of a, sum of b)``, (channels,) each.

  Raises:
    ValueError: if shapes or dtypes differ.

  Examples:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> first, second = channel_sums(x, x**2)
    >>> first.tolist(), second.tolist()
    ([4.0, 6.0], [10.0, 20.0])
  """
  if (a.shape, a.dtype) != (b.shape, b.dtype):
    raise ValueError(f"b: {b.dtype}{list(b.shape)} must be like a, {a.dtype}{list(a.shape)}.")
  return pick("sums")(a, b)


def extremes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value; on CPU in one pass, and without keeping ``x`` for it.

  Args:
    x: any shape but empty, any float dtype.

  Returns:
    ``(low, high)``, scalars of its dtype; NaN if a value is.

  Examples:
    >>> import jax.numpy as jnp
    >>> low, high = extremes(jnp.array([[-2.0, 3.0], [0.5, 0.0]]))
    >>> float(low), float(high)
    (-2.0, 3.0)
  """
  return pick("extremes")(x)


def total(x: jax.Array) -> jax.Array:
  """The sum of all numbers; on CPU in one pass, and without keeping ``x`` for it.

  Args:
    x: (batch, ..., channels), float32 or wider.

  Returns:
    A scalar.

  Examples:
    >>> import jax.numpy as jnp
    >>> float(total(jnp.ones((2, 3))))
    6.0
  """
  return pick("total")(x)
