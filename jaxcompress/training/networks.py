"""How a step calls the networks of its recipe."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn import Endpoints
from jaxcompress.training.cached import CachedTeacher
from jaxcompress.training.recipe import Recipe


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
  return tuple(
    teacher.from_batch(batch)
    if isinstance(teacher, CachedTeacher)
    else as_endpoints(teacher.apply(own, batch["image"], train=False))
    for teacher, own in zip(recipe.teachers, variables, strict=True)
  )


def as_endpoints(output: Any) -> Endpoints:
  """A model's output as :class:`~jaxcompress.nn.Endpoints`; bare logits are wrapped."""
  return output if isinstance(output, Endpoints) else Endpoints(logits=output)
