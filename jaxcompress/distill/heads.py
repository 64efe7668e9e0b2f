"""Losses around the classifier: reuse the teacher's, or compare what it sees in each pixel."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.distill.base import LossTransform, first_teacher, stateful
from jaxcompress.distill.layers import (
  EXACT,
  Layer,
  Statistics,
  conv_norm,
  convolve,
  flat,
  init_conv_norm,
  mean_square,
  per_channel,
  unit,
)
from jaxcompress.distill.maps import Places, adaptive_pool, check_places, matched, paired


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
    :class:`~jaxcompress.distill.layers.Statistics` for each map; metric ``simkd``. It reads
    ``maps`` of any sizes.

  Raises:
    ValueError: if ``reduction`` is not positive or ``maps`` are no places; on ``init``, if there is
      no teacher or no such map.

  Examples:
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 8)),))
    >>> params, state = simkd().init(jax.random.key(0), student, (teacher,), {})
    >>> [layer["kernel"].shape for layer in params[0]]
    [(1, 1, 3, 4), (3, 3, 4, 4), (1, 1, 4, 8)]

  References:
    Chen et al., `Knowledge Distillation with the Reused Teacher Classifier
    <https://arxiv.org/abs/2203.14001>`_, 2022, section 3.
  """
  if reduction < 1:
    raise ValueError(f"reduction: {reduction} must be at least 1.")
  check_places(maps)

  def init_one(rng, s, t):
    between = max(1, t.shape[-1] // reduction)
    rows = (
      (1, s.shape[-1], between),
      (3, between, between),
      (1, between, t.shape[-1]),
    )
    layers = [
      init_conv_norm(key, (size, size), inputs, outputs)
      for key, (size, inputs, outputs) in zip(jax.random.split(rng, 3), rows, strict=True)
    ]
    return tuple(layer for layer, _ in layers), tuple(seen for _, seen in layers)

  def init(rng, student, teachers, batch):
    del batch
    pairs = paired("simkd", student, first_teacher(teachers, "simkd"), maps)
    made = [init_one(jax.random.fold_in(rng, i), s, t) for i, (s, t) in enumerate(pairs)]
    return tuple(params for params, _ in made), tuple(state for _, state in made)

  def compute(params, state, student, teachers, batch, extras):
    del batch, extras
    pairs = paired("simkd", student, first_teacher(teachers, "simkd"), maps)
    terms, states = [], []
    for layers, statistics, (s, t) in zip(params, state, pairs, strict=True):
      s, t = matched(s, t)
      seen = []
      for layer, before in zip(layers, statistics, strict=True):
        s, after = conv_norm(layer, before, s, padding=layer["kernel"].shape[0] // 2)
        s = jax.nn.relu(s)
        seen.append(after)
      terms.append(mean_square(s - t))
      states.append(tuple(seen))
    return sum(terms), tuple(states)

  return stateful("simkd", init, compute)


def project(params: tuple[Layer, ...], state: tuple[Statistics, ...], x: jax.Array) -> jax.Array:
  """What the projector of :func:`simkd` makes of a map in evaluation, by its running statistics.

  Args:
    params: ``loss_params[0]`` of :func:`simkd`.
    state: ``loss_state[0]``.
    x: the student's map, (batch, height, width, channels), pooled if the teacher's was smaller.

  Returns:
    (batch, height, width, channels of the teacher).

  Examples:
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> params, state = simkd().init(jax.random.key(0), same, (same,), {})
    >>> project(params[0], state[0], same.maps[0]).shape
    (2, 4, 4, 3)
  """
  for layer, statistics in zip(params, state, strict=True):
    gain = layer["scale"] * jax.lax.rsqrt(statistics.variance + 1e-5)
    shift = layer["bias"] - statistics.mean * gain
    x = convolve(x, layer["kernel"], padding=layer["kernel"].shape[0] // 2)
    x = jax.nn.relu(x * per_channel(gain) + per_channel(shift))
  return x


def cat_kd(
  head: str = "classifier", teacher_head: str | None = None, *, resolution: int = 2
) -> LossTransform:
  """Class attention transfer: what each class sees in each part of the image.

  ``mean (unit(A_s) - unit(A_t))**2``: the classifier, applied to each pixel of the last map
  without its bias, gives a map for each class, pooled to ``resolution`` x ``resolution``; ``unit``
  brings the whole of an example's maps to length 1.

  The classifiers are read from the networks' parameters, the extras ``student_params`` and
  ``teacher_params`` of ``update``; the training step passes them, and gradients reach the
  student's.

  Args:
    head: path of the student's last layer in its parameters, such as ``classifier`` or ``head/fc``;
      a layer with a ``kernel`` (channels, classes).
    teacher_head: that of the teacher; None: the same.
    resolution: pixels per side after pooling.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``cat_kd``. It reads ``maps[-1]``,
    which must be what the network averages before its classifier.

  Raises:
    ValueError: if ``resolution`` is not positive; on ``init``, if there is no teacher or no map; on
      ``update``, if the heads are not passed, not found, or do not fit the maps.

  Examples:
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> params = {"classifier": {"kernel": jnp.ones((3, 10))}}
    >>> extras = {"student_params": params, "teacher_params": (params,)}
    >>> float(cat_kd().update((), (), same, (same,), {}, **extras)[0])
    0.0

  References:
    Guo et al., `Class Attention Transfer Based Knowledge Distillation
    <https://arxiv.org/abs/2304.12777>`_, 2023, section 3.
  """
  if resolution < 1:
    raise ValueError(f"resolution: {resolution} must be at least 1.")

  def last_maps(student, teachers):
    return paired("cat_kd", student, first_teacher(teachers, "cat_kd"), (-1,))[0]

  def init(rng, student, teachers, batch):
    del rng, batch
    last_maps(student, teachers)
    return (), ()

  def compute(params, state, student, teachers, batch, extras):
    del params, batch
    s, t = last_maps(student, teachers)
    heads = extras.get("teacher_params") or (None,)
    kernel_s = _kernel("student", extras.get("student_params"), head, s)
    kernel_t = _kernel("teacher", heads[0], head if teacher_head is None else teacher_head, t)
    if kernel_s.shape[-1] != kernel_t.shape[-1]:
      raise ValueError(
        f"head: the student's knows {kernel_s.shape[-1]} classes and the teacher's"
        f" {kernel_t.shape[-1]}; they must be the same."
      )
    maps = (class_maps(s, kernel_s), class_maps(t, jax.lax.stop_gradient(kernel_t)))
    size = (resolution, resolution)
    gaps = [unit(flat(adaptive_pool(x, size)), epsilon=1e-12) for x in maps]
    return mean_square(gaps[0] - gaps[1]), state

  return stateful("cat_kd", init, compute)


def class_maps(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A classifier applied to every pixel: (batch, height, width, classes).

  Examples:
    >>> class_maps(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 5))).shape
    (1, 2, 2, 5)
  """
  return jnp.dot(x, kernel, precision=EXACT)


def _kernel(network: str, params: Any, path: str, x: jax.Array) -> jax.Array:
  """The kernel of a network's classifier, in float32."""
  if params is None:
    raise ValueError(
      f"{network}_params: cat_kd reads the {network}'s classifier from them and they were not"
      " passed; train with distill_step, or pass them to update."
    )
  node = params
  for name in path.split("/"):
    if not isinstance(node, Mapping) or name not in node:
      raise ValueError(
        f"head: the {network} has no layer {path!r}; its layers are {', '.join(params)}."
      )
    node = node[name]
  kernel = jnp.asarray(node["kernel"], jnp.float32)
  kernel = kernel.reshape(kernel.shape[-2:])
  if kernel.shape[0] != x.shape[-1]:
    raise ValueError(
      f"head: {path!r} of the {network} reads {kernel.shape[0]} channels and its last map has"
      f" {x.shape[-1]}; cat_kd needs the map that is averaged before the classifier."
    )
  return kernel
