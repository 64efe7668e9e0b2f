"""Runs a folder of C: compiled by this machine's compiler, or for a Cortex-M that is emulated."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

from jaxcompress.export.c99.compiling import SANITIZERS, compile_c, find_emulator
from jaxcompress.export.c99.manifest import SOURCES, Manifest, end_bytes, read_manifest
from jaxcompress.export.c99.templates import fill
from jaxcompress.export.interpreters import Interpreter
from jaxcompress.files.values import one_line

SHOWN = 300  # letters of what a program says
TOO_OLD = "page_set_flags"  # what emulators say that cannot run a Cortex-M's programs


class Program:
  """A network compiled into a program that reads images and writes outputs.

  Args:
    folder: that ``export.c`` wrote.
    processor: a name of :data:`~jaxcompress.export.c99.compiling.CORES`, which is emulated; None: this
      machine.
    options: of the compiler.

  Raises:
    MissingExtraError: if the compiler or the emulator is not installed.
    ValueError: if the folder is damaged, was changed, or does not compile.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    processor: str | None = None,
    options: Sequence[str] = ("-O2",),
  ):
    self.folder, self.processor = pathlib.Path(folder), processor
    self.manifest = read_manifest(folder)
    self.start: tuple[str, ...] = (
      () if processor is None else (find_emulator(processor), "-cpu", processor)
    )
    self._place = pathlib.Path(tempfile.mkdtemp(prefix="jaxcompress-c-"))
    weakref.finalize(self, shutil.rmtree, self._place, ignore_errors=True)
    source = self._place / "runner.c"
    source.write_text(runner_text(self.manifest))
    include = self.folder / SOURCES
    files = (source, *sorted(include.rglob("*.c")))
    self.path = compile_c(
      files, self._place / "runner", include, processor=processor, options=options
    )

  def run(self, images: np.ndarray, repeats: int = 1) -> tuple[np.ndarray, ...]:
    """Outputs of images, in their order, (count, ...).

    Args:
      images: (count, ...) integers as the input has them.
      repeats: how often each is computed.

    Raises:
      ValueError: if the program breaks off.
    """
    fed, given = self._place / "input", self._place / "output"
    fed.write_bytes(np.ascontiguousarray(images).tobytes())
    given.unlink(missing_ok=True)
    command = self.command(fed, given, repeats)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    sizes = [
      np.dtype(end.dtype).itemsize * int(np.prod(end.shape)) for end in self.manifest.outputs
    ]
    content = given.read_bytes() if given.exists() else b""
    if done.returncode or len(content) != len(images) * sum(sizes):
      raise ValueError(self._why(done))
    rows = np.frombuffer(content, np.uint8).reshape(len(images), sum(sizes))
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    return tuple(
      np.ascontiguousarray(part).view(end.dtype).reshape(len(images), *end.shape[1:])
      for part, end in zip(parts, self.manifest.outputs, strict=True)
    )

  def command(self, fed: pathlib.Path, given: pathlib.Path, repeats: int) -> list[str]:
    """Runs it on a file of images, writing one of outputs."""
    return [*self.start, str(self.path), str(fed), str(given), str(repeats)]

  def _why(self, done: subprocess.CompletedProcess) -> str:
    said = one_line(done.stderr)[:SHOWN].strip() or "it says nothing"
    if self.processor is not None and TOO_OLD in done.stderr:
      return f"processor: {self.start[0]} is too old for programs of {self.processor}; version 10.0 runs them."
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
      with contextlib.suppress(ValueError):  # a number without a name
        how = signal.Signals(-done.returncode).name
    where = "" if self.processor is None else f" on {self.processor}"
    return f"path: {self.folder}, compiled, breaks off{where} ({how}: {said})."


def runner_text(manifest: Manifest) -> str:
  """The C of the program around a network."""
  calls, source = manifest.calls, manifest.input
  writes = [
    f"fwrite({call}, 1, {size}u, out) == {size}u"
    for call, size in zip(calls.outputs, map(end_bytes, manifest.outputs), strict=True)
  ]
  return fill(
    "runner.c",
    header=calls.header,
    input=calls.input,
    input_bytes=end_bytes(source),
    run=calls.run,
    writes=" && ".join(writes),
  )


class CRuntime(Interpreter):
  """A folder of C as a runtime has a file; it takes any number of images at once.

  Args:
    folder: that ``export.c`` wrote.
    processor: as for :class:`Program`.
    sanitize: whether the address and undefined-behaviour sanitizers watch over it.
  """

  takes_any = True

  def __init__(
    self, folder: str | os.PathLike, processor: str | None = None, *, sanitize: bool = False
  ):
    self._program = Program(folder, processor, ("-O2", *(SANITIZERS if sanitize else ())))
    manifest = self._program.manifest
    self.inputs, self.outputs = (manifest.input,), manifest.outputs
    self.places = {end.name: place for place, end in enumerate(self.outputs)}

  def feed(self, *values: np.ndarray) -> None:
    (self._images,) = values

  def invoke(self) -> None:
    self._results = self._program.run(self._images)

  def read(self) -> tuple[np.ndarray, ...]:
    return self._results
