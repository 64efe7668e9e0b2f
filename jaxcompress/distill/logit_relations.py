"""Losses that compare relations between predictions: within rows, within columns, across pairs."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful, stateless
from jaxcompress.distill.layers import (
  EXACT,
  Moments,
  flat,
  init_linear,
  linear,
  normalised,
  numbers_of,
  unit,
)
from jaxcompress.distill.logits import softened, softened_kl, standardised
from jaxcompress.distill.reads import both_logits, both_pooled
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules
from jaxcompress.distill.views import check_views, on_views, weak_and_strong


def dist(
  beta: optax.ScalarOrSchedule = 1.0,
  gamma: optax.ScalarOrSchedule = 1.0,
  temperature: optax.ScalarOrSchedule = 1.0,
) -> LossTransform:
  """DIST: predictions correlate with the teacher's, per example and per class.

  ``T**2 * (beta * mean_i (1 - r(s_i., t_i.)) + gamma * mean_c (1 - r(s_.c, t_.c)))`` with
  Pearson's correlation ``r`` of the probabilities ``softmax(logits / T)``: over the classes of
  an example, and over the batch for a class.

  Args:
    beta: weight of the relations between classes, or a schedule of the step.
    gamma: weight of the relations within a class, or a schedule.
    temperature: ``T > 0``, or a schedule.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``dist``. It reads ``logits`` of
    shape (batch, classes). A constant row or column correlates with nothing and has no gradient.

  Raises:
    ValueError: if a number is not finite or ``temperature`` not positive; on ``init``, if there is
      no teacher or its classes differ.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0], [3.0, 0.0, 1.0]]))
    >>> abs(round(float(dist().update((), (), same, (same,), {})[0]), 4))
    0.0

  References:
    Huang et al., `Knowledge Distillation from A Stronger Teacher
    <https://arxiv.org/abs/2205.10536>`_, 2022, section 3.
  """
  if loss := on_schedules(dist, beta=beta, gamma=gamma, temperature=temperature):
    return loss
  check_number("beta", beta)
  check_number("gamma", gamma)
  check_number("temperature", temperature, positive=True)

  def compute(student, teachers, batch):
    logits = both_logits("dist", student, teachers, of_images=True)
    p_s, p_t = (jax.nn.softmax(softened(x, temperature)) for x in logits)
    between = 1 - jnp.mean(_pearson(p_s, p_t, axis=1))
    within = 1 - jnp.mean(_pearson(p_s, p_t, axis=0))
    return temperature**2 * (beta * between + gamma * within)

  return stateless("dist", compute)


def mlkd(
  temperatures: Sequence[optax.ScalarOrSchedule] = (2.0, 3.0, 4.0, 5.0, 6.0), *, views: int = 1
) -> LossTransform:
  """Multi-level logit distillation: examples, the batch's and the classes' correlations.

  The sum over temperatures ``T`` of ``T**2 KL(t || s) + |P_t P_t' - P_s P_s'|**2 / batch +
  |P_t' P_t - P_s' P_s|**2 / classes``, with ``P = softmax(logits / T)`` of shape (batch, classes).

  The authors add the losses of weakly and of strongly augmented views, ``views=2``, which
  :class:`jaxcompress.data.Views` makes; correlations stay within a view. They also leave out
  examples of which the teacher is unsure; here all count.

  Args:
    temperatures: each ``T > 0``, or a schedule of the step.
    views: of every example, equal parts of the batch that follow one another; their losses add up.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``mlkd``. It reads ``logits`` of
    shape (batch, classes).

  Raises:
    ValueError: if there are no temperatures, or a number is not positive; on ``init``, if there is
      no teacher or its classes differ; on ``update``, if the batch is not of so many views.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0]]))
    >>> float(mlkd().update((), (), same, (same,), {})[0])
    0.0

  References:
    Jin et al., `Multi-Level Logit Distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023, section 3.
  """
  temperatures = tuple(temperatures)
  if not temperatures:
    raise ValueError("temperatures must not be empty; give at least one.")
  of_each = {f"T{i}": temperature for i, temperature in enumerate(temperatures)}
  if loss := on_schedules(lambda **now: mlkd(tuple(now.values()), views=views), **of_each):
    return loss
  for temperature in temperatures:
    check_number("temperatures", temperature, positive=True)
  check_whole("views", views, 1)

  def compute(pairs):
    return sum(_one_temperature(*pair, t) for pair in pairs for t in temperatures)

  return on_views("mlkd", views, compute)


def mlkd_lskd(temperature: optax.ScalarOrSchedule = 2.0, *, views: int = 2) -> LossTransform:
  """Multi-level distillation of standardised logits, as the code behind its published results has it.

  With the terms of :func:`mlkd`, of which the divergence takes standardised logits as
  :func:`~jaxcompress.distill.lskd` does: the divergence, and the examples' correlations, of the weak
  views at ``temperature``, 3, 5, 2 and 6, times the share of examples of which the teacher is no
  surer than of the median one; the classes' correlations there, times that of classes; the
  divergence of the strong views at ``temperature``, 3 and 5; and once more that of the weak views at 2
  and 6, where the paper has the strong ones.

  Args:
    temperature: the first one, ``T > 0``, or a schedule of the step.
    views: 2: the batch's first half are weak views, the second the same images' strong ones, as
      :class:`jaxcompress.data.Views` makes them. 1: each image is both.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``mlkd_lskd``. It reads ``logits`` of
    shape (batch, classes). The authors weigh it with 9, or with 6 (VGG-13 to MobileNetV2 and
    ResNet-32x4 to ShuffleNetV2), and the sum of both views' cross-entropies with 0.1, which is 0.2 for
    their mean.

  Raises:
    ValueError: if a number is out of range; on ``init``, if there is no teacher or its classes differ;
      on ``update``, if the batch is not one of two such views.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0], [3.0, 0.0, 1.0]]))
    >>> batch = {"view": jnp.eye(2, dtype=bool)}  # of one image, as data.Views marks it
    >>> float(mlkd_lskd().update((), (), same, (same,), batch)[0])
    0.0

  References:
    Sun et al., `Logit Standardization in Knowledge Distillation
    <https://arxiv.org/abs/2403.01427>`_, 2024, "MLKD + ours", as their code has it.
  """
  if loss := on_schedules(partial(mlkd_lskd, views=views), temperature=temperature):
    return loss
  check_number("temperature", temperature, positive=True)
  check_views(views)
  first, others = (1, 1, 0), {3.0: (1, 1, 0), 5.0: (1, 1, 0), 2.0: (1, 0, 1), 6.0: (1, 0, 1)}
  levels: list[tuple[Any, tuple[int, ...]]] = [(temperature, first), *others.items()]
  if not isinstance(temperature, jax.Array):  # which may be traced; equal ones are computed once
    same = others.pop(float(cast(float, temperature)), (0, 0, 0))
    counts = tuple(a + b for a, b in zip(first, same, strict=True))
    levels = [(temperature, counts), *others.items()]

  def lower_half(confidence):
    return jnp.mean(confidence <= jnp.median(confidence))

  def compute(pairs):
    weak, strong = weak_and_strong(pairs)
    p = jax.nn.softmax(weak[1])
    examples, classes = lower_half(jnp.max(p, axis=1)), lower_half(jnp.sum(p, axis=0))

    def divergence(pair, softening):
      return softened_kl(*map(standardised, pair), softening)

    total = jnp.zeros((), jnp.float32)
    for t, (times, of_strong, again) in levels:
      of_examples, of_classes = _correlations(*weak, t)
      total += times * (examples * of_examples + classes * of_classes)
      total += (times * examples + again) * divergence(weak, t)
      if of_strong:
        total += of_strong * divergence(strong, t)
    return total

  return on_views("mlkd_lskd", views, compute)


def srd(exponent: float = 4.0, temperature: optax.ScalarOrSchedule = 1.0) -> LossTransform:
  """Log-sum distance of batch-normalised features through a linear projector, and distillation.

  ``2 log sum |n(W s + b) - n(t)|**exponent + T**2 KL(softmax(t / T) || softmax(s / T))``; the sum
  is over the batch and features, and ``n`` normalises each feature over the batch.

  Args:
    exponent: of the differences, above 0.
    temperature: ``T > 0`` of the divergence of the logits, or a schedule of the step.

  Returns:
    A :class:`LossTransform` with the projector ``{"kernel", "bias"}`` as parameters and the
    running :class:`~jaxcompress.distill.layers.Moments` of both networks' features as state;
    metric ``srd``. It reads ``pooled`` (batch, features) and ``logits``. Equal features cost
    ``2 log 1e-12``.

  Raises:
    ValueError: if a number is not positive; on ``init``, if there is no teacher, a network has no
      pooled features, or the classes differ.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(jnp.eye(3), pooled=jnp.eye(3, 5))
    >>> params, state = srd().init(jax.random.key(0), same, (same,), {})
    >>> params["kernel"].shape
    (5, 5)

  References:
    Miles & Mikolajczyk, `Understanding the Role of the Projector in Knowledge Distillation
    <https://arxiv.org/abs/2303.11098>`_, 2024, section 3.
  """
  if loss := on_schedules(partial(srd, exponent), temperature=temperature):
    return loss
  check_number("exponent", exponent, positive=True)
  check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    both_logits("srd", student, teachers)
    inputs, outputs = map(numbers_of, both_pooled("srd", student, teachers))
    fresh = Moments(jnp.zeros(outputs), jnp.ones(outputs))
    return init_linear(rng, inputs, outputs), {"student": fresh, "teacher": fresh}

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_pooled("srd", student, teachers)
    s, of_student = normalised(state["student"], linear(params, s))
    t, of_teacher = normalised(state["teacher"], flat(t))
    distance = jnp.sum(_power(jnp.abs(s - t), exponent))
    loss = 2 * jnp.log(distance + 1e-12) + softened_kl(
      *both_logits("srd", student, teachers), temperature
    )
    return loss, {"student": of_student, "teacher": of_teacher}

  return stateful("srd", init, compute)


def _pearson(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
  def direction(z):
    return unit(z - jnp.mean(z, axis=axis, keepdims=True), axis=axis, epsilon=1e-8)

  return jnp.sum(direction(x) * direction(y), axis=axis)


def _one_temperature(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
  """One temperature's three terms of :func:`mlkd`."""
  return softened_kl(student, teacher, temperature) + sum(
    _correlations(student, teacher, temperature)
  )


def _correlations(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """How the correlations of examples, and those of classes, differ at a temperature."""
  p_s, p_t = (jax.nn.softmax(softened(x, temperature)) for x in (student, teacher))

  def difference(left: int):
    grams = [jnp.tensordot(p, p, (left, left), precision=EXACT) for p in (p_s, p_t)]
    return jnp.sum(jnp.square(grams[1] - grams[0]))

  examples, classes = student.shape
  return difference(1) / examples, difference(0) / classes


def _power(x: jax.Array, exponent: float) -> jax.Array:
  """``x**exponent`` of numbers that are not negative; the gradient at 0 is 0."""
  zero = x == 0
  return jnp.where(zero, 0.0, jnp.where(zero, 1.0, x) ** exponent)
