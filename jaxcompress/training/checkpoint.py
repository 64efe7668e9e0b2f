"""Checkpoints of a whole run, and of a model's variables alone (orbax)."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcompress.training.state import CompressState


def _named_arrays(state: CompressState) -> dict[str, Any]:
  """The state's arrays by name; the key as its bits."""
  leaves = jax.tree_util.tree_leaves_with_path(state.replace(rng=jax.random.key_data(state.rng)))
  return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".")


class Checkpoints:
  """Checkpoints of one run in a folder; the newest few are kept.

  Args:
    folder: where they lie; made if missing.
    every: batches between checkpoints.
    keep: how many are kept.

  Examples:
    >>> import tempfile
    >>> Checkpoints(tempfile.mkdtemp(), every=100).latest() is None
    True
  """

  def __init__(self, folder: str | pathlib.Path, *, every: int, keep: int = 2):
    self.folder = pathlib.Path(folder).absolute()
    self.every = every
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, save_interval_steps=every, enable_async_checkpointing=True
    )
    self._manager = ocp.CheckpointManager(self.folder, options=options)

  def save(self, position: int, state: CompressState, *, force: bool = False) -> None:
    """Writes the state in the background, if ``position`` is due or ``force`` is set."""
    if force and self.latest() == position:
      return
    if force or self._manager.should_save(position):
      arrays = ocp.args.StandardSave(jax.device_get(_named_arrays(state)))
      self._manager.save(position, args=arrays, force=force)

  def latest(self) -> int | None:
    """Position of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def restore(self, state: CompressState) -> CompressState:
    """The newest checkpoint in the shape of ``state``.

    Raises:
      ValueError: if it cannot be read or belongs to another recipe.
    """
    position = self.latest()
    template = _named_arrays(state)
    try:
      arrays = self._manager.restore(position, args=ocp.args.StandardRestore(template))
    except Exception as error:
      raise ValueError(
        f"checkpoint: {self.folder / str(position)} cannot be read ({first_line(error)});"
        " remove it to go on from the one before, or start anew with another --out."
      ) from error
    structure = jax.tree.structure(state.replace(rng=jax.random.key_data(state.rng)))
    restored = jax.tree.unflatten(structure, [arrays[name] for name in template])
    return restored.replace(rng=jax.random.wrap_key_data(restored.rng))

  def close(self) -> None:
    """Waits for writing to end."""
    self._manager.wait_until_finished()
    self._manager.close()


def save_variables(path: str | pathlib.Path, variables: Any) -> None:
  """Writes a model's variables to a folder that does not exist yet.

  Raises:
    ValueError: if the folder exists.
  """
  path = pathlib.Path(path).absolute()
  if path.exists():
    raise ValueError(f"path: {path} exists already; name another folder.")
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, jax.device_get(variables))


def load_variables(path: str | pathlib.Path, like: Any) -> Any:
  """Reads variables that :func:`save_variables` wrote.

  Args:
    path: the folder.
    like: variables, or shapes and dtypes, of the model that they are for.

  Raises:
    ValueError: if nothing is there, it is damaged, or it belongs to another model.
  """
  path = pathlib.Path(path).absolute()
  if not path.is_dir():
    raise ValueError(
      f"checkpoint: {path} is no folder; name one that a run wrote, such as OUT/teacher."
    )
  try:
    with ocp.StandardCheckpointer() as checkpointer:
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


def first_line(error: BaseException) -> str:
  """An error's first line, at most 160 characters."""
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:160]
