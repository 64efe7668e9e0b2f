"""AdaRound: learns, layer by layer, which weights are rounded up and which down."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.nn.activations import activate
from jaxcompress.quantize.fake_quant import Levels

ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched to -0.1 .. 1.1 and clipped
WARMUP = 0.2  # share of the steps without the regulariser
FIRST_BETA, LAST_BETA = 20.0, 2.0


class Settings(NamedTuple):
  """How one layer is optimised. Hashable.

  Attributes:
    steps: of Adam.
    rows: output positions in each step.
    rate: learning rate.
    weight: of the regulariser, against the error in units of a rounding step.
  """

  steps: int = 1000
  rows: int = 256
  rate: float = 0.1
  weight: float = 0.3


class Samples(NamedTuple):
  """Output positions of one layer.

  Attributes:
    patches: (rows, groups, in) float32, what the rounded network gives the layer.
    targets: (rows, groups, out) float32, what the float layer makes of what the float network
      gives it, before the activation.
  """

  patches: np.ndarray
  targets: np.ndarray


def soft_rounding(v: jax.Array) -> jax.Array:
  """``h = clip(1.2 sigmoid(v) - 0.1, 0, 1)``: 0 rounds down, 1 rounds up.

  Examples:
    >>> soft_rounding(jnp.array([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
  """
  return jnp.clip(jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def as_they_are(weights: jax.Array, scale: jax.Array) -> jax.Array:
  """The ``v`` with which soft rounding changes nothing: ``h(v)`` is the fraction of ``w / s``.

  Examples:
    >>> float(soft_rounding(as_they_are(jnp.array(0.75), jnp.array(1.0))))
    0.75
  """
  ratio = weights / scale
  return -jnp.log((ZETA - GAMMA) / (ratio - jnp.floor(ratio) - GAMMA) - 1)


def soft_weights(weights: jax.Array, scale: jax.Array, v: jax.Array, to: Levels) -> jax.Array:
  """``s clip(floor(w / s) + h(v), low, high)`` (Nagel et al., 2020, equation 22)."""
  codes = jnp.floor(weights / scale) + soft_rounding(v)
  return scale * jnp.clip(codes, to.low, to.high)


def regulariser(v: jax.Array, beta: jax.Array | float) -> jax.Array:
  """``sum of 1 - |2 h(v) - 1|**beta``, which is zero where every weight has decided.

  Examples:
    >>> float(regulariser(jnp.array([0.0, 9.0]), 2.0))
    1.0
  """
  return jnp.sum(1 - jnp.abs(2 * soft_rounding(v) - 1) ** beta)


def choose_codes(
  weights: np.ndarray,
  scales: np.ndarray,
  bias: np.ndarray,
  samples: Samples,
  *,
  act: str | None,
  to: Levels,
  key: jax.Array,
  settings: Settings = Settings(),  # noqa: B008
) -> np.ndarray:
  """The integers of one layer.

  Minimises the squared error of the layer's output after its activation, in each channel relative
  to a rounding step there, plus the regulariser, whose exponent falls from 20 to 2. An output
  channel that ends up worse on the samples than rounding to nearest keeps that. Zeros stay zero.

  Args:
    weights: (groups, in, out) float32.
    scales: (groups, 1, out) float32.
    bias: (groups, out) float32.
    samples: of the layer.
    act: name of the activation function, or None.
    to: the integers.
    key: of the samples' order.
    settings: of the optimisation.

  Returns:
    int8, shaped like ``weights``.

  References:
    Nagel et al., `Up or Down? Adaptive Rounding for Post-Training Quantization
    <https://arxiv.org/abs/2004.10568>`_, 2020, section 3.
  """
  codes = _optimise(
    *(np.asarray(array, np.float32) for array in (weights, scales, bias)),
    samples,
    key,
    act,
    to,
    settings,
  )
  return np.asarray(codes).astype(np.int8)


def grouped(patches: jax.Array, weights: jax.Array) -> jax.Array:
  """(rows, groups, in) times (groups, in, out): (rows, groups, out)."""
  if weights.shape[-1] == 1:  # depthwise: too little for a product of matrices
    return jnp.sum(patches * weights[None, :, :, 0], axis=-1, keepdims=True)
  return jnp.einsum("mgd,gdo->mgo", patches, weights, precision="highest")


@partial(jax.jit, static_argnums=(5, 6, 7))
def _optimise(weights, scales, bias, samples, key, act, to, settings):
  power = jnp.mean(jnp.square(samples.patches), axis=(0, 2))  # (groups,)
  unit = jnp.square(scales[:, 0]) * jnp.maximum(power, 1e-12)[:, None]  # (groups, out)
  targets = activate(act, samples.targets)
  rows = len(targets)

  def error(rounded, patches, wanted):
    """(groups, out) mean squared errors in units of a rounding step."""
    y = activate(act, grouped(patches, rounded) + bias[None])
    return jnp.mean(jnp.square(y - wanted), axis=0) / unit

  def loss(v, batch, beta, on):
    rounded = soft_weights(weights, scales, v, to)
    total = jnp.sum(error(rounded, samples.patches[batch], targets[batch]))
    return total + settings.weight * on * regulariser(v, beta)

  optimizer = optax.adam(settings.rate)
  start = as_they_are(weights, scales)

  def step(i, carry):
    v, state = carry
    batch = jax.random.randint(jax.random.fold_in(key, i), (min(settings.rows, rows),), 0, rows)
    done = jnp.maximum(i / settings.steps - WARMUP, 0) / (1 - WARMUP)
    beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * done
    grads = jax.grad(loss)(v, batch, beta, i >= WARMUP * settings.steps)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(v, updates), state

  v, _ = jax.lax.fori_loop(0, settings.steps, step, (start, optimizer.init(start)))
  clip = lambda codes: jnp.clip(codes, to.low, to.high)  # noqa: E731
  learned = clip(jnp.floor(weights / scales) + (soft_rounding(v) >= 0.5))
  learned = jnp.where(weights == 0, 0.0, learned)  # pruned weights stay
  nearest = clip(jnp.round(weights * (1 / scales)))
  worse = error(learned * scales, samples.patches, targets) > error(
    nearest * scales, samples.patches, targets
  )
  return jnp.where(worse[:, None], nearest, learned)
