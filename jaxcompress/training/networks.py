"""How a step calls the networks of its recipe."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp

from jaxcompress.nn import Endpoints
from jaxcompress.training.cached import CachedTeacher
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.variables import first_line

NOT_FOUND = (
  flax.errors.ScopeParamNotFoundError,
  flax.errors.ScopeParamShapeError,
  flax.errors.ScopeCollectionNotFound,
  flax.errors.ScopeVariableNotFoundError,
)


def to_network_input(recipe: Recipe, images: jax.Array) -> jax.Array:
  """Images as the networks read them."""
  if recipe.preprocess is not None:
    return recipe.preprocess(images)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"batch: images are {images.dtype} and the recipe has no preprocess; give it one, or pass"
      " float images."
    )
  return images


def run_teachers(
  recipe: Recipe, variables: tuple[Any, ...], batch: Mapping[str, jax.Array]
) -> tuple[Endpoints, ...]:
  """What the teachers say to a batch; a :class:`CachedTeacher` has said it before."""
  endpoints = []
  for i, (teacher, own) in enumerate(zip(recipe.teachers, variables, strict=True)):
    if isinstance(teacher, CachedTeacher):
      endpoints.append(teacher.from_batch(batch, recipe.augment))
      continue
    with blames(f"teacher_variables[{i}]"):
      endpoints.append(as_endpoints(teacher.apply(own, batch["image"], train=False)))
  return tuple(endpoints)


@contextmanager
def blames(argument: str) -> Iterator[None]:
  """Where a network does not find its variables inside, the argument that holds them is wrong.

  Examples:
    >>> from jaxcompress.nn import Dense
    >>> with blames("student_variables"):
    ...   Dense(2).apply({"params": {"kernel": jnp.ones((3, 2))}}, jnp.ones((1, 3)))
    Traceback (most recent call last):
    ValueError: student_variables: they are of another network; give those of the recipe's own ...
  """
  try:
    yield
  except NOT_FOUND as error:
    raise ValueError(
      f"{argument}: they are of another network; give those of the recipe's own"
      f" ({first_line(error)})."
    ) from error


def as_endpoints(output: Any) -> Endpoints:
  """A model's output as :class:`~jaxcompress.nn.Endpoints`; bare logits are wrapped."""
  return output if isinstance(output, Endpoints) else Endpoints(logits=output)
