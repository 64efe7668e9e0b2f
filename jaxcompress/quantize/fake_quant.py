"""Fake quantization: levels, ranges, the scales of both, and rounding to a grid and back."""

import numbers
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.layers import convolve
from jaxcompress.ops.parts import part_count, part_extremes
from jaxcompress.ops.sums import extremes

FEWEST_WIDENED = 8  # levels from which on the range of activations matters more than coarse steps


class Levels(NamedTuple):
  """The integers of a format.

  Attributes:
    low: smallest integer.
    high: largest integer.
    symmetric: whether zero is always represented by the integer zero.

  Examples:
    >>> stored_bits(Levels(low=0, high=15, symmetric=False))
    8
  """

  low: int
  high: int
  symmetric: bool


def check_bits(argument: str, bits: Any, most: int, *, fewest: int = 2) -> None:
  """Checks that a number of bits is whole, and from ``fewest`` to ``most``.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_bits("bits", 4.5, 8)
    Traceback (most recent call last):
    ValueError: bits: 4.5 is out of range; it must be 2 to 8, and whole.
  """
  whole = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
  if not whole or not fewest <= bits <= most:
    raise ValueError(
      f"{argument}: {bits!r} is out of range; it must be {fewest} to {most}, and whole."
    )


def levels(bits: int, *, symmetric: bool, narrow: bool = False, signed: bool = True) -> Levels:
  """Returns the integers of ``bits`` bits.

  Args:
    bits: 2 to 16.
    symmetric: zero point fixed at 0, or free.
    narrow: leave out the most negative integer, as TFLite does for weights.
    signed: two's complement, or starting at 0.

  Raises:
    ValueError: if ``bits`` is out of range or not whole, or a symmetric format is asked to be unsigned.

  Examples:
    >>> levels(8, symmetric=True, narrow=True)
    Levels(low=-127, high=127, symmetric=True)
  """
  check_bits("bits", bits, 16)
  if symmetric and not signed:
    raise ValueError("signed: a symmetric format needs signed integers; set symmetric=False.")
  low = -(2 ** (bits - 1)) if signed else 0
  return Levels(low + int(narrow), low + 2**bits - 1, symmetric)


def activation_levels(bits: int) -> Levels:
  """The integers of activations: free zero point up to 8 bits; above, in int16, it is 0.

  Examples:
    >>> activation_levels(8).low, activation_levels(16)
    (-128, Levels(low=-32768, high=32767, symmetric=True))
  """
  return levels(bits, symmetric=bits > 8)


def stored_bits(to: Levels) -> int:
  """Bits of the integer type that holds levels: 8 or 16.

  Examples:
    >>> [stored_bits(activation_levels(bits)) for bits in (4, 8, 9, 16)]
    [8, 8, 16, 16]
  """
  return 8 if to.high - to.low < 256 else 16


def widened(
  scale: jax.Array, zero: jax.Array, few: Levels, to: Levels
) -> tuple[jax.Array, jax.Array]:
  """The grid of activations in more levels: the range that was trained gets all steps of them.

  Fewer than eight levels stay as they are.

  Examples:
    >>> few, many = activation_levels(4), activation_levels(8)
    >>> scale, zero = widened(jnp.float32(1.0), jnp.float32(few.low), few, many)
    >>> round(float(scale * (many.high - zero)), 4), float(zero)
    (15.0, -128.0)
  """
  if not FEWEST_WIDENED <= few.high - few.low + 1 < to.high - to.low:
    return scale, zero
  return affine((few.low - zero) * scale, (few.high - zero) * scale, to)


