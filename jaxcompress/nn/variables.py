"""Whether variables are those of a network: the message where they are not, in place of Flax's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.errors

from jaxcompress.arguments import check_type
from jaxcompress.files.values import one_line

COLLECTIONS = "a dict of collections with 'params', as init_variables gives it"
OWN = (
  "the model's own with all their collections, as init_variables or training gave them (of an imported"
  " model, imported.variables)"
)
UNFIT = flax.errors.ScopeParamShapeError
NOT_FOUND = (
  flax.errors.ScopeParamNotFoundError,
  flax.errors.ScopeCollectionNotFound,
  flax.errors.ScopeVariableNotFoundError,
)


def check_variables(argument: str, variables: Any) -> None:
  """Checks that an argument has the form of variables.

  Raises:
    ValueError: if it has not.

  Examples:
    >>> check_variables("variables", None)
    Traceback (most recent call last):
    ValueError: variables must be a dict of collections with 'params', as init_variables gives it, got None.
  """
  check_type(argument, variables, Mapping, COLLECTIONS)
  for name, tree in variables.items():
    check_type(f"{argument}: {name!r}", tree, Mapping, "a dict, by layer")


@contextmanager
def blames(
  argument: str, own: str = "those of the recipe's own", images: tuple[int, ...] | None = None
) -> Iterator[None]:
  """Where a network does not find its variables inside, the argument that holds them is wrong.

  Args:
    argument: its name.
    own: what to give in their place.
    images: (height, width, channels) of those that the network reads, where they may be wrong as well.

  Examples:
    >>> import jax.numpy as jnp
    >>> from jaxcompress.nn import Dense
    >>> with blames("student_variables"):
    ...   Dense(2).apply({"params": {"kernel": jnp.ones((3, 2))}}, jnp.ones((1, 3)))
    Traceback (most recent call last):
    ValueError: student_variables: they are of another network; give those of the recipe's own ...
  """
  try:
    yield
  except (*NOT_FOUND, UNFIT) as error:
    or_images = images is not None and isinstance(error, UNFIT)
    what = f"they do not fit images of shape {images}, or are" if or_images else "they are"
    raise ValueError(
      f"{argument}: {what} of another network; give {own} ({reason_of(error)})."
    ) from error


def reason_of(error: Exception) -> str:
  """Flax's message in one line, without the address of its documentation."""
  return one_line(str(error).split(" (https:")[0])
