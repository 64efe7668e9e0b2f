"""Readings of networks by losses: logits and pooled features, of the same examples."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.distill.base import Teachers
from jaxcompress.nn import Endpoints


def first_teacher(teachers: Teachers, name: str) -> Endpoints:
  """``teachers[0]``, or an error that says which loss wanted it.

  Raises:
    ValueError: if there are no teachers.

  Examples:
    >>> first_teacher((Endpoints(logits=jnp.ones((1, 3))),), "kd").logits.shape
    (1, 3)
  """
  if not teachers:
    raise ValueError(f"teachers: {name} needs a teacher, got none; give the recipe one.")
  return teachers[0]


def both_logits(
  name: str, student: Endpoints, teachers: Teachers, *, of_images: bool = False
) -> tuple[jax.Array, jax.Array]:
  """The logits of the student and of the first teacher.

  Args:
    name: of the loss, for errors.
    student: its endpoints.
    teachers: their endpoints.
    of_images: whether the loss compares examples, so that logits must be (batch, classes); those of
      maps have a last axis of classes, too.

  Raises:
    ValueError: if there is no teacher, logits are missing, classes or numbers of examples differ, or the
      logits are of maps.

  Examples:
    >>> same = Endpoints(logits=jnp.ones((1, 3)))
    >>> [x.shape for x in both_logits("kd", same, (same,))]
    [(1, 3), (1, 3)]
  """
  teacher = first_teacher(teachers, name).logits
  for network, logits in (("student", student.logits), ("teacher", teacher)):
    if logits is None:
      raise ValueError(
        f"{network}: {name} reads logits, which are missing; return Endpoints(logits=...), or wrap the"
        " model in distill.adapter."
      )
  check_examples(name, student.logits, teacher)
  if student.logits.shape != teacher.shape:
    raise ValueError(
      f"teachers: logits have shape {teacher.shape} and the student's {student.logits.shape}; both"
      " need the same classes."
    )
  if of_images and teacher.ndim != 2:
    raise ValueError(
      f"logits: {name} compares examples by logits (batch, classes), and these have shape"
      f" {teacher.shape}; take kd, which compares each pixel."
    )
  return student.logits, teacher


def both_pooled(
  name: str, student: Endpoints, teachers: Teachers, otherwise: str = ""
) -> tuple[jax.Array, jax.Array]:
  """The pooled features of the student and of the first teacher.

  Args:
    name: of the loss, for errors.
    student: its endpoints.
    teachers: their endpoints.
    otherwise: a way out beside returning such features.

  Raises:
    ValueError: if there is no teacher, a network has none, or numbers of examples differ.

  Examples:
    >>> same = Endpoints(logits=None, pooled=jnp.ones((1, 3)))
    >>> [x.shape for x in both_pooled("rkd", same, (same,))]
    [(1, 3), (1, 3)]
  """
  teacher = first_teacher(teachers, name)
  for network, endpoints in (("student", student), ("teacher", teacher)):
    if endpoints.pooled is None:
      raise ValueError(
        f"{network}: {name} reads pooled features, which are missing; return"
        f" Endpoints(pooled=...){otherwise}."
      )
  check_examples(name, student.pooled, teacher.pooled)
  return student.pooled, teacher.pooled  # type: ignore[return-value]


def check_examples(name: str, student: Any, teacher: Any) -> None:
  """Checks that outputs of two networks are of as many examples.

  Raises:
    ValueError: if they are not.

  Examples:
    >>> check_examples("rkd", jnp.ones((4, 3)), jnp.ones((2, 3)))
    Traceback (most recent call last):
    ValueError: teachers: rkd compares outputs of the same examples, but those of the student are of 4 and the teacher's of 2; run both networks on the same batch.
  """
  counts = [jnp.shape(x)[:1] for x in (student, teacher)]
  if counts[0] != counts[1]:
    (of_student,), (of_teacher,) = counts
    raise ValueError(
      f"teachers: {name} compares outputs of the same examples, but those of the student are of"
      f" {of_student} and the teacher's of {of_teacher}; run both networks on the same batch."
    )