def affine(low: jax.Array, high: jax.Array, to: Levels) -> tuple[jax.Array, jax.Array]:
  """Scale and zero point of a range of real numbers; zero is always representable.

  Symmetric: ``s = max(|low|, |high|) / high_integer``. Asymmetric: the range is widened to hold
  zero, ``s = (high - low) / levels`` and ``z = round(low_integer - low / s)``, half to even
  (Jacob et al., 2018, section 3.1: the nudged zero point).

  Args:
    low: smallest real value, any shape, float32.
    high: largest real value, the same shape.
    to: the integers.

  Returns:
    ``(scale, zero_point)``, float32 and integer-valued float32; an all-zero range has scale 1.

  Examples:
    >>> scale, zero = affine(jnp.float32(0.0), jnp.float32(6.0), levels(8, symmetric=False))
    >>> round(float(scale), 5), float(zero)
    (0.02353, -128.0)
  """
  if to.symmetric:
    scale = jnp.maximum(jnp.abs(low), jnp.abs(high)) / to.high
    return finite(scale), jnp.zeros_like(scale)
  low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
  steps = to.high - to.low
  width = high - low
  under = jnp.stack((jnp.full_like(width, steps), finite(width)))
  scale, below = jnp.stack((width, low * steps)) / under  # one program instead of two
  scale = finite(scale)  # below is low / scale, exact where the range is symmetric
  return scale, jnp.clip(jnp.round(to.low - below), to.low, to.high)


def finite(scale: jax.Array) -> jax.Array:
  """Replaces scales that are zero or too small to divide by with 1."""
  return jnp.where(scale > 1e-30, scale, 1.0)


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


