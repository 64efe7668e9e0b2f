"""Rounding to a step that is trained, which LSQ, LSQ+ and EWGS share."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

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
from jaxcompress.quantize.quantizers.base import (
  EDGE,
  Learned,
  Quantizer,
  Rounding,
  anchored,
  axes_within,
  features,
  has_negative,
  new_anchor,
  positive,
  sample,
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
  step: jax.Array,
  offset: jax.Array | None,
  low: Any,
  high: Any,
  grad_scale: Any,
  integer_zero: bool = False,
  bend: float = 0.0,
) -> jax.Array:
  """What LSQ, LSQ+ and EWGS share.

  ``offset`` may be None, and ``low`` where ``x`` cannot be below it; ``bend`` is EWGS's scaling
  factor.
  """
  step = sloped(step, grad_scale)
  offset = None if offset is None else sloped(offset, grad_scale)
  return _round_to_step(x, step, offset, low, high, integer_zero, bend)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _round_to_step(x, step, offset, low, high, integer_zero, bend):
  return _forward(x, step, offset, low, high, integer_zero, bend)[0]


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


def _forward(x, step, offset, low, high, integer_zero, bend):
  del bend
  _, code, zero = _place(x, step, offset, low, high, integer_zero)
  code = jnp.minimum(code if low is None else jnp.maximum(code, low), high)
  y = (code - zero) * step
  return y.astype(x.dtype), (x, step, offset, low, high)


def _backward(integer_zero, bend, saved, g):
  step, offset = saved[1:3]
  dx, by_step, by_offset = _gradients(*saved, integer_zero, bend, g)
  d_offset = None if offset is None else sum_to(by_offset, jnp.shape(step))
  return dx, sum_to(by_step, jnp.shape(step)), d_offset, None, None


def _gradients(x, step, offset, low, high, integer_zero, bend, g):
  """By ``x``, and those by step and offset of each element; elementwise."""
  u, code, _ = _place(x, step, offset, low, high, integer_zero)
  inside = u <= high + EDGE
  edge = high
  if low is not None:
    inside &= u >= low - EDGE
    edge = jnp.where(u < low, low, high)
  slope = g.astype(jnp.float32)
  through = slope
  if bend:
    through = slope + bend * jnp.abs(slope) * (u - code) / (high - low)
  within = slope * (code - u) if not bend else slope * code - through * u
  by_step = jnp.where(inside, within, slope * edge)
  dx = jnp.where(inside, through, 0.0).astype(x.dtype)
  return dx, by_step, jnp.where(inside, 0.0, slope)


_round_to_step.defvjp(_forward, _backward)


def step_weights(
  bits: int,
  measure: Callable[[jax.Array, tuple[int, ...], Levels], jax.Array],
  *,
  per_channel: bool,
  narrow: bool,
  bend: float = 0.0,
) -> Quantizer:
  """Symmetric weights on a trained step.

  Args:
    bits: 2 to 8.
    measure: ``(x, axes, levels) -> step`` at the start, with kept axes.
    per_channel: one step for each output channel, or one for the kernel.
    narrow: leave out the most negative level.
    bend: EWGS's scaling factor.
  """
  if not (2 <= bits <= 8 and (bits < 8 or narrow)):
    raise ValueError(
      f"bits: {bits} with narrow={narrow} is out of range; weights have 2 to 7 bits, or 8 with"
      " narrow=True."
    )
  to = levels(bits, symmetric=True, narrow=narrow)

  def first(x):
    axes = axes_within(x, per_channel)
    return finite(measure(x.astype(jnp.float32), axes, to))

  def init(x):
    base = first(x)
    return Learned(jnp.zeros_like(base)), new_anchor(base)

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del nonnegative, rng
    state = anchored(state, train, lambda: first(x))
    step = positive(state.base + params.delta)
    sharing = x.size // step.size
    scale = 1.0 / math.sqrt(max(1, sharing) * to.high)
    return round_to_step(x, step, None, to.low, to.high, scale, False, bend), state

  def grid(params, state, x):
    return spread(positive(state.base + params.delta), x)

  return Quantizer(init, apply, grid, to, fits="weights")


def step_activations(
  bits: int,
  measure: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  bend: float = 0.0,
  most: int = 8,
) -> Quantizer:
  """Activations on a trained step, one for each tensor; levels below zero only if they are needed.

  Args:
    bits: 2 to ``most``; above 8 there are always levels below zero.
    measure: ``(x, highest) -> step`` at the start.
    bend: EWGS's scaling factor.
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
    return (step,), (None if nonnegative and not bend else low, high), state

  def forward(x, trained, fixed):
    return _round_to_step(x, *trained, None, *fixed, False, bend)

  def backward(x, g, trained, fixed):
    dx, by_step, _ = _gradients(x, *trained, None, *fixed, False, bend, g)
    return dx, (by_step,)

  def grid(params, state, x=None):
    del x
    return positive(state.base + params.delta), sides(to, state.signed)[0]

  return Quantizer(init, Rounding(prepare, forward, backward), grid, to, fits="activations")


def check_activation_bits(bits: int, fewest: int = 2, most: int = 8) -> None:
  """Raises if a method does not have so many levels."""
  if not fewest <= bits <= most:
    beyond = most < bits <= 16
    way_out = " here; ema_range, minmax_range, mean_range and lsq_activations have up to 16"
    raise ValueError(
      f"bits: {bits} is out of range; activations have {fewest} to {most}{way_out if beyond else ''}."
    )


def range_of_least_error(x: jax.Array, to: Levels) -> tuple[jax.Array, jax.Array]:
  """The range of ``x``, shrunk as is best for its mean squared error; zero lies within.

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
