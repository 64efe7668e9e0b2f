"""Sums of losses whose weights find themselves."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.base import Batch, LossTransform, Metrics, Teachers
from jaxcompress.distill.combine import fold, named_chain
from jaxcompress.nn import Endpoints


def by_uncertainty(**transforms: LossTransform) -> LossTransform:
  """Losses weighted by learned uncertainties.

  ``sum_i exp(-v_i) loss_i / 2 + v_i / 2``, with a log-variance ``v_i`` per loss that is trained
  along and starts at 0. It suits losses that are not negative.

  Args:
    **transforms: the losses by name.

  Returns:
    A :class:`LossTransform` with the parameters ``{"log_variance", "terms"}``; metrics are those of
    the named chain, and ``weight/NAME``.

  Raises:
    ValueError: as :func:`~jaxcompress.distill.named_chain`.

  Examples:
    >>> from jaxcompress.distill import cross_entropy
    >>> from jaxcompress.nn import Endpoints
    >>> loss = by_uncertainty(labels=cross_entropy())
    >>> student, batch = Endpoints(jnp.zeros((1, 4))), {"label": jnp.array([2])}
    >>> params, state = loss.init(jax.random.key(0), student, (), batch)
    >>> round(float(loss.update(params, state, student, (), batch)[0]), 4)  # log(4) / 2
    0.6931

  References:
    Kendall et al., `Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics <https://arxiv.org/abs/1705.07115>`_, 2018, equation 7.
  """
  chained, names = named_chain(**transforms), tuple(transforms)

  def init(rng, student, teachers, batch):
    params, state = chained.init(rng, student, teachers, batch)
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return {"log_variance": zeros, "terms": params}, state

  def update(params, state, *args, **extras):
    values, state, metrics = _terms(transforms, params["terms"], state, *args, **extras)
    weights = {name: jnp.exp(-params["log_variance"][name]) / 2 for name in names}
    total = sum(weights[name] * values[name] + params["log_variance"][name] / 2 for name in names)
    return total, state, {**metrics, **_shown(weights)}

  return LossTransform(init, update, chained.check)


class MagnitudeState(NamedTuple):
  """State of :func:`by_magnitude`.

  Attributes:
    count: updates so far, () int32.
    sizes: running mean of each loss's size, () float32 by name.
    terms: states of the losses by name.
  """

  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  sizes: dict[str, jax.Array]
  terms: Any


def by_magnitude(decay: float = 0.99, **transforms: LossTransform) -> LossTransform:
  """Losses divided by the running mean of their size, so that each weighs as much.

  ``sum_i loss_i / m_i`` with ``m_i = decay m_i + (1 - decay) |loss_i|``, corrected for its start at
  0, from which no gradient comes; the first step's losses count 1 each.

  Args:
    decay: of the running means, in [0, 1).
    **transforms: the losses by name; scaling one changes nothing.

  Returns:
    A :class:`LossTransform` with :class:`MagnitudeState`; metrics are those of the named chain, and
    ``weight/NAME``.

  Raises:
    ValueError: if ``decay`` is out of range; else as :func:`~jaxcompress.distill.named_chain`.

  Examples:
    >>> from jaxcompress.distill import cross_entropy
    >>> from jaxcompress.nn import Endpoints
    >>> loss = by_magnitude(labels=cross_entropy())
    >>> student, batch = Endpoints(jnp.zeros((1, 4))), {"label": jnp.array([2])}
    >>> params, state = loss.init(jax.random.key(0), student, (), batch)
    >>> round(float(loss.update(params, state, student, (), batch)[0]), 4)
    1.0

  References:
    Chen et al., `GradNorm <https://arxiv.org/abs/1711.02257>`_, 2018, balances sizes of gradients in
    this spirit; sizes of losses cost no further backward pass.
  """
  schedules.check_number("decay", decay)
  if not 0 <= decay < 1:
    raise ValueError(f"decay: {decay} must be in [0, 1).")
  chained, names = named_chain(**transforms), tuple(transforms)

  def init(rng, student, teachers, batch):
    params, state = chained.init(rng, student, teachers, batch)
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return params, MagnitudeState(jnp.zeros((), jnp.int32), zeros, state)

  def update(params, state, *args, **extras):
    values, terms, metrics = _terms(transforms, params, state.terms, *args, **extras)
    count = state.count + 1
    sizes = {
      name: decay * state.sizes[name] + (1 - decay) * jax.lax.stop_gradient(jnp.abs(values[name]))
      for name in names
    }
    started = 1 - jnp.power(jnp.float32(decay), count.astype(jnp.float32))
    weights = {name: started / jnp.maximum(sizes[name], 1e-12) for name in names}
    total = sum(weights[name] * values[name] for name in names)
    return total, MagnitudeState(count, sizes, terms), {**metrics, **_shown(weights)}

  return LossTransform(init, update, chained.check)


def _terms(
  transforms: Mapping[str, LossTransform],
  params: Any,
  state: Any,
  student: Endpoints,
  teachers: Teachers,
  batch: Batch,
  **extras: Any,
) -> tuple[dict[str, jax.Array], dict[str, Any], Metrics]:
  """Each loss by itself: values, states, and metrics under its name."""
  values: dict[str, jax.Array] = {}
  states: dict[str, Any] = {}
  metrics: Metrics = {}
  for i, (name, transform) in enumerate(transforms.items()):
    values[name], states[name], found = transform.update(
      params[name], state[name], student, teachers, batch, **fold(extras, i)
    )
    metrics |= {f"{name}/{key}": value for key, value in found.items()}
  return values, states, metrics


def _shown(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {f"weight/{name}": jax.lax.stop_gradient(value) for name, value in weights.items()}
