"""Several teachers, patient ones, or with a new classifier."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.combine import for_teacher, named_chain, scale
from jaxcompress.distill.layers import init_linear, linear, numbers_of
from jaxcompress.distill.logits import cross_entropy, kd
from jaxcompress.distill.reads import both_pooled, first_teacher


def for_teachers(
  count: int, transform: LossTransform, *, weights: Sequence[float] | None = None
) -> LossTransform:
  """Adds up one loss over several teachers, with weights; each has parameters and state of its own.

  ``sum_i w_i loss(s, t_i)``.

  Args:
    count: number of teachers.
    transform: the loss.
    weights: ``w``; None: ``1 / count`` each.

  Returns:
    A :class:`LossTransform`, a named chain of ``teacher0``, ``teacher1`` and so on.

  Raises:
    ValueError: if ``count`` is not positive, or there are not so many weights.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> networks = [Endpoints(logits=x * jnp.eye(3)) for x in (1.0, 2.0, 3.0)]
    >>> loss = for_teachers(2, kd())
    >>> params, state = loss.init(jax.random.key(0), networks[0], tuple(networks[1:]), {})
    >>> sorted(loss.update(params, state, networks[0], tuple(networks[1:]), {})[2])
    ['teacher0/kd', 'teacher1/kd']

  References:
    You et al., `Learning from Multiple Teacher Networks
    <https://dl.acm.org/doi/10.1145/3097983.3098135>`_, 2017.
  """
  check_whole("count", count, 1)
  weights = [1 / count] * count if weights is None else list(weights)
  if len(weights) != count:
    raise ValueError(f"weights: there are {len(weights)} for {count} teachers; give one for each.")
  terms = {f"teacher{i}": scale(w, for_teacher(i, transform)) for i, w in enumerate(weights)}
  return named_chain(**terms)


def patient(teachers: int = 1, temperature: float = 1.0) -> LossTransform:
  """The patient and consistent teacher: divergence from it alone, no labels, for very long.

  ``sum_i T**2 KL(softmax(t_i / T) || softmax(s / T))``. What makes it work is that teacher and
  student see the very same crop and mixture of images, which is how the training step runs them:
  a recipe's ``augment`` comes before both.

  Args:
    teachers: number of teachers, whose divergences are added.
    temperature: ``T > 0``.

  Returns:
    A :class:`LossTransform` without parameters.

  Raises:
    ValueError: if ``teachers`` or ``temperature`` is not positive.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.eye(3))
    >>> params, state = patient().init(jax.random.key(0), same, (same,), {})
    >>> float(patient().update(params, state, same, (same,), {})[0])
    0.0

  References:
    Beyer et al., `Knowledge distillation: A good teacher is patient and consistent
    <https://arxiv.org/abs/2106.05237>`_, 2022, section 3.
  """
  return for_teachers(teachers, kd(temperature), weights=[1.0] * max(teachers, 0))


def teacher_head(classes: int, transform: LossTransform) -> LossTransform:
  """Gives the first teacher a classifier that learns along, for one trained on other classes.

  ``cross_entropy(W f_t + b, labels) + loss(s, t')``, where ``t'`` is the teacher with
  ``W f_t + b`` for its logits, from which no gradient comes back; ``f_t`` are its pooled features.

  Args:
    classes: of the labels.
    transform: the loss that gets the teacher with its new logits.

  Returns:
    A :class:`LossTransform` with the parameters ``{"head", "loss"}``; metrics ``teacher_head``, the
    cross-entropy, and those of ``transform``.

  Raises:
    ValueError: if ``classes`` is not positive; on ``init``, if there is no teacher or it has no
      pooled features, or labels do not fit.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student, teacher = Endpoints(jnp.eye(3)), Endpoints(jnp.eye(3, 1000), jnp.eye(3, 8))
    >>> loss, batch = teacher_head(3, kd()), {"label": jnp.arange(3)}
    >>> params, state = loss.init(jax.random.key(0), student, (teacher,), batch)
    >>> sorted(loss.update(params, state, student, (teacher,), batch)[2])
    ['kd', 'teacher_head']
  """
  check_whole("classes", classes, 1)
  labels = cross_entropy()

  def renewed(head, teachers):
    first = first_teacher(teachers, "teacher_head")
    logits = linear(head, first.pooled.astype(jnp.float32))
    return logits, (first._replace(logits=jax.lax.stop_gradient(logits)), *teachers[1:])

  def own_loss(params, state, student, teachers, batch, extras):
    logits, _ = renewed(params, jax.lax.stop_gradient(teachers))
    student = first_teacher(teachers, "teacher_head")._replace(logits=logits)
    return labels.update((), (), student, (), batch)[0], state

  of_head = stateful("teacher_head", lambda *_: ((), ()), own_loss, by_example=True)

  def init(rng, student, teachers, batch):
    keys = jax.random.split(rng)
    first = first_teacher(teachers, "teacher_head")
    _, pooled = both_pooled("teacher_head", first, teachers)
    head = init_linear(keys[0], numbers_of(pooled), classes)
    _, seen = renewed(head, teachers)
    labels.init(keys[0], seen[0], (), batch)
    params, state = transform.init(keys[1], student, seen, batch)
    return {"head": head, "loss": params}, state

  def update(params, state, student, teachers, batch, **extras):
    value, _, metrics = of_head.update(params["head"], (), student, teachers, batch, **extras)
    _, seen = renewed(params["head"], teachers)
    loss, state, more = transform.update(params["loss"], state, student, seen, batch, **extras)
    return value + loss, state, {**metrics, **more}

  def check(batch):
    labels.check(batch)
    transform.check(batch)

  return LossTransform(init, update, check)
