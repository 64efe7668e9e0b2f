"""Losses that compare two augmentations of each image: a weak one, and a strong one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import VIEW, check_range, check_whole
from jaxcompress.distill.base import Batch, LossTransform, Teachers, stateful
from jaxcompress.distill.labels import expectation
from jaxcompress.distill.logits import softened
from jaxcompress.distill.maps import Pair
from jaxcompress.distill.reads import both_logits
from jaxcompress.distill.scalars import at_count, check_number, init_count
from jaxcompress.distill.schedules import on_schedules
from jaxcompress.nn import Endpoints


def crld(
  temperature: optax.ScalarOrSchedule = 4.0,
  *,
  within: optax.ScalarOrSchedule = 2.0,
  across: optax.ScalarOrSchedule = 0.5,
  weak_confidence: float = 0.9,
  strong_confidence: float = 0.2,
  views: int = 2,
) -> LossTransform:
  """Cross-view consistency: each view of the student follows both views of the teacher.

  ``mean_i within u_i (D(s_w, t_w) + D(s_s, t_s)) + across v_i (D(s_s, t_w) + D(s_w, t_s))``, over the
  images, with ``D(s, t) = T**2 KL(softmax(t / T) || softmax(s / T))`` and the networks' logits of an
  image's weak and strong view. ``u_i`` is 1 where the teacher's largest probability of the weak view
  is ``weak_confidence`` or more, ``v_i`` where that of the strong view is ``strong_confidence`` or
  more, and 0 elsewhere.

  Args:
    temperature: softening ``T > 0``, or a schedule of the step, counted in the state.
    within: weight of the same view, or a schedule.
    across: weight of the other one, or a schedule.
    weak_confidence: in [0, 1].
    strong_confidence: in [0, 1].
    views: 2: the batch's first half are weak views, the second the same images' strong ones, as
      :class:`jaxcompress.data.Views` makes them. 1: each image is both.

  Returns:
    A :class:`LossTransform` without parameters; metric ``crld``. It reads ``logits`` of shape (batch,
    classes). The authors weigh it with 1, and add the cross-entropies of both views, which is a
    weight of 2 for their mean.

  Raises:
    ValueError: if a number is out of range; on ``init``, if there is no teacher or its classes differ;
      on ``update``, if the batch is not one of two such views.

  Examples:
    >>> same = Endpoints(logits=jnp.array([[9.0, 0.0], [9.0, 0.0]]))
    >>> batch = {"view": jnp.eye(2, dtype=bool)}  # of one image, as data.Views marks it
    >>> float(crld().update((), (), same, (same,), batch)[0])
    0.0

  References:
    Zhang et al., `Cross-View Consistency Regularisation for Knowledge Distillation
    <https://arxiv.org/abs/2412.16493>`_, 2024, as their code has it.
  """
  options: dict[str, Any] = {
    "weak_confidence": weak_confidence,
    "strong_confidence": strong_confidence,
    "views": views,
  }
  if loss := on_schedules(partial(crld, temperature, **options), within=within, across=across):
    return loss
  check_number("temperature", temperature, positive=True, scheduled=True)
  check_number("within", within)
  check_number("across", across)
  check_range("weak_confidence", weak_confidence, 0, 1)
  check_range("strong_confidence", strong_confidence, 0, 1)
  check_views(views)

  def init(rng, student, teachers, batch):
    both_logits("crld", student, teachers, of_images=True)
    return (), init_count(temperature)

  def sure(teacher, least):
    return jnp.max(jax.nn.softmax(teacher), axis=-1) >= least

  def compute(params, count, student, teachers, batch, extras):
    softening, count = at_count(temperature, count)
    (s_w, t_w), (s_s, t_s) = weak_and_strong(by_view("crld", student, teachers, batch, views))

    def gap(s, t):
      log_t, log_s = (jax.nn.log_softmax(softened(x, softening)) for x in (t, s))
      return jnp.square(softening) * expectation(jnp.exp(log_t), log_t - log_s)

    same = jnp.where(sure(t_w, weak_confidence), gap(s_w, t_w) + gap(s_s, t_s), 0.0)
    other = jnp.where(sure(t_s, strong_confidence), gap(s_s, t_w) + gap(s_w, t_s), 0.0)
    return jnp.mean(within * same + across * other), count

  return stateful("crld", init, compute)


def on_views(name: str, views: int, compute: Callable[[list[Pair]], jax.Array]) -> LossTransform:
  """A loss on the logits of several views from its formula.

  Args:
    name: of its metric.
    views: of each image in a batch, equal parts of it that follow one another. ``init`` takes any
      batch: it may see one before its images are augmented.
    compute: ``(pairs) -> scalar``, of the student's and the teacher's logits for each view.

  Returns:
    A :class:`~jaxcompress.distill.LossTransform` without parameters or state.

  Raises:
    ValueError: on ``init``, if there is no teacher or its classes differ; on ``update``, if the batch
      is not of so many views.

  Examples:
    >>> loss = on_views("gap", 2, lambda pairs: sum(jnp.mean(s - t) for s, t in pairs))
    >>> same = Endpoints(logits=jnp.ones((4, 3)))
    >>> batch = {"view": jnp.repeat(jnp.eye(2, dtype=bool), 2, axis=0)}
    >>> float(loss.update((), (), same, (same,), batch)[0])
    0.0
  """

  def init(rng, student, teachers, batch):
    both_logits(name, student, teachers, of_images=True)
    return (), ()

  def update(params, state, student, teachers, batch, extras):
    return compute(by_view(name, student, teachers, batch, views)), state

  return stateful(name, init, update)


def check_views(views: int) -> None:
  """Checks how many views of each image a loss of two finds in a batch.

  Raises:
    ValueError: if it is not 1 or 2.

  Examples:
    >>> check_views(3)
    Traceback (most recent call last):
    ValueError: views: 3 must be 2, or 1 where each image is both views.
  """
  check_whole("views", views, 1)
  if views > 2:
    raise ValueError(f"views: {views} must be 2, or 1 where each image is both views.")


def weak_and_strong(pairs: list[Pair]) -> tuple[Pair, Pair]:
  """The first view's logits, and the second's; of one view, both are the same.

  Examples:
    >>> [s for s, _ in weak_and_strong([("weak", "weak")])]
    ['weak', 'weak']
  """
  return pairs[0], pairs[-1]


def by_view(
  name: str, student: Endpoints, teachers: Teachers, batch: Batch, views: int
) -> list[Pair]:
  """The logits of student and teacher for each view, equal parts of the batch.

  Args:
    name: of the loss, for errors.
    student: its endpoints.
    teachers: their endpoints.
    batch: of several views with ``view`` (batch, views), by which it is known; only the shape is read.
    views: how many.

  Raises:
    ValueError: if there is no teacher, its classes differ, or the batch is not of so many views.

  Examples:
    >>> two = Endpoints(logits=jnp.arange(4.0).reshape(2, 2))
    >>> len(by_view("mlkd", two, (two,), {"view": jnp.eye(2, dtype=bool)}, 2))
    2
  """
  logits = both_logits(name, student, teachers, of_images=True)
  count = len(logits[0])
  if views > 1 and (VIEW not in batch or jnp.shape(batch[VIEW]) != (count, views)):
    found = f"has shape {jnp.shape(batch[VIEW])}" if VIEW in batch else "is missing"
    raise ValueError(
      f"batch: {VIEW!r} {found}; {name} compares {views} views of each image, and data.Views marks"
      f" a batch of them with one of shape ({count}, {views}). Give the recipe"
      f" augment=data.Views((...)) of {views} transforms, or write {name}(views=1), where each image"
      " is every view."
    )
  if count % views:
    raise ValueError(
      f"views: a batch of {count} has no {views} equal parts; augment with data.Views."
    )
  return list(zip(*(jnp.split(x, views) for x in logits), strict=True))
