"""TensorFlow Lite for Microcontrollers on this machine, with the calls of LiteRT's interpreter."""

import math
import os
import pathlib
import re
import subprocess
import sys
from importlib import util
from typing import Any

import numpy as np

from jaxcompress.export.files import MissingExtraError
from jaxcompress.export.trial import parsing

RUNTIME = "TensorFlow Lite for Microcontrollers"
SCRIPT = pathlib.Path(__file__).with_name("allocate.py")
MOST_BYTES = 2**31 - 1
SPARE_BYTES = 2**20  # of the arena, beyond what tensors and their quantization need
ALLOCATED = re.compile(r"Arena allocation total (\d+) bytes")


class MicroInterpreter:
  """A model in the interpreter of the ``tflite-micro`` package.

  Args:
    content: of a .tflite file that was tried: this runtime does not survive damaged ones.
    arena_size: bytes of working memory; it does not survive too few either.

  Raises:
    MissingExtraError: if the package is not installed.
    RuntimeError: if the runtime does not take the file.
  """

  def __init__(self, content: bytes, arena_size: int):
    require_micro()
    from tflite_micro import runtime

    self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_size)

  def allocate_tensors(self) -> None:
    """Done already."""

  def get_input_details(self) -> list[dict[str, Any]]:
    """Of the only input."""
    return [{**self._interpreter.get_input_details(0), "index": 0}]

  def get_output_details(self) -> list[dict[str, Any]]:
    """Of the only output."""
    return [{**self._interpreter.get_output_details(0), "index": 0}]

  def set_tensor(self, index: int, value: np.ndarray) -> None:
    """Sets the input."""
    self._interpreter.set_input(value, index)

  def invoke(self) -> None:
    """Computes."""
    self._interpreter.invoke()

  def get_tensor(self, index: int) -> np.ndarray:
    """A copy of the output."""
    return np.array(self._interpreter.get_output(index))


def arena(path: str | os.PathLike) -> int:
  """Bytes of working memory that TensorFlow Lite for Microcontrollers needs for a file.

  It is measured on this machine, whose pointers have 64 bits: on a microcontroller the tables of
  operators and tensors are about half as large, and the activations the same.

  Args:
    path: a .tflite file.

  Returns:
    The size of the arena in bytes; the file itself lies elsewhere, in flash.

  Raises:
    MissingExtraError: if ``tflite-micro`` or the ``edge`` extra is not installed.
    ValueError: if the file is missing, damaged or of another kind, or the runtime does not take it.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 4), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> 0 < arena(path) < 10_000
    True
  """
  from jaxcompress.export.runtime import read_sound_model

  if pathlib.Path(path).suffix.lower() != ".tflite":
    raise ValueError(f"path: {path} is no .tflite file, which is what microcontrollers run.")
  if util.find_spec("tflite_micro") is None:
    raise _missing("arena: what measures it")
  enough = arena_bytes(path, read_sound_model(path))
  script = [sys.executable, "-P", str(SCRIPT), str(path), str(enough)]
  done = subprocess.run(script, capture_output=True, text=True, errors="replace", check=False)
  found = ALLOCATED.search(done.stderr)
  if done.returncode or found is None:
    reason = (done.stderr.splitlines() or [""])[-1].strip()[-200:].rstrip(".")
    raise ValueError(
      f"path: {path} does not run in {RUNTIME} (exit code {done.returncode}: {reason})."
    )
  return int(found[1])


def require_micro() -> None:
  """Checks that the runtime is installed.

  Raises:
    MissingExtraError: if it is not.
  """
  try:
    from tflite_micro import runtime  # noqa: F401
  except ImportError as error:
    raise _missing("kernels: 'tflm'") from error


def _missing(what: str) -> MissingExtraError:
  return MissingExtraError(
    f'{what} runs in {RUNTIME}, which is not installed; run pip install "jaxcompress[targets]".'
  )


def arena_bytes(path: str | os.PathLike, content: bytes) -> int:
  """More bytes than the runtime can need for a sound file; it breaks down where it runs out of them.

  Raises:
    ValueError: if they are more than it can be given.
  """
  from ai_edge_litert import schema_py_generated as schema

  with parsing(path):
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    shapes = [() if tensor.shape is None else tensor.shape.tolist() for tensor in graph.tensors]
    numbers = sum(abs(math.prod(shape)) for shape in shapes)
  found = SPARE_BYTES + 4 * (numbers + len(content))
  if found > MOST_BYTES:
    raise ValueError(
      f"path: {path} needs {found:,} bytes to run in {RUNTIME}; it can have {MOST_BYTES:,}."
    )
  return found
