"""Quantizers around others: rounding by chance, weights that freeze, bits that fall in training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.arguments import check_type
from jaxcompress.quantize.fake_quant import Levels, replace_value, stored_bits, widened
from jaxcompress.quantize.quantizers.base import Quantizer, check_quantizer, named


def round_stochastically(
  x: jax.Array, scale: jax.Array | float, zero: jax.Array | float, rng: jax.Array, to: Levels
) -> jax.Array:
  """Rounds to a grid up or down, with the probabilities that keep the mean: ``floor(x / s + u)``.

  ``u`` is uniform in [0, 1). Its gradient is no estimator's; :func:`stochastic` gives it one.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    scale: broadcasts against ``x`` from the same rank or is a scalar.
    zero: zero point, shaped like ``scale``.
    rng: of the noise.
    to: the integers.

  Examples:
    >>> from jaxcompress.quantize.fake_quant import levels
    >>> x = jnp.full(10_000, 0.3)
    >>> y = round_stochastically(x, 1.0, 0.0, jax.random.key(0), levels(8, symmetric=True))
    >>> round(float(y.mean()), 1)
    0.3

  References:
    Gupta et al., `Deep Learning with Limited Numerical Precision
    <https://arxiv.org/abs/1502.02551>`_, 2015, section 3.1.
  """
  v = x.astype(jnp.float32) * (1.0 / scale)
  code = jnp.floor(v + jax.random.uniform(rng, x.shape)) + zero
  return ((jnp.minimum(jnp.maximum(code, to.low), to.high) - zero) * scale).astype(x.dtype)


@named
def stochastic(quantizer: Quantizer) -> Quantizer:
  """Rounds stochastically in training, on the grid of another quantizer and with its gradient.

  Without an ``rng``, and outside training, it rounds to nearest.

  Args:
    quantizer: one whose parameters are not trained, such as
      :func:`~jaxcompress.quantize.absmax` or :func:`~jaxcompress.quantize.ema_range`.

  Returns:
    A :class:`Quantizer` with the same parameters, state and grid.

  Raises:
    ValueError: if ``quantizer`` is not a quantizer; at ``init``, if it trains parameters: their gradients
      would be those of another rounding.

  Examples:
    >>> from jaxcompress.quantize.quantizers.uniform import absmax
    >>> w = jnp.append(jnp.full((1000, 1), 0.3), jnp.array([[1.0]]), axis=0)
    >>> quantizer = stochastic(absmax(2))
    >>> y, _ = quantizer.apply((), (), w, train=True, rng=jax.random.key(0))
    >>> sorted(set(y[:, 0].tolist())), round(float(y[:-1].mean()), 1)
    ([0.0, 1.0], 0.3)

  References:
    Gupta et al., 2015.
  """
  check_quantizer("quantizer", quantizer)

  def init(x):
    params, state = quantizer.init(x)
    if jax.tree.leaves(params):
      raise ValueError(
        "quantizer: stochastic rounding needs a grid that is not trained; use absmax or a range."
      )
    return params, state

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    y, state = quantizer.apply(params, state, x, train=train, nonnegative=nonnegative)
    if rng is None or train is False:
      return y, state
    scale, zero = quantizer.grid(params, state, jax.lax.stop_gradient(x))
    noisy = replace_value(y, round_stochastically(x, scale, zero, rng, quantizer.levels))
    return noisy if train is True else jnp.where(train, noisy, y), state

  return quantizer._replace(init=init, apply=apply)


class Oscillation(NamedTuple):
  """The history of every weight's integers.

  Attributes:
    inner: the state of the quantizer that rounds.
    code: the last integer, int8, shaped like the kernel.
    direction: sign of its last change, int8; 0 before the first.
    frequency: moving average of how often it turned back, float32.
    average: moving average of the integers, float32; of a frozen weight, the integer that it keeps.
    frozen: bool.
    count: kernels seen in training, int32 scalar.
  """

  inner: Any
  code: jax.Array
  direction: jax.Array
  frequency: jax.Array
  average: jax.Array
  frozen: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


@named
def freeze_oscillating(
  quantizer: Quantizer,
  *,
  threshold: float | optax.Schedule = 0.03,
  momentum: float = 0.01,
) -> Quantizer:
  """Freezes weights that oscillate: ``f <- m o + (1 - m) f`` above a threshold.

  ``o`` is 1 where the integer changed in the direction opposite to its last change. A weight whose
  ``f`` exceeds the threshold is given the integer at which it was most, ``round`` of the moving
  average, for good: it gets no gradient, while the step by which its integer is multiplied is still
  trained. Below 8 bits, depthwise kernels gain the most.

  Args:
    quantizer: for weights.
    threshold: of the frequency, or a schedule of the kernels seen; the paper lets it fall from 0.04
      to 0.01 along a cosine.
    momentum: ``m``, the share of the newest kernel.

  Returns:
    A :class:`Quantizer` with the parameters of the given one and an :class:`Oscillation` as state.

  Raises:
    ValueError: if a number is out of range, or the quantizer is not for weights.

  Examples:
    >>> from jaxcompress.quantize.quantizers.uniform import absmax
    >>> quantizer = freeze_oscillating(absmax(2), threshold=0.1, momentum=0.2)
    >>> params, state = quantizer.init(jnp.array([[1.0], [0.0]]))
    >>> for i in range(6):
    ...   w = jnp.array([[1.0], [0.49 + 0.02 * (i % 2)]])  # 0, 1, 0, 1, ...
    ...   y, state = quantizer.apply(params, state, w, train=True)
    >>> state.frozen.ravel().tolist()
    [False, True]

  References:
    Nagel et al., `Overcoming Oscillations in Quantization-Aware Training
    <https://arxiv.org/abs/2203.11086>`_, 2022, section 4.3 and algorithm 1.
  """
  check_quantizer("quantizer", quantizer, "weights")
  if not 0 < momentum <= 1:
    raise ValueError(f"momentum: {momentum} is out of range; it must be above 0 and at most 1.")
  if not callable(threshold) and not 0 < threshold < 1:
    raise ValueError(f"threshold: {threshold} is out of range; it must be between 0 and 1.")

  def init(x):
    params, inner = quantizer.init(x)
    zeros = jnp.zeros(x.shape)
    codes = zeros.astype(jnp.int8)
    state = Oscillation(
      inner, codes, codes, zeros, zeros, zeros.astype(bool), jnp.zeros((), jnp.int32)
    )
    return params, state

  def observe(state: Oscillation, code: jax.Array) -> Oscillation:
    """The state after the integers of one more kernel."""
    first = state.count == 0
    change = jnp.where(first, 0.0, jnp.sign(code - state.code))
    turned = change * state.direction < 0
    frequency = momentum * turned + (1 - momentum) * state.frequency
    average = jnp.where(first, code, momentum * code + (1 - momentum) * state.average)
    limit = threshold(state.count) if callable(threshold) else threshold
    freezing = (frequency > limit) & ~state.frozen
    average = jnp.where(freezing, jnp.round(average), average)
    return state._replace(
      code=code.astype(jnp.int8),
      direction=jnp.where(change == 0, state.direction, change).astype(jnp.int8),
      frequency=jnp.where(state.frozen, state.frequency, frequency),
      average=jnp.where(state.frozen, state.average, average),
      frozen=state.frozen | freezing,
      count=state.count + 1,
    )

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del nonnegative
    y, inner = quantizer.apply(params, state.inner, x, train=train, rng=rng)
    scale, _ = quantizer.grid(params, inner, jax.lax.stop_gradient(x))
    kept = (state.average * scale).astype(y.dtype)
    rounded = jnp.where(state.frozen & (x != 0), kept, y)  # pruned weights stay zero
    after = state._replace(inner=inner)
    if train is not False:
      code = jnp.round(jax.lax.stop_gradient(y.astype(jnp.float32) / scale))
      moved = observe(after, code)
      after = jax.tree.map(lambda new, old: jnp.where(train, new, old), moved, after)
    return rounded, after

  def grid(params, state, x):
    return quantizer.grid(params, state.inner, x)

  return quantizer._replace(init=init, apply=apply, grid=grid, fits="weights")


class Progress(NamedTuple):
  """State of a :func:`progressive` quantizer.

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
  check_type("at", at, Sequence, "a tuple of steps, one for each but the first; write (500,)")
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
