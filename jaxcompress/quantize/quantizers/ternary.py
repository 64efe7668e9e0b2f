"""Three levels: TWN, and TTQ with trained levels."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import Levels, finite
from jaxcompress.quantize.quantizers.anchors import where_first
from jaxcompress.quantize.quantizers.base import (
  INT8,
  Quantizer,
  axes_within,
  check_choice,
  named,
  positive,
  round_through,
  spread,
  stateless,
)

GRADIENTS = ("chain", "paper")


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def twn_weights(w: jax.Array, per_channel: bool = True) -> jax.Array:
  """Ternary weights: ``y = a sign(w)`` where ``|w| > 0.7 mean|w|``, else 0, with gradient 1.

  ``a`` is the mean of ``|w|`` over the weights that are not set to zero.

  Args:
    w: a kernel, output channels last, float32 or bfloat16; the result has the same dtype.
    per_channel: one threshold and scale for each output channel, or one for the kernel, as in the
      paper.

  Examples:
    >>> twn_weights(jnp.array([[0.1], [-1.0], [2.0]])).tolist()
    [[0.0], [-1.5], [1.5]]

  References:
    Li et al., `Ternary Weight Networks <https://arxiv.org/abs/1605.04711>`_, 2016, equations 5
    and 6.
  """
  beyond, scale = _twn(w, per_channel)
  return jnp.where(beyond, jnp.sign(w) * scale, 0.0).astype(w.dtype)


@twn_weights.defjvp
def _twn_jvp(per_channel, primals, tangents):
  return twn_weights(primals[0], per_channel), tangents[0]


def _twn(w, per_channel):
  axes = axes_within(w, per_channel)
  size = jnp.abs(w.astype(jnp.float32))
  beyond = size > 0.7 * jnp.mean(size, axes, keepdims=per_channel)
  return beyond, _mean_where(beyond, size, axes, per_channel)


def _mean_where(mask, size, axes=None, keepdims=False):
  count = jnp.maximum(jnp.sum(mask, axes, keepdims=keepdims), 1)
  return jnp.sum(jnp.where(mask, size, 0.0), axes, keepdims=keepdims) / count


@named
def twn(*, per_channel: bool = True) -> Quantizer:
  """Ternary weight networks; see :func:`twn_weights`.

  Args:
    per_channel: one threshold and scale for each output channel; the paper has one for each layer.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Examples:
    >>> twn().apply((), (), jnp.array([[0.1], [-1.0], [2.0]]), train=True)[0].tolist()
    [[0.0], [-1.5], [1.5]]

  References:
    Li et al., 2016.
  """
  return stateless(
    Levels(-1, 1, True),
    "weights",
    lambda _, w: twn_weights(w, per_channel),
    lambda w: spread(_twn(w, per_channel)[1], w),
  )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def ttq_weights(
  w: jax.Array,
  above: jax.Array,
  below: jax.Array,
  threshold: float = 0.05,
  gradient: str = "chain",
) -> jax.Array:
  """Trained ternary: ``y = Wp`` where ``w > D``, ``-Wn`` where ``w < -D``, else 0.

  ``D = t max|w|``. ``dL/dw`` is ``Wp g``, ``Wn g`` and ``g``; ``dL/dWp`` is the sum of ``g`` above
  ``D``; ``dL/dWn`` is minus the sum of ``g`` below ``-D``, by the chain rule. The paper prints that
  without the minus, as for a negative level that is added.

  Args:
    w: any shape, float32 or bfloat16; the result has the same dtype.
    above: ``Wp``, positive float32 scalar.
    below: ``Wn``, positive float32 scalar.
    threshold: ``t``.
    gradient: "chain", or "paper" for the sign of ``dL/dWn`` that the paper prints.

  Raises:
    ValueError: if ``gradient`` is unknown.

  Examples:
    >>> w = jnp.array([-1.0, 0.01, 0.5])
    >>> ttq_weights(w, jnp.float32(2.0), jnp.float32(3.0)).tolist()
    [-3.0, 0.0, 2.0]

  References:
    Zhu et al., `Trained Ternary Quantization <https://arxiv.org/abs/1612.01064>`_, 2017,
    equations 6 to 9.
  """
  return _ttq_forward(w, above, below, threshold, gradient)[0]


def _parts(w, threshold):
  size = w.astype(jnp.float32)
  edge = threshold * jnp.max(jnp.abs(size))
  return size > edge, size < -edge


def _ttq_forward(w, above, below, threshold, gradient):
  check_choice("gradient", gradient, GRADIENTS)
  plus, minus = _parts(w, threshold)
  y = jnp.where(plus, above, jnp.where(minus, -below, 0.0))
  return y.astype(w.dtype), (w, above, below)


def _ttq_backward(threshold, gradient, saved, g):
  w, above, below = saved
  plus, minus = _parts(w, threshold)
  slope = g.astype(jnp.float32)
  d_above = jnp.sum(jnp.where(plus, slope, 0.0))
  d_below = jnp.sum(jnp.where(minus, slope, 0.0))
  factor = jnp.where(plus, above, jnp.where(minus, below, 1.0))
  d_w = (slope * factor).astype(w.dtype)
  return d_w, d_above, d_below if gradient == "paper" else -d_below


ttq_weights.defvjp(_ttq_forward, _ttq_backward)


class LearnedPair(NamedTuple):
  """The distances to the levels of the first kernel that TTQ trains.

  Attributes:
    above: float32 scalar.
    below: float32 scalar.
  """

  above: jax.Array
  below: jax.Array


class PairAnchor(NamedTuple):
  """The initial values of TTQ's levels.

  Attributes:
    above: mean of the weights above the threshold, float32 scalar.
    below: mean magnitude of those below it, float32 scalar.
    count: kernels seen in training, int32 scalar.
  """

  above: jax.Array
  below: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


@named
def ttq(*, threshold: float = 0.05, gradient: str = "chain") -> Quantizer:
  """Trained ternary quantization: two trained levels for each layer; see :func:`ttq_weights`.

  They start at the mean magnitudes of the first kernel seen in training. The smaller one is rounded
  to a multiple of 1/127 of the larger one, straight through, so that int8 holds both.

  Args:
    threshold: ``t``, at least 0 and below 1.
    gradient: "chain" or "paper".

  Returns:
    A :class:`Quantizer` that trains a :class:`LearnedPair`.

  Raises:
    ValueError: if ``threshold`` is out of range or ``gradient`` unknown.

  Examples:
    >>> quantizer = ttq()
    >>> w = jnp.array([[-1.0, 0.01], [1.0, 2.0]])
    >>> y, _ = quantizer.apply(*quantizer.init(w), w, train=True)
    >>> [[round(value, 3) for value in row] for row in y.tolist()]  # 1.004 = 1.5 * 85 / 127
    [[-1.004, 0.0], [1.5, 1.5]]

  References:
    Zhu et al., 2017.
  """
  if not 0 <= threshold < 1:
    raise ValueError(f"threshold: {threshold} is out of range; it must be at least 0 and below 1.")
  check_choice("gradient", gradient, GRADIENTS)

  def measure(x):
    size = jnp.abs(jax.lax.stop_gradient(x).astype(jnp.float32))
    above, below = (_mean_where(part, size) for part in _parts(x, threshold))
    # A side without weights takes the other's level, or the grid would be far too coarse for it.
    return finite(jnp.where(above > 0, above, below)), finite(jnp.where(below > 0, below, above))

  def init(x):
    return LearnedPair(jnp.zeros(()), jnp.zeros(())), PairAnchor(
      *measure(x), jnp.zeros((), jnp.int32)
    )

  def pair(params, state):
    above = positive(state.above + params.above)
    below = positive(state.below + params.below)
    scale = jax.lax.stop_gradient(jnp.maximum(above, below) * (1.0 / INT8.high))
    snap = lambda level: round_through(level * (1.0 / scale)) * scale  # noqa: E731
    return snap(above), snap(below), scale

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del nonnegative, rng
    first = lambda state: PairAnchor(*measure(x), state.count)  # noqa: E731
    state = where_first(state, train, first)
    above, below, _ = pair(params, state)
    return ttq_weights(x, above, below, threshold, gradient), state

  def grid(params, state, x):
    return spread(pair(params, state)[2], x)

  return Quantizer(init, apply, grid, INT8, fits="weights")
