"""Losses that regress the teacher's maps from the student's."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.layers import (
  Layer,
  Moments,
  conv,
  conv_norm,
  conv_norms,
  convolve,
  init_conv_norm,
  init_conv_norms,
  init_kernel,
  mean_square,
)
from jaxcompress.distill.maps import (
  Pair,
  Places,
  adaptive_pool,
  check_channels,
  matched,
  on_each_map,
  on_maps,
)
from jaxcompress.distill.scalars import check_number
from jaxcompress.nn.norm import spread


def fitnet(*, maps: Places | None = (2,), regressor: bool = True) -> LossTransform:
  """FitNet's hints: the teacher's map, guessed from the student's.

  The sum over maps of ``mean (r(s) - t)**2``; the regressor ``r`` is a convolution, batch
  normalization and ReLU that brings the student's map to the teacher's size (see
  :func:`regress`).

  Args:
    maps: places in both networks' maps, or pairs of places; by default the third (the stem's is
      the first).
    regressor: False compares maps of equal shapes as they are.

  Returns:
    A :class:`LossTransform` with a layer ``{"kernel", "scale", "bias"}`` and running
    :class:`~jaxcompress.distill.layers.Moments` for each map (``()`` without regressors);
    metric ``fitnet``. It reads ``maps``.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher, no such map, or
      shapes differ that are not regressed.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 8, 8, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 5)),))
    >>> params, state = fitnet(maps=(0,)).init(jax.random.key(0), student, (teacher,), {})
    >>> params[0]["kernel"].shape
    (3, 3, 3, 5)

  References:
    Romero et al., `FitNets: Hints for Thin Deep Nets <https://arxiv.org/abs/1412.6550>`_, 2015,
    section 2.2; regressors as in Tian et al., `Contrastive Representation Distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020.
  """

  def init(rng, pairs):
    if regressor:
      return init_regressors(rng, pairs)
    check_channels("fitnet without a regressor", pairs)
    for s, t in pairs:
      if s.shape != t.shape:
        raise ValueError(
          f"regressor: False compares maps of equal shapes, but the student's is {s.shape} and the"
          f" teacher's {t.shape}; set regressor=True."
        )
    return (), ()

  def compute(params, state, pairs):
    if regressor:
      pairs, state = regress(params, state, pairs)
      pairs = tuple((jax.nn.relu(s), t) for s, t in pairs)
    return sum(mean_square(s - t) for s, t in pairs), state

  return on_maps("fitnet", maps, compute, init, by_example=not regressor)


def vid(
  *, maps: Places | None = None, init_variance: float = 5.0, epsilon: float = 1e-5
) -> LossTransform:
  """Variational information distillation: the teacher's maps as Gaussians around a guess.

  The sum over maps of ``mean ((m(s) - t)**2 / v + log v) / 2``: the guess ``m`` is three 1x1
  convolutions with ReLUs between, the variance ``v = log(1 + exp(log_scale)) + epsilon`` is
  learned per channel of the teacher. The larger map is pooled to the smaller. The constant
  ``log(2 pi) / 2`` is left out, so the loss can be negative.

  Args:
    maps: places in both networks' maps, or pairs of places; by default all but the stem's.
    init_variance: ``v`` at the start.
    epsilon: smallest variance.

  Returns:
    A :class:`LossTransform` with ``{"conv1", "conv2", "conv3", "log_scale"}`` for each map as
    parameters; metric ``vid``. It reads ``maps`` of any sizes.

  Raises:
    ValueError: if a number is not positive, ``init_variance`` not above ``epsilon``, or ``maps``
      are no places; on ``init``, if there is no teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 8, 8, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 5)),))
    >>> params, _ = vid().init(jax.random.key(0), student, (teacher,), {})
    >>> params[0]["conv1"]["kernel"].shape, params[0]["log_scale"].shape
    ((1, 1, 3, 5), (5,))

  References:
    Ahn et al., `Variational Information Distillation for Knowledge Transfer
    <https://arxiv.org/abs/1904.05835>`_, 2019, section 3.1, equations 4 to 6.
  """
  check_number("epsilon", epsilon, positive=True)
  check_number("init_variance", init_variance, positive=True)
  if init_variance <= epsilon:
    raise ValueError(f"init_variance: {init_variance} must be above epsilon, {epsilon}.")
  log_scale = math.log(math.expm1(init_variance - epsilon))

  def init_one(rng, s, t):
    keys, outputs = jax.random.split(rng, 3), t.shape[-1]
    inputs = (s.shape[-1], outputs, outputs)
    layers = {
      f"conv{i + 1}": {"kernel": init_kernel(keys[i], (1, 1), inputs[i], outputs)} for i in range(3)
    }
    return {**layers, "log_scale": jnp.full(outputs, log_scale, jnp.float32)}

  def init(rng, pairs):
    keys = jax.random.split(rng, len(pairs))
    return tuple(init_one(key, s, t) for key, (s, t) in zip(keys, pairs, strict=True)), ()

  def negative_likelihood(layers, s, t):
    s, t = matched(s, t)
    for name in ("conv1", "conv2"):
      s = jax.nn.relu(conv(layers[name], s))
    mean = conv(layers["conv3"], s)
    variance = spread(jax.nn.softplus(layers["log_scale"]) + epsilon, t)
    return jnp.mean(0.5 * (jnp.square(mean - t) / variance + jnp.log(variance)))

  def compute(params, state, pairs):
    terms = (
      negative_likelihood(layers, s, t) for layers, (s, t) in zip(params, pairs, strict=True)
    )
    return sum(terms), state

  return on_maps("vid", maps, compute, init, by_example=True)


def simkd(reduction: int = 2, *, maps: Places | None = (-1,)) -> LossTransform:
  """SimKD: the student's last map becomes the teacher's, so that its classifier can be reused.

  ``mean (P(s) - t)**2``; the projector ``P`` is a 1x1, a 3x3 and a 1x1 convolution, each with batch
  normalization and ReLU, with ``1 / reduction`` of the teacher's channels between. The larger map
  is pooled to the smaller. It is used alone, without labels; after training, predict with
  ``classifier(mean over pixels of`` :func:`project` ``)``, the classifier being the teacher's.

  Args:
    reduction: of the channels between the convolutions.
    maps: places in both networks' maps, or pairs of places; by default the last.

  Returns:
    A :class:`LossTransform` with three layers ``{"kernel", "scale", "bias"}`` and their running
    :class:`~jaxcompress.distill.layers.Moments` for each map; metric ``simkd``. It reads
    ``maps`` of any sizes.

  Raises:
    ValueError: if ``reduction`` is not positive or ``maps`` are no places; on ``init``, if there is
      no teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 8)),))
    >>> params, state = simkd().init(jax.random.key(0), student, (teacher,), {})
    >>> [layer["kernel"].shape for layer in params[0]]
    [(1, 1, 3, 4), (3, 3, 4, 4), (1, 1, 4, 8)]

  References:
    Chen et al., `Knowledge Distillation with the Reused Teacher Classifier
    <https://arxiv.org/abs/2203.14001>`_, 2022, section 3.
  """
  check_whole("reduction", reduction, 1)

  def init(rng, s, t):
    inputs, outputs = s.shape[-1], t.shape[-1]
    between = max(1, outputs // reduction)
    rows = [(1, inputs, between), (3, between, between), (1, between, outputs)]
    return init_conv_norms(rng, rows)

  def compute(layers, statistics, s, t):
    s, t = matched(s, t)
    s, statistics = conv_norms(layers, statistics, s, jax.nn.relu)
    return mean_square(s - t), statistics

  return on_each_map("simkd", maps, compute, init)


def project(params: tuple[Layer, ...], state: tuple[Moments, ...], x: jax.Array) -> jax.Array:
  """Projects a map as :func:`simkd` trained it, in evaluation, by the running statistics.

  Args:
    params: ``loss_params[0]`` of :func:`simkd`.
    state: ``loss_state[0]``.
    x: the student's map, (batch, height, width, channels), pooled if the teacher's was smaller.

  Returns:
    (batch, height, width, channels of the teacher).

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> params, state = simkd().init(jax.random.key(0), same, (same,), {})
    >>> project(params[0], state[0], same.maps[0]).shape
    (2, 4, 4, 3)
  """
  for layer, statistics in zip(params, state, strict=True):
    gain = layer["scale"] * jax.lax.rsqrt(statistics.variance + 1e-5)
    shift = layer["bias"] - statistics.mean * gain
    x = convolve(x, layer["kernel"], padding=layer["kernel"].shape[0] // 2)
    x = jax.nn.relu(x * spread(gain, x) + spread(shift, x))
  return x


def init_regressors(
  rng: jax.Array, pairs: tuple[Pair, ...], *, skip_equal: bool = False
) -> tuple[tuple[Layer, ...], tuple[Moments, ...]]:
  """A convolution and batch normalization for each pair of maps; see :func:`regress`.

  Args:
    rng: a key.
    pairs: of student's and teacher's maps.
    skip_equal: gives ``()`` for maps that have one shape already.

  Examples:
    >>> pair = (jnp.ones((1, 4, 4, 3)), jnp.ones((1, 8, 8, 5)))
    >>> init_regressors(jax.random.key(0), (pair,))[0][0]["kernel"].shape
    (4, 4, 3, 5)
  """
  made: list[tuple[Any, Any]] = []  # params and state
  for i, (s, t) in enumerate(pairs):
    if skip_equal and s.shape[1:] == t.shape[1:]:
      made.append(((), ()))
      continue
    size, _ = _geometry(s.shape, t.shape)
    made.append(init_conv_norm(jax.random.fold_in(rng, i), size, s.shape[-1], t.shape[-1]))
  return tuple(zip(*made, strict=True))  # type: ignore[return-value]


def regress(
  params: tuple[Layer, ...], state: tuple[Moments, ...], pairs: tuple[Pair, ...]
) -> tuple[tuple[Pair, ...], tuple[Moments, ...]]:
  """The student's maps brought to the teacher's size and channels, batch-normalised.

  By height: a convolution of 3x3 and stride 2 to the half; a transposed one of 4x4 and stride 2
  to the double; else one without padding, 1x1 for equal sizes. Where the student's map is
  smaller but not the half, the teacher's is pooled to it.

  Returns:
    ``(pairs, state)``.
  """
  done, states = [], []
  for layer, statistics, (s, t) in zip(params, state, pairs, strict=True):
    if layer != ():
      _, options = _geometry(s.shape, t.shape)
      s, statistics = conv_norm(layer, statistics, s, **options)
    done.append((s, adaptive_pool(t, s.shape[1:3])))
    states.append(statistics)
  return tuple(done), tuple(states)


def _geometry(
  student: tuple[int, ...], teacher: tuple[int, ...]
) -> tuple[tuple[int, int], dict[str, int]]:
  """Kernel size and options of the convolution between two shapes."""
  height, width = student[1:3]
  if (height, width) == (2 * teacher[1], 2 * teacher[2]):
    return (3, 3), {"stride": 2, "padding": 1}
  if (2 * height, 2 * width) == teacher[1:3]:
    return (4, 4), {"dilate_input": 2, "padding": 2}
  return (1 + max(height - teacher[1], 0), 1 + max(width - teacher[2], 0)), {}
