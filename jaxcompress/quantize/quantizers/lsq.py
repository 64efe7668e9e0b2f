"""Learned step sizes: LSQ, and LSQ+ with a learned offset."""

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
from jaxcompress.quantize.quantizers.base import Quantizer, features, named, positive, where_first
from jaxcompress.quantize.quantizers.steps import (
  check_activation_bits,
  range_of_least_error,
  round_to_step,
  step_activations,
  step_weights,
)


def lsq_quantize(
  x: jax.Array,
  step: jax.Array,
  low: jax.Array | int,
  high: jax.Array | int,
  grad_scale: jax.Array | float = 1.0,
) -> jax.Array:
  """Rounds to multiples of a step that is trained: ``y = round(clip(x / s, low, high)) * s``.

  With ``v = x / s``: ``dy/dx`` is 1 for ``low <= v <= high``, edges included, and 0 elsewhere;
  ``dy/ds`` is ``round(v) - v`` there, ``low`` below and ``high`` above, times ``grad_scale``.
  A value within a thousandth of a step of an edge counts as on it.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    step: positive, float32; broadcasts against ``x`` from the same rank or is a scalar.
    low: lowest multiple.
    high: highest multiple.
    grad_scale: factor of the step's gradient, ``1 / sqrt(N * high)`` in the paper, with N weights
      or N features of one activation map that share the step.

  Returns:
    ``x`` on the grid.

  Examples:
    >>> step = jnp.float32(0.5)
    >>> lsq_quantize(jnp.array([-9.0, 0.3, 0.8]), step, -2, 1).tolist()
    [-1.0, 0.5, 0.5]
    >>> round(float(jax.grad(lambda s: lsq_quantize(jnp.float32(0.3), s, -2, 1))(step)), 5)
    0.4

  References:
    Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020,
    equations 1 to 3 and section 2.2.
  """
  return round_to_step(x, step, None, low, high, grad_scale)


def lsq_plus_quantize(
  x: jax.Array,
  step: jax.Array,
  offset: jax.Array,
  low: jax.Array | int,
  high: jax.Array | int,
  grad_scale: jax.Array | float = 1.0,
  *,
  integer_zero: bool = False,
) -> jax.Array:
  """LSQ with a trained offset: ``y = round(clip((x - b) / s, low, high)) * s + b``.

  ``dy/db`` is 0 inside the range and 1 outside; the others are those of :func:`lsq_quantize`.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    step: positive, float32; broadcasts against ``x`` from the same rank or is a scalar.
    offset: float32, shaped like ``step``.
    low: lowest multiple.
    high: highest multiple.
    grad_scale: factor of the step's and the offset's gradient.
    integer_zero: round ``b / s`` to an integer between ``low`` and ``high``, straight through, as
      integer runtimes need: zero is then a level of its own.

  Returns:
    ``x`` on the grid.

  Examples:
    >>> x, step, offset = jnp.array([-1.0, 0.0, 0.3]), jnp.float32(0.5), jnp.float32(-0.4)
    >>> [round(y, 4) for y in lsq_plus_quantize(x, step, offset, 0, 3).tolist()]
    [-0.4, 0.1, 0.1]
    >>> lsq_plus_quantize(x, step, offset, 0, 3, integer_zero=True).tolist()
    [-0.5, 0.0, 0.5]

  References:
    Bhalgat et al., `LSQ+: Improving low-bit quantization through learnable offsets and better
    initialization <https://arxiv.org/abs/2004.09576>`_, 2020, equations 3 to 6.
  """
  return round_to_step(x, step, offset, low, high, grad_scale, integer_zero)


def _lsq_start(x, axes, to):
  return 2.0 * jnp.mean(jnp.abs(x), axes, keepdims=len(axes) < x.ndim) / math.sqrt(to.high)


@named
def lsq(bits: int = 8, *, per_channel: bool = True, narrow: bool = True) -> Quantizer:
  """LSQ for weights: symmetric, with a trained step.

  The step starts at ``2 mean|w| / sqrt(high)`` of the first kernel seen in training, and its
  gradient is scaled by ``1 / sqrt(N * high)``; see :func:`lsq_quantize`.

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
  return step_weights(bits, _lsq_start, per_channel=per_channel, narrow=narrow)


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


def _lsq_plus_start(x, axes, to):
  mean = jnp.mean(x, axes, keepdims=len(axes) < x.ndim)
  deviation = 3.0 * jnp.std(x, axes, keepdims=len(axes) < x.ndim)
  half = to.high + 1  # 2 ** (bits - 1)
  return jnp.maximum(jnp.abs(mean - deviation), jnp.abs(mean + deviation)) / half


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
  return step_weights(bits, _lsq_plus_start, per_channel=per_channel, narrow=narrow)


class LearnedRange(NamedTuple):
  """What LSQ+ trains for activations: distances to the first batch's step and offset.

  Attributes:
    step: float32 scalar.
    offset: float32 scalar.
  """

  step: jax.Array
  offset: jax.Array


@named
def lsq_plus_activations(bits: int = 8, *, least_error: bool = True) -> Quantizer:
  """LSQ+ for activations: a trained step and a trained offset for each tensor.

  The zero point is rounded to an integer, straight through, as integer runtimes need; the formula
  without that is :func:`lsq_plus_quantize`. For fewer than 8 bits see :func:`lsq_activations`.

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
    return round_to_step(x, step, offset, 0, steps, scale, True), state

  def grid(params, state, x=None):
    del x
    step, offset = learned(params, state)
    return step, jnp.clip(jnp.round(-offset * (1.0 / step)), 0, steps) + to.low

  return Quantizer(init, apply, grid, to, merge_ranges, fits="activations")
