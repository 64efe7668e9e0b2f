"""The output folder of a run: who works in it, what it was started with, and whether it is done."""

import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO, Any

from jaxcompress.files.places import check_local
from jaxcompress.files.records import read_record, write_record
from jaxcompress.files.values import one_line, parse_json, sealed_json
from jaxcompress.files.writing import sweep, temporary_beside
from jaxcompress.pipeline.checks import OptionError
from jaxcompress.pipeline.options import SIGN, CompressOptions
from jaxcompress.report.results import Results
from jaxcompress.report.write import from_json
from jaxcompress.training.processes import is_first, shared
from jaxcompress.training.variables import check_place

try:
  import fcntl
except ImportError:  # Windows has other locks
  fcntl = None  # type: ignore[assignment]

OPTIONS_FILE, REPORT_FILE = "run.json", "report.json"
EPOCHS_FILE = "epochs.json"  # of a run that went on with more of them
CONTENTS_FILE, SKIPPED_FILE = "contents.json", "skipped.csv"  # of the data
CHECKPOINTS, PARTIAL = "checkpoints", ".partial"


def claim_folder(
  out: str | None, options: dict[str, Any], *, resume: bool
) -> tuple[pathlib.Path, CompressOptions]:
  """Decides where a run writes, without touching anything that is there.

  Args:
    out: the folder, or None for ``jaxcompress-out``, or the first free ``jaxcompress-out-N``; when
      resuming, the newest of them.
    options: the given options by name; None where not given.
    resume: go on with the run that the folder holds.

  Returns:
    ``(folder, options)``; a resumed run has the options that it was started with, but for the epochs,
    of which there may be more.

  Raises:
    ValueError: if the folder holds something and is not resumed, holds no run to resume, cannot
      be written, is in a bucket, or an option differs from the resumed run's.

  Examples:
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/out"
    >>> folder, options = claim_folder(out, {"student": "vgg8", "bits": 4}, resume=False)
    >>> [path.name for path in folder.iterdir()], options.bits
    (['run.json'], 4)
    >>> claim_folder(out, {}, resume=True)[1] == options
    True
  """
  check_local("out", out or "", "a run locks and renames its files")
  if resume:
    folder = pathlib.Path(out) if out else _newest_default()
    return folder, _resumed(folder, options)
  made = CompressOptions.of(options)
  while True:
    folder = pathlib.Path(out) if out else _free_default()
    check_place("out", folder)
    if _make(folder, made):
      return folder, made
    if out:
      _refuse_if_busy(folder)
      if not (folder / OPTIONS_FILE).is_file():
        held = "is no folder" if folder.is_file() else "holds files that are of no run"
        raise ValueError(f"out: {folder} {held}; name another folder.")
      raise OptionError(
        f"out: {folder} exists and is not empty; name another folder, or add ",
        " to go on with the run in it.",
        resume=True,
      )


def claim_together(
  out: str | None, given: dict[str, Any], *, resume: bool
) -> tuple[pathlib.Path, CompressOptions]:
  """The first process claims the output folder (see :func:`claim_folder`), for all of them.

  Raises:
    ValueError: on every process, if the first cannot, or another does not see the folder.

  Examples:
    >>> import tempfile
    >>> folder, options = claim_together(tempfile.mkdtemp() + "/out", {"bits": 4}, resume=False)
    >>> folder.name, options.bits
    ('out', 4)
  """
  claim: dict[str, Any] = {}
  wrong: ValueError | None = None
  if is_first():
    try:
      folder, options = claim_folder(out, given, resume=resume)
      claim = {"folder": str(folder.absolute())}
    except ValueError as error:
      wrong, claim = error, {"error": str(error)}
  claim = shared(claim)
  if "error" in claim:
    raise wrong or ValueError(claim["error"])
  return (folder, options) if is_first() else claim_folder(claim["folder"], given, resume=True)


def release_folder(folder: pathlib.Path) -> None:
  """Takes back a folder that was claimed anew, unless something was trained, so that the same command works.

  Examples:
    >>> import tempfile
    >>> folder, _ = claim_folder(tempfile.mkdtemp() + "/out", {}, resume=False)
    >>> release_folder(folder)
    >>> folder.exists()
    False
  """
  with contextlib.suppress(ValueError, OSError), _lock(folder):  # unless another run works in it
    noted = {child.name for child in folder.iterdir()}
    if noted <= {OPTIONS_FILE, CONTENTS_FILE, SKIPPED_FILE}:
      for name in sorted(noted):
        (folder / name).unlink()
      folder.rmdir()


