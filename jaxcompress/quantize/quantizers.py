"""Quantizers: named groups of pure functions, for weights and for activations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.quantize import ranges
from jaxcompress.quantize.grid import Levels, affine, fake_quant, levels


class Quantizer(NamedTuple):
  """How one kind of tensor is put on a grid of integers during training.

  Attributes:
    init: ``(x) -> (params, state)``. What is trained, and what runs along, such as ranges.
    apply: ``(params, state, x, *, train, nonnegative=False) -> (x, state)``. ``x`` on its grid,
      with a straight-through gradient; the state changes only where ``train``.
    grid: ``(params, state, x) -> (scale, zero_point)``. The grid that ``apply`` uses, for export.
    levels: the integers.
  """

  init: Callable
  apply: Callable
  grid: Callable
  levels: Levels


def absmax(bits: int = 8) -> Quantizer:
  """Symmetric weights with one scale for each output channel, from the channel's largest value.

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

  def grid(params, state, x):
    del params, state
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=tuple(range(x.ndim - 1)), keepdims=True)
    return affine(-largest, largest, to)

  def apply(params, state, x, *, train=True, nonnegative=False):
    del train, nonnegative
    scale, zero = grid(params, state, jax.lax.stop_gradient(x))
    return fake_quant(x, scale, zero, to), state

  return Quantizer(lambda x: ((), ()), apply, grid, to)


def ema_range(bits: int = 8, *, decay: float = 0.95, debias: bool = False) -> Quantizer:
  """Asymmetric activations with one scale for each tensor, from a moving average of its range.

  Args:
    bits: 2 to 16.
    decay: share of the old range that is kept at each step.
    debias: start the average at zero and divide the bias out, instead of starting it from the
      first batch.

  Returns:
    A :class:`Quantizer` whose state is a :class:`~jaxcompress.quantize.ranges.Range`.

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
  to = levels(bits, symmetric=False)
  if not 0 <= decay < 1:
    raise ValueError(f"decay: {decay} is out of range; it must be at least 0 and below 1.")

  def grid(params, state, x=None):
    del params, x
    current = ranges.debiased(state, decay) if debias else state
    return affine(current.low, current.high, to)

  def apply(params, state, x, *, train=True, nonnegative=False):
    def observe(state):
      seen = ranges.minimum_maximum(jax.lax.stop_gradient(x), nonnegative=nonnegative)
      return ranges.ema(state, *seen, decay, debias=debias)

    if isinstance(train, bool):
      state = observe(state) if train else state
    else:
      state = jax.lax.cond(train, observe, lambda state: state, state)
    scale, zero = grid(params, state)
    return fake_quant(x, scale, zero, to), state

  return Quantizer(lambda x: ((), ranges.empty()), apply, grid, to)
