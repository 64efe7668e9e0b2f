"""Reads model files, after a trial in a process of their own that says whether they are sound."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jaxcompress.export import interpreters
from jaxcompress.export.biases import lacking_bias
from jaxcompress.files.checksums import read_sealed
from jaxcompress.files.extras import MissingExtraError, require
from jaxcompress.files.values import one_line
from jaxcompress.files.writing import write_atomically

LONGEST_TRIAL = 600  # seconds
RUNTIMES = {
  "xnnpack": "LiteRT",
  "xnnpack-int4": "LiteRT",
  "reference": "LiteRT's reference kernels",
  "tflm": "TensorFlow Lite for Microcontrollers",
  "onnxruntime": "onnxruntime",
  "stablehlo": "JAX",
  "c": "C",
}
KERNELS_BY_SUFFIX = {  # that run a kind of file; the first ones if none are named
  ".tflite": ("xnnpack", "reference", "tflm", "xnnpack-int4"),
  ".onnx": ("onnxruntime",),
}
KERNELS_OF_C = ("c", "tflm")  # of a folder of C: its own, whose arithmetic is TFLite-Micro's
OWN_KERNELS = {"onnxruntime": "onnxruntime", "c": "tflm"}
"""Arithmetic of files that have but one, by the kernels that run them."""


class Ends(NamedTuple):
  """Counts of a file's inputs and outputs; files written here have the defaults."""

  inputs: int = 1
  outputs: int = 1


_sound: dict[tuple[bytes, str, str], Ends] = {}  # by contents, kernels and task


def write_model(path: str | os.PathLike, content: bytes) -> pathlib.Path:
  """Writes a model file of ours, which then needs no trial in this process.

  Args:
    path: the file; what was there is replaced.
    content: that an exporter made.

  Raises:
    ValueError: if the path cannot be written.
  """
  key = hashlib.sha256(content).digest()
  tasks = ("look_at", "run_once")
  _sound.update({(key, kernels, task): Ends() for kernels in RUNTIMES for task in tasks})
  return write_atomically(path, content)


def try_out(path: str | os.PathLike, content: bytes, kernels: str, task: str) -> Ends:
  """Opens a file in a process of its own; the same contents once only.

  Args:
    path: of the file, for errors.
    content: of the file.
    kernels: of :data:`RUNTIMES`.
    task: ``"look_at"`` its structure, or ``"run_once"``, on zeros.

  Returns:
    How many inputs and outputs it has.

  Raises:
    ValueError: if the runtime does not take the file, or does not survive it.
  """
  key = (hashlib.sha256(content).digest(), kernels, task)
  if key not in _sound:
    found, _ = run_apart(path, task, kernels, content, longest=LONGEST_TRIAL, kernels=kernels)
    _sound[key] = Ends(**found)
  return _sound[key]


def run_apart(
  path: str | os.PathLike,
  task: str,
  runtime: str,
  content: bytes = b"",
  *,
  longest: float | None = None,
  **options: Any,
) -> tuple[dict[str, Any], str]:
  """Does a task of :mod:`~jaxcompress.export.interpreters` in a process of its own.

  Args:
    path: of the file, for errors.
    task: name of one of its functions.
    runtime: of :data:`RUNTIMES`, for errors.
    content: of the file.
    longest: seconds after which it is given up; None: never.
    **options: of the function.

  Returns:
    ``(what the function returned, what the process wrote to standard error)``.

  Raises:
    ValueError: if the runtime does not take the file, or does not survive it.
  """
  # -P: beside the script lie modules of ours that are named as those that it imports
  script = [sys.executable, "-P", interpreters.__file__, task, json.dumps(options)]
  try:
    done = subprocess.run(script, input=content, capture_output=True, timeout=longest, check=False)
  except subprocess.TimeoutExpired as error:
    raise does_not_run(path, f"it takes more than {longest} seconds", runtime) from error
  if done.returncode < 0:
    name = signal.Signals(-done.returncode).name
    raise does_not_run(path, f"which ends with {name}: the file is damaged", runtime)
  said = done.stderr.decode(errors="replace")
  try:
    found = json.loads(done.stdout.splitlines()[-1])
  except (IndexError, ValueError) as error:
    raise does_not_run(path, f"exit code {done.returncode}: {said[-200:]}", runtime) from error
  if "error" in found:
    raise does_not_run(path, found["error"], runtime)
  return found, said


@contextmanager
def parsing(path: str | os.PathLike) -> Iterator[None]:
  """Turns errors into ones that blame the file, whose parts may point to missing ones.

  Raises:
    ValueError: then; it names the file.
  """
  try:
    yield
  except MissingExtraError:
    raise
  except Exception as error:
    reason = one_line(f"{type(error).__name__}: {error}")
    raise ValueError(f"path: {path} has parts that do not fit together ({reason}).") from error


