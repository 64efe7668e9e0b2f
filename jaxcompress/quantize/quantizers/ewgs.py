"""Element-wise gradient scaling: the gradient depends on how far a value was rounded."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcompress.quantize.quantizers.base import Quantizer, named
from jaxcompress.quantize.quantizers.steps import round_to_step, step_activations, step_weights


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def ewgs_round(x: jax.Array, factor: float, steps: int = 1) -> jax.Array:
  """``y = round(x n) / n`` with gradient ``g (1 + factor sign(g) (x - y))``.

  Args:
    x: normalized to [0, 1] or [-1, 1], float32 or bfloat16; the result has the same dtype.
    factor: the scaling factor; 0 is the plain straight-through estimator.
    steps: ``n``, steps to 1.

  Examples:
    >>> jax.grad(lambda x: ewgs_round(x, 0.5))(0.25).item()
    1.125

  References:
    Lee et al., `Network Quantization with Element-wise Gradient Scaling
    <https://arxiv.org/abs/2104.00903>`_, 2021, equation 4.
  """
  del factor
  return (jnp.round(x * steps) * (1.0 / steps)).astype(jnp.result_type(x))


def _forward(x, factor, steps):
  y = ewgs_round(x, factor, steps)
  return y, x - y


def _backward(factor, steps, distance, g):
  del steps
  return (g + factor * jnp.abs(g) * distance,)


ewgs_round.defvjp(_forward, _backward)


def ewgs_quantize(
  x: jax.Array,
  step: jax.Array,
  low: jax.Array | int,
  high: jax.Array | int,
  factor: float,
  grad_scale: jax.Array | float = 1.0,
) -> jax.Array:
  """Clips to a trained range and rounds, with EWGS's gradient: ``dx = g (1 + d sign(g) (u - q))``.

  ``u`` and ``q`` are the value and its level, as shares of the range. Outside of it ``dx`` is 0.
  The range is trained through its step, by the derivative of the whole with EWGS for the rounding;
  with ``factor`` 0 this is :func:`~jaxcompress.quantize.lsq_quantize`.

  Args:
    x: any shape, float32 or bfloat16; the result has the same dtype.
    step: positive, float32; broadcasts against ``x`` from the same rank or is a scalar.
    low: lowest multiple.
    high: highest multiple.
    factor: ``d``.
    grad_scale: factor of the step's gradient.

  Examples:
    >>> step = jnp.float32(0.5)
    >>> x = jnp.array([-9.0, 0.3, 0.8])
    >>> ewgs_quantize(x, step, -2, 1, 0.3).tolist()
    [-1.0, 0.5, 0.5]
    >>> jax.grad(lambda x: ewgs_quantize(x, step, -2, 1, 0.3)[1])(x)[1].item()  # 1 - 0.3 * 0.4 / 3
    0.9599999785423279

  References:
    Lee et al., 2021, equations 1 to 4.
  """
  return round_to_step(x, step, None, low, high, grad_scale, False, float(factor))


@named
def ewgs(
  bits: int = 8, *, factor: float = 1e-3, per_channel: bool = True, narrow: bool = True
) -> Quantizer:
  """EWGS for weights: a trained symmetric range, which starts at three root mean squares.

  Args:
    bits: 2 to 8.
    factor: the scaling factor, fixed. (The paper also derives one from the Hessian's trace.)
    per_channel: one range for each output channel; the paper has one for each layer.
    narrow: leave out the most negative level.

  Returns:
    A :class:`Quantizer` that trains a :class:`~jaxcompress.quantize.quantizers.Learned` step.

  Raises:
    ValueError: if ``bits`` is out of range, 8 without ``narrow``, or ``factor`` is negative.

  Examples:
    >>> quantizer = ewgs(2)
    >>> w = jnp.array([[1.0], [-1.0]])
    >>> _, state = quantizer.apply(*quantizer.init(w), w, train=True)
    >>> float(state.base[0, 0])
    3.0

  References:
    Lee et al., 2021.
  """
  _check(factor)

  def measure(x, axes, to):
    return 3.0 * jnp.sqrt(jnp.mean(jnp.square(x), axes, keepdims=len(axes) < x.ndim)) / to.high

  return step_weights(bits, measure, per_channel=per_channel, narrow=narrow, bend=float(factor))


@named
def ewgs_activations(bits: int = 8, *, factor: float = 1e-3) -> Quantizer:
  """EWGS for activations: a trained range, which starts at three root mean squares.

  A tensor without negative values in the first batch uses all levels from zero up. For fewer than
  8 bits see :func:`~jaxcompress.quantize.quantizers.lsq_activations`.

  Args:
    bits: 2 to 8.
    factor: the scaling factor, fixed.

  Returns:
    A :class:`Quantizer` that trains a :class:`~jaxcompress.quantize.quantizers.Learned` step.

  Raises:
    ValueError: if ``bits`` is out of range or ``factor`` is negative.

  Examples:
    >>> quantizer = ewgs_activations(2)
    >>> x = jnp.array([[1.0, 1.0]])
    >>> quantizer.apply(*quantizer.init(x), x, train=True)[0].tolist()
    [[1.0, 1.0]]

  References:
    Lee et al., 2021.
  """
  _check(factor)

  def measure(x, high):
    return 3.0 * jnp.sqrt(jnp.mean(jnp.square(x))) / high

  return step_activations(bits, measure, bend=float(factor))


def _check(factor):
  if factor < 0:
    raise ValueError(f"factor: {factor} must not be negative; 0 is the straight-through estimator.")
