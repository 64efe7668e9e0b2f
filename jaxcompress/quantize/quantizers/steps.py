"""Rounding to a step that is trained: the function, its gradient, and the quantizers around it."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import (
  Levels,
  activation_levels,
  affine,
  fake_quant,
  finite,
  levels,
)
from jaxcompress.quantize.quantizers.anchors import (
  Learned,
  anchored,
  has_negative,
  new_anchor,
  sample,
)
from jaxcompress.quantize.quantizers.base import (
  EDGE,
  FusedRounding,
  Quantizer,
  axes_within,
  check_activation_bits,
  features,
  positive,
  sides,
  sloped,
  spread,
  sum_to,
)

CANDIDATES = 16
SMALLEST_SHARE = 0.25
SAMPLES = 4096


def round_to_step(
  x: jax.Array,
  step: jax.Array | float,
  low: jax.Array | int | None,
  high: jax.Array | int,
  grad_scale: jax.Array | float = 1.0,
  *,
  offset: jax.Array | None = None,
  integer_zero: bool = False,
  factor: float = 0.0,
) -> jax.Array:
  """Rounds to multiples of a step that is trained: ``y = round(clip(x / s, low, high)) * s``.

  LSQ. With ``v = x / s``: ``dy/dx`` is 1 for ``low <= v <= high``, edges included, and 0 elsewhere;
  ``dy/ds`` is ``round(v) - v`` there, ``low`` below and ``high`` above, times ``grad_scale``.
  A value within a thousandth of a step of an edge counts as on it.

  LSQ+ has an offset: ``y = round(clip((x - b) / s, low, high)) * s + b``. ``dy/db`` is 0 inside the
  range and 1 outside.

  EWGS has a factor ``d``: inside the range ``dL/dx = g (1 + d sign(g) (u - q))``, where ``u`` and
  ``q`` are the value and its level as shares of the range. The range is trained through its step,
  by the derivative of the whole with that of the rounding.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    step: positive, float32; broadcasts against ``x`` from the same rank or is a scalar.
    low: lowest multiple; None where ``x`` cannot be below it.
    high: highest multiple.
    grad_scale: factor of the step's and the offset's gradient, ``1 / sqrt(N * high)`` in the
      papers, with N weights or N features of one activation map that share the step.
    offset: ``b``, float32, shaped like ``step``.
    integer_zero: round ``b / s`` to an integer between ``low`` and ``high``, straight through, as
      integer runtimes need: zero is then a level of its own.
    factor: ``d``; 0 is the plain straight-through estimator.

  Returns:
    ``x`` on the grid.

  Examples:
    >>> x, step, offset = jnp.array([-9.0, 0.3, 0.8]), jnp.float32(0.5), jnp.float32(-0.4)
    >>> round_to_step(x, step, -2, 1).tolist()
    [-1.0, 0.5, 0.5]
    >>> round(float(jax.grad(lambda s: round_to_step(jnp.float32(0.3), s, -2, 1))(step)), 5)
    0.4
    >>> round_to_step(x, step, 0, 3, offset=offset, integer_zero=True).tolist()
    [-0.5, 0.5, 1.0]
    >>> jax.grad(lambda x: round_to_step(x, step, -2, 1, factor=0.3)[1])(x)[1].item()
    0.9599999785423279

  References:
    Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020,
    equations 1 to 3 and section 2.2; Bhalgat et al., `LSQ+: Improving low-bit quantization through
    learnable offsets and better initialization <https://arxiv.org/abs/2004.09576>`_, 2020,
    equations 3 to 6; Lee et al., `Network Quantization with Element-wise Gradient Scaling
    <https://arxiv.org/abs/2104.00903>`_, 2021, equations 1 to 4.
  """
  step = sloped(step, grad_scale)
  offset = None if offset is None else sloped(offset, grad_scale)
  return _round_to_step(x, step, offset, low, high, integer_zero, factor)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _round_to_step(x, step, offset, low, high, integer_zero, factor):
  return _forward(x, step, offset, low, high, integer_zero, factor)[0]


def _place(x, step, offset, low, high, integer_zero):
  """Position in steps, its rounded code, and the position of zero."""
  inverse = 1.0 / step
  u = x.astype(jnp.float32) * inverse
  if offset is None:
    return u, jnp.round(u), 0.0
  if integer_zero:
    zero = jnp.minimum(jnp.maximum(jnp.round(-offset * inverse), low), high)
    return u + zero, jnp.round(u) + zero, zero
  zero = -offset * inverse
  return u + zero, jnp.round(u + zero), zero


def _forward(x, step, offset, low, high, integer_zero, factor):
  del factor
  _, code, zero = _place(x, step, offset, low, high, integer_zero)
  code = jnp.minimum(code if low is None else jnp.maximum(code, low), high)
  y = (code - zero) * step
  return y.astype(x.dtype), (x, step, offset, low, high)


def _backward(integer_zero, factor, saved, g):
  step, offset = saved[1:3]
  dx, by_step, by_offset = _gradients(*saved, integer_zero, factor, g)
  d_offset = None if offset is None else sum_to(by_offset, jnp.shape(step))
  return dx, sum_to(by_step, jnp.shape(step)), d_offset, None, None


def _gradients(x, step, offset, low, high, integer_zero, factor, g):
  """Returns the gradients with respect to ``x``, and each element's to step and offset."""
  u, code, _ = _place(x, step, offset, low, high, integer_zero)
  inside = u <= high + EDGE
  edge = high
  if low is not None:
    inside &= u >= low - EDGE
    edge = jnp.where(u < low, low, high)
  slope = g.astype(jnp.float32)
  through = slope
  if factor:
    through = slope + factor * jnp.abs(slope) * (u - code) / (high - low)
  within = slope * (code - u) if not factor else slope * code - through * u
  by_step = jnp.where(inside, within, slope * edge)
  dx = jnp.where(inside, through, 0.0).astype(x.dtype)
  return dx, by_step, jnp.where(inside, 0.0, slope)


