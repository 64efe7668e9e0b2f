"""The extra that model files need."""

import importlib


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
