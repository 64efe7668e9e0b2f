"""PACT: activations clipped where training says."""

import jax
import jax.numpy as jnp

from jaxcompress.quantize.fake_quant import finite, levels
from jaxcompress.quantize.quantizers.base import (
  Learned,
  Quantizer,
  anchored,
  has_negative,
  named,
  new_anchor,
  positive,
  sides,
  sum_to,
)
from jaxcompress.quantize.quantizers.steps import check_activation_bits


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
  return _forward(x, clip, steps, low)[0]


def _forward(x, clip, steps, low):
  values = jnp.minimum(jnp.maximum(x.astype(jnp.float32), low * clip), clip)
  step = clip / steps
  y = jnp.round(values * (1.0 / step)) * step
  return y.astype(x.dtype), (x, clip, low)


def _backward(saved, g):
  x, clip, low = saved
  x, slope = x.astype(jnp.float32), g.astype(jnp.float32)
  above, below = x >= clip, x < low * clip
  d_clip = sum_to(jnp.where(above, slope, jnp.where(below, low * slope, 0.0)), jnp.shape(clip))
  return jnp.where((x > clip) | below, jnp.zeros_like(g), g), d_clip, None, None


pact_clip.defvjp(_forward, _backward)


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
