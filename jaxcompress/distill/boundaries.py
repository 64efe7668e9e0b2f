"""Losses on maps before their ReLU, where the boundary of activation lies."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.hints import init_regressors, regress
from jaxcompress.distill.layers import conv_norm, init_conv_norms
from jaxcompress.distill.maps import (
  Pair,
  Places,
  check_channels,
  matched,
  on_maps,
)
from jaxcompress.distill.scalars import check_number
from jaxcompress.nn.norm import spread

PER_MAP = 3 / 1000  # of the authors' code


def ab(margin: float = 1.0, *, maps: Places | None = None) -> LossTransform:
  """Activation boundaries: which neurons are active, not how strongly.

  ``3/1000 / batch * sum_l 2**(l - L + 1) sum b(s, t)`` over maps ``l = 0 .. L - 1`` and all their
  numbers: ``b = (s + margin)**2`` where the teacher's neuron is off (t <= 0) and s > -margin,
  ``(s - margin)**2`` where it is on and s <= margin, else 0. Maps of other shapes go through a
  convolution and batch normalization first (see :func:`~jaxcompress.distill.hints.regress`).

  Args:
    margin: distance from the boundary that is asked for.
    maps: places in both networks' ``preact``, or pairs of places; by default all but the stem's.

  Returns:
    A :class:`LossTransform` with a layer ``{"kernel", "scale", "bias"}`` and running
    :class:`~jaxcompress.distill.layers.Moments` for each map, ``()`` where shapes are equal;
    metric ``ab``. It reads ``preact``. The method trains the student's maps with it first, and
    then the whole student on labels.

  Raises:
    ValueError: if ``margin`` is not positive or ``maps`` are no places; on ``init``, if there is no
      teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> off, on = (Endpoints(None, preact=(x * jnp.ones((1, 2, 2, 1)),)) for x in (-2.0, 2.0))
    >>> [round(float(ab().update(((),), ((),), off, (t,), {})[0]), 4) for t in (off, on)]
    [0.0, 0.108]

  References:
    Heo et al., `Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
    Neurons <https://arxiv.org/abs/1811.03233>`_, 2019, equation 8.
  """
  check_number("margin", margin, positive=True)

  def init(rng, pairs):
    return init_regressors(rng, pairs, skip_equal=True)

  def boundary(s, t):
    off = jnp.where((s > -margin) & (t <= 0), jnp.square(s + margin), 0.0)
    on = jnp.where((s <= margin) & (t > 0), jnp.square(s - margin), 0.0)
    return jnp.sum(off + on) / len(s)

  def compute(params, state, pairs):
    pairs, state = regress(params, state, pairs)
    return PER_MAP * _weighted_to_last([boundary(s, t) for s, t in pairs]), state

  return on_maps("ab", maps, compute, init, field="preact")


def ofd(
  margins: tuple[jax.Array, ...] | None = None,
  *,
  maps: Places | None = None,
  connector: bool = True,
) -> LossTransform:
  """Overhaul of feature distillation: a distance that leaves silent neurons alone.

  ``sum_l 2**(l - L + 1) / batch * sum (s - max(t, m))**2`` over maps ``l = 0 .. L - 1`` and those
  of their numbers where ``s > max(t, m)`` or ``t > 0``; the margin ``m < 0`` is, per channel, the
  teacher's mean where it is negative. The student's maps go through a 1x1 convolution and batch
  normalization; the larger map is pooled to the smaller.

  Args:
    margins: (channels,) for each map, from :func:`ofd_margin`; None takes the running mean of what
      the teacher's maps have below 0.
    maps: places in both networks' ``preact``, or pairs of places; by default all but the stem's.
    connector: False compares maps of equal channels as they are.

  Returns:
    A :class:`LossTransform` with a layer ``{"kernel", "scale", "bias"}`` for each map, and as state
    ``{"statistics", "margins", "count"}``; metric ``ofd``. It reads ``preact``.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher, no such map, the
      margins do not fit, or channels differ without a connector.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, preact=(jnp.ones((1, 2, 2, 3)),))
    >>> teacher = Endpoints(None, preact=(-jnp.ones((1, 2, 2, 3)),))
    >>> loss = ofd((-0.5 * jnp.ones(3),), connector=False)
    >>> params, state = loss.init(jax.random.key(0), student, (teacher,), {})
    >>> float(loss.update(params, state, student, (teacher,), {})[0])  # 12 * 1.5**2
    27.0

  References:
    Heo et al., `A Comprehensive Overhaul of Feature Distillation
    <https://arxiv.org/abs/1904.01866>`_, 2019, sections 3.1 to 3.3.
  """
  given = None if margins is None else tuple(jnp.asarray(m).reshape(-1) for m in margins)

  def init(rng, pairs):
    _check_margins(given, pairs)
    layers, statistics = ((),) * len(pairs), ((),) * len(pairs)
    if connector:
      layers, statistics = init_conv_norms(rng, [(1, s.shape[-1], t.shape[-1]) for s, t in pairs])
    else:
      check_channels("ofd without a connector", pairs)
    zeros = tuple(jnp.zeros(t.shape[-1], jnp.float32) for _, t in pairs)
    state = {
      "statistics": statistics,
      "margins": zeros if given is None else (),
      "count": jnp.zeros((), jnp.int32) if given is None else (),
    }
    return layers, state

  def distance(s, t, margin):
    s, t = matched(s, t)
    target = jnp.maximum(t, spread(margin, t))
    return jnp.sum(jnp.where((s > target) | (t > 0), jnp.square(s - target), 0.0)) / len(s)

  def compute(params, state, pairs):
    if given is None:
      state = {**state, **_renewed(state, pairs)}
    terms, statistics = [], []
    for i, (s, t) in enumerate(pairs):
      seen = state["statistics"][i]
      if connector:
        s, seen = conv_norm(params[i], seen, s)
      statistics.append(seen)
      terms.append(distance(s, t, state["margins"][i] if given is None else given[i]))
    return _weighted_to_last(terms), {**state, "statistics": tuple(statistics)}

  return on_maps("ofd", maps, compute, init, field="preact")


def ofd_margin(scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
  """The mean of the negative part of a normalised channel, ``E[x | x < 0]`` of N(bias, scale**2).

  Args:
    scale: of the teacher's last batch normalization before the ReLU, (channels,).
    bias: its bias, (channels,).

  Returns:
    (channels,) float32: ``bias - |scale| phi(bias / |scale|) / Phi(-bias / |scale|)``, and
    ``-3 |scale|`` where less than a thousandth is negative.

  Examples:
    >>> ofd_margin(np.array([1.0, 1.0]), np.array([0.0, 5.0])).round(4).tolist()
    [-0.7979000210762024, -3.0]

  References:
    Heo et al., 2019 (see :func:`ofd`), section 3.2, and its authors' code for rare negatives.
  """
  deviation = np.maximum(np.abs(np.asarray(scale, np.float64)), 1e-12)
  ratio = np.asarray(bias, np.float64) / deviation
  share = np.vectorize(math.erfc, otypes=[np.float64])(ratio / math.sqrt(2)) / 2
  tail = np.exp(-np.square(ratio) / 2) / np.sqrt(2 * np.pi) / np.maximum(share, 1e-12)
  margin = np.where(share > 1e-3, deviation * (ratio - tail), -3 * deviation)
  return margin.astype(np.float32)


def _renewed(state: dict, pairs: tuple[Pair, ...]) -> dict:
  """Running means of the teacher's negative numbers; the first batch's as they are."""

  def below(t):
    negative = t < 0
    count = jnp.sum(negative, axis=(0, 1, 2))
    return jnp.sum(jnp.where(negative, t, 0.0), axis=(0, 1, 2)) / jnp.maximum(count, 1)

  share = jnp.where(state["count"] == 0, 1.0, 0.1)
  margins = tuple(
    (1 - share) * old + share * below(t)
    for old, (_, t) in zip(state["margins"], pairs, strict=True)
  )
  return {"margins": margins, "count": state["count"] + 1}


def _weighted_to_last(terms: list[jax.Array]) -> jax.Array:
  """The last term whole, each one before it half of its successor."""
  weighted = [2.0 ** (i + 1 - len(terms)) * term for i, term in enumerate(terms)]
  return sum(weighted[1:], weighted[0])


def _check_margins(margins: tuple[jax.Array, ...] | None, pairs: tuple[Pair, ...]) -> None:
  wanted = [t.shape[-1] for _, t in pairs]
  if margins is not None and [len(m) for m in margins] != wanted:
    raise ValueError(
      f"margins: they have {', '.join(str(len(m)) for m in margins)} numbers and the teacher's maps"
      f" {', '.join(map(str, wanted))} channels; give one vector for each map."
    )
