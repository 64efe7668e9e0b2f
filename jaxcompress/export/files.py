"""Files that are whole or absent, and the extra that model files need."""

import contextlib
import importlib
import os
import pathlib
import uuid


class MissingExtraError(ImportError, ValueError):
  """An optional dependency is not installed.

  Examples:
    >>> issubclass(MissingExtraError, ImportError), issubclass(MissingExtraError, ValueError)
    (True, True)
  """


NEEDED = {  # modules, by kind of file
  "tflite": ("ai_edge_litert.schema_py_generated", "flatbuffers"),
  "onnx": ("onnx", "onnxruntime"),
  "stablehlo": ("flatbuffers",),
}


def require_edge(kind: str = "tflite") -> None:
  """Checks that model files can be written and run here.

  Args:
    kind: of the files: ``"tflite"``, ``"onnx"`` or ``"stablehlo"``.

  Raises:
    MissingExtraError: an ``ImportError`` that says what to install.

  Examples:
    >>> require_edge()
  """
  try:
    for name in NEEDED[kind]:
      importlib.import_module(name)
  except ImportError as error:
    raise MissingExtraError(
      f"edge: {error.name or error} is not installed, and .{kind} files need it; run"
      ' pip install "jaxcompress[edge]".'
    ) from error


def write_atomically(path: str | os.PathLike, data: bytes | str) -> pathlib.Path:
  """Writes beside a file and renames, so that a reader or a kill never leaves half of it.

  Args:
    path: the file; what was there is replaced.
    data: its content; text is written as UTF-8, bytes of names that are none as escapes.

  Returns:
    The path.

  Raises:
    ValueError: if the folder does not exist or cannot be written.

  Examples:
    >>> import tempfile
    >>> write_atomically(tempfile.mkdtemp() + "/a.bin", b"whole").read_bytes()
    b'whole'
    >>> write_atomically(tempfile.mkdtemp() + "/a.txt", "caf\\udce9").read_bytes()
    b'caf\\\\udce9'
  """
  path = pathlib.Path(path)
  if not path.name:
    raise ValueError(f"path: {str(path)!r} is no name of a file; give one.")
  temporary = path.with_name(f".{uuid.uuid4().hex}")
  try:
    temporary.write_bytes(
      data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    )
    os.replace(temporary, path)
  except OSError as error:
    raise ValueError(f"path: {path} cannot be written ({error.strerror}).") from error
  finally:
    with contextlib.suppress(OSError):  # it was renamed, or never made
      temporary.unlink()
  return path
