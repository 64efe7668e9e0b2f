"""Learned steps: LSQ, LSQ+ with a learned offset, and EWGS, whose gradient knows the rounding."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import (
  empty_range,
  finite,
  levels,
  merge_ranges,
  minimum_maximum,
)
from jaxcompress.quantize.quantizers.anchors import where_first
from jaxcompress.quantize.quantizers.base import (
  Quantizer,
  check_activation_bits,
  features,
  named,
  positive,
)
from jaxcompress.quantize.quantizers.steps import (
  range_of_least_error,
  round_to_step,
  step_activations,
  step_weights,
)


@named
def lsq(bits: int = 8, *, per_channel: bool = True, narrow: bool = True) -> Quantizer:
  """LSQ for weights: symmetric, with a trained step.

  The step starts at ``2 mean|w| / sqrt(high)`` of the first kernel seen in training, and its
  gradient is scaled by ``1 / sqrt(N * high)``; see
  :func:`~jaxcompress.quantize.quantizers.steps.round_to_step`.

  Args:
    bits: 2 to 8.
    per_channel: one step for each output channel; the paper has one for each layer.
    narrow: leave out the most negative level, so that a channel can change its sign when BatchNorm
      is folded. The paper keeps it; at 2 bits that is 4 levels instead of 3.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range, or 8 without ``narrow``.

  Examples:
    >>> quantizer = lsq(2)
    >>> w = jnp.array([[0.5], [-1.5]])
    >>> params, state = quantizer.init(w)
    >>> quantizer.apply(params, state, w, train=True)[0].tolist()  # the step is 2
    [[0.0], [-2.0]]

  References:
    Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020.
  """

  def measure(x, high, **over):
    return 2.0 * jnp.mean(jnp.abs(x), **over) / math.sqrt(high)

  return step_weights(bits, measure, per_channel=per_channel, narrow=narrow)


@named
def lsq_activations(bits: int = 8) -> Quantizer:
  """LSQ for activations: one trained step for each tensor.

  A tensor without negative values in the first batch uses all levels from zero up. The codes are
  int8 whatever ``bits`` is: with fewer than 8, a runtime that only knows int8 keeps to the coarse
  steps but saturates at the ends of int8, unless the file says otherwise. With more than 8 they are
  int16, around zero.

  Args:
    bits: 2 to 16.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> quantizer = lsq_activations(2)
    >>> x = jnp.array([[0.0, 1.0, 2.0, 9.0]])
    >>> y, state = quantizer.apply(*quantizer.init(x), x, train=True, nonnegative=True)
    >>> round(float(state.base), 4), [round(value, 4) for value in y[0].tolist()]
    (3.4641, [0.0, 0.0, 3.4641, 10.3923])

  References:
    Esser et al., 2020.
  """

  def measure(x, high):
    return 2.0 * jnp.mean(jnp.abs(x)) * jax.lax.rsqrt(high)

  return step_activations(bits, measure, most=16)


@named
def lsq_plus(bits: int = 8, *, per_channel: bool = True, narrow: bool = True) -> Quantizer:
  """LSQ+ for weights: LSQ that starts at ``max(|m - 3d|, |m + 3d|) / 2^(bits - 1)``.

  ``m`` and ``d`` are the mean and standard deviation of the weights that share a step.

  Args:
    bits: 2 to 8.
    per_channel: one step for each output channel; the paper has one for each layer.
    narrow: leave out the most negative level; see :func:`lsq`.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range, or 8 without ``narrow``.

  Examples:
    >>> _, state = lsq_plus(4).init(jnp.array([[-1.0], [1.0]]))
    >>> float(state.base[0, 0])
    0.375

  References:
    Bhalgat et al., `LSQ+: Improving low-bit quantization through learnable offsets and better
    initialization <https://arxiv.org/abs/2004.09576>`_, 2020, section 3.3.
  """

  def measure(x, high, **over):
    mean, deviation = jnp.mean(x, **over), 3.0 * jnp.std(x, **over)
    half = high + 1  # 2 ** (bits - 1)
    return jnp.maximum(jnp.abs(mean - deviation), jnp.abs(mean + deviation)) / half

  return step_weights(bits, measure, per_channel=per_channel, narrow=narrow)


class LearnedRange(NamedTuple):
  """The distances to the first batch's step and offset that LSQ+ trains for activations.

  Attributes:
    step: float32 scalar.
    offset: float32 scalar.
  """

  step: jax.Array
  offset: jax.Array


@named
def lsq_plus_activations(bits: int = 8, *, least_error: bool = True) -> Quantizer:
  """LSQ+ for activations: a trained step and a trained offset for each tensor.

  The zero point is rounded to an integer, straight through, as integer runtimes need. For fewer than
  8 bits see :func:`lsq_activations`.

  Args:
    bits: 2 to 8.
    least_error: start from the share of the first batch's range with the least squared error, as
      the paper does, instead of from all of it.

  Returns:
    A :class:`Quantizer` that trains a :class:`LearnedRange`; its state is the first batch's
    :class:`~jaxcompress.quantize.fake_quant.Range`.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> quantizer = lsq_plus_activations(2, least_error=False)
    >>> x = jnp.array([[-0.9, 0.1, 2.1]])
    >>> y, _ = quantizer.apply(*quantizer.init(x), x, train=True)
    >>> y.tolist()
    [[-1.0, 0.0, 2.0]]

  References:
    Bhalgat et al., 2020, sections 3.2 and 3.3.
  """
  check_activation_bits(bits)
  to = levels(bits, symmetric=False)
  steps = to.high - to.low

  def init(x):
    del x
    return LearnedRange(jnp.zeros(()), jnp.zeros(())), empty_range()

  def learned(params, state):
    step = positive(finite((state.high - state.low) / steps) + params.step)
    return step, state.low + params.offset

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del rng

    def first(state):
      values = jax.lax.stop_gradient(x).astype(jnp.float32)
      if least_error:
        low, high = range_of_least_error(values, to)
      else:
        low, high = minimum_maximum(values, nonnegative=nonnegative)
      return state._replace(low=jnp.minimum(low, 0.0), high=jnp.maximum(high, 0.0))

    state = where_first(state, train, first)
    step, offset = learned(params, state)
    scale = 1.0 / math.sqrt(features(x) * steps)
    y = round_to_step(x, step, 0, steps, scale, offset=offset, integer_zero=True)
    return y, state

  def grid(params, state, x=None):
    del x
    step, offset = learned(params, state)
    return step, jnp.clip(jnp.round(-offset * (1.0 / step)), 0, steps) + to.low

  return Quantizer(init, apply, grid, to, merge_ranges, fits="activations")


@named
def ewgs(
  bits: int = 8, *, factor: float = 1e-3, per_channel: bool = True, narrow: bool = True
) -> Quantizer:
  """EWGS for weights: a trained symmetric range, which starts at three root mean squares.

  Args:
    bits: 2 to 8.
    factor: the scaling factor, fixed. (The paper also derives one from the Hessian's trace.)
    per_channel: one range for each output channel; the paper has one for each layer.
    narrow: leave out the most negative level.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range, 8 without ``narrow``, or ``factor`` is negative.

  Examples:
    >>> quantizer = ewgs(2)
    >>> w = jnp.array([[1.0], [-1.0]])
    >>> _, state = quantizer.apply(*quantizer.init(w), w, train=True)
    >>> float(state.base[0, 0])
    3.0

  References:
    Lee et al., `Network Quantization with Element-wise Gradient Scaling
    <https://arxiv.org/abs/2104.00903>`_, 2021.
  """
  _check(factor)
  return step_weights(
    bits, _ewgs_start, per_channel=per_channel, narrow=narrow, factor=float(factor)
  )


@named
def ewgs_activations(bits: int = 8, *, factor: float = 1e-3) -> Quantizer:
  """EWGS for activations: a trained range, which starts at three root mean squares.

  A tensor without negative values in the first batch uses all levels from zero up. For fewer than
  8 bits see :func:`lsq_activations`.

  Args:
    bits: 2 to 8.
    factor: the scaling factor, fixed.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range or ``factor`` is negative.

  Examples:
    >>> quantizer = ewgs_activations(2)
    >>> x = jnp.array([[1.0, 1.0]])
    >>> quantizer.apply(*quantizer.init(x), x, train=True)[0].tolist()
    [[1.0, 1.0]]

  References:
    Lee et al., 2021.
  """
  _check(factor)
  return step_activations(bits, _ewgs_start, factor=float(factor))


def _ewgs_start(x, high, **over):
  return 3.0 * jnp.sqrt(jnp.mean(jnp.square(x), **over)) / high


def _check(factor):
  if factor < 0:
    raise ValueError(f"factor: {factor} must not be negative; 0 is the straight-through estimator.")
