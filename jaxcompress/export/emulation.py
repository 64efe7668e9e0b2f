"""Runs model files on processors that this machine does not have: 64-bit Arm, emulated.

QEMU runs the aarch64 builds of LiteRT and onnxruntime in a Python of their own, instruction by
instruction, with those that a processor has and no others. So the kernels that a phone would choose
are those that compute. What it needs lies in one folder, which ``.ci/arm`` of the repository fills.
"""

import atexit
import contextlib
import os
import pathlib
import platform
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcompress.export import serving
from jaxcompress.export.interpreters import End, Interpreter, float_operators
from jaxcompress.export.serving import read_message, write_message
from jaxcompress.files.extras import MissingExtraError

ARM64 = (
  *("cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76"),
  *("cortex-a710", "neoverse-n1", "neoverse-v1", "neoverse-n2", "a64fx", "max"),
)
"""Processors that .tflite and .onnx files run on; ``"max"`` has all instructions that QEMU knows."""
USUAL_ARM64 = "cortex-a76"
"""The one that stands for them where none is named."""
FOLDER = "JAXCOMPRESS_ARM64"  # names the folder of the emulator, if it is not the usual one
NATIVE = {"aarch64": "arm64", "arm64": "arm64"}  # what systems call it
START = """
import sys, types
for name, path in {parts!r}:  # only modules that import nothing else can be had so
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [path]
from jaxcompress.export.serving import serve
serve()
"""


def check_processor(processor: str | None, kernels: str = "xnnpack") -> None:
  """Checks the name of a processor that model files run on.

  Raises:
    ValueError: if it is unknown, or the kernels have no build for it.

  Examples:
    >>> check_processor("cortex-a53")
    >>> check_processor("i486")
    Traceback (most recent call last):
    ...
    ValueError: processor: 'i486' is unknown; it must be one of cortex-a35, cortex-a53, cortex-a55, ...
  """
  if processor is not None and processor not in ARM64:
    raise ValueError(f"processor: {processor!r} is unknown; it must be one of {', '.join(ARM64)}.")
  if processor is not None and kernels == "tflm":
    raise ValueError(
      f"kernels: 'tflm' has no build for {processor}; leave processor out, or pass kernels='xnnpack' or"
      " 'reference'."
    )


def is_arm64(processor: str | None = None) -> bool:
  """Whether a processor is a 64-bit Arm one; None: whether this machine's is.

  Examples:
    >>> is_arm64("cortex-a53")
    True
  """
  return platform.machine().lower() in NATIVE if processor is None else processor in ARM64


def emulator_folder() -> pathlib.Path:
  """Where the emulator lies: what ``JAXCOMPRESS_ARM64`` names, or ``arm64`` in the folder of caches.

  Raises:
    MissingExtraError: if it is not there.
  """
  from jaxcompress.data.storage import cache_folder

  caches = cache_folder() or pathlib.Path.cwd()
  folder = pathlib.Path(os.environ.get(FOLDER) or caches / "arm64")
  if not (folder / "ready").exists():
    raise MissingExtraError(
      f"processor: 64-bit Arm needs an emulator, which is not in {folder}; run .ci/arm of jaxcompress's"
      f" repository, which puts it there, or name another folder in the environment variable {FOLDER}."
    )
  return folder.resolve()


class Emulated(Interpreter):
  """A file in a runtime on an emulated processor."""

  def __init__(self, processor: str, kernels: str, content: bytes, threads: int = 1):
    self._process = _running(processor)
    fields, _ = self._process.ask(
      [np.frombuffer(content, np.uint8)], task="open", kernels=kernels, threads=threads
    )
    self._file = fields["file"]
    self.inputs, self.outputs = (tuple(map(_end, fields[key])) for key in ("inputs", "outputs"))
    self.places, self.metadata = fields["places"], fields["metadata"]
    weakref.finalize(self, self._process.closed.append, self._file)

  def feed(self, *values: np.ndarray) -> None:
    self._fed = values

  def invoke(self) -> None:
    _, self._results = self._process.ask(self._fed, task="run", file=self._file)

  def read(self) -> tuple[np.ndarray, ...]:
    return tuple(self._results)

  def left_out(self) -> tuple[str, ...]:
    fields, optimized = self._process.ask((), task="left_out", file=self._file)
    return float_operators(optimized[0].tobytes()) if optimized else tuple(fields["left_out"])


def _end(fields: Sequence[Any]) -> End:
  name, shape, *others = fields
  return End(name, tuple(shape), *others)


class _Process:
  """An emulated Python that runs model files.

  Attributes:
    closed: numbers of the files that nobody needs any more.
  """

  def __init__(self, folder: pathlib.Path, processor: str):
    package = pathlib.Path(serving.__file__).parents[1]
    parts = (("jaxcompress", str(package)), ("jaxcompress.export", str(package / "export")))
    self._said, self._lock = tempfile.TemporaryFile(), threading.Lock()  # noqa: SIM115 - lives as long
    self.closed: list[int] = []
    self._process = subprocess.Popen(
      [
        *(str(folder / "qemu-aarch64"), "-L", str(folder / "root"), "-cpu", processor),
        *(str(folder / "root/usr/bin/python3"), "-P", "-c", START.format(parts=parts)),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._said,
      env={
        "PYTHONHOME": str(folder / "root/usr"),
        "PYTHONPATH": str(folder / "packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
      },
    )

  @property
  def runs(self) -> bool:
    return self._process.poll() is None

  def ask(
    self, arrays: Sequence[np.ndarray], **fields: Any
  ) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Returns the process's reply to a message.

    Raises:
      RuntimeError: if that is an error, or it does not survive the message.
    """
    with self._lock:
      closed, self.closed[:] = self.closed[:], ()
      assert self._process.stdin is not None and self._process.stdout is not None
      try:
        write_message(self._process.stdin, {**fields, "closed": closed}, arrays)
        found, results = read_message(self._process.stdout)
      except BaseException as error:  # replies would be taken for those to later messages
        self.stop()
        if isinstance(error, OSError | EOFError):
          raise RuntimeError(self._end()) from error
        raise
    if "error" in found:
      raise RuntimeError(found["error"])
    return found, results

  def _end(self) -> str:
    """How the process ended."""
    code = self._process.returncode
    self._said.seek(0)
    said = self._said.read().decode(errors="replace").strip()[-200:]
    how = f"ends with {signal.Signals(-code).name}" if code < 0 else f"ends with exit code {code}"
    return f"the emulated process {how}{said and ': '}{said}"

  def stop(self) -> None:
    """Ends the process, by closing its input or else by force."""
    assert self._process.stdin is not None and self._process.stdout is not None
    for stream in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(OSError):  # it has ended, with a message on its way
        stream.close()
    try:
      self._process.wait(timeout=2)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


_processes: dict[tuple[pathlib.Path, str], _Process] = {}  # starting one takes seconds


def _running(processor: str) -> _Process:
  """The process of a processor, for all files; the emulator may be another one than before."""
  key = emulator_folder(), processor
  if key not in _processes or not _processes[key].runs:
    _processes[key] = _Process(*key)
  return _processes[key]


@atexit.register
def stop_emulators() -> None:
  """Ends all emulated processes; a file that is run later starts another one."""
  while _processes:
    _processes.popitem()[1].stop()
