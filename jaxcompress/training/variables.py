"""A model's variables alone, in a folder (orbax)."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcompress.files import find_damage, write_checksums
from jaxcompress.training.processes import only_here


def save_variables(path: str | pathlib.Path, variables: Any) -> None:
  """Writes a model's variables and their checksums to a new folder, from this process.

  Raises:
    ValueError: if the folder exists.

  Examples:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "student"
    >>> save_variables(path, {"params": {"kernel": jax.numpy.ones((2, 3))}})
    >>> path.is_dir()
    True
  """
  path = pathlib.Path(path).absolute()
  if path.exists():
    raise ValueError(f"path: {path} exists already; name another folder.")
  with ocp.StandardCheckpointer(multiprocessing_options=only_here()) as checkpointer:
    checkpointer.save(path, jax.device_get(variables))
  write_checksums(path, list(path.rglob("*")))


def load_variables(path: str | pathlib.Path, like: Any) -> Any:
  """Reads variables that :func:`save_variables` wrote.

  Args:
    path: the folder.
    like: variables, or shapes and dtypes, of the model that they are for.

  Raises:
    ValueError: if nothing is there, it is damaged, or it belongs to another model.

  Examples:
    >>> import tempfile
    >>> variables = {"params": {"kernel": jax.numpy.ones((2, 3))}}
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "student"
    >>> save_variables(path, variables)
    >>> load_variables(path, variables)["params"]["kernel"].shape
    (2, 3)
  """
  path = pathlib.Path(path).absolute()
  if not path.is_dir():
    raise ValueError(
      f"checkpoint: {path} is no folder; name one that a run wrote, such as OUT/teacher."
    )
  damage = find_damage(path)
  if damage is not None:
    raise ValueError(f"checkpoint: {path} is damaged ({damage}).")
  try:
    with ocp.StandardCheckpointer(multiprocessing_options=only_here()) as checkpointer:
      stored = checkpointer.restore(path)
  except Exception as error:
    raise ValueError(f"checkpoint: {path} cannot be read ({first_line(error)}).") from error
  wanted, found = _shapes(like), _shapes(stored)
  if wanted != found:
    differing = sorted(wanted.items() ^ found.items())
    name, shape = differing[0]
    raise ValueError(
      f"checkpoint: {path} is of another model: {len(differing)} arrays differ, such as {name}"
      f" {shape}; build the model that it was saved from."
    )
  return stored


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def first_line(error: BaseException, most: int = 160) -> str:
  """An error's first line; of a long one both ends, since the reason may stand at either.

  Examples:
    >>> first_line(OSError("no room" + 100 * "." + "on the disk"), 40)
    'no room.......... ... ......on the disk'
  """
  text = (str(error).strip() or type(error).__name__).splitlines()[0]
  half = (most - 5) // 2
  return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
