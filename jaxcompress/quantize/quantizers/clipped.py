"""Ranges that are clipped to: DoReFa for weights, activations and gradients, WRPN, and PACT."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import Levels, check_bits, finite, levels
from jaxcompress.quantize.quantizers.anchors import Learned, anchored, has_negative, new_anchor
from jaxcompress.quantize.quantizers.base import (
  INT8,
  Quantizer,
  check_activation_bits,
  named,
  positive,
  round_through,
  sides,
  spread,
  stateless,
  sum_to,
)
from jaxcompress.quantize.quantizers.binary import bwn_weights, mean_magnitude
from jaxcompress.quantize.quantizers.steps import round_to_step


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
  check_bits("bits", bits, 8, fewest=1)
  steps = min(2**bits - 1, INT8.high)

  def function(_, w):
    if bits < 8:
      return dorefa_weights(w, bits, through_max=through_max)
    return (round_through(_squashed(w, through_max) * steps) * (1.0 / steps)).astype(w.dtype)

  def grid(w):
    return spread(mean_magnitude(w, per_channel=False) if bits == 1 else 1.0 / steps, w)

  return stateless(Levels(-steps, steps, True), "weights", function, grid)


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
def dorefa_gradient(x: jax.Array, rng: jax.Array | None, bits: int) -> jax.Array:
  """The identity, whose gradient is rounded stochastically; see :func:`quantize_gradient`.

  Args:
    x: an activation, the batch first.
    rng: of the noise; None: the gradient is rounded without noise, which biases it.
    bits: of the gradient.

  Examples:
    >>> x = jnp.zeros((1, 3))
    >>> pull = jax.vjp(lambda x: dorefa_gradient(x, None, 2), x)[1]
    >>> [round(g, 3) for g in pull(jnp.array([[1.0, 0.2, -1.0]]))[0][0].tolist()]
    [1.0, 0.333, -1.0]

  References:
    Zhou et al., 2016, section 2.4.
  """
  del rng, bits
  return x


def _gradient_backward(bits, rng, g):
  noise = 0.0 if rng is None else jax.random.uniform(rng, g.shape, minval=-0.5, maxval=0.5)
  return quantize_gradient(g, noise, bits), None


dorefa_gradient.defvjp(lambda x, rng, bits: (x, rng), _gradient_backward)


@named
def dorefa_activations(
  bits: int = 8, *, bound: float = 1.0, gradient_bits: int | None = None
) -> Quantizer:
  """DoReFa and WRPN for activations: ``y = round(clip(x / A, 0, 1) n) A / n``, ``n = 2^k - 1``.

  The gradient is 1 for ``0 <= x <= A``, with ``A`` the bound. A tensor with negative values in the
  first batch is clipped to ``[-A, A]`` (except with one bit). For fewer than 8 bits see
  :func:`lsq_activations`.

  Args:
    bits: 1 to 8.
    bound: 1 in the papers; 6 suits ReLU6.
    gradient_bits: also round the gradient, with noise if ``apply`` is given an ``rng``.

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
    Zhou et al., 2016, equation 11; Mishra et al., 2018, section 5.
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
    y = round_to_step(x, step, jnp.maximum(low, -high), high, 0.0)
    return y if gradient_bits is None else dorefa_gradient(y, rng, gradient_bits), state

  def grid(params, state, x=None):
    del params, x
    zero, _, high = sides(to, state.signed & (bits > 1))
    return state.base / high, zero

  return Quantizer(init, apply, grid, to, fits="activations")


@named
def wrpn(bits: int = 8) -> Quantizer:
  """WRPN for weights: ``y = round(clip(w, -1, 1) n) / n`` with ``n = 2^(k - 1) - 1``.

  The gradient is 1 for ``|w| <= 1``. Its activations are :func:`dorefa_activations`.

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
    Mishra et al., `WRPN: Wide Reduced-Precision Networks <https://arxiv.org/abs/1709.01134>`_,
    2018, section 5.
  """
  check_bits("bits", bits, 8)
  steps = 2 ** (bits - 1) - 1
  return stateless(
    Levels(-steps, steps, True),
    "weights",
    lambda _, w: round_to_step(w, 1.0 / steps, -steps, steps, 0.0),
    lambda w: spread(1.0 / steps, w),
  )


