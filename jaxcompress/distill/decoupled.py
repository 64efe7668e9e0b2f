"""Losses that treat the label's class and the other classes apart."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import Batch, LossTransform
from jaxcompress.distill.labels import expected, likeliest, of_class
from jaxcompress.distill.logits import on_logits, softened
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules

MOST = math.log(0.6)  # above 1/2, so that rounding gives it to one class at most


def dkd(
  alpha: optax.ScalarOrSchedule = 1.0,
  beta: optax.ScalarOrSchedule = 8.0,
  temperature: optax.ScalarOrSchedule = 4.0,
) -> LossTransform:
  """Decoupled distillation: the label's probability, and the others among themselves, apart.

  ``T**2 * (alpha * TCKD + beta * NCKD)``, averaged over the batch. With ``p = softmax(x / T)``,
  TCKD is the KL divergence of ``(p_label, 1 - p_label)`` from teacher to student, and NCKD that
  of the other classes' probabilities, normalised to sum 1. For a soft label it is the mean of the
  classes' losses, each weighted with its share.

  Args:
    alpha: weight of TCKD, or a schedule of the step.
    beta: weight of NCKD, or a schedule.
    temperature: softening ``T > 0``, or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters; metric ``dkd``. It reads ``logits`` of shape
    (batch, classes), and ``batch["target"]`` (batch, classes) or ``batch["label"]`` (batch,), as
    :func:`~jaxcompress.distill.cross_entropy` does. The authors let its weight rise from 0 to 1
    over 20 epochs.

  Raises:
    ValueError: if a number is not finite or ``temperature`` not positive; on ``init``, if there is
      no teacher, its classes differ, there are fewer than 2, or labels are missing or of the wrong
      shape or dtype.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same, batch = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0]])), {"label": jnp.array([1])}
    >>> loss, _, _ = dkd().update((), (), same, (same,), batch)
    >>> float(loss)
    0.0

  References:
    Zhao et al., `Decoupled Knowledge Distillation <https://arxiv.org/abs/2203.08679>`_, 2022,
    equation 7.
  """
  if loss := on_schedules(partial(dkd, temperature=temperature), alpha=alpha, beta=beta):
    return loss
  check_number("alpha", alpha)
  check_number("beta", beta)

  def compute(student, teacher, softening, batch):
    return jnp.mean(decoupled(student, teacher, softening, alpha, beta, batch))

  return on_logits("dkd", temperature, compute, reads_labels=True)


def nkd(
  gamma: optax.ScalarOrSchedule = 1.5, temperature: optax.ScalarOrSchedule = 1.0
) -> LossTransform:
  """Normalised distillation: cross-entropies with the teacher, the label's class apart.

  ``-t_label log s_label - gamma T**2 sum_{c != label} N(t / T)_c log N(s / T)_c``, averaged over
  the batch, where ``t`` and ``s`` are probabilities at temperature 1 and ``N`` is a softmax over
  the other classes only. For a soft label it is the mean of the classes' losses, each weighted with
  its share; the authors' code takes its likeliest class alone.

  Args:
    gamma: weight of the other classes, or a schedule of the step.
    temperature: softening ``T > 0`` of the other classes, or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters; metric ``nkd``. It reads ``logits`` of shape
    (batch, classes), and ``batch["target"]`` (batch, classes) or ``batch["label"]`` (batch,), as
    :func:`~jaxcompress.distill.cross_entropy` does. It adds to a cross-entropy of weight 1.

  Raises:
    ValueError: if ``gamma`` is not finite or ``temperature`` not positive; on ``init``, if there
      is no teacher, its classes differ, there are fewer than 2, or labels are missing or of the wrong
      shape or dtype.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> even, batch = Endpoints(logits=jnp.zeros((1, 3))), {"label": jnp.array([1])}
    >>> loss, _, _ = nkd().update((), (), even, (even,), batch)
    >>> round(float(loss), 4)  # log(3) / 3 + 1.5 log(2)
    1.4059

  References:
    Yang et al., `From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
    with Normalized Loss and Customized Soft Labels <https://arxiv.org/abs/2303.13005>`_, 2023,
    section 3.
  """
  if loss := on_schedules(partial(nkd, temperature=temperature), gamma=gamma):
    return loss
  check_number("gamma", gamma)

  def compute(student, teacher, softening, batch):
    of_label = -_weigh(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))
    log_t, log_s = (jax.nn.log_softmax(softened(x, softening)) for x in (teacher, student))
    others = log_rest(log_s) - mean_of_rest(log_t, log_rest(log_t), log_s)
    return jnp.mean(expected(of_label + gamma * jnp.square(softening) * others, batch))

  return on_logits("nkd", temperature, compute, reads_labels=True)


def rld(
  alpha: optax.ScalarOrSchedule = 1.0,
  beta: optax.ScalarOrSchedule = 8.0,
  temperature: optax.ScalarOrSchedule = 4.0,
  *,
  confidence_temperature: optax.ScalarOrSchedule = 1.0,
) -> LossTransform:
  """Refined logit distillation: the teacher's confidence and ranks, freed of its mistakes.

  ``alpha * SCD + beta * MCD``, averaged over the batch. SCD is ``C**2 KL((t_top, 1 - t_top) ||
  (s_label, 1 - s_label))`` with ``softmax(x / C)``: the student is to be as sure of the label as the
  teacher is of what it prefers, right or wrong. MCD is ``T**2 KL(t || s)`` at ``softmax(x / T)``
  among the classes that the teacher holds less likely than the label; the label, and what it ranks
  above it by mistake, are left out.

  Args:
    alpha: weight of SCD, or a schedule of the step.
    beta: weight of MCD, or a schedule; the authors take 8 on CIFAR-100, and on ImageNet 0.5 (ResNet-34 to 18) or 2
      (ResNet-50 to MobileNet) with a temperature of 1.
    temperature: softening ``T > 0`` of MCD, or a schedule of the step.
    confidence_temperature: softening ``C > 0`` of SCD, or a schedule.

  Returns:
    A :class:`LossTransform` without parameters; metric ``rld``. It reads ``logits`` of shape
    (batch, classes), and ``batch["label"]`` (batch,), or ``batch["target"]`` (batch, classes), of
    which the likeliest class is the label. The authors let its weight rise from 0 to 1 over 20 epochs.

  Raises:
    ValueError: if a number is not finite or a temperature not positive; on ``init``, if there is no
      teacher, its classes differ, there are fewer than 2, or labels are missing or of the wrong shape
      or dtype.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> batch = {"label": jnp.array([2])}
    >>> student, teacher = (Endpoints(jnp.array([x])) for x in ([0.0, 1.0, 9.0], [0.0, 9.0, 1.0]))
    >>> loss, _, _ = rld().update((), (), student, (teacher,), batch)
    >>> abs(round(float(loss), 4))  # as sure of another class, and one class below the label
    0.0

  References:
    Sun et al., `Knowledge Distillation with Refined Logits <https://arxiv.org/abs/2408.07703>`_,
    2024, as their code has it.
  """
  constant = partial(rld, temperature=temperature)
  numbers = {"alpha": alpha, "beta": beta, "confidence_temperature": confidence_temperature}
  if loss := on_schedules(constant, **numbers):
    return loss
  check_number("alpha", alpha)
  check_number("beta", beta)
  check_number("confidence_temperature", confidence_temperature, positive=True)

  def confidence(teacher, student, label):
    log_t, log_s = (
      jax.nn.log_softmax(softened(x, confidence_temperature)) for x in (teacher, student)
    )
    top = jnp.argmax(teacher, axis=-1)
    parts = [
      (of_class(x, top), of_class(y, label))
      for x, y in ((log_t, log_s), (log_rest(log_t), log_rest(log_s)))
    ]
    return confidence_temperature**2 * sum(_weigh(t, t - s) for t, s in parts)

  def below(teacher, student, label, softening):
    above = teacher >= of_class(teacher, label)[..., None]
    nothing = jnp.all(above, axis=-1, keepdims=True)  # is below: even probabilities cost nothing

    def log_softmax(x):
      of_others = jnp.where(nothing, 0.0, jnp.where(above, -jnp.inf, x))
      return jax.nn.log_softmax(softened(of_others, softening))

    log_t, log_s = log_softmax(teacher), log_softmax(student)
    gap = jnp.where(above, 0.0, log_t - log_s)
    return jnp.square(softening) * jnp.sum(_weigh(log_t, gap), axis=-1)

  def compute(student, teacher, softening, batch):
    label = likeliest(batch)
    sure, ranks = confidence(teacher, student, label), below(teacher, student, label, softening)
    return jnp.mean(alpha * sure + beta * ranks)

  return on_logits("rld", temperature, compute, reads_labels=True)


def decoupled(
  student: jax.Array,
  teacher: jax.Array,
  softening: jax.Array | float,
  alpha: float,
  beta: float,
  batch: Batch,
) -> jax.Array:
  """The loss of each example that :func:`dkd` averages, (batch,), of logits (batch, classes).

  Examples:
    >>> same, batch = jnp.array([[1.0, 2.0]]), {"label": jnp.array([1])}
    >>> decoupled(same, same, 4.0, 1.0, 8.0, batch).tolist()
    [0.0]
  """
  log_t, log_s = (jax.nn.log_softmax(softened(x, softening)) for x in (teacher, student))
  rest_t, rest_s = log_rest(log_t), log_rest(log_s)
  gap = jnp.where(log_t == -jnp.inf, 0.0, log_t - log_s)
  label_or_not = _weigh(log_t, gap) + _weigh(rest_t, rest_t - rest_s)
  others = mean_of_rest(log_t, rest_t, gap) - rest_t + rest_s
  return jnp.square(softening) * expected(alpha * label_or_not + beta * others, batch)


def log_rest(log_p: jax.Array) -> jax.Array:
  """``log(1 - p_c)`` of each class, exact also where one class has almost everything.

  Args:
    log_p: logarithms of probabilities, (batch, classes).

  Returns:
    (batch, classes).

  Examples:
    >>> rest = jnp.exp(log_rest(jnp.log(jnp.array([[0.75, 0.25, 0.0]]))))
    >>> [round(p, 3) for p in rest[0].tolist()]
    [0.25, 0.75, 1.0]
  """
  others = _others(log_p)
  of_top = jax.nn.logsumexp(others, axis=-1, keepdims=True)
  return jnp.where(log_p > MOST, of_top, jnp.log1p(-jnp.exp(others)))


def mean_of_rest(log_p: jax.Array, rest: jax.Array, x: jax.Array) -> jax.Array:
  """``sum_(j != c) p_j x_j / (1 - p_c)`` for each class ``c``.

  One sum serves all classes but one that has almost everything, in which the rest would be lost.

  Args:
    log_p: (batch, classes).
    rest: its :func:`log_rest`.
    x: (batch, classes).

  Returns:
    (batch, classes).

  Examples:
    >>> log_p = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> means = mean_of_rest(log_p, log_rest(log_p), jnp.array([[0.0, 1.0, 3.0]]))
    >>> [round(x, 3) for x in means[0].tolist()]
    [2.0, 1.0, 0.333]
  """
  top, parts = log_p > MOST, _weigh(log_p, x)
  of_each = jnp.sum(parts, axis=-1, keepdims=True) - parts
  of_each = of_each / jnp.where(top, 1.0, jnp.exp(rest))
  of_top = jnp.sum(_weigh(jax.nn.log_softmax(_others(log_p)), x), axis=-1, keepdims=True)
  return jnp.where(top, of_top, of_each)


def _others(log_p: jax.Array) -> jax.Array:
  """Without the class that has most, if one does."""
  return jnp.where(log_p > MOST, -jnp.inf, log_p)


def _weigh(log_p: jax.Array, x: jax.Array) -> jax.Array:
  """``p x`` elementwise; nothing, and no gradient, where p is 0."""
  possible = log_p != -jnp.inf
  return jnp.where(possible, jnp.exp(log_p) * jnp.where(possible, x, 0.0), 0.0)
