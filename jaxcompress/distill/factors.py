"""Factor transfer: the teacher's map paraphrased, the student's translated."""

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.attention import activity
from jaxcompress.distill.base import LossTransform, first_teacher, stateful
from jaxcompress.distill.layers import (
  Layer,
  Statistics,
  conv,
  conv_norm,
  init_conv,
  init_conv_norm,
  mean_square,
)
from jaxcompress.distill.maps import Places, check_places, matched, paired

SLOPE = 0.1  # of the leaky ReLUs
Layers = tuple[Layer, ...]


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
    :class:`~jaxcompress.distill.layers.Statistics` as state (``()`` each if nothing is
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
  init = _init("factor", share, maps) if translate else _init_nothing("factor", maps)

  def difference(s, t):
    s, t = matched(s, t)
    gap = activity(s, power) - activity(t, power)
    return jnp.mean(jnp.abs(gap)) if order == 1 else mean_square(gap)

  def compute(params, state, student, teachers, batch, extras):
    del batch, extras
    pairs = paired("factor", student, first_teacher(teachers, "factor"), maps)
    if not translate:
      return sum(difference(s, t) for s, t in pairs), state
    terms, states = [], []
    for layers, statistics, (s, t) in zip(params, state, pairs, strict=True):
      encoded = jax.lax.stop_gradient(_convolved(layers["paraphraser"]["encoder"], t))
      s, statistics = _translated(layers["translator"], statistics, s)
      terms.append(difference(s, encoded))
      states.append(statistics)
    return sum(terms), tuple(states)

  return stateful("factor", init, compute)


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

  def compute(params, state, student, teachers, batch, extras):
    del batch, extras
    pairs = paired("paraphrase", student, first_teacher(teachers, "paraphrase"), maps)
    terms = []
    for layers, (_, t) in zip(params, pairs, strict=True):
      parts = layers["paraphraser"]
      terms.append(mean_square(_convolved(parts["decoder"], _convolved(parts["encoder"], t)) - t))
    return sum(terms), state

  return stateful("paraphrase", _init("paraphrase", share, maps), compute)


def _init(name: str, share: float, maps: Places | None):
  """Parameters and state that both stages use."""
  schedules.check_number("share", share, positive=True)
  if share > 1:
    raise ValueError(f"share: {share} must be in (0, 1].")
  check_places(maps)

  def init_one(rng, s, t):
    code, translator = jax.random.split(rng)
    full, part = t.shape[-1], max(1, int(share * t.shape[-1]))
    widths = (full, full, part, part, part, full, full)
    layers = [
      init_conv(key, (3, 3), a, b)
      for key, a, b in zip(jax.random.split(code, 6), widths, widths[1:], strict=False)
    ]
    widths = (s.shape[-1], s.shape[-1], part, part)
    translating = [
      init_conv_norm(key, (3, 3), a, b)
      for key, a, b in zip(jax.random.split(translator, 3), widths, widths[1:], strict=False)
    ]
    params = {
      "paraphraser": {"encoder": tuple(layers[:3]), "decoder": tuple(layers[3:])},
      "translator": tuple(layer for layer, _ in translating),
    }
    return params, tuple(statistics for _, statistics in translating)

  def init(rng, student, teachers, batch):
    del batch
    pairs = paired(name, student, first_teacher(teachers, name), maps)
    made = [init_one(jax.random.fold_in(rng, i), s, t) for i, (s, t) in enumerate(pairs)]
    return tuple(params for params, _ in made), tuple(state for _, state in made)

  return init


def _init_nothing(name: str, maps: Places | None):
  check_places(maps)

  def init(rng, student, teachers, batch):
    del rng, batch
    paired(name, student, first_teacher(teachers, name), maps)
    return (), ()

  return init


def _convolved(layers: Layers, x: jax.Array) -> jax.Array:
  for layer in layers:
    x = jax.nn.leaky_relu(conv(layer, x, padding=1), SLOPE)
  return x


def _translated(
  layers: Layers, statistics: tuple[Statistics, ...], x: jax.Array
) -> tuple[jax.Array, tuple[Statistics, ...]]:
  seen = []
  for layer, before in zip(layers, statistics, strict=True):
    x, after = conv_norm(layer, before, x, padding=1)
    x = jax.nn.leaky_relu(x, SLOPE)
    seen.append(after)
  return x, tuple(seen)
