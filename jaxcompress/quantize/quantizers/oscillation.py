"""Weights that flip between two integers are frozen at the one where they mostly are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.quantize.quantizers.base import Quantizer, check_quantizer, named

THRESHOLD = 0.03
MOMENTUM = 0.01


class Oscillation(NamedTuple):
  """What is known of every weight's integers.

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
  threshold: float | optax.Schedule = THRESHOLD,
  momentum: float = MOMENTUM,
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
