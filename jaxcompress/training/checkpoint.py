"""Folders (orbax): checkpoints of a whole run, and a model's variables alone."""

import contextlib
import errno
import fnmatch
import logging
import os
import pathlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding

from jaxcompress.arguments import check_whole
from jaxcompress.files.checksums import find_damage, write_checksums
from jaxcompress.files.values import one_line
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.training.processes import all_agree, is_first, only_here, shared, wait_for_all
from jaxcompress.training.sharding import cut_anew
from jaxcompress.training.state import CompressState, check_goals

ITEM = "default"  # orbax's name of what is saved without one
BANKS = ("student_bank", "teacher_bank")  # memory banks, which other devices cut otherwise
SCRATCH = "overwritten"  # of memory banks' states: as large as some batch, and read by no step
WAYS_OUT = {  # of writing that failed
  "make room": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  "allow writing there, or copy the folder elsewhere": (errno.EROFS, errno.EACCES, errno.EPERM),
}


def _named(tree: Any) -> dict[str, Any]:
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


def _differing(stored: Any, wanted: Any) -> list[tuple[str, tuple[int, ...]]]:
  """Names and shapes of arrays that are not alike in two trees.

  ``init_state`` may have seen a batch of another size, as on another number of processes.
  """

  def shapes(tree):
    return {
      name: () if SCRATCH in name.split(".") else tuple(x.shape) for name, x in _named(tree).items()
    }.items()

  return sorted(shapes(wanted) ^ shapes(stored))


def _arrays_of(state: CompressState) -> CompressState:
  """The state with its key as bits."""
  return state.replace(rng=jax.random.key_data(state.rng))


def _named_arrays(state: CompressState) -> dict[str, Any]:
  """The state's arrays by name; the key as its bits."""
  return _named(_arrays_of(state))


def _before_stacks(state: CompressState) -> CompressState:
  """What a checkpoint held when each quantizer's state had arrays of its own, described."""
  params, states = state.quantizer
  apart = {kind: of_kind.described() for kind, of_kind in states.items()}
  return state.replace(quantizer=QuantVariables(params, apart))


def _stacked(state: CompressState, like: CompressState) -> CompressState:
  """The quantizers' states in the stacks, and on the devices, of ``like``."""
  params, apart = state.quantizer
  stacks = like.quantizer.state
  where = jax.tree.map(lambda x: x.sharding, stacks)

  @partial(jax.jit, out_shardings=where)
  def stack(apart):
    return {kind: of_kind.updated(apart[kind]) for kind, of_kind in stacks.items()}

  return state.replace(quantizer=QuantVariables(params, stack(apart)))


def _template(state: CompressState, stored: Mapping[str, Any]) -> dict[str, Any]:
  """The state's arrays by name, memory banks as they were stored: perhaps cut for other devices."""
  found = _named_arrays(state)

  def cut_as_stored(path, tree):
    place = jax.tree_util.keystr(("loss_state", *path), simple=True, separator=".")
    names = {bank: f"{place}.{bank}".replace("/", ".") for bank in BANKS if hasattr(tree, bank)}
    shapes = {tuple(stored[name].shape) for name in names.values() if name in stored}
    if len(shapes) != 1 or not tree.holds_alike(shape := shapes.pop()):
      return
    form = tree.shaped(shape)
    for bank, name in names.items():
      sharding = found[name].sharding
      if state.placement is not None:
        mesh = state.placement.mesh
        sharding = NamedSharding(mesh, getattr(form.partition(mesh), bank))
      found[name] = jax.ShapeDtypeStruct(shape, found[name].dtype, sharding=sharding)

  jax.tree_util.tree_map_with_path(
    cut_as_stored, state.loss_state, is_leaf=lambda tree: hasattr(tree, "holds_alike")
  )
  return found