def is_finished(folder: pathlib.Path, options: CompressOptions | None = None) -> bool:
  """Whether a run has come to its end: its last file is there, of its last round.

  Args:
    folder: of the run.
    options: those asked for now; a run that they give more epochs is not finished.
  """
  if not (folder / REPORT_FILE).is_file():
    return False
  rounds = len(plan_epochs(folder, options))
  return rounds == 1 or read_results(folder).entries["int8"].rounds >= rounds


def read_results(folder: str | os.PathLike) -> Results:
  """The results that a finished run wrote.

  Raises:
    ValueError: if there is no readable report.
  """
  path = pathlib.Path(folder) / REPORT_FILE
  try:
    return from_json(parse_json(path.read_bytes()))
  except OSError as error:
    raise ValueError(f"folder: {path} cannot be read ({error.strerror}).") from error
  except ValueError as error:
    raise ValueError(f"folder: {path} is no readable report ({one_line(error)}).") from error


def plan_epochs(
  folder: pathlib.Path, options: CompressOptions | None = None
) -> tuple[float | None, ...]:
  """Epochs at the end of each round of a run: one, and one more for each time that it went on.

  Args:
    folder: of the run; without one there are the options' alone.
    options: those asked for now; epochs other than the last round's make a further round.

  Raises:
    ValueError: if a file of the run is damaged.

  Examples:
    >>> import tempfile
    >>> folder, options = claim_folder(tempfile.mkdtemp() + "/out", {"epochs": 3.0}, resume=False)
    >>> plan_epochs(folder, dataclasses.replace(options, epochs=5.0))
    (3.0, 5.0)
  """
  if not (folder / OPTIONS_FILE).exists():
    return () if options is None else (options.epochs,)
  first = read_record(folder / OPTIONS_FILE, CompressOptions, "start anew").epochs
  path = folder / EPOCHS_FILE
  later = tuple(read_record(path, list[float], "start anew")) if path.exists() else ()
  epochs = (first, *later)
  return epochs if options is None or options.epochs == epochs[-1] else (*epochs, options.epochs)


def write_epochs(folder: pathlib.Path, epochs: tuple[float | None, ...]) -> None:
  """Keeps the epochs of all rounds, so that a run that is killed in a further one goes on with it."""
  write_record(folder / EPOCHS_FILE, list(epochs[1:]))


@contextlib.contextmanager
def working_in(folder: pathlib.Path, options: CompressOptions) -> Iterator[None]:
  """Keeps other runs out of an output folder, and removes what a killed one left half written.

  The lock is on ``run.json`` and the process's own: it ends with it, also after ``kill -9``. With
  several processes the first one has it. File systems without locks have none.

  Args:
    folder: the output folder; one that was not claimed is made.
    options: of the run.

  Raises:
    ValueError: on every process, if another run works there, or the folder is another run's or
      cannot be written.

  Examples:
    >>> import tempfile
    >>> folder, options = claim_folder(tempfile.mkdtemp() + "/out", {}, resume=False)
    >>> with working_in(folder, options), working_in(folder, options):
    ...   pass
    Traceback (most recent call last):
    ValueError: out: /tmp/.../out is in use: another run works in it; wait for its end, or name another folder.
  """
  with contextlib.ExitStack() as held:
    wrong = None
    if is_first():
      try:
        if not (folder / OPTIONS_FILE).exists():
          _write_options(folder, options)
        check_options(folder, options)
        held.enter_context(_lock(folder))
        _check_writable(folder)
        _sweep(folder)
      except ValueError as error:
        wrong = str(error)
    wrong = shared(wrong)
    if wrong is not None:
      raise ValueError(wrong)
    yield


def check_options(folder: pathlib.Path, options: CompressOptions) -> None:
  """Checks that a folder's run, if it has one, was started with these options.

  Raises:
    ValueError: if it was started with others.
  """
  if not (folder / OPTIONS_FILE).exists():
    return
  stored = read_options(folder)
  _check_epochs(folder, stored, options.epochs)
  if dataclasses.replace(stored, epochs=options.epochs) != options:
    raise ValueError(
      f"options: they are not those with which the run in {folder} was started; name another"
      " folder."
    )


def read_options(folder: pathlib.Path) -> CompressOptions:
  """The options that a folder's run was started with, and the epochs of its last round.

  Raises:
    ValueError: if there is no run, or its file is damaged.
  """
  path = folder / OPTIONS_FILE
  if not path.is_file():
    raise ValueError(f"resume: {folder} holds no run to resume; leave resume out to start one.")
  options = read_record(path, CompressOptions, "start anew")
  return dataclasses.replace(options, epochs=plan_epochs(folder)[-1])


