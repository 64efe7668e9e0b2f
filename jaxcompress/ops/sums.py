"""Sums over batch and space for statistics of channels, and the ends of a tensor's range."""

from collections.abc import Callable

import jax

from jaxcompress.ops.dispatch import pick


def channel_sums(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Sums of arrays over all axes but the last; on CPU in one pass over all of them.

  Args:
    *arrays: (batch, ..., channels), float32 or wider, of one shape and dtype; usually expressions
      of the same arrays.

  Returns:
    Their sums, (channels,) each.

  Raises:
    ValueError: if shapes or dtypes differ.

  Examples:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> first, second = channel_sums(x, x**2)
    >>> first.tolist(), second.tolist()
    ([4.0, 6.0], [10.0, 20.0])
  """
  first = arrays[0]
  for other in arrays[1:]:
    if (other.shape, other.dtype) != (first.shape, first.dtype):
      raise ValueError(
        f"arrays: {other.dtype}{list(other.shape)} must be like the first,"
        f" {first.dtype}{list(first.shape)}."
      )
  return pick("reductions").sums(*arrays)


def sums_of(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
  """:func:`channel_sums` of the arrays that a function makes of others; on CPU in one pass.

  Nothing that the function computes is kept in memory for it.

  Args:
    function: elementwise, of arrays of any rank with the channels last; it returns a tuple of
      arrays of their shape, float32 or wider.
    *arrays: (batch, ..., channels), of one shape.

  Returns:
    The sums of what the function returns, (channels,) each.

  Examples:
    >>> import jax.numpy as jnp
    >>> (sums,) = sums_of(lambda x, y: (x * y,), jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]]))
    >>> sums.tolist()
    [11.0]
  """
  return pick("reductions").sums_of(function, *arrays)


def channel_moments(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, ...]:
  """Sums of ``x - shift`` and of its square, and the ends of each channel; on CPU in one pass.

  Args:
    x: (batch, ..., channels), float32 or wider.
    shift: (channels,), of the same dtype.

  Returns:
    ``(first, second, low, high)``, (channels,) each.

  Examples:
    >>> import jax.numpy as jnp
    >>> [a.item() for a in channel_moments(jnp.array([[1.0], [4.0]]), jnp.array([2.0]))]
    [1.0, 5.0, 1.0, 4.0]
  """
  return pick("reductions").moments(x, shift)


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
  return pick("reductions").extremes(x)


def total(x: jax.Array) -> jax.Array:
  """The sum of all numbers; on CPU in one pass, and without keeping ``x`` for it.

  Channels stay apart first, so that short sums are exact.

  Args:
    x: (batch, ..., channels) or a scalar, float32 or wider.

  Returns:
    A scalar.

  Examples:
    >>> import jax.numpy as jnp
    >>> float(total(jnp.ones((2, 3))))
    6.0
  """
  return channel_sums(x)[0].sum() if x.ndim else x
