"""A model's variables alone, in a folder (orbax)."""

import errno
import fnmatch
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcompress.files.checksums import find_damage, write_checksums
from jaxcompress.training.processes import only_here

WAYS_OUT = {  # of writing that failed
  "make room": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  "allow writing there, or copy the folder elsewhere": (errno.EROFS, errno.EACCES, errno.EPERM),
}


def save_variables(path: str | pathlib.Path, variables: Any) -> None:
  """Writes a model's variables and their checksums to a new folder, from this process.

  Raises:
    ValueError: if the folder exists or cannot be written.

  Examples:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "student"
    >>> save_variables(path, {"params": {"kernel": jax.numpy.ones((2, 3))}})
    >>> path.is_dir()
    True
  """
  path = pathlib.Path(path).absolute()
  check_place("path", path)
  if path.exists():
    raise ValueError(f"path: {path} exists already; name another folder.")
  try:
    with ocp.StandardCheckpointer(multiprocessing_options=only_here()) as checkpointer:
      checkpointer.save(path, jax.device_get(variables))
    write_checksums(path, list(path.rglob("*")))
  except Exception as error:
    raise ValueError(
      f"path: {path} cannot be written ({first_line(error)}); {way_out(error)}."
    ) from error


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


def check_place(argument: str, path: str | pathlib.Path) -> None:
  """Checks that orbax finds again what it writes in a folder, whose path it reads as a pattern.

  Args:
    argument: its name.
    path: of the folder, or below which it will be.

  Raises:
    ValueError: if the pattern is of other paths.

  Examples:
    >>> check_place("out", "/data/run*")
    >>> check_place("out", "/data/run [2]")
    Traceback (most recent call last):
    ValueError: out: /data/run [2] has brackets, with which checkpoints are lost; name another folder.
  """
  if not all(fnmatch.fnmatchcase(part, part) for part in pathlib.Path(path).absolute().parts):
    raise ValueError(
      f"{argument}: {path} has brackets, with which checkpoints are lost; name another folder."
    )


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


def way_out(error: BaseException) -> str:
  """What to do where something cannot be written.

  Libraries pass an operating system's reason on as an error's cause, or in its words.

  Examples:
    >>> way_out(OSError(errno.ENOSPC, "no space"))
    'make room'
    >>> way_out(RuntimeError("PERMISSION_DENIED: Read-only file system"))
    'allow writing there, or copy the folder elsewhere'
    >>> way_out(OSError(errno.EIO, "disk"))
    'see that the folder can be written'
  """
  found: BaseException | None = error
  while found is not None:
    for advice, codes in WAYS_OUT.items():
      words = (os.strerror(code).lower() for code in codes)
      if getattr(found, "errno", None) in codes or any(
        word in str(found).lower() for word in words
      ):
        return advice
    found = found.__cause__ or found.__context__
  return "see that the folder can be written"