def does_not_run(path: str | os.PathLike, reason: BaseException | str, kernels: str) -> ValueError:
  """The error of a file that a runtime does not take."""
  return ValueError(f"path: {path} does not run in {RUNTIMES[kernels]} ({one_line(reason)}).")


def choose_kernels(path: str | os.PathLike, kernels: str | None = None) -> str:
  """The kernels that run a file.

  Args:
    path: a .tflite or .onnx file, by its name, or a folder of C.
    kernels: what was asked for; None: the usual ones.

  Raises:
    ValueError: if the suffix is another one, or the kernels are unknown or run other files.

  Examples:
    >>> choose_kernels("a.onnx"), choose_kernels("a.tflite", "tflm")
    ('onnxruntime', 'tflm')
  """
  if pathlib.Path(path).is_dir():
    if kernels not in (None, *KERNELS_OF_C):
      raise ValueError(
        f"kernels: {kernels!r} does not run {path}; for a folder of C it must be {KERNELS_OF_C[0]!r}."
      )
    return KERNELS_OF_C[0]
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in KERNELS_BY_SUFFIX:
    ends = " or ".join(KERNELS_BY_SUFFIX)
    raise ValueError(f"path: {path} is no model file; it must end in {ends}, or be a folder of C.")
  known = [name for names in KERNELS_BY_SUFFIX.values() for name in names]
  if kernels is not None and kernels not in known:
    raise ValueError(f"kernels: {kernels!r} is unknown; it must be one of {', '.join(known)}.")
  if kernels is not None and kernels not in KERNELS_BY_SUFFIX[suffix]:
    raise ValueError(
      f"kernels: {kernels!r} does not run {path}; for {suffix} files it must be one of"
      f" {', '.join(KERNELS_BY_SUFFIX[suffix])}."
    )
  return kernels or KERNELS_BY_SUFFIX[suffix][0]


def is_tflite(content: bytes) -> bool:
  """Whether the bytes of a file say that it is a .tflite file."""
  return content[4:8] == b"TFL3"


def read_model(path: str | os.PathLike) -> bytes:
  """The bytes of a .tflite or .onnx file.

  Raises:
    ValueError: if there is no such file, it is something else, or jaxcompress wrote it and it was
      damaged since.
  """
  return _read(path)[0]


def _read(path: str | os.PathLike) -> tuple[bytes, bool]:
  """The bytes of a file, and whether it is as jaxcompress wrote it."""
  content, is_sealed = read_sealed(path, f"path: {path}", rewritable=True)
  if pathlib.Path(path).suffix.lower() != ".onnx" and not is_tflite(content):
    raise ValueError(f"path: {path} is no .tflite file.")
  return content, is_sealed


def read_sound_model(path: str | os.PathLike) -> bytes:
  """The bytes of a file whose structure its runtime found sound, so that it can be parsed.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if there is no such file, it is something else, or it is damaged.
  """
  content, kernels = read_model(path), choose_kernels(path)
  require("onnx" if kernels == "onnxruntime" else "tflite")
  try_out(path, content, kernels, "look_at")
  return content


def read_runnable_model(path: str | os.PathLike, kernels: str, *, apart: bool = False) -> bytes:
  """The bytes of a file that its runtime was seen to run, with one input and outputs.

  Args:
    path: of the file.
    kernels: of :data:`RUNTIMES`.
    apart: whether the file will run in another process anyway, so that its structure is enough.

  Raises:
    MissingExtraError: if the ``edge`` extra, or the runtime, is not installed.
    ValueError: as :func:`read_sound_model`, or if it does not run.
  """
  content, is_sealed = _read(path)
  require("onnx" if kernels == "onnxruntime" else "tflite")
  if kernels == "tflm" and not apart:
    require("tflm")
  elif is_sealed:  # it is whole, as an exporter here wrote it
    return content
  if not is_sealed and is_tflite(content):
    _check_biases(path, content, kernels)
  ends = try_out(path, content, kernels, "look_at" if apart else "run_once")
  if ends.inputs != 1 or ends.outputs < 1:
    raise ValueError(
      f"path: {path} has {ends.inputs} inputs and {ends.outputs} outputs; it must have one input, and"
      " at least one output."
    )
  return content


def _check_biases(path: str | os.PathLike, content: bytes, kernels: str) -> None:
  """Checks that layers have the biases that a runtime needs: not every process survives it.

  Raises:
    ValueError: if one has none.
  """
  try:
    reason = lacking_bias(content, kernels)
  except Exception:  # of a damaged file, of which its trial says more
    return
  if reason is not None:
    raise does_not_run(path, reason, kernels)
