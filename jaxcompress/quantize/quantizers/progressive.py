"""Quantizers that follow each other, so that bits fall while training goes on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.fake_quant import Levels, stored_bits, widened
from jaxcompress.quantize.quantizers.base import Quantizer, check_quantizer, named


class Progress(NamedTuple):
  """Where a :func:`progressive` quantizer is.

  Attributes:
    states: of each of its quantizers; those whose time has not come are fresh.
    count: tensors seen in training, int32 scalar.
  """

  states: tuple[Any, ...]
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


@named
def progressive(*quantizers: Quantizer, at: tuple[int, ...]) -> Quantizer:
  """One quantizer after the other, such as 8 bits and then 4, without another compilation.

  Each starts from the numbers as they are when its time comes: trained steps and moving ranges are
  measured then. With ``start_step`` in the plan this is the usual schedule, float, 8 bits, 4 bits.

  Args:
    *quantizers: in order; all for weights, or all for activations.
    at: for each but the first, the quantized steps after which it takes over; increasing.

  Returns:
    A :class:`Quantizer` whose parameters are a tuple of the others', and whose state is a
    :class:`Progress`.

  Raises:
    ValueError: if the numbers of quantizers and of steps do not fit, steps do not increase, some of
      the quantizers have more than 8 bits and others not, or are for weights and others not.

  Examples:
    >>> from jaxcompress.quantize.quantizers.uniform import absmax
    >>> quantizer, w = progressive(absmax(8), absmax(2), at=(1,)), jnp.array([[1.0], [0.4]])
    >>> params, state = quantizer.init(w)
    >>> for _ in range(2):
    ...   y, state = quantizer.apply(params, state, w, train=True)
    ...   print([round(value, 3) for value in y.ravel().tolist()])
    [1.0, 0.402]
    [1.0, 0.0]

  References:
    Zhuang et al., `Towards Effective Low-bitwidth Convolutional Neural Networks
    <https://arxiv.org/abs/1711.00205>`_, 2018, section 3.3.
  """
  for i, quantizer in enumerate(quantizers):
    check_quantizer(f"quantizers[{i}]", quantizer)
  if len(quantizers) != len(at) + 1:
    raise ValueError(
      f"at: {at} has {len(at)} steps for {len(quantizers)} quantizers; give one for each but the"
      " first."
    )
  if any(later <= earlier for earlier, later in zip((0, *at), at, strict=False)):
    raise ValueError(f"at: {at} must be positive and increasing.")
  if len({stored_bits(q.levels) for q in quantizers}) > 1:
    raise ValueError(
      "quantizers: some have at most 8 bits and others more, which files hold in integers of two"
      " types; give all at most 8 bits, or all more."
    )
  kinds = {q.fits for q in quantizers} - {"both"}
  if len(kinds) > 1:
    raise ValueError(
      "quantizers must be all for weights or all for activations, got some of each; make one for"
      " each kind."
    )
  edges = np.asarray(at, np.int32)
  whole = (q.levels for q in quantizers)
  lows, highs, symmetric = zip(*whole, strict=True)

  def switch(count: jax.Array, branches: list[Callable[..., Any]], *operands: Any) -> Any:
    return jax.lax.switch(jnp.sum(count >= edges), branches, *operands)

  def last(state: Progress) -> jax.Array:
    return jnp.maximum(state.count - 1, 0)

  def init(x):
    pairs = [q.init(x) for q in quantizers]
    params, states = zip(*pairs, strict=True)
    return params, Progress(states, jnp.zeros((), jnp.int32))

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    def run(i):
      def branch(params, states, x):
        options = {"train": train, "nonnegative": nonnegative, "rng": rng}
        y, after = quantizers[i].apply(params[i], states[i], x, **options)
        return y, (*states[:i], after, *states[i + 1 :])

      return branch

    training = jnp.asarray(train)
    seen = jnp.where(training, state.count, last(state))
    branches = [run(i) for i in range(len(quantizers))]
    y, states = switch(seen, branches, params, state.states, x)
    return y, Progress(states, state.count + training.astype(jnp.int32))

  def grid(params, state, x=None):
    def of(i):
      def branch(params, states):
        found = quantizers[i].grid(params[i], states[i], x)
        return found if x is not None else widened(*found, quantizers[i].levels, to)

      return branch

    branches = [of(i) for i in range(len(quantizers))]
    return switch(last(state), branches, params, state.states)

  def merge(a, b):
    states = (q.merge(*pair) for q, *pair in zip(quantizers, a.states, b.states, strict=True))
    return Progress(tuple(states), jnp.maximum(a.count, b.count))

  to = Levels(min(lows), max(highs), all(symmetric))
  return Quantizer(init, apply, grid, to, merge, quantizers[-1].training_only, *kinds)