class Checkpoints:
  """Checkpoints of one run in a folder; the newest few are kept.

  With several processes, all make one on the same (shared) folder and call it alike; each writes
  the arrays that only its devices have. A checkpoint is there as a whole or not at all, also after
  ``kill -9``, and can be read by any number of processes and devices. Memory banks stay cut as they were
  saved where these devices can share them so, and are cut anew where they cannot.

  Args:
    folder: where they lie; made if missing.
    every: batches between checkpoints.
    keep: how many are kept.
    warn: told where a damaged checkpoint is passed over.

  Examples:
    >>> import tempfile
    >>> with Checkpoints(tempfile.mkdtemp(), every=100) as checkpoints:
    ...   checkpoints.latest() is None
    True
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    *,
    every: int,
    keep: int = 2,
    warn: Callable[[str], None] = warnings.warn,
  ):
    self.folder = pathlib.Path(folder).absolute()
    check_place("folder", self.folder)
    check_whole("every", every, 1)
    self.every = every
    self._warn = warn
    self._saving: int | None = None
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      save_interval_steps=every,
      enable_async_checkpointing=True,
      cleanup_tmp_directories=True,  # of runs that were killed while they saved
      async_options=ocp.AsyncOptions(post_finalization_callback=self._note_checksums),
    )
    self._manager = self._guarded(lambda: ocp.CheckpointManager(self.folder, options=options))

  def save(self, position: int, state: CompressState, *, force: bool = False) -> None:
    """Writes the state in the background, if ``position`` is due or ``force`` is set.

    Raises:
      ValueError: if this or the checkpoint before cannot be written, as on a full disk.
    """
    if force and self.latest() == position:
      return
    if force or self._manager.should_save(position):
      self.wait()
      self._saving = position
      arrays = ocp.args.StandardSave(_named_arrays(state))
      self._guarded(lambda: self._manager.save(position, args=arrays, force=force))

  def latest(self) -> int | None:
    """Position of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def restore(self, state: CompressState) -> CompressState:
    """The newest whole checkpoint in the shape of ``state``, on its devices.

    A damaged one is passed over with a warning and kept aside as ``POSITION.damaged``.

    Raises:
      ValueError: if none can be read, or they belong to another recipe.
    """
    damaged: dict[int, str] = {}
    for position in sorted(self._manager.all_steps(), reverse=True):
      restored, reason = self._read(position, state)
      if restored is not None:
        check_goals(state, restored, str(self.folder / str(position)))
        self._pass_over(damaged, position)
        restored = restored.replace(rng=jax.random.wrap_key_data(restored.rng))
        last = max(int(restored.step) + int(restored.skipped) - 1, 0)
        restored = restored.replace(stage=state.recipe.stage_at(last))  # a next one is yet to begin
        return cut_anew(restored)
      damaged[position] = reason or "unreadable"
    if not damaged:
      raise ValueError(f"checkpoint: {self.folder} has none; start anew.")
    position, reason = next(iter(damaged.items()))
    raise ValueError(
      f"checkpoint: {self.folder / str(position)} cannot be read ({reason}), nor any other of"
      f" {len(damaged)}; start anew in another folder."
    )

  def wait(self) -> None:
    """Waits for writing to end.

    Raises:
      ValueError: if the last checkpoint cannot be written.
    """
    self._guarded(self._manager.wait_until_finished)

  def close(self) -> None:
    """Waits for writing to end, as :meth:`wait`; nothing can be saved afterwards."""
    self.wait()
    self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is None:
      self.close()
    elif jax.process_count() == 1:  # with several, those that are gone would be waited for
      try:
        self._manager.close()
      except Exception as error:
        self._warn(f"checkpoint: {self.folder} could not be closed ({one_line(error)}).")

  def _read(self, position: int, state: CompressState) -> tuple[CompressState | None, str | None]:
    """A checkpoint's state, or what is wrong with it; the same answer on every process.

    Raises:
      ValueError: if it is whole, but of another recipe.
    """
    path = self.folder / str(position)
    reason = shared(find_damage(path) if is_first() else None)
    if reason is not None:
      return None, reason
    restored = differing = None
    item = epath.Path(path / ITEM)
    try:
      handler = ocp.StandardCheckpointHandler(multiprocessing_options=only_here())
      with contextlib.closing(handler):
        stored = handler.metadata(item).tree
        found, older = _named(stored), _before_stacks(state)
        form = older if not _differing(stored, _template(older, found)) else state
        template = _template(form, found)
        differing = _differing(stored, template)
        if not differing:
          wanted = {
            name: jax.ShapeDtypeStruct(tuple(stored[name].shape), x.dtype, sharding=x.sharding)
            for name, x in template.items()
          }
          arrays = handler.restore(item, args=ocp.args.StandardRestore(wanted))
          structure = jax.tree.structure(_arrays_of(form))
          restored = jax.tree.unflatten(structure, [arrays[name] for name in template])
          restored = restored if form is state else _stacked(restored, state)
    except Exception as error:
      reason = one_line(error)
    if differing:
      name, shape = differing[0]
      raise ValueError(
        f"checkpoint: {path} belongs to another recipe: {name} {shape} is not in both; go on with"
        " what it was started with, or start anew in another folder."
      )
    if not all_agree(restored is not None):
      return None, reason or "another process cannot read it"
    return restored, None

  def _pass_over(self, damaged: dict[int, str], position: int) -> None:
    """Says which checkpoints are not used, and moves them aside."""
    if not damaged:
      return
    for other in damaged:
      path = self.folder / str(other)
      aside = path.with_name(f"{other}.damaged")
      while is_first() and aside.exists():
        aside = aside.with_name(aside.name + "-again")
      if is_first():
        path.rename(aside)
    wait_for_all("set aside")
    self._manager.reload()
    for other, reason in damaged.items():
      self._warn(
        f"checkpoint: step {other} in {self.folder} is damaged ({reason}) and kept as"
        f" {other}.damaged; going on from step {position}."
      )

  def _note_checksums(self) -> None:
    """Called by orbax on the first process when all files of a checkpoint are there, before it counts."""
    for place in self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
      write_checksums(place, place.glob("*/**/*"))  # orbax adds others beside the folders

  def _guarded(self, act: Callable[[], Any]) -> Any:
    try:
      with _orbax_is_quiet():
        return act()
    except jax.errors.JaxRuntimeError:  # another process is gone
      raise
    except Exception as error:
      at = "" if self._saving is None else f" of step {self._saving}"
      raise ValueError(
        f"checkpoint: the one{at} cannot be written in {self.folder} ({one_line(error)});"
        f" {way_out(error)}, then go on from the one before."
      ) from error


@contextlib.contextmanager
def _orbax_is_quiet() -> Iterator[None]:
  """Keeps what orbax warns of while it saves for us off the log: how long a save has waited, and so on.

  Records of other threads, of other packages, and errors are logged as ever.
  """
  thread, place = threading.get_ident(), os.path.dirname(ocp.__file__)

  def passes(record: logging.LogRecord) -> bool:
    ours = record.thread == thread and record.pathname.startswith(place)
    return not ours or record.levelno >= logging.ERROR

  logger = logging.getLogger("absl")
  logger.addFilter(passes)
  try:
    yield
  finally:
    logger.removeFilter(passes)


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
      f"path: {path} cannot be written ({one_line(error)}); {way_out(error)}."
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
    raise ValueError(f"checkpoint: {path} cannot be read ({one_line(error)}).") from error
  if differing := _differing(stored, like):
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
