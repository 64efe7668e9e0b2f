"""Checkpoints of a whole run in a folder (orbax)."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding

from jaxcompress.arguments import check_range, check_whole
from jaxcompress.files.checksums import find_damage, write_checksums
from jaxcompress.files.places import files_below
from jaxcompress.files.values import one_line
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.training.digests import Checksums, changed, checksums_of
from jaxcompress.training.orbax_words import is_quiet, tried
from jaxcompress.training.processes import all_agree, is_first, only_here, shared, wait_for_all
from jaxcompress.training.sharding import cut_anew
from jaxcompress.training.state import CompressState, check_goals, parted, rejoined
from jaxcompress.training.variables import check_place, differing, named, way_out

ITEM = "default"  # orbax's name of what is saved without one
DATA = "d"  # of folders with the arrays themselves
ARRAYS_FILE = "arrays.json"  # checksums of what was in memory
ARRAYS, TEACHERS = "arrays", "teachers"
BANKS = ("student_bank", "teacher_bank")  # memory banks, which other devices cut otherwise


def _arrays_of(state: CompressState) -> CompressState:
  """The state with its key as bits."""
  return state.replace(rng=jax.random.key_data(state.rng))


def _named_arrays(state: CompressState) -> dict[str, Any]:
  """The state's arrays by name; the key as its bits."""
  return named(_arrays_of(state))


