"""Signs: binary weights, and binary activations with their published gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.quantizers.base import (
  Quantizer,
  axes_within,
  check_choice,
  named,
  spread,
  stateless,
)

GRADIENTS = ("identity", "clip", "clip_scaled", "xnor", "through_scale")
SIGNS = Levels(-1, 1, True)
TRAINING_ONLY = (
  "its activations are signs, which integer runtimes cannot requantize to; it serves training and"
  " float evaluation"
)


def sign(x: jax.Array) -> jax.Array:
  """1 where ``x >= 0``, else -1, in ``x``'s dtype; zero counts as positive."""
  return jnp.where(x >= 0, 1, -1).astype(x.dtype)


def mean_magnitude(w: jax.Array, *, per_channel: bool) -> jax.Array:
  """Mean of ``|w|``, float32; for each output channel with kept axes, or a scalar."""
  axes = axes_within(w, per_channel)
  return jnp.mean(jnp.abs(w.astype(jnp.float32)), axes, keepdims=per_channel)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def bwn_weights(w: jax.Array, gradient: str = "identity", per_channel: bool = True) -> jax.Array:
  """Binary weights: ``y = a sign(w)`` with ``a = mean|w|``; ``sign(0) = 1``.

  The published gradients, with ``g = dL/dy``, ``n`` weights to a scale and ``m = 1[|w| <= 1]``:
  ``"identity"``, ``g`` (DoReFa); ``"clip"``, ``g m`` (BinaryConnect); ``"clip_scaled"``, ``g a m``;
  ``"xnor"``, ``g (1/n + a m)`` (XNOR-Net); ``"through_scale"``, the derivative of all of it,
  ``sign(w) sum(g sign(w)) / n + g a m``.

  Args:
    w: a kernel, output channels last, float32 or bfloat16; the result has the same dtype.
    gradient: one of those names.
    per_channel: one scale for each output channel, or one for the kernel.

  Returns:
    ``w`` on two levels for each scale.

  Raises:
    ValueError: if ``gradient`` is not one of them.

  Examples:
    >>> w = jnp.array([[0.5, -3.0], [-1.5, 0.0]])
    >>> bwn_weights(w).tolist()
    [[1.0, -1.5], [-1.0, 1.5]]
    >>> jax.grad(lambda w: bwn_weights(w, "clip").sum())(w).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

  References:
    Rastegari et al., `XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks
    <https://arxiv.org/abs/1603.05279>`_, 2016, section 3.1; Courbariaux et al., `BinaryConnect
    <https://arxiv.org/abs/1511.00363>`_, 2015; Zhou et al., 2016, section 2.3.
  """
  check_choice("gradient", gradient, GRADIENTS)
  return (sign(w) * mean_magnitude(w, per_channel=per_channel)).astype(w.dtype)


def _bwn_forward(w, gradient, per_channel):
  return bwn_weights(w, gradient, per_channel), w


def _bwn_backward(gradient, per_channel, w, g):
  if gradient == "identity":
    return (g,)
  slope = g.astype(jnp.float32)
  kept = jnp.where(jnp.abs(w) <= 1, slope, 0.0)
  scale = mean_magnitude(w, per_channel=per_channel)
  sharing = w.size // scale.size
  if gradient == "clip_scaled":
    kept = kept * scale
  elif gradient == "xnor":
    kept = kept * scale + slope / sharing
  elif gradient == "through_scale":
    signs = sign(w).astype(jnp.float32)
    axes = axes_within(w, per_channel)
    kept = kept * scale + signs * jnp.mean(slope * signs, axes, keepdims=per_channel)
  return (kept.astype(w.dtype),)


bwn_weights.defvjp(_bwn_forward, _bwn_backward)


@named
def bwn(*, gradient: str = "identity", per_channel: bool = True) -> Quantizer:
  """Binary weights with one scale for each filter; see :func:`bwn_weights`.

  Args:
    gradient: "identity", "clip", "clip_scaled", "xnor" or "through_scale".
    per_channel: one scale for each output channel, or one for the kernel as DoReFa has.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Raises:
    ValueError: if ``gradient`` is unknown.

  Examples:
    >>> bwn().apply((), (), jnp.array([[0.5], [-1.5]]), train=True)[0].tolist()
    [[1.0], [-1.0]]

  References:
    Rastegari et al., 2016, section 3.1.
  """
  check_choice("gradient", gradient, GRADIENTS)
  return stateless(
    SIGNS,
    "weights",
    lambda _, w: bwn_weights(w, gradient, per_channel),
    lambda w: spread(mean_magnitude(w, per_channel=per_channel), w),
  )


@named
def xnor() -> Quantizer:
  """XNOR-Net's weights: :func:`bwn` with the paper's gradient ``g (1/n + a 1[|w| <= 1])``.

  Examples:
    >>> w = jnp.array([[0.5], [-1.5]])
    >>> jax.grad(lambda w: xnor().apply((), (), w, train=True)[0].sum())(w).tolist()
    [[1.5], [0.5]]

  References:
    Rastegari et al., 2016, algorithm 1.
  """
  return bwn(gradient="xnor")


@jax.custom_vjp
def approx_sign(x: jax.Array) -> jax.Array:
  """The sign, with the slope of a parabola: ``2 + 2x`` on [-1, 0), ``2 - 2x`` on [0, 1), else 0.

  Examples:
    >>> jax.vmap(jax.value_and_grad(approx_sign))(jnp.array([-0.25, 0.0, 2.0]))[1].tolist()
    [1.5, 2.0, 0.0]

  References:
    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018, section 3.2.
  """
  return sign(x)


