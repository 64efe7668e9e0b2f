"""Tries a model file in a process of its own before it is opened in this one."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jaxcompress.export.files import MissingExtraError
from jaxcompress.files.values import one_line
from jaxcompress.files.writing import write_atomically

SCRIPT = pathlib.Path(__file__).with_name("first_run.py")
LONGEST = 600  # seconds
NAMES = {
  "xnnpack": "LiteRT",
  "xnnpack-int4": "LiteRT",
  "reference": "LiteRT's reference kernels",
  "tflm": "TensorFlow Lite for Microcontrollers",
  "onnxruntime": "onnxruntime",
}
READERS = {**NAMES, "stablehlo": "JAX"}


class Ends(NamedTuple):
  """How many inputs and outputs a file has; one each where it was written here."""

  inputs: int = 1
  outputs: int = 1


_sound: dict[tuple[bytes, str, bool], Ends] = {}  # by contents, kernels, and whether it was run


def write_model(path: str | os.PathLike, content: bytes) -> pathlib.Path:
  """Writes a model file of ours, which then needs no trial in this process.

  Args:
    path: the file; what was there is replaced.
    content: that an exporter made.

  Raises:
    ValueError: if the path cannot be written.
  """
  key = hashlib.sha256(content).digest()
  _sound.update({(key, kernels, run): Ends() for kernels in NAMES for run in (False, True)})
  return write_atomically(path, content)


def try_out(
  path: str | os.PathLike, content: bytes, kernels: str, *, run: bool, arena_bytes: int = 0
) -> Ends:
  """Opens a file in a process of its own; the same contents once only.

  Args:
    path: of the file, for errors.
    content: of the file.
    kernels: of :data:`READERS`.
    run: whether it is also run, on zeros; otherwise its structure is looked at.
    arena_bytes: for ``"tflm"``, which breaks down where it runs out of them.

  Returns:
    How many inputs and outputs it has.

  Raises:
    ValueError: if the runtime does not take the file, or does not survive it.
  """
  key = (hashlib.sha256(content).digest(), kernels, run)
  if key not in _sound:
    _sound[key] = _try(path, content, kernels, run, arena_bytes)
  return _sound[key]


def _try(
  path: str | os.PathLike, content: bytes, kernels: str, run: bool, arena_bytes: int
) -> Ends:
  # -P: beside the script lie modules of ours that are named as those that it imports
  script = [sys.executable, "-P", str(SCRIPT), kernels, "run" if run else "open", str(arena_bytes)]
  try:
    done = subprocess.run(script, input=content, capture_output=True, timeout=LONGEST, check=False)
  except subprocess.TimeoutExpired as error:
    raise does_not_run(path, f"it takes more than {LONGEST} seconds", kernels) from error
  if done.returncode < 0:
    name = signal.Signals(-done.returncode).name
    raise does_not_run(path, f"which ends with {name}: the file is damaged", kernels)
  try:
    found = json.loads(done.stdout.splitlines()[-1])
  except (IndexError, ValueError) as error:
    said = done.stderr.decode(errors="replace")[-200:]
    raise does_not_run(path, f"exit code {done.returncode}: {said}", kernels) from error
  if "error" in found:
    raise does_not_run(path, found["error"], kernels)
  return Ends(found["inputs"], found["outputs"])


@contextmanager
def parsing(path: str | os.PathLike) -> Iterator[None]:
  """Within it, what goes wrong is the file's fault: parts that point to what is not there.

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
  return ValueError(f"path: {path} does not run in {READERS[kernels]} ({one_line(reason)}).")