_round_to_step.defvjp(_forward, _backward)


def step_weights(
  bits: int,
  measure: Callable[..., jax.Array],
  *,
  per_channel: bool,
  narrow: bool,
  factor: float = 0.0,
) -> Quantizer:
  """Symmetric weights on a trained step.

  Args:
    bits: 2 to 8.
    measure: ``(x, high, *, axis, keepdims) -> step`` at the start.
    per_channel: one step for each output channel, or one for the kernel.
    narrow: leave out the most negative level.
    factor: EWGS's scaling factor.
  """
  if not (2 <= bits <= 8 and (bits < 8 or narrow)):
    raise ValueError(
      f"bits: {bits} with narrow={narrow} is out of range; weights have 2 to 7 bits, or 8 with"
      " narrow=True."
    )
  to = levels(bits, symmetric=True, narrow=narrow)

  def first(x):
    axes = axes_within(x, per_channel)
    return finite(measure(x.astype(jnp.float32), to.high, axis=axes, keepdims=per_channel))

  def init(x):
    base = first(x)
    return Learned(jnp.zeros_like(base)), new_anchor(base)

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del nonnegative, rng
    state = anchored(state, train, lambda: first(x))
    step = positive(state.base + params.delta)
    sharing = x.size // step.size
    scale = 1.0 / math.sqrt(max(1, sharing) * to.high)
    return round_to_step(x, step, to.low, to.high, scale, factor=factor), state

  def grid(params, state, x):
    return spread(positive(state.base + params.delta), x)

  return Quantizer(init, apply, grid, to, fits="weights")


def step_activations(
  bits: int,
  measure: Callable[..., jax.Array],
  *,
  factor: float = 0.0,
  most: int = 8,
) -> Quantizer:
  """Activations on a trained step, one for each tensor; levels below zero only if they are needed.

  Args:
    bits: 2 to ``most``; above 8 there are always levels below zero.
    measure: ``(x, high) -> step`` at the start.
    factor: EWGS's scaling factor.
    most: bits.
  """
  check_activation_bits(bits, most=most)
  to = activation_levels(bits)

  def init(x):
    del x
    return Learned(jnp.zeros(())), new_anchor(jnp.ones(()))

  def prepare(params, state, x, *, train, nonnegative):
    seen = sample(x)
    signed = has_negative(seen, nonnegative)
    first = lambda: finite(measure(seen.astype(jnp.float32), sides(to, signed())[2]))  # noqa: E731
    state = anchored(state, train, first, signed)
    _, low, high = sides(to, state.signed)
    step = sloped(positive(state.base + params.delta), jax.lax.rsqrt(features(x) * high))
    return (step,), (None if nonnegative and not factor else low, high), state

  def forward(x, trained, fixed):
    return _round_to_step(x, *trained, None, *fixed, False, factor)

  def backward(x, g, trained, fixed):
    dx, by_step, _ = _gradients(x, *trained, None, *fixed, False, factor, g)
    return dx, (by_step,)

  def grid(params, state, x=None):
    del x
    return positive(state.base + params.delta), sides(to, state.signed)[0]

  return Quantizer(init, FusedRounding(prepare, forward, backward), grid, to, fits="activations")


def range_of_least_error(x: jax.Array, to: Levels) -> tuple[jax.Array, jax.Array]:
  """Finds the range of ``x``, shrunk as is best for its mean squared error; zero lies within.

  The error is taken over at most 8192 values, spread evenly over the tensor.

  Args:
    x: any shape, float32.
    to: the integers.

  Returns:
    ``(low, high)``, the best of 16 shares of the whole range.

  Examples:
    >>> x = jnp.append(jnp.linspace(0.0, 1.0, 1000), 2.0)
    >>> low, high = range_of_least_error(x, levels(4, symmetric=False))
    >>> float(low), 0.9 < float(high) < 1.5
    (0.0, True)
  """
  low, high = jnp.minimum(jnp.min(x), 0.0), jnp.maximum(jnp.max(x), 0.0)
  values = x.reshape(1, -1)[:, :: max(1, x.size // SAMPLES)]
  shares = jnp.linspace(1.0, SMALLEST_SHARE, CANDIDATES).reshape(-1, 1)
  rounded = fake_quant(values, *affine(low * shares, high * shares, to), to)
  best = shares[jnp.argmin(jnp.mean(jnp.square(rounded - values), 1)), 0]
  return low * best, high * best
