"""Evenly spaced levels whose ends follow from the values: largest value and ranges."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_fraction
from jaxcompress.quantize.fake_quant import (
  Range,
  activation_levels,
  affine,
  debiased,
  empty_range,
  fake_quant,
  levels,
  merge_ranges,
  minimum_maximum,
  moving_range,
  replace_value,
)
from jaxcompress.quantize.quantizers.anchors import where_train
from jaxcompress.quantize.quantizers.base import FusedRounding, Quantizer, named, stateless


@named
def absmax(bits: int = 8) -> Quantizer:
  """Quantizer of weights: symmetric, per-channel, with scales from each channel's largest magnitude.

  Narrow range (-127 to 127), as TFLite asks. Scaling a channel scales its grid alike, so this
  commutes with folding BatchNorm: training needs no folding.

  Args:
    bits: 2 to 16.

  Returns:
    A :class:`Quantizer` without parameters or state, for kernels whose last axis is the output.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> y, _ = absmax(8).apply((), (), jnp.array([[1.0, -2.0], [0.5, 0.0]]), train=True)
    >>> y.tolist()
    [[1.0, -2.0], [0.5039370059967041, 0.0]]

  References:
    Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
    <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.3.
  """
  to = levels(bits, symmetric=True, narrow=True)

  def grid(x):
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=tuple(range(x.ndim - 1)), keepdims=True)
    return affine(-largest, largest, to)

  def function(_, x):  # no weight lies beyond the largest: each keeps its gradient
    fixed = jax.lax.stop_gradient(x)
    return replace_value(x, fake_quant(fixed, *grid(fixed), to))

  return stateless(to, "weights", function, grid)


def _ranged(
  bits: int,
  observe: Callable[..., Range],
  read: Callable[[Range], Range] = lambda state: state,
  symmetric: bool = False,
) -> Quantizer:
  to = levels(bits, symmetric=True) if symmetric else activation_levels(bits)

  def grid(params, state, x=None):
    del params, x
    current = read(state)
    return affine(current.low, current.high, to)

  def prepare(params, state, x, *, train, nonnegative):
    if train is not False:  # outside of any branch, which would keep the whole tensor in memory
      seen = minimum_maximum(jax.lax.stop_gradient(x), nonnegative=nonnegative)
      state = where_train(train, lambda state: observe(state, *seen), state)
    return (), grid(params, state), state

  def forward(x, trained, fixed):
    del trained
    return fake_quant(x, *fixed, to)

  apply = FusedRounding(prepare, forward, by_ends=True)
  return Quantizer(lambda x: ((), empty_range()), apply, grid, to, merge_ranges, fits="activations")


@named
def fixed_range(low: float, high: float, bits: int = 8) -> Quantizer:
  """Quantizer of activations: asymmetric, per-tensor, with a given range, such as that of pixels.

  Args:
    low: smallest value, at most zero.
    high: largest value, at least zero.
    bits: 2 to 16; above 8 they are symmetric, as runtimes have int16.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Raises:
    ValueError: if ``bits`` or the range is out of range.

  Examples:
    >>> scale, zero = fixed_range(-2.0, 127 / 64).grid((), ())
    >>> float(scale), float(zero)
    (0.015625, 0.0)
  """
  if not low <= 0 <= high or low == high:
    raise ValueError(f"low: the range {low} to {high} must hold zero and something else.")
  to = activation_levels(bits)

  grid = lambda _: affine(jnp.float32(low), jnp.float32(high), to)  # noqa: E731
  return stateless(to, "activations", lambda _, x: fake_quant(x, *grid(x), to), grid)


@named
def ema_range(
  bits: int = 8, *, decay: float = 0.95, debias: bool = False, symmetric: bool = False
) -> Quantizer:
  """Quantizer of activations: asymmetric, per-tensor, from a moving average of the range.

  Args:
    bits: 2 to 16; above 8 they are symmetric, as runtimes have int16.
    decay: share of the old range that is kept at each step.
    debias: start the average at zero and divide the bias out, instead of starting it from the
      first batch.
    symmetric: keep the zero point at 0 with few bits too, as TensorRT has it.

  Returns:
    A :class:`Quantizer` whose state is a :class:`~jaxcompress.quantize.fake_quant.Range`.

  Raises:
    ValueError: if ``bits`` or ``decay`` is out of range.

  Examples:
    >>> quantizer = ema_range(8)
    >>> params, state = quantizer.init(jnp.zeros(3))
    >>> y, state = quantizer.apply(params, state, jnp.array([0.0, 0.101, 2.55]), train=True)
    >>> [round(value, 4) for value in y.tolist()], round(float(state.high), 4)
    ([0.0, 0.1, 2.55], 2.55)

  References:
    Jacob et al., 2018, section 3.1.
  """
  check_fraction("decay", decay)

  def observe(state, low, high):
    return moving_range(state, low, high, decay, debias=debias)

  def read(state):
    return debiased(state, decay) if debias else state

  return _ranged(bits, observe, read, symmetric)


@named
def minmax_range(bits: int = 8) -> Quantizer:
  """Quantizer of activations: asymmetric, from the smallest and largest value seen in training.

  Args:
    bits: 2 to 16; above 8 they are symmetric, as runtimes have int16.

  Returns:
    A :class:`Quantizer` whose state is a :class:`~jaxcompress.quantize.fake_quant.Range`.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> quantizer = minmax_range()
    >>> params, state = quantizer.init(jnp.zeros(2))
    >>> for batch in ([-1.0, 1.0], [0.0, 3.0]):
    ...   _, state = quantizer.apply(params, state, jnp.array(batch), train=True)
    >>> float(state.low), float(state.high)
    (-1.0, 3.0)

  References:
    Krishnamoorthi, 2018, section 3.1.2.
  """

  def observe(state, low, high):
    first = state.count == 0
    return Range(
      jnp.where(first, low, jnp.minimum(state.low, low)),
      jnp.where(first, high, jnp.maximum(state.high, high)),
      state.count + 1,
    )

  return _ranged(bits, observe)


@named
def mean_range(bits: int = 8) -> Quantizer:
  """Quantizer of activations: asymmetric, from the mean of all batches' smallest and largest values.

  Args:
    bits: 2 to 16; above 8 they are symmetric, as runtimes have int16.

  Returns:
    A :class:`Quantizer` whose state is a :class:`~jaxcompress.quantize.fake_quant.Range`.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> quantizer = mean_range()
    >>> params, state = quantizer.init(jnp.zeros(2))
    >>> for batch in ([-1.0, 1.0], [0.0, 3.0]):
    ...   _, state = quantizer.apply(params, state, jnp.array(batch), train=True)
    >>> float(state.low), float(state.high)
    (-0.5, 2.0)

  References:
    McKinstry et al., `Discovering Low-Precision Networks Close to Full-Precision Networks for
    Efficient Embedded Inference <https://arxiv.org/abs/1809.04191>`_, 2018.
  """

  def observe(state, low, high):
    share = 1.0 / (state.count + 1)
    return Range(
      state.low + (low - state.low) * share,
      state.high + (high - state.high) * share,
      state.count + 1,
    )

  return _ranged(bits, observe)