def _before_stacks(state: CompressState) -> CompressState:
  """Describes the checkpoint of an earlier version, in which each quantizer's state has its own arrays."""
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
  saved where these devices can share them so, and are cut anew where they cannot. Steps wait while
  arrays are copied from the devices, and for nothing that is written, unless the save before still is.

  Teachers that stand still are not in it: a restored state has those of the state that it is restored
  to, which must be the ones that the run began with.

  Args:
    folder: where they lie; made if missing. In a bucket, too, as ``"gs://bucket/run"``.
    every: batches between checkpoints, or None.
    every_seconds: seconds after a checkpoint at which the next is due, whatever ``every`` says, on the
      first process's clock; None: time does not matter.
    keep: how many are kept.
    warn: told where a damaged checkpoint is passed over.

  Examples:
    >>> import tempfile
    >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:  # every ten minutes
    ...   checkpoints.latest() is None
    True
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    every: int | None = None,
    every_seconds: float | None = 600.0,
    keep: int = 2,
    warn: Callable[[str], None] = warnings.warn,
  ):
    self.folder = check_place("folder", folder)
    if every is not None:
      check_whole("every", every, 1)
    if every_seconds is not None:
      check_range("every_seconds", every_seconds, 0, float("inf"))
    self._every, self._every_seconds = every, every_seconds
    self._warn = warn
    self._saving: int | None = None
    self._checksums: Callable[[], Checksums] = dict
    self._taught: Checksums | None = None  # of teachers that stand still
    self._since = time.monotonic()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      enable_async_checkpointing=True,
      cleanup_tmp_directories=True,  # of runs that were killed while they saved
      async_options=ocp.AsyncOptions(post_finalization_callback=self._note_checksums),
    )
    self._manager = self._guarded(lambda: ocp.CheckpointManager(self.folder, options=options))

  def due(self, position: int) -> bool:
    """Whether a checkpoint is due at a position by the number of batches."""
    if self._every is None or position % self._every:
      return False
    return (self.latest() or 0) < position

  def late(self) -> bool:
    """Whether one is due by the time, on this process's clock."""
    spent = time.monotonic() - self._since
    return self._every_seconds is not None and spent >= self._every_seconds

  def save(self, position: int, state: CompressState, *, force: bool = False) -> None:
    """Writes the state in the background, if ``position`` or the time is due or ``force`` is set.

    With several processes each call asks the first one for the time; :func:`~jaxcompress.training.fit`
    does so about once a second.

    Raises:
      ValueError: if this or the checkpoint before cannot be written, as on a full disk.
    """
    if force and self.latest() == position:
      return
    if not force and not self.due(position):
      timed = self._every_seconds is not None and shared(self.late())
      if not timed or self.latest() == position:
        return
    self.wait()
    self._saving, self._since = position, time.monotonic()
    moving, still = parted(state)
    if self._taught is None:
      self._taught = checksums_of(named({"teachers": still}))()
    arrays = _named_arrays(moving)
    self._checksums = checksums_of(arrays)
    saved = ocp.args.StandardSave(arrays)
    self._guarded(lambda: self._manager.save(position, args=saved, force=True))

  def latest(self) -> int | None:
    """Position of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def restore(self, state: CompressState) -> CompressState:
    """The newest whole checkpoint in the shape of ``state``, on its devices.

    A damaged one is passed over with a warning and kept aside as ``POSITION.damaged``.

    Raises:
      ValueError: if none can be read, or they belong to another recipe or other teachers.
    """
    self.wait()
    damaged: dict[int, str] = {}
    for position in sorted(self._manager.all_steps(), reverse=True):
      restored, reason = self._read(position, state)
      if restored is not None:
        check_goals(state, restored, str(self.folder / str(position)))
        self._pass_over(damaged, position)
        last = max(int(restored.step) + int(restored.skipped) - 1, 0)
        restored = restored.replace(stage=state.recipe.stage_at(last))  # a next one is yet to begin
        return cut_anew(restored)
      damaged[position] = reason or "unreadable"
    if not damaged:
      raise ValueError(f"checkpoint: {self.folder} has no checkpoint; start anew.")
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
    """The state of a checkpoint, or what is wrong with it; the same answer on every process.

    Raises:
      ValueError: if it is whole, but of another recipe or other teachers.
    """
    path = self.folder / str(position)
    reason, noted = shared(_examined(path) if is_first() else None)
    if reason is not None:
      return None, reason
    moving, still = (state, ()) if noted is None else parted(state)  # earlier versions saved all

    def read() -> tuple[CompressState, dict[str, jax.Array] | None, list]:
      handler = ocp.StandardCheckpointHandler(multiprocessing_options=only_here())
      with contextlib.closing(handler):
        stored = handler.metadata(path / ITEM).tree
        found, older = named(stored), _before_stacks(moving)
        form = moving if differing(stored, _template(older, found)) else older
        template = _template(form, found)
        if others := differing(stored, template):
          return form, None, others
        wanted = {
          name: jax.ShapeDtypeStruct(
            tuple(stored[name].shape), stored[name].dtype, sharding=x.sharding
          )
          for name, x in template.items()
        }
        arrays = handler.restore(path / ITEM, args=ocp.args.StandardRestore(wanted))
        return form, arrays, []

    result, reason = tried(read)
    form, arrays, others = result or (moving, None, [])
    if others:
      name, shape = others[0]
      raise ValueError(
        f"checkpoint: {path} belongs to another recipe: {name} {shape} is not in both; go on with"
        " what it was started with, or start anew in another folder."
      )
    if not all_agree(arrays is not None):
      return None, reason or "another process cannot read it"
    assert arrays is not None
    if noted is not None:
      wrong = changed(arrays, noted[ARRAYS])
      if not all_agree(wrong is None):
        return None, f"{wrong or 'an array'} has another checksum"
      if (other := changed(named({"teachers": still}), noted[TEACHERS])) is not None:
        raise ValueError(
          f"checkpoint: {path} was taught by another teacher: {other} differs from the one given; give"
          " teacher_variables that the run was started with, or start anew in another folder."
        )
      self._taught = noted[TEACHERS]
    leaves = [_as(arrays[name], x.dtype) for name, x in _named_arrays(form).items()]
    restored = jax.tree.unflatten(jax.tree.structure(_arrays_of(form)), leaves)
    restored = restored if form is moving else _stacked(restored, moving)
    return rejoined(restored.replace(rng=jax.random.wrap_key_data(restored.rng)), still), None

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
    # in a bucket, where nothing can be renamed, it lies in its place, and counts by a file written last
    half = list(self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"))
    for place in half or [self.folder / str(self._saving)]:
      noted = {ARRAYS: self._checksums(), TEACHERS: self._taught}
      (place / ARRAYS_FILE).write_text(json.dumps(noted, indent=1) + "\n")
      items = [path for path in place.iterdir() if path.is_dir()]  # orbax adds files beside them
      small = [path for item in items for path in files_below(item, without=DATA)]
      write_checksums(place, [place / ARRAYS_FILE, *small])
    self._checksums = dict  # the copies are not needed any more

  def _guarded(self, act: Callable[[], Any]) -> Any:
    try:
      with is_quiet():
        return act()
    except jax.errors.JaxRuntimeError:  # another process is gone
      raise
    except Exception as error:
      at = "" if self._saving is None else f" of step {self._saving}"
      raise ValueError(
        f"checkpoint: the one{at} cannot be written in {self.folder} ({one_line(error)});"
        f" {way_out(error)}, then go on from the one before."
      ) from error


def _as(array: jax.Array, dtype: Any) -> jax.Array:
  """An array as it was read, if it has the dtype."""
  return array if array.dtype == dtype else array.astype(dtype)


def _examined(path: epath.Path) -> tuple[str | None, dict[str, Checksums] | None]:
  """Checks a checkpoint's small files: what is wrong with them, and the checksums of its arrays.

  Earlier versions noted those of all files instead.
  """
  reason = find_damage(path)
  if reason is not None or not (path / ARRAYS_FILE).exists():
    return reason, None
  try:
    return None, json.loads((path / ARRAYS_FILE).read_text())
  except (OSError, ValueError, RecursionError) as error:
    return f"{ARRAYS_FILE} cannot be read: {one_line(error)}", None
