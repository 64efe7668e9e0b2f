"""A model's variables alone in a folder (orbax), and what all such folders have in common."""

import errno
import fnmatch
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxcompress.files.checksums import find_damage, write_checksums
from jaxcompress.files.places import files_below, place_of
from jaxcompress.files.values import one_line
from jaxcompress.training.processes import only_here

SCRATCH = "overwritten"  # of memory banks' states: as large as some batch, and read by no step
WAYS_OUT = {  # of writing that failed
  "make room": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  "allow writing there, or copy the folder elsewhere": (errno.EROFS, errno.EACCES, errno.EPERM),
}


def save_variables(path: str | os.PathLike, variables: Any) -> None:
  """Writes a model's variables and their checksums to a new folder, from this process.

  Args:
    path: the folder; in a bucket, too, as ``"gs://bucket/student"``.
    variables: arrays in dicts.

  Raises:
    ValueError: if the folder exists or cannot be written.

  Examples:
    >>> import pathlib
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "student"
    >>> save_variables(path, {"params": {"kernel": jax.numpy.ones((2, 3))}})
    >>> path.is_dir()
    True
  """
  place = check_place("path", path)
  try:
    taken = place.exists()
    if not taken:
      with ocp.StandardCheckpointer(multiprocessing_options=only_here()) as checkpointer:
        checkpointer.save(place, jax.device_get(variables))
      write_checksums(place, list(files_below(place)))
  except Exception as error:
    raise ValueError(
      f"path: {place} cannot be written ({one_line(error)}); {way_out(error)}."
    ) from error
  if taken:
    raise ValueError(f"path: {place} exists already; name another folder.")


def load_variables(path: str | os.PathLike, like: Any) -> Any:
  """Reads variables that :func:`save_variables` wrote.

  Args:
    path: the folder; in a bucket, too, as ``"gs://bucket/student"``.
    like: variables, or shapes and dtypes, of the model that they are for.

  Raises:
    ValueError: if nothing is there, it is damaged, or it belongs to another model.

  Examples:
    >>> import pathlib
    >>> import tempfile
    >>> variables = {"params": {"kernel": jax.numpy.ones((2, 3))}}
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "student"
    >>> save_variables(path, variables)
    >>> load_variables(path, variables)["params"]["kernel"].shape
    (2, 3)
  """
  place, stored = place_of("path", path), None
  try:
    found = place.is_dir()
    damage = find_damage(place) if found else None
    if found and damage is None:
      with ocp.StandardCheckpointer(multiprocessing_options=only_here()) as checkpointer:
        stored = checkpointer.restore(place)
  except Exception as error:
    raise ValueError(f"checkpoint: {place} cannot be read ({one_line(error)}).") from error
  if not found:
    raise ValueError(
      f"checkpoint: {place} is no folder; name one that a run wrote, such as OUT/teacher."
    )
  if damage is not None:
    raise ValueError(f"checkpoint: {place} is damaged ({damage}).")
  if others := differing(stored, like):
    name, shape = others[0]
    raise ValueError(
      f"checkpoint: {place} is of another model: {len(others)} arrays differ, such as {name}"
      f" {shape}; build the model that it was saved from."
    )
  return stored


def check_place(argument: str, path: str | os.PathLike) -> epath.Path:
  """A folder in which orbax finds again what it writes, whose path it reads as a pattern.

  Args:
    argument: its name.
    path: of the folder, or below which it will be; in a bucket, too.

  Raises:
    ValueError: if the pattern is of other paths, or the path of no kind that can be written.

  Examples:
    >>> str(check_place("out", "/data/run*"))
    '/data/run*'
    >>> check_place("out", "/data/run [2]")
    Traceback (most recent call last):
    ValueError: out: /data/run [2] has brackets, with which checkpoints are lost; name another folder.
  """
  place = place_of(argument, path)
  if not all(fnmatch.fnmatchcase(part, part) for part in os.fspath(place).split("/")):
    raise ValueError(
      f"{argument}: {path} has brackets, with which checkpoints are lost; name another folder."
    )
  return place


def way_out(error: BaseException) -> str:
  """Says what to do where something cannot be written.

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


def named(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by name.

  Raises:
    ValueError: if two have one name, as ``{"a/b": x, "a": {"b": y}}`` in a teacher's variables.
  """
  found: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".")
    if name in found:
      raise ValueError(
        f"checkpoint: two arrays of the state are called {name!r}; rename one of them."
      )
    found[name] = leaf
  return found


def differing(stored: Any, wanted: Any) -> list[tuple[str, tuple[int, ...]]]:
  """Names and shapes of arrays that are not alike in two trees.

  ``init_state`` may have seen a batch of another size, as on another number of processes.
  """

  def shapes(tree):
    return {
      name: () if SCRATCH in name.split(".") else tuple(x.shape) for name, x in named(tree).items()
    }.items()

  return sorted(shapes(wanted) ^ shapes(stored))
