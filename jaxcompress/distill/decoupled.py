"""Losses that treat the label's class and the other classes apart."""

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.base import Batch, LossTransform, first_teacher, stateful
from jaxcompress.distill.logits import check_logits, of_class


def dkd(
  alpha: float = 1.0, beta: float = 8.0, temperature: schedules.ScalarOrSchedule = 4.0
) -> LossTransform:
  """Decoupled distillation: the label's probability, and the others among themselves, apart.

  ``T**2 * (alpha * TCKD + beta * NCKD)``, averaged over the batch. With ``p = softmax(x / T)``,
  TCKD is the KL divergence of ``(p_label, 1 - p_label)`` from teacher to student, and NCKD that
  of the other classes' probabilities, normalised to sum 1.

  Args:
    alpha: weight of TCKD.
    beta: weight of NCKD.
    temperature: softening ``T > 0``, or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters; metric ``dkd``. It reads ``logits`` of shape
    (batch, classes) and ``batch["label"]`` (batch,) int32. The authors let its weight rise from 0
    to 1 over 20 epochs.

  Raises:
    ValueError: if a number is not finite or ``temperature`` not positive; on ``init``, if there is
      no teacher, its classes differ, there are fewer than 2, or labels are missing.

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
  schedules.check_number("alpha", alpha)
  schedules.check_number("beta", beta)
  schedules.check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    del rng
    _check("dkd", student.logits, first_teacher(teachers, "dkd").logits, batch)
    return (), schedules.start(temperature)

  def compute(params, count, student, teachers, batch, extras):
    del params, extras
    softening, count = schedules.read(temperature, count)
    teacher = first_teacher(teachers, "dkd").logits
    two_t, others_t = decoupled(teacher / softening, batch["label"])
    two_s, others_s = decoupled(student.logits / softening, batch["label"])
    target = jnp.mean(_divergence(two_t, two_s))
    rest = jnp.mean(_divergence(others_t, others_s))
    return jnp.square(softening) * (alpha * target + beta * rest), count

  return stateful("dkd", init, compute)


def nkd(gamma: float = 1.5, temperature: schedules.ScalarOrSchedule = 1.0) -> LossTransform:
  """Normalised distillation: cross-entropies with the teacher, the label's class apart.

  ``-t_label log s_label - gamma T**2 sum_{c != label} N(t / T)_c log N(s / T)_c``, averaged over
  the batch, where ``t`` and ``s`` are probabilities at temperature 1 and ``N`` is a softmax over
  the other classes only.

  Args:
    gamma: weight of the other classes.
    temperature: softening ``T > 0`` of the other classes, or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters; metric ``nkd``. It reads ``logits`` of shape
    (batch, classes) and ``batch["label"]`` (batch,) int32. It adds to a cross-entropy of weight 1.

  Raises:
    ValueError: if ``gamma`` is not finite or ``temperature`` not positive; on ``init``, if there
      is no teacher, its classes differ, there are fewer than 2, or labels are missing.

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
  schedules.check_number("gamma", gamma)
  schedules.check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    del rng
    _check("nkd", student.logits, first_teacher(teachers, "nkd").logits, batch)
    return (), schedules.start(temperature)

  def compute(params, count, student, teachers, batch, extras):
    del params, extras
    softening, count = schedules.read(temperature, count)
    teacher, label = first_teacher(teachers, "nkd").logits, batch["label"]
    target = jnp.exp(of_class(jax.nn.log_softmax(teacher), label))
    target = -target * of_class(jax.nn.log_softmax(student.logits), label)
    _, others_t = decoupled(teacher / softening, label)
    _, others_s = decoupled(student.logits / softening, label)
    rest = -jnp.sum(_product(others_t, others_s), axis=-1)
    return jnp.mean(target) + gamma * jnp.square(softening) * jnp.mean(rest), count

  return stateful("nkd", init, compute)


def decoupled(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of label or not, and of the other classes among themselves.

  All are differences of log-sum-exps, so none is the logarithm of a probability that vanished.

  Args:
    logits: (batch, classes).
    label: (batch,) int32.

  Returns:
    ``(two, others)`` of shapes (batch, 2) and (batch, classes); ``others`` is -inf at the label.

  Examples:
    >>> two, others = decoupled(jnp.zeros((1, 4)), jnp.array([0]))
    >>> jnp.exp(two).round(2).tolist(), (3 * jnp.exp(others)).round(2).tolist()
    ([[0.25, 0.75]], [[0.0, 1.0, 1.0, 1.0]])
  """
  is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
  others = jnp.where(is_label, -jnp.inf, logits)
  sum_of_others = jax.nn.logsumexp(others, axis=-1, keepdims=True)
  both = jnp.concatenate([of_class(logits, label)[:, None], sum_of_others], axis=-1)
  return jax.nn.log_softmax(both), others - sum_of_others


def _product(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """``p log q`` elementwise; nothing, and no gradient, where p is 0."""
  possible = log_p != -jnp.inf
  return jnp.where(possible, jnp.exp(log_p) * jnp.where(possible, log_q, 0.0), 0.0)


def _divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """KL divergence on the last axis."""
  possible = log_p != -jnp.inf
  log_ratio = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
  return jnp.sum(jnp.where(possible, jnp.exp(log_p) * log_ratio, 0.0), axis=-1)


def _check(name: str, student: jax.Array, teacher: jax.Array, batch: Batch) -> None:
  check_logits(student, teacher)
  if student.shape[-1] < 2:
    raise ValueError(f"student: {name} needs at least 2 classes and there is 1.")
  if "label" not in batch or batch["label"].shape != student.shape[:-1]:
    found = batch["label"].shape if "label" in batch else "missing"
    raise ValueError(
      f"batch: {name} reads 'label' of shape {student.shape[:-1]} and it is {found}; mixed targets"
      " will not do."
    )
