"""Trained numbers that begin where the first tensor seen in training puts them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops.parts import part_count, parted

ENOUGH_IMAGES, ENOUGH_ROWS, ENOUGH_VALUES = 8, 2, 2**16  # to measure where a trained number starts


class Learned(NamedTuple):
  """The trained distance to an :class:`Anchor`.

  Attributes:
    delta: zero at first; float32, a scalar or ``(1, ..., 1, out)``.
  """

  delta: jax.Array


class Anchor(NamedTuple):
  """The initial value of a trained number, measured once, on the first tensor seen in training.

  So a quantizer that starts late in training fits the numbers as they then are. The trained number
  itself is ``base + delta``, whose gradient is that of ``delta``.

  Attributes:
    base: float32, shaped like ``delta``.
    signed: whether the tensor has negative values; bool scalar.
    count: tensors seen in training, int32 scalar.
  """

  base: jax.Array
  signed: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


def new_anchor(base: jax.Array) -> Anchor:
  """An anchor that has seen nothing."""
  return Anchor(jnp.asarray(base, jnp.float32), jnp.ones((), bool), jnp.zeros((), jnp.int32))


def where_train(train: bool | jax.Array, new: Callable[[Any], Any], state: Any) -> Any:
  """``new(state)`` where ``train``, else ``state``; the branch not taken is not computed.

  Examples:
    >>> int(where_train(jnp.bool_(True), lambda n: n + 1, jnp.int32(1)))
    2
  """
  if isinstance(train, bool):
    return new(state) if train else state
  return jax.lax.cond(train, new, lambda state: state, state)


def where_first(state: Any, train: bool | jax.Array, first: Callable[[Any], Any]) -> Any:
  """``first(state)`` at the first tensor in training; the count goes up at every one.

  Args:
    state: a NamedTuple with a ``count``.
    train: bool or scalar bool array.
    first: gives the state with what it measured.
  """
  if train is False:
    return state
  state = jax.lax.cond((state.count == 0) & train, first, lambda state: state, state)
  return state._replace(count=state.count + jnp.asarray(train, jnp.int32))


def anchored(
  state: Anchor,
  train: bool | jax.Array,
  measure: Callable[[], jax.Array],
  signed: Callable[[], jax.Array] | None = None,
) -> Anchor:
  """The anchor after a tensor: measured where it is the first one in training, else only counted.

  Args:
    state: the anchor so far.
    train: bool or scalar bool array.
    measure: gives the base from the tensor.
    signed: tells whether the tensor has negative values; None: it may.
  """

  def first(state):
    seen = jnp.ones((), bool) if signed is None else signed()
    return state._replace(base=jax.lax.stop_gradient(measure()), signed=seen)

  return where_first(state, train, first)


def sample(x: jax.Array) -> jax.Array:
  """Some examples of a batch, and some rows of them: all of a small one, enough of a large one.

  What is measured once must not make every step keep the whole tensor in memory for it, nor have devices
  exchange examples: each takes some of its own. They are those of one device where all are powers of two,
  and devices no more than examples that are taken.

  Examples:
    >>> sample(jnp.zeros((64, 32, 32, 96))).shape, sample(jnp.zeros((64, 10))).shape
    ((8, 3, 32, 96), (64, 10))
  """
  if x.ndim == 0:
    return x
  stride = max(1, min(x.shape[0] // ENOUGH_IMAGES, x.size // ENOUGH_VALUES))
  stride = 2 ** (stride.bit_length() - 1)
  count = part_count(x)
  seen = x[::stride] if count == 1 else parted(x, count)[:, ::stride].reshape(-1, *x.shape[1:])
  if x.ndim < 4:
    return seen
  return seen[:, :: max(1, min(x.shape[1] // ENOUGH_ROWS, seen.size // ENOUGH_VALUES))]


def has_negative(x: jax.Array, nonnegative: bool) -> Callable[[], jax.Array]:
  """Whether ``x`` has negative values, to be asked once; see :func:`anchored`."""
  return lambda: jnp.zeros((), bool) if nonnegative else jnp.min(x) < 0
