"""Losses that soften the teacher alone: a power of its probabilities, against the student as it is."""

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import LossTransform, stateless
from jaxcompress.distill.labels import expectation
from jaxcompress.distill.logits import softened
from jaxcompress.distill.reads import both_logits
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules


def ttm(exponent: optax.ScalarOrSchedule = 0.1) -> LossTransform:
  """Transformed teacher matching: the student, unsoftened, against a power of the teacher.

  ``KL(q || softmax(s))``, averaged over the batch, with ``q = p**exponent / sum p**exponent`` of the
  teacher's probabilities ``p = softmax(t)``, which is ``softmax(exponent t)``. Compared with
  :func:`~jaxcompress.distill.kd` at ``T = 1 / exponent`` the student has no temperature; that is the
  same as a bonus for the entropy of its own power.

  Args:
    exponent: of the probabilities, above 0; below 1 it softens; or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``ttm``. It reads ``logits`` of shape
    (batch, classes). The authors weigh it with 45 at an exponent of 0.1 (VGG-13 to VGG-8 on
    CIFAR-100), and cross-entropy with 1.

  Raises:
    ValueError: if ``exponent`` is not positive; on ``init``, if there is no teacher or its classes
      differ from the student's.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> teacher = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0]]))
    >>> student = Endpoints(logits=0.5 * teacher.logits)
    >>> abs(round(float(ttm(0.5).update((), (), student, (teacher,), {})[0]), 4))
    0.0

  References:
    Zheng & Yang, `Knowledge Distillation Based on Transformed Teacher Matching
    <https://arxiv.org/abs/2402.11148>`_, 2024, as their code has it.
  """
  if loss := on_schedules(ttm, exponent=exponent):
    return loss
  check_number("exponent", exponent, positive=True)

  def compute(student, teachers, batch):
    return jnp.mean(_divergence(*both_logits("ttm", student, teachers), exponent))

  return stateless("ttm", compute, by_example=True)


def wttm(exponent: optax.ScalarOrSchedule = 0.2) -> LossTransform:
  """Weighted transformed teacher matching: more for examples on which the teacher is unsure.

  ``mean_i w_i KL(q_i || softmax(s_i))`` with :func:`~jaxcompress.distill.ttm`'s ``q``, and
  ``w = sum_c p_c**exponent`` of the teacher's probabilities, which is 1 where it is sure and
  ``classes**(1 - exponent)`` where all are alike.

  Args:
    exponent: of the probabilities, above 0; below 1 it softens; or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``wttm``. It reads ``logits`` of
    shape (batch, classes). The authors weigh it with 4 at an exponent of 0.2, beside CRD's 0.8
    (VGG-13 to VGG-8 on CIFAR-100), and cross-entropy with 1.

  Raises:
    ValueError: if ``exponent`` is not positive; on ``init``, if there is no teacher or its classes
      differ from the student's.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> even, student = Endpoints(jnp.zeros((1, 4))), Endpoints(jnp.array([[0.0, 0.0, 0.0, 1.0]]))
    >>> plain, weighted = (
    ...   f(0.5).update((), (), student, (even,), {})[0] for f in (ttm, wttm)
    ... )
    >>> round(float(weighted / plain), 4)  # 4**0.5
    2.0

  References:
    Zheng & Yang, `Knowledge Distillation Based on Transformed Teacher Matching
    <https://arxiv.org/abs/2402.11148>`_, 2024, as their code has it.
  """
  if loss := on_schedules(wttm, exponent=exponent):
    return loss
  check_number("exponent", exponent, positive=True)

  def compute(student, teachers, batch):
    student, teacher = both_logits("wttm", student, teachers)
    weight = jnp.exp(jax.nn.logsumexp(exponent * jax.nn.log_softmax(teacher), axis=-1))
    return jnp.mean(weight * _divergence(student, teacher, exponent))

  return stateless("wttm", compute, by_example=True)


def _divergence(student: jax.Array, teacher: jax.Array, exponent: float) -> jax.Array:
  """``KL(softmax(exponent t) || softmax(s))`` of each example."""
  log_q = jax.nn.log_softmax(softened(teacher, 1 / exponent))
  log_s = jax.nn.log_softmax(student)
  return expectation(jnp.exp(log_q), log_q - log_s)
