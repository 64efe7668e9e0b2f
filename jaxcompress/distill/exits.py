"""Losses on logits that come of parts of the student: of its last map's regions, of its stages."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_whole, shown
from jaxcompress.distill.attention import class_maps
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.decoupled import decoupled
from jaxcompress.distill.heads import check_head, on_last_maps
from jaxcompress.distill.labels import check_labels, check_soft_labels, likeliest
from jaxcompress.distill.layers import (
  Moments,
  conv,
  conv_norm,
  convolve,
  init_conv,
  linear,
  numbers_of,
)
from jaxcompress.distill.logits import softened
from jaxcompress.distill.maps import Places, adaptive_pool, check_places, paired
from jaxcompress.distill.reads import both_logits, both_pooled, first_teacher
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules
from jaxcompress.nn.norm import spread

FINEST = 4  # cells per side to which maps are pooled before any coarser grid


def sdd(
  alpha: optax.ScalarOrSchedule = 1.0,
  beta: optax.ScalarOrSchedule = 8.0,
  temperature: optax.ScalarOrSchedule = 4.0,
  *,
  scales: Sequence[int] = (1, 2, 4),
  head: str = "classifier",
  teacher_head: str | None = None,
) -> LossTransform:
  """Scale-decoupled distillation: the regions of the image, each with logits of its own.

  The networks' classifiers are applied to the averages of each cell of the last map, for grids of
  several scales, and the logits compared as :func:`~jaxcompress.distill.dkd` does: the mean over
  regions and examples, in which a region counts twice where the teacher is right about it and wrong
  about the whole image, or the other way round.

  Args:
    alpha: weight of the label's probability, or a schedule of the step.
    beta: weight of the other classes, or a schedule; 6 for VGG-13 to MobileNetV2.
    temperature: softening ``T > 0``, or a schedule.
    scales: cells per side of each grid; the authors take 1, 2 and 4 for unlike networks, 1 and 2 for
      like ones.
    head: path of the student's last layer in its parameters, such as ``classifier`` or ``head/fc``.
    teacher_head: that of the teacher; None: the same.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``sdd``. It reads ``maps[-1]``, which
    must be what the network averages before its classifier, ``batch["label"]`` (batch,) or
    ``batch["target"]`` (batch, classes), and the extras ``student_params`` and ``teacher_params``, as
    the training step passes them. The authors let its weight rise from 0 to 1 over 20 epochs.

  Raises:
    ValueError: if a number is out of range; on ``init``, if there is no teacher or no map, or labels
      are missing; on ``update``, if the heads are not passed, not found, or do not fit the maps.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same, batch = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),)), {"label": jnp.array([0, 1])}
    >>> params = {"classifier": {"kernel": jnp.ones((3, 10))}}
    >>> extras = {"student_params": params, "teacher_params": (params,)}
    >>> abs(round(float(sdd().update((), (), same, (same,), batch, **extras)[0]), 4))
    0.0

  References:
    Luo, `Scale Decoupled Distillation <https://arxiv.org/abs/2403.13512>`_, 2024, SD-DKD, as the code
    has it.
  """
  constant = partial(sdd, scales=scales, head=head, teacher_head=teacher_head)
  if loss := on_schedules(constant, alpha=alpha, beta=beta, temperature=temperature):
    return loss
  check_number("alpha", alpha)
  check_number("beta", beta)
  check_number("temperature", temperature, positive=True)
  if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
    raise ValueError(
      f"scales: {shown(scales)} must be numbers of cells per side, such as (1, 2, 4)."
    )
  for scale in scales:
    check_whole("scales", scale, 1)
  check_head("head", head)
  if teacher_head is not None:
    check_head("teacher_head", teacher_head)

  def last_maps(student, teachers):
    return paired("sdd", student, first_teacher(teachers, "sdd"), (-1,))[0]

  def init(rng, student, teachers, batch):
    maps = last_maps(student, teachers)
    if "target" not in batch:
      check_labels((len(maps[0]), 2), batch)
    return (), ()

  def logits_of(x, layer):
    finest = max(FINEST, *scales)
    x = adaptive_pool(x, (finest, finest))
    grids = [adaptive_pool(x, (scale, scale)) for scale in (1, *scales)]
    cells = jnp.concatenate([grid.reshape(len(x), -1, x.shape[-1]) for grid in grids], axis=1)
    y = class_maps(cells, layer["kernel"])
    return y + spread(layer["bias"], y)

  def compute(params, state, student, teachers, batch, extras):
    maps = last_maps(student, teachers)
    heads = on_last_maps("sdd", extras, head, teacher_head, maps)
    if heads[0]["kernel"].shape[-1] < 2:
      raise ValueError("student: sdd needs at least 2 classes and there is 1.")
    s, t = (logits_of(x, layer) for x, layer in zip(maps, heads, strict=True))
    right = jnp.argmax(t, axis=-1) == likeliest(batch)[:, None]
    weight = jnp.where(right[:, 1:] == right[:, :1], 1.0, 2.0)
    each = jax.vmap(lambda s, t: decoupled(s, t, temperature, alpha, beta, batch), 1, 1)
    return jnp.mean(weight * each(s[:, 1:], t[:, 1:])), state

  return stateful("sdd", init, compute, check_soft_labels, by_example=True)


def ofa(
  exponent: optax.ScalarOrSchedule = 1.0,
  temperature: optax.ScalarOrSchedule = 1.0,
  *,
  maps: Places | None = None,
) -> LossTransform:
  """One-for-all distillation: each stage of the student makes logits that follow the teacher's.

  For networks of unlike architectures, whose maps cannot be compared: ``sum_l L(b_l(x_l)) + L(s)``
  with ``L(s) = -mean_i sum_c ((t_c + y_c)**e - y_c) log s_c`` of probabilities at ``softmax(x / T)``,
  one-hot ``y``. The branch ``b`` halves its map once for each map that follows it, by separable
  convolutions, averages it, and classifies.

  Args:
    exponent: ``e``: above 1 the label counts more the surer the teacher is of it; from 1 to 1.5; or a
      schedule of the step.
    temperature: softening ``T > 0``, or a schedule.
    maps: places in the student's maps, ascending; by default all but the stem's.

  Returns:
    A :class:`LossTransform` with ``{"blocks", "classifier"}`` of each map as parameters and running
    :class:`~jaxcompress.distill.layers.Moments` as state; metric ``ofa``. It reads the student's
    ``maps``, the number of features in both networks' ``pooled``, ``logits``, and ``batch["label"]``
    (batch,), or ``batch["target"]`` (batch, classes), of which the likeliest class is the label. The
    authors weigh it with 1, and cross-entropy with 1.

  Raises:
    ValueError: if a number is not positive or ``maps`` are no places; on ``init``, if there is no
      teacher, no such map or no pooled features, ``maps`` do not ascend, or labels are missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> both = Endpoints(jnp.zeros((2, 5)), jnp.ones((2, 6)), (jnp.ones((2, 4, 4, 3)),) * 3)
    >>> batch = {"label": jnp.array([0, 1])}
    >>> params, state = ofa().init(jax.random.key(0), both, (both,), batch)
    >>> [len(branch["blocks"]) for branch in params]
    [1, 1]

  References:
    Hao et al., `One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation <https://arxiv.org/abs/2310.19444>`_, 2023, as their code has it for convolutional
    students.
  """
  if loss := on_schedules(partial(ofa, maps=maps), exponent=exponent, temperature=temperature):
    return loss
  check_number("exponent", exponent, positive=True)
  check_number("temperature", temperature, positive=True)
  check_places(maps)
  if any(isinstance(place, tuple) for place in maps or ()):
    raise ValueError(f"maps: {maps!r} must be places in the student's maps, such as (1, 2, 3).")

  def stages(student):
    found = [x for x, _ in paired("ofa", student, student, maps)]
    places = [place % len(student.maps) for place in maps or ()]
    if any(later <= earlier for earlier, later in itertools.pairwise(places)):
      raise ValueError(
        f"maps: {maps!r} must ascend, each place once; ofa halves maps by their order."
      )
    return found

  def init(rng, student, teachers, batch):
    logits, _ = both_logits("ofa", student, teachers, of_images=True)
    check_labels(logits.shape, batch)
    width = max(map(numbers_of, both_pooled("ofa", student, teachers)))
    found = stages(student)
    made = [
      _init_branch(
        jax.random.fold_in(rng, i), x.shape[-1], width, len(found) - 1 - i, logits.shape[-1]
      )
      for i, x in enumerate(found)
    ]
    return tuple(zip(*made, strict=True))

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_logits("ofa", student, teachers, of_images=True)
    label = likeliest(batch)[:, None]
    known = (label >= 0) & (label < s.shape[-1])
    one_hot = jnp.where(known, label == jnp.arange(s.shape[-1])[None], jnp.nan)
    wanted = (jax.nn.softmax(softened(t, temperature)) + one_hot) ** exponent - one_hot

    def follow(logits):
      return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(softened(logits, temperature)), axis=-1))

    branches = [_branch(*own) for own in zip(params, state, stages(student), strict=True)]
    return sum((follow(y) for y, _ in branches), follow(s)), tuple(after for _, after in branches)

  return stateful("ofa", init, compute, check_soft_labels)


def _init_branch(
  rng: jax.Array, inputs: int, width: int, halvings: int, classes: int
) -> tuple[dict[str, Any], tuple[Any, ...]]:
  """Parameters and statistics of a branch; no halvings: a convolution that keeps the size."""
  *keys, last = jax.random.split(rng, max(1, halvings) + 1)
  classifier = {
    "kernel": 0.02 * jax.random.truncated_normal(last, -2, 2, (width, classes), jnp.float32),
    "bias": jnp.zeros(classes, jnp.float32),
  }
  if not halvings:
    plain = init_conv(keys[0], (1, 1), inputs, width)
    own = {**plain, "kernel": _normal(keys[0], 1, inputs, width)}
    return {"blocks": (own,), "classifier": classifier}, ((),)
  sizes = list(itertools.pairwise([*(inputs * 2**i for i in range(halvings)), width]))
  blocks = tuple(_init_block(key, *pair) for key, pair in zip(keys, sizes, strict=True))
  fresh = tuple((_fresh(inputs), _fresh(outputs)) for inputs, outputs in sizes)
  return {"blocks": blocks, "classifier": classifier}, fresh


def _init_block(rng: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
  """Two separable convolutions, the first of which halves the map."""
  keys = jax.random.split(rng, 4)
  return {
    "depthwise": tuple(_normal(key, 3, 1, inputs) for key in keys[:2]),
    "pointwise": tuple(
      {"kernel": _normal(key, 1, inputs, size), "scale": jnp.ones(size), "bias": jnp.zeros(size)}
      for key, size in zip(keys[2:], (inputs, outputs), strict=True)
    ),
  }


def _normal(rng: jax.Array, side: int, inputs: int, outputs: int) -> jax.Array:
  """A kernel by He's rule for what goes out."""
  scale = math.sqrt(2 / (side * side * outputs))
  return scale * jax.random.normal(rng, (side, side, inputs, outputs), jnp.float32)


def _fresh(channels: int) -> Moments:
  return Moments(jnp.zeros(channels, jnp.float32), jnp.ones(channels, jnp.float32))


def _branch(
  params: dict[str, Any], state: tuple[Any, ...], x: jax.Array
) -> tuple[jax.Array, tuple[Any, ...]]:
  """The logits of a map, and the new statistics."""
  after: list[tuple[Any, ...]] = []
  for block, statistics in zip(params["blocks"], state, strict=True):
    if statistics == ():
      x = conv(block, x)
      after.append(())
      continue
    x, new = _block(block, statistics, x)
    after.append(new)
  return linear(params["classifier"], jnp.mean(x, axis=(1, 2))), tuple(after)


def _block(
  block: dict[str, tuple[Any, ...]], statistics: tuple[Moments, ...], x: jax.Array
) -> tuple[jax.Array, tuple[Moments, ...]]:
  after = []
  rows = zip(block["depthwise"], block["pointwise"], statistics, (2, 1), strict=True)
  for depthwise, pointwise, before, stride in rows:
    x = convolve(x, depthwise, stride=stride, padding=1, groups=x.shape[-1])
    x, new = conv_norm(pointwise, before, x)
    x = jax.nn.relu(x)
    after.append(new)
  return x, tuple(after)
