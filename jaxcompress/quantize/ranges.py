"""Running ranges of activations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops.sums import extremes


class Range(NamedTuple):
  """A running range.

  Attributes:
    low: smallest value, float32 scalar.
    high: largest value, float32 scalar.
    count: batches seen, int32 scalar.
  """

  low: jax.Array
  high: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


def empty() -> Range:
  """A range that has seen nothing."""
  return Range(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


def minimum_maximum(x: jax.Array, *, nonnegative: bool = False) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value, float32; the smallest of known rectifier outputs is zero.

  Examples:
    >>> low, high = minimum_maximum(jnp.array([-2.0, 3.0]))
    >>> float(low), float(high)
    (-2.0, 3.0)
  """
  low, high = (end.astype(jnp.float32) for end in extremes(x))
  # Zero, but read: XLA would drop an unread end, and the reduction's speed with it.
  return jnp.minimum(low, 0.0) if nonnegative else low, high


def ema(state: Range, low: jax.Array, high: jax.Array, decay: float, *, debias: bool) -> Range:
  """One step of an exponential moving average of a range.

  ``m_t = d m_{t-1} + (1 - d) v_t``, started from the first batch (``m_1 = v_1``), or from zero
  with the bias divided out when read (see :func:`debiased`).

  Args:
    state: the range so far.
    low: the batch's smallest value.
    high: the batch's largest value.
    decay: share ``d`` of the old average that is kept.
    debias: start from zero instead of from the first batch.

  Examples:
    >>> first = ema(empty(), -1.0, 2.0, 0.9, debias=False)
    >>> float(first.low), float(first.high), int(first.count)
    (-1.0, 2.0, 1)

  References:
    Jacob et al., 2018, section 3.1; Kingma & Ba, 2014, section 3, for the bias.
  """
  keep = decay if debias else jnp.where(state.count == 0, 0.0, decay)
  blend = lambda old, new: keep * old + (1 - keep) * new  # noqa: E731
  return Range(blend(state.low, low), blend(state.high, high), state.count + 1)


def debiased(state: Range, decay: float) -> Range:
  """A zero-started average divided by ``1 - d^t``."""
  share = jnp.where(state.count == 0, 1.0, 1.0 - decay**state.count)
  return Range(state.low / share, state.high / share, state.count)


def merge(a: Range, b: Range) -> Range:
  """The range that holds both, for tensors that must share a grid."""
  return Range(
    jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high), jnp.maximum(a.count, b.count)
  )