@jax.custom_vjp
def pact_clip(
  x: jax.Array, clip: jax.Array, steps: jax.Array | int, low: jax.Array | float = 0.0
) -> jax.Array:
  """Clips to ``[low * A, A]`` and rounds: ``y = round(clip(x, low A, A) * n / A) * A / n``.

  ``dy/dx`` is 1 inside and on the edges, 0 elsewhere; ``dy/dA`` is 1 for ``x >= A``, ``low`` for
  ``x < low * A`` and 0 between.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    clip: ``A``, positive, float32 scalar.
    steps: ``n``, the steps from 0 to ``A``: ``2^bits - 1`` in the paper.
    low: 0 as in the paper, for what a rectifier gives, or -1.

  Returns:
    ``x`` on the grid.

  Examples:
    >>> x, clip = jnp.array([-1.0, 0.4, 1.2, 5.0]), jnp.float32(3.0)
    >>> pact_clip(x, clip, 3).tolist()
    [0.0, 0.0, 1.0, 3.0]
    >>> float(jax.grad(lambda a: pact_clip(x, a, 3).sum())(clip))
    1.0

  References:
    Choi et al., `PACT: Parameterized Clipping Activation for Quantized Neural Networks
    <https://arxiv.org/abs/1805.06085>`_, 2018, equations 1 to 3.
  """
  return _pact_forward(x, clip, steps, low)[0]


def _pact_forward(x, clip, steps, low):
  values = jnp.minimum(jnp.maximum(x.astype(jnp.float32), low * clip), clip)
  step = clip / steps
  y = jnp.round(values * (1.0 / step)) * step
  return y.astype(x.dtype), (x, clip, low)


def _pact_backward(saved, g):
  x, clip, low = saved
  x, slope = x.astype(jnp.float32), g.astype(jnp.float32)
  above, below = x >= clip, x < low * clip
  d_clip = sum_to(jnp.where(above, slope, jnp.where(below, low * slope, 0.0)), jnp.shape(clip))
  return jnp.where((x > clip) | below, jnp.zeros_like(g), g), d_clip, None, None


pact_clip.defvjp(_pact_forward, _pact_backward)


@named
def pact(bits: int = 8, *, clip: float | None = None) -> Quantizer:
  """PACT for activations: the largest value of each tensor is trained.

  The paper decays ``A`` with the weights' L2 term; give the optimizer weight decay for that. (What
  decays is the distance from the start.) A tensor without negative values in the first batch is
  clipped to ``[0, A]`` as in the paper, any other, such as a linear bottleneck, to ``[-A, A]``.
  For fewer than 8 bits see :func:`lsq_activations`.

  Args:
    bits: 2 to 8.
    clip: where ``A`` starts; None: at the first batch's largest magnitude.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned` distance from an :class:`Anchor`.

  Raises:
    ValueError: if ``bits`` is out of range or ``clip`` is not positive.

  Examples:
    >>> quantizer = pact(2, clip=3.0)
    >>> x = jnp.array([[0.4, 1.2, 5.0]])
    >>> quantizer.apply(*quantizer.init(x), x, train=True, nonnegative=True)[0].tolist()
    [[0.0, 1.0, 3.0]]

  References:
    Choi et al., 2018.
  """
  check_activation_bits(bits)
  if clip is not None and not clip > 0:
    raise ValueError(f"clip: {clip} must be positive, or None to start at the largest value.")
  to = levels(bits, symmetric=False)

  def init(x):
    del x
    base = jnp.full((), 1.0 if clip is None else clip, jnp.float32)
    return Learned(jnp.zeros(())), new_anchor(base)

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del rng

    def first():
      if clip is not None:
        return jnp.full((), clip, jnp.float32)
      return finite(jnp.max(jnp.abs(x)).astype(jnp.float32))

    state = anchored(state, train, first, has_negative(x, nonnegative))
    _, _, steps = sides(to, state.signed)
    low = jnp.where(state.signed, -1.0, 0.0)
    return pact_clip(x, positive(state.base + params.delta), steps, low), state

  def grid(params, state, x=None):
    del x
    zero, _, steps = sides(to, state.signed)
    return positive(state.base + params.delta) / steps, zero

  return Quantizer(init, apply, grid, to, fits="activations")
