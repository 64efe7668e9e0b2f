"""Fixed ranges: DoReFa for weights, activations and gradients, and WRPN."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import Levels, finite
from jaxcompress.quantize.quantizers.base import (
  Quantizer,
  anchored,
  has_negative,
  named,
  new_anchor,
  round_through,
  sides,
  spread,
)
from jaxcompress.quantize.quantizers.binary import bwn_weights, mean_magnitude
from jaxcompress.quantize.quantizers.steps import check_activation_bits, round_to_step

HIGHEST = 127


def dorefa_weights(w: jax.Array, bits: int, *, through_max: bool = True) -> jax.Array:
  """``y = 2 Q(tanh w / (2 max|tanh w|) + 1/2) - 1``, ``Q(u) = round((2^k - 1) u) / (2^k - 1)``.

  With one bit ``y = mean|w| sign(w)``, one scale for the kernel, with gradient 1. Otherwise the
  gradient passes straight through ``Q`` and is exact for the rest.

  Args:
    w: any shape, float32 or bfloat16; the result has the same dtype.
    bits: ``k``, 1 to 16.
    through_max: whether the largest value is differentiated as well, or is a constant.

  Returns:
    ``w`` on ``2^k`` levels from -1 to 1; zero is not one of them.

  Examples:
    >>> [round(y, 4) for y in dorefa_weights(jnp.array([-2.0, 0.1, 0.7]), 2).tolist()]
    [-1.0, 0.3333, 0.3333]

  References:
    Zhou et al., `DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
    Gradients <https://arxiv.org/abs/1606.06160>`_, 2016, equations 7 and 9.
  """
  if bits == 1:
    return bwn_weights(w, per_channel=False)
  steps = 2**bits - 1
  unit = _squashed(w, through_max) * 0.5 + 0.5
  return (2.0 * (round_through(unit * steps) * (1.0 / steps)) - 1.0).astype(w.dtype)


def _squashed(w, through_max=True):
  squashed = jnp.tanh(w.astype(jnp.float32))
  most = finite(jnp.max(jnp.abs(squashed)))
  return squashed / (most if through_max else jax.lax.stop_gradient(most))


@named
def dorefa(bits: int = 8, *, through_max: bool = True) -> Quantizer:
  """DoReFa for weights: squashed by tanh to [-1, 1]. The integers are odd.

  With 8 bits they would go up to 255, beyond int8, so there 255 levels around zero are used
  instead: ``round(127 tanh w / max|tanh w|) / 127``. See :func:`dorefa_weights`.

  Args:
    bits: 1 to 8.
    through_max: whether the largest value is differentiated as well, or is a constant.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> dorefa(2).levels, dorefa(8).levels.high
    (Levels(low=-3, high=3, symmetric=True), 127)

  References:
    Zhou et al., 2016.
  """
  _check_weight_bits(bits, 1)
  steps = min(2**bits - 1, HIGHEST)

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del params, train, nonnegative, rng
    if bits < 8:
      return dorefa_weights(x, bits, through_max=through_max), state
    y = round_through(_squashed(x, through_max) * steps) * (1.0 / steps)
    return y.astype(x.dtype), state

  def grid(params, state, x):
    del params, state
    return spread(mean_magnitude(x, per_channel=False) if bits == 1 else 1.0 / steps, x)

  return Quantizer(lambda x: ((), ()), apply, grid, Levels(-steps, steps, True), fits="weights")


def _check_weight_bits(bits, fewest):
  if not fewest <= bits <= 8:
    raise ValueError(f"bits: {bits} is out of range; weights have {fewest} to 8.")


def dorefa_clip(x: jax.Array, bits: int) -> jax.Array:
  """Activations: ``y = round((2^k - 1) clip(x, 0, 1)) / (2^k - 1)``, gradient 1 for 0 <= x <= 1.

  WRPN rounds activations alike.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    bits: ``k``.

  Examples:
    >>> dorefa_clip(jnp.array([-1.0, 0.4, 0.8, 2.0]), 1).tolist()
    [0.0, 0.0, 1.0, 1.0]

  References:
    Zhou et al., 2016, equation 11; Mishra et al., 2018, section 5.
  """
  steps = 2**bits - 1
  return round_to_step(x, 1.0 / steps, None, 0, steps, 0.0)


def quantize_gradient(g: jax.Array, noise: jax.Array | float, bits: int) -> jax.Array:
  """``2 m (Q(g / (2 m) + 1/2 + noise / (2^k - 1)) - 1/2)``, ``m`` the largest of each example.

  Args:
    g: a gradient, the batch first.
    noise: between -1/2 and 1/2, shaped like ``g`` or a scalar.
    bits: ``k``.

  Examples:
    >>> g = quantize_gradient(jnp.array([[0.5, -1.0, 0.0]]), 0.25, 2)
    >>> [round(value, 3) for value in g[0].tolist()]
    [0.333, -1.0, 0.333]

  References:
    Zhou et al., 2016, equation 12.
  """
  steps = 2**bits - 1
  gradient = g.astype(jnp.float32)
  most = finite(jnp.max(jnp.abs(gradient), tuple(range(1, g.ndim)), keepdims=True))
  code = jnp.round((gradient / (2.0 * most) + 0.5) * steps + noise)
  code = jnp.minimum(jnp.maximum(code, 0.0), steps)
  return (2.0 * most * (code * (1.0 / steps) - 0.5)).astype(g.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dorefa_gradient(x: jax.Array, key: jax.Array | None, bits: int) -> jax.Array:
  """The identity, whose gradient is rounded stochastically; see :func:`quantize_gradient`.

  Args:
    x: an activation, the batch first.
    key: of the noise; None: the gradient is rounded without noise, which biases it.
    bits: of the gradient.

  Examples:
    >>> x = jnp.zeros((1, 3))
    >>> pull = jax.vjp(lambda x: dorefa_gradient(x, None, 2), x)[1]
    >>> [round(g, 3) for g in pull(jnp.array([[1.0, 0.2, -1.0]]))[0][0].tolist()]
    [1.0, 0.333, -1.0]

  References:
    Zhou et al., 2016, section 2.4.
  """
  del key, bits
  return x


def _backward(bits, key, g):
  noise = 0.0 if key is None else jax.random.uniform(key, g.shape, minval=-0.5, maxval=0.5)
  return quantize_gradient(g, noise, bits), None


dorefa_gradient.defvjp(lambda x, key, bits: (x, key), _backward)


@named
def dorefa_activations(
  bits: int = 8, *, bound: float = 1.0, gradient_bits: int | None = None
) -> Quantizer:
  """DoReFa and WRPN for activations: clipped to [0, bound].

  A tensor with negative values in the first batch is clipped to [-bound, bound] (except with one
  bit). For fewer than 8 bits see :func:`lsq_activations`.

  Args:
    bits: 1 to 8.
    bound: 1 in the papers; 6 suits ReLU6.
    gradient_bits: also round the gradient, with noise if ``apply`` is given a key.

  Returns:
    A :class:`Quantizer` without parameters.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> quantizer = dorefa_activations(2, bound=6.0)
    >>> x = jnp.array([[0.5, 3.5, 9.0]])
    >>> quantizer.apply(*quantizer.init(x), x, train=True)[0].tolist()
    [[0.0, 4.0, 6.0]]

  References:
    Zhou et al., 2016; Mishra et al., 2018.
  """
  check_activation_bits(bits, 1)
  if not bound > 0:
    raise ValueError(f"bound: {bound} must be positive.")
  if gradient_bits is not None and not 1 <= gradient_bits <= 16:
    raise ValueError(
      f"gradient_bits: {gradient_bits} is out of range; it must be 1 to 16, or None."
    )
  lowest = -(2 ** (bits - 1))
  to = Levels(lowest, lowest + 2**bits - 1, False)

  def init(x):
    del x
    return (), new_anchor(jnp.full((), bound))

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del params
    signed = has_negative(x, nonnegative or bits == 1)
    state = anchored(state, train, lambda: jnp.full((), bound), signed)
    step, _ = grid((), state)
    _, low, high = sides(to, state.signed & (bits > 1))
    y = round_to_step(x, step, None, jnp.maximum(low, -high), high, 0.0)
    return y if gradient_bits is None else dorefa_gradient(y, rng, gradient_bits), state

  def grid(params, state, x=None):
    del params, x
    zero, _, high = sides(to, state.signed & (bits > 1))
    return state.base / high, zero

  return Quantizer(init, apply, grid, to, fits="activations")


def wrpn_weights(w: jax.Array, bits: int) -> jax.Array:
  """``y = round(clip(w, -1, 1) n) / n`` with ``n = 2^(k - 1) - 1``, gradient 1 for |w| <= 1.

  Args:
    w: any shape, float32 or bfloat16; the result has the same dtype.
    bits: ``k``, at least 2.

  Examples:
    >>> wrpn_weights(jnp.array([-3.0, 0.4, 0.6]), 2).tolist()
    [-1.0, 0.0, 1.0]

  References:
    Mishra et al., `WRPN: Wide Reduced-Precision Networks <https://arxiv.org/abs/1709.01134>`_, 2018,
    section 5.
  """
  steps = 2 ** (bits - 1) - 1
  return round_to_step(w, 1.0 / steps, None, -steps, steps, 0.0)


@named
def wrpn(bits: int = 8) -> Quantizer:
  """WRPN for weights: clipped to [-1, 1]. Its activations are :func:`dorefa_activations`.

  Args:
    bits: 2 to 8.

  Returns:
    A :class:`Quantizer` without parameters or state.

  Raises:
    ValueError: if ``bits`` is out of range.

  Examples:
    >>> wrpn(4).apply((), (), jnp.array([[0.99, 5.0]]), train=True)[0].tolist()
    [[1.0, 1.0]]

  References:
    Mishra et al., 2018.
  """
  _check_weight_bits(bits, 2)
  steps = 2 ** (bits - 1) - 1

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del params, train, nonnegative, rng
    return wrpn_weights(x, bits), state

  return Quantizer(
    lambda x: ((), ()),
    apply,
    lambda params, state, x: spread(1.0 / steps, x),
    Levels(-steps, steps, True),
    fits="weights",
  )