def _approx_backward(x, g):
  slope = jnp.maximum(2.0 - 2.0 * jnp.abs(x.astype(jnp.float32)), 0.0)
  return ((g.astype(jnp.float32) * slope).astype(x.dtype),)


approx_sign.defvjp(lambda x: (sign(x), x), _approx_backward)


@jax.custom_vjp
def clip_sign(x: jax.Array) -> jax.Array:
  """The sign, with gradient 1 for ``|x| <= 1`` and 0 elsewhere.

  Examples:
    >>> jax.vmap(jax.value_and_grad(clip_sign))(jnp.array([-0.25, 1.0, 2.0]))[1].tolist()
    [1.0, 1.0, 0.0]

  References:
    Hubara et al., `Binarized Neural Networks <https://arxiv.org/abs/1602.02830>`_, 2016.
  """
  return sign(x)


clip_sign.defvjp(
  lambda x: (sign(x), jnp.abs(x) <= 1), lambda near, g: (jnp.where(near, g, jnp.zeros_like(g)),)
)
SIGN_FUNCTIONS = {"approx": approx_sign, "clip": clip_sign}


def _channels(values, x):
  """Values of the last axis, in float32 and of ``x``'s rank."""
  values = jnp.asarray(values, jnp.float32)
  return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


def rsign(x: jax.Array, threshold: jax.Array) -> jax.Array:
  """ReActNet's sign: of ``x - threshold``, with the gradient of :func:`approx_sign`.

  Args:
    x: channels last, float32 or bfloat16; the result has the same dtype.
    threshold: (channels,) float32, trained.

  Examples:
    >>> rsign(jnp.array([[0.5, 0.5]]), jnp.array([0.0, 1.0])).tolist()
    [[1.0, -1.0]]

  References:
    Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, 2020, section 4.2.
  """
  return approx_sign(x.astype(jnp.float32) - _channels(threshold, x)).astype(x.dtype)


def rprelu(x: jax.Array, gamma: jax.Array, beta: jax.Array, zeta: jax.Array) -> jax.Array:
  """ReActNet's activation: ``x - gamma + zeta`` above gamma, ``beta (x - gamma) + zeta`` below.

  Args:
    x: channels last, float32 or bfloat16; the result has the same dtype.
    gamma: (channels,) float32, trained; 0 at first.
    beta: (channels,) float32, trained; 0.25 at first.
    zeta: (channels,) float32, trained; 0 at first.

  Examples:
    >>> one = jnp.ones(1)
    >>> rprelu(jnp.array([[3.0], [-1.0]]), one, 0.25 * one, 0 * one).tolist()
    [[2.0], [-0.5]]

  References:
    Liu et al., 2020, section 4.2.
  """
  shifted = x.astype(jnp.float32) - _channels(gamma, x)
  y = jnp.where(shifted > 0, shifted, _channels(beta, x) * shifted) + _channels(zeta, x)
  return y.astype(x.dtype)


def _signs(function: Callable[[Any, jax.Array], jax.Array], **init: Any) -> Quantizer:
  grid = lambda _: (jnp.ones(()), jnp.zeros(()))  # noqa: E731
  return stateless(SIGNS, "activations", function, grid, training_only=TRAINING_ONLY, **init)


@named
def binary_activations(*, gradient: str = "approx") -> Quantizer:
  """Activations' signs, as Bi-Real Net has them. For training only.

  Args:
    gradient: "approx", see :func:`approx_sign`, or "clip", see :func:`clip_sign`.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Raises:
    ValueError: if ``gradient`` is unknown.

  Examples:
    >>> binary_activations().apply((), (), jnp.array([[0.5, -2.0]]), train=True)[0].tolist()
    [[1.0, -1.0]]

  References:
    Liu et al., 2018.
  """
  check_choice("gradient", gradient, SIGN_FUNCTIONS)
  return _signs(lambda _, x: SIGN_FUNCTIONS[gradient](x))


@named
def xnor_activations() -> Quantizer:
  """Activations' signs times the mean magnitude over the channels. For training only.

  Each position keeps its own mean. (The paper averages the means over the kernel's window after
  the convolution, which is the same for 1x1 kernels.) The gradient is that of :func:`clip_sign`
  times the mean, which is a constant for it.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Examples:
    >>> xnor_activations().apply((), (), jnp.array([[0.5, -1.5]]), train=True)[0].tolist()
    [[1.0, -1.0]]

  References:
    Rastegari et al., 2016, section 3.2.
  """

  def scaled(_, x):
    mean = jnp.mean(jnp.abs(x.astype(jnp.float32)), -1, keepdims=True) if x.ndim else jnp.abs(x)
    return (clip_sign(x) * jax.lax.stop_gradient(mean)).astype(x.dtype)

  return _signs(scaled)


@named
def rsign_activations() -> Quantizer:
  """ReActNet's signs of activations, with a trained threshold per channel. For training only.

  Returns:
    A :class:`Quantizer` whose parameters are the thresholds, shaped like the last axis.

  Examples:
    >>> quantizer = rsign_activations()
    >>> params, state = quantizer.init(jax.ShapeDtypeStruct((8, 4, 4, 3), jnp.float32))
    >>> params.tolist()
    [0.0, 0.0, 0.0]

  References:
    Liu et al., 2020, section 4.2.
  """
  return _signs(lambda params, x: rsign(x, params), init=lambda x: jnp.zeros(x.shape[-1:]))