def empty_range() -> Range:
  """A range that has seen nothing."""
  return Range(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


def minimum_maximum(x: jax.Array, *, nonnegative: bool = False) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value, float32; the smallest of known rectifier outputs is zero.

  Examples:
    >>> low, high = minimum_maximum(jnp.array([-2.0, 3.0]))
    >>> float(low), float(high)
    (-2.0, 3.0)
  """
  if x.size == 2:  # the ends themselves
    a, b = x.ravel().astype(jnp.float32)
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
  elif part_count(x) == 1:
    low, high = (end.astype(jnp.float32) for end in extremes(x))
  else:  # found on each device, and exchanged together
    ends = jnp.max(part_extremes(x).astype(jnp.float32), 0)
    low, high = -ends[0], ends[1]
  # Zero, but read: XLA would drop an unread end, and the reduction's speed with it.
  return jnp.minimum(low, 0.0) if nonnegative else low, high


def moving_range(
  state: Range, low: jax.Array, high: jax.Array, decay: float, *, debias: bool
) -> Range:
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
    >>> first = moving_range(empty_range(), -1.0, 2.0, 0.9, debias=False)
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


def merge_ranges(a: Range, b: Range) -> Range:
  """The range that holds both, for tensors that must share a grid."""
  return Range(
    jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high), jnp.maximum(a.count, b.count)
  )


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def fake_quant(x: jax.Array, scale: jax.Array, zero: jax.Array, to: Levels) -> jax.Array:
  """Fake-quantizes a tensor: rounds it to a grid and back, with a straight-through gradient.

  ``y = (clip(round(x / s) + z, low, high) - z) * s``, half to even. The gradient is 1 where the
  rounded integer lies within the grid, edges included, and 0 elsewhere: a weight exactly on the
  edge of its range, as the largest of each channel is, keeps its whole gradient, even if
  ``x / s`` comes out one bit above the edge.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    scale: broadcasts against ``x`` from the same rank or is a scalar.
    zero: zero point, shaped like ``scale``.
    to: the integers; static.

  Returns:
    ``x`` on the grid. Scale and zero point get no gradient.

  Examples:
    >>> to = levels(8, symmetric=True, narrow=True)
    >>> x = jnp.array([-1.0, 0.3, 2.0])
    >>> jax.grad(lambda x: fake_quant(x, 1 / 127, 0.0, to).sum())(x).tolist()
    [1.0, 1.0, 0.0]

  References:
    Jacob et al., `Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference <https://arxiv.org/abs/1712.05877>`_, 2018, equation 12.
  """
  return _forward(x, scale, zero, to)[0]


def _forward(x, scale, zero, to):
  code = jnp.round(x.astype(jnp.float32) * (1.0 / scale)) + zero
  y = (jnp.clip(code, to.low, to.high) - zero) * scale
  return y.astype(x.dtype), (code >= to.low) & (code <= to.high)


def _backward(to, inside, g):
  del to
  return jnp.where(inside, g, 0), None, None


fake_quant.defvjp(_forward, _backward)


@jax.custom_vjp
def replace_value(surrogate: jax.Array, value: jax.Array) -> jax.Array:
  """``value``, with the gradient of ``surrogate``.

  Examples:
    >>> slope = jax.grad(lambda x: replace_value(3.0 * x, jnp.float32(7.0)) ** 2)(1.0)
    >>> float(slope)  # 2 * 7 * 3
    42.0
  """
  del surrogate
  return value


def _replace_forward(surrogate, value):
  del surrogate
  return value, None


def _replace_backward(_, g):
  return g, None


replace_value.defvjp(_replace_forward, _replace_backward)


class BatchStatistics(NamedTuple):
  """Mean and variance of a convolution's outputs over a batch, (out,) each."""

  mean: jax.Array
  variance: jax.Array


def folded_train(
  x: jax.Array,
  kernel: jax.Array,
  gamma: jax.Array,
  beta: jax.Array,
  variance: jax.Array,
  scales: jax.Array,
  *,
  to: Levels,
  epsilon: float,
  stride: int | tuple[int, int] = 1,
  padding: str = "SAME",
  dilation: int | tuple[int, int] = 1,
  groups: int = 1,
) -> tuple[jax.Array, BatchStatistics]:
  """The training forward pass with folded BatchNorm and correction.

  ``y = conv(x, Q(W gamma / s_r)) s_r / s_B + beta - gamma mu_B / s_B``, with the running deviation
  ``s_r`` and the batch's ``mu_B`` and ``s_B``. So weights are rounded on the grid of the
  deployed ones, which does not jitter with the batch, and outputs are normalised by the batch.
  The gradient passes through the batch's statistics; running ones and scales are constants.

  With one symmetric scale for each channel that follows the weights (:func:`~jaxcompress.quantize.absmax`),
  rounding commutes with folding and none of this is needed; it is for grids that are kept, or
  shared by channels.

  Args:
    x: (batch, height, width, in).
    kernel: (kh, kw, in / groups, out).
    gamma: (out,).
    beta: (out,).
    variance: (out,) running variance.
    scales: (out,) or scalar, of the folded weights.
    to: symmetric integers.
    epsilon: of BatchNorm.
    stride: of the convolution.
    padding: of the convolution.
    dilation: of the convolution.
    groups: of the convolution.

  Returns:
    ``(y, statistics)``; the statistics update the running ones.

  Examples:
    >>> x, one = jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.ones(1)
    >>> y, statistics = folded_train(
    ...   x, one.reshape(1, 1, 1, 1), one, 0 * one, one, one / 127, to=Levels(-127, 127, True), epsilon=0.0
    ... )
    >>> float(statistics.mean[0]), round(float(y.std()), 4)
    (1.5, 1.0)

  References:
    Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
    <https://arxiv.org/abs/1806.08342>`_, 2018, section 3.2.2.
  """
  shape: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
  shape["groups"] = groups
  spread = (1, 1, 1, -1)
  raw = convolve(x, kernel, **shape)
  mean = jnp.mean(raw, axis=(0, 1, 2))
  spread_out = jnp.mean(jnp.square(raw - mean.reshape(spread)), axis=(0, 1, 2))
  running = jnp.sqrt(jax.lax.stop_gradient(variance) + epsilon)
  batch = jnp.sqrt(spread_out + epsilon)
  grid = jnp.broadcast_to(jax.lax.stop_gradient(scales), running.shape).reshape(spread)
  rounded = fake_quant(kernel * (gamma / running).reshape(spread), grid, 0.0, to)
  y = convolve(x, rounded, **shape) * (running / batch).reshape(spread)
  shift = beta - gamma * mean / batch
  return y + shift.reshape(spread), BatchStatistics(mean, spread_out)