def _check_epochs(folder: pathlib.Path, stored: CompressOptions, epochs: float | None) -> None:
  """Raises if a run is to go on with fewer epochs, or with more where it cannot."""
  if epochs == stored.epochs:
    return
  if epochs is None or (stored.epochs is not None and epochs < stored.epochs):
    raise ValueError(
      f"epochs: {epochs} are fewer than the {stored.epochs:g} of the run in {folder}; give more, or leave"
      " it out."
    )
  if stored.searches:
    raise ValueError(
      f"epochs: the run in {folder} searched for a student within a budget, which cannot continue with"
      " more epochs; start another run."
    )


def _resumed(folder: pathlib.Path, given: dict[str, Any]) -> CompressOptions:
  options = read_options(folder)
  if given.get("epochs") is not None:
    _check_epochs(folder, options, given["epochs"])
    options = dataclasses.replace(options, epochs=float(given["epochs"]))
  for name, value in given.items():
    stored = getattr(options, name)
    if value is not None and value != stored and SIGN in f"{value} {stored}":
      what, kind = ("data", "data set") if name == "data" else (name.partition("_")[0], "network")
      raise ValueError(
        f"{what}: it is another {kind} than the one with which the run in {folder} was started; give"
        " the same one, or start another run."
      )
    if value is not None and value != stored:
      raise ValueError(
        f"{name}: {value} differs from {stored}, with which the run in {folder} was"
        " started; leave it out, or start another run."
      )
  return options


def _make(folder: pathlib.Path, options: CompressOptions) -> bool:
  """Makes a run's folder, or fills an empty one; False if it holds something."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    return False
  return _write_options(folder, options)


def _write_options(folder: pathlib.Path, options: CompressOptions) -> bool:
  """Writes a run's first file at once; False if another process has just done so."""
  text = sealed_json(dataclasses.asdict(options))
  temporary = temporary_beside(folder / OPTIONS_FILE)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    try:
      temporary.write_text(text)
      _rename_if_free(temporary, folder / OPTIONS_FILE)
    finally:
      temporary.unlink(missing_ok=True)
  except FileExistsError:
    return False
  except OSError as error:
    raise ValueError(
      f"out: {folder} cannot be written ({error.strerror}); name another folder."
    ) from error
  return True


def _rename_if_free(path: pathlib.Path, final: pathlib.Path) -> None:
  """Renames a file; raises FileExistsError if there is one of that name."""
  try:
    os.link(path, final)
  except FileExistsError:
    raise
  except OSError:  # a file system without links
    if final.exists():
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
    path.rename(final)


def _refuse_if_busy(folder: pathlib.Path) -> None:
  if (folder / OPTIONS_FILE).is_file() and not is_finished(folder):
    with _lock(folder):
      pass


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder's run, where the file system has locks."""
  path = folder / OPTIONS_FILE
  try:
    file = _opened(path)
  except OSError as error:
    raise ValueError(f"out: {path} cannot be opened ({error.strerror}).") from error
  with file:
    if fcntl is not None:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f"out: {folder} is in use: another run works in it; wait for its end, or name another"
          " folder."
        ) from None
      except OSError:  # a file system without locks
        pass
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
      raise ValueError(f"out: {folder} was released by another run just now; start again.")
    yield


def _opened(path: pathlib.Path) -> IO[bytes]:
  """The file, for writing where it may be written: network file systems lock nothing else."""
  try:
    return path.open("r+b")
  except OSError as error:
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    return path.open("rb")


def _check_writable(folder: pathlib.Path) -> None:
  if not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError(
      f"out: {folder} is read-only; allow writing there, or go on in a copy of it elsewhere."
    )


def _sweep(folder: pathlib.Path) -> None:
  """Removes what killed writes of this run left; its checkpoints sweep for themselves."""
  sweep(folder, own=True)
  for child in folder.iterdir():
    if not child.is_dir() or child.is_symlink() or child.name == CHECKPOINTS:
      continue
    if child.name.endswith(PARTIAL):
      shutil.rmtree(child, ignore_errors=True)
    else:
      _sweep(child)


def _defaults() -> Iterator[pathlib.Path]:
  """Folders that are taken where none is named, in order."""
  yield pathlib.Path("jaxcompress-out")
  for i in itertools.count(2):
    yield pathlib.Path(f"jaxcompress-out-{i}")


def _free_default() -> pathlib.Path:
  return next(folder for folder in _defaults() if not folder.exists())


def _newest_default() -> pathlib.Path:
  taken = itertools.takewhile(pathlib.Path.exists, _defaults())
  return [next(_defaults()), *taken][-1]
