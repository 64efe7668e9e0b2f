"""Factor transfer: the teacher's map paraphrased, the student's translated."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.distill.attention import activity
from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.layers import (
  Layer,
  conv,
  conv_norms,
  init_conv,
  init_conv_norms,
  mean_square,
)
from jaxcompress.distill.maps import Places, matched, on_each_map
from jaxcompress.distill.scalars import check_number

SLOPE = 0.1  # of the leaky ReLUs


def factor(
  share: float = 0.5,
  *,
  power: float = 2.0,
  order: int = 1,
  maps: Places | None = (-1,),
  translate: bool = True,
) -> LossTransform:
  """Factor transfer: the student's translated map against the teacher's paraphrased one.

  The sum over maps of ``mean |f(s) - f(t)|**order``, where ``f`` is the mean over channels of
  ``|x|**power``, flattened and brought to length 1. The student's map goes through the
  translator, three 3x3 convolutions with batch normalization and leaky ReLU; the teacher's through
  the paraphraser's encoder, three 3x3 convolutions with leaky ReLU, which :func:`paraphrase` trains
  in a stage before and which gets no gradient here. The larger map is pooled to the smaller.

  Args:
    share: of the teacher's channels in a factor.
    power: of the activations.
    order: 1 for absolute, 2 for squared differences.
    maps: places in both networks' maps, or pairs of places; by default the last.
    translate: False compares the maps as they are.

  Returns:
    A :class:`LossTransform` with ``{"paraphraser": {"encoder", "decoder"}, "translator"}`` for each
    map as parameters and the translator's running
    :class:`~jaxcompress.distill.layers.Moments` as state (``()`` each if nothing is
    translated); metric ``factor``. It reads ``maps``.

  Raises:
    ValueError: if ``share`` is not in (0, 1], ``order`` not 1 or 2, ``power`` below 1, or ``maps``
      are no places; on ``init``, if there is no teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 8)),))
    >>> params, state = factor().init(jax.random.key(0), student, (teacher,), {})
    >>> [layer["kernel"].shape for layer in params[0]["translator"]]
    [(3, 3, 3, 3), (3, 3, 3, 4), (3, 3, 4, 4)]

  References:
    Kim et al., `Paraphrasing Complex Network: Network Compression via Factor Transfer
    <https://arxiv.org/abs/1802.04977>`_, 2018, section 3; as in Tian et al., 2020.
  """
  if order not in (1, 2):
    raise ValueError(f"order: {order} must be 1 or 2.")
  if power < 1:
    raise ValueError(f"power: {power} must be at least 1.")

  def difference(s, t):
    s, t = matched(s, t)
    gap = activity(s, power) - activity(t, power)
    return jnp.mean(jnp.abs(gap)) if order == 1 else mean_square(gap)

  def compute(layers, statistics, s, t):
    encoded = jax.lax.stop_gradient(_convolved(layers["paraphraser"]["encoder"], t))
    s, statistics = conv_norms(layers["translator"], statistics, s, _leaky_relu)
    return difference(s, encoded), statistics

  if not translate:
    return on_each_map("factor", maps, difference, by_example=True)
  return on_each_map("factor", maps, compute, _init(share))


def paraphrase(share: float = 0.5, *, maps: Places | None = (-1,)) -> LossTransform:
  """The stage before :func:`factor`: its paraphraser learns to reconstruct the teacher's maps.

  The sum over maps of ``mean (decode(encode(t)) - t)**2``; the decoder mirrors the encoder, and
  also ends with a leaky ReLU. Nothing reaches the student.

  Args:
    share: that of :func:`factor`.
    maps: those of :func:`factor`.

  Returns:
    A :class:`LossTransform` whose parameters and state have the form of those of :func:`factor`,
    so that two stages share them by name; metric ``paraphrase``. It reads ``maps``.

  Raises:
    ValueError: as :func:`factor`.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.zeros((2, 4, 4, 8)),))
    >>> params, state = paraphrase().init(jax.random.key(0), same, (same,), {})
    >>> [layer["kernel"].shape for layer in params[0]["paraphraser"]["decoder"]]
    [(3, 3, 4, 4), (3, 3, 4, 8), (3, 3, 8, 8)]

  References:
    Kim et al., 2018 (see :func:`factor`), section 3.1.
  """

  def compute(layers, state, s, t):
    parts = layers["paraphraser"]
    decoded = _convolved(parts["decoder"], _convolved(parts["encoder"], t))
    return mean_square(decoded - t), state

  return on_each_map("paraphrase", maps, compute, _init(share))


def _init(share: float) -> Callable[..., tuple[Any, Any]]:
  """Parameters and state that both stages use."""
  check_number("share", share, positive=True)
  if share > 1:
    raise ValueError(f"share: {share} must be in (0, 1].")

  def init(rng, s, t):
    code, translator = jax.random.split(rng)
    full, part = t.shape[-1], max(1, int(share * t.shape[-1]))
    widths = (full, full, part, part, part, full, full)
    layers = [
      init_conv(key, (3, 3), a, b)
      for key, (a, b) in zip(jax.random.split(code, 6), itertools.pairwise(widths), strict=True)
    ]
    widths = (s.shape[-1], s.shape[-1], part, part)
    translating, statistics = init_conv_norms(
      translator, [(3, a, b) for a, b in itertools.pairwise(widths)]
    )
    paraphraser = {"encoder": tuple(layers[:3]), "decoder": tuple(layers[3:])}
    return {"paraphraser": paraphraser, "translator": translating}, statistics

  return init


def _convolved(layers: tuple[Layer, ...], x: jax.Array) -> jax.Array:
  for layer in layers:
    x = _leaky_relu(conv(layer, x, padding=1))
  return x


def _leaky_relu(x: jax.Array) -> jax.Array:
  return jax.nn.leaky_relu(x, SLOPE)
