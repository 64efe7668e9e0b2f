"""Losses that treat the label's class and the other classes apart."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import (
  LossTransform,
  check_number,
)
from jaxcompress.distill.labels import expected
from jaxcompress.distill.logits import on_logits

MOST = math.log(0.6)  # above 1/2, so that rounding gives it to one class at most


def dkd(
  alpha: float = 1.0, beta: float = 8.0, temperature: optax.ScalarOrSchedule = 4.0
) -> LossTransform:
  """Decoupled distillation: the label's probability, and the others among themselves, apart.

  ``T**2 * (alpha * TCKD + beta * NCKD)``, averaged over the batch. With ``p = softmax(x / T)``,
  TCKD is the KL divergence of ``(p_label, 1 - p_label)`` from teacher to student, and NCKD that
  of the other classes' probabilities, normalised to sum 1. For a soft label it is the mean of the
  classes' losses, each weighted with its share.

  Args:
    alpha: weight of TCKD.
    beta: weight of NCKD.
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
  check_number("alpha", alpha)
  check_number("beta", beta)

  def compute(student, teacher, softening, batch):
    log_t, log_s = (jax.nn.log_softmax(x / softening) for x in (teacher, student))
    rest_t, rest_s = log_rest(log_t), log_rest(log_s)
    gap = jnp.where(log_t == -jnp.inf, 0.0, log_t - log_s)
    label_or_not = _weigh(log_t, gap) + _weigh(rest_t, rest_t - rest_s)
    others = mean_of_rest(log_t, rest_t, gap) - rest_t + rest_s
    loss = expected(alpha * label_or_not + beta * others, batch)
    return jnp.square(softening) * jnp.mean(loss)

  return on_logits("dkd", temperature, compute, reads_labels=True)


def nkd(gamma: float = 1.5, temperature: optax.ScalarOrSchedule = 1.0) -> LossTransform:
  """Normalised distillation: cross-entropies with the teacher, the label's class apart.

  ``-t_label log s_label - gamma T**2 sum_{c != label} N(t / T)_c log N(s / T)_c``, averaged over
  the batch, where ``t`` and ``s`` are probabilities at temperature 1 and ``N`` is a softmax over
  the other classes only. For a soft label it is the mean of the classes' losses, each weighted with
  its share; the authors' code takes its likeliest class alone.

  Args:
    gamma: weight of the other classes.
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
  check_number("gamma", gamma)

  def compute(student, teacher, softening, batch):
    of_label = -_weigh(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))
    log_t, log_s = (jax.nn.log_softmax(x / softening) for x in (teacher, student))
    others = log_rest(log_s) - mean_of_rest(log_t, log_rest(log_t), log_s)
    return jnp.mean(expected(of_label + gamma * jnp.square(softening) * others, batch))

  return on_logits("nkd", temperature, compute, reads_labels=True)


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
