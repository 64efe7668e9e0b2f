"""Teacher assistants: a chain of networks, each taught by the one before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxcompress.training.loop import fit
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.start import init_state
from jaxcompress.training.state import CompressState


def fit_chain(
  recipes: Sequence[Recipe],
  rng: jax.Array,
  batch_at: Callable[[int], Mapping[str, Any]],
  *,
  steps: int,
  teacher_variables: Any,
  **options: Any,
) -> CompressState:
  """Trains the students of several recipes in order; each is the next one's only teacher.

  Args:
    recipes: from the largest student to the smallest; each has one teacher, which is the student
      of the recipe before.
    rng: a key; each student gets a fold of it.
    batch_at: see :func:`~jaxcompress.training.fit`.
    steps: batches for each student.
    teacher_variables: of the first recipe's teacher.
    **options: of :func:`~jaxcompress.training.fit`.

  Returns:
    The last student's state.

  Raises:
    ValueError: if there are no recipes, or a teacher is another module than the student before.

  Examples:
    >>> fit_chain([], jax.random.key(0), dict, steps=1, teacher_variables={})
    Traceback (most recent call last):
    ValueError: recipes: there are none; give one for each student.

  References:
    Mirzadeh et al., `Improved Knowledge Distillation via Teacher Assistant
    <https://arxiv.org/abs/1902.03393>`_, 2020, section 3.
  """
  if not recipes:
    raise ValueError("recipes: there are none; give one for each student.")
  for i, recipe in enumerate(recipes):
    expected = recipe.teachers if i == 0 else (recipes[i - 1].student,)
    if len(recipe.teachers) != 1 or recipe.teachers != expected:
      raise ValueError(
        f"recipes: recipe {i} must have one teacher, the student of the recipe before."
      )
  for i, recipe in enumerate(recipes):
    key = jax.random.fold_in(rng, i)
    state = init_state(recipe, key, batch_at(0), teacher_variables=(teacher_variables,))
    state = fit(state, batch_at, steps=steps, **options)
    teacher_variables = state.averaged.variables
  return state
