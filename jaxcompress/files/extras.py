"""The optional packages that model files need."""

import importlib
from typing import NamedTuple


class MissingExtraError(ImportError, ValueError):
  """An optional dependency is not installed.

  Examples:
    >>> issubclass(MissingExtraError, ImportError), issubclass(MissingExtraError, ValueError)
    (True, True)
  """


class _Need(NamedTuple):
  what: str  # begins the message
  extra: str
  modules: tuple[str, ...]


LITERT = "ai_edge_litert.schema_py_generated"
NEEDS = {
  "tflite": _Need("edge: .tflite files need", "edge", (LITERT, "flatbuffers")),
  "onnx": _Need("edge: .onnx files need", "edge", ("onnx", "onnxruntime")),
  "stablehlo": _Need("edge: .stablehlo files need", "edge", ("flatbuffers",)),
  "tflm": _Need("kernels: 'tflm' needs", "targets", ("tflite_micro",)),
  "arena": _Need("arena: it needs", "targets", ("tflite_micro",)),
  "vela": _Need("vela: it needs ethos-u-vela's", "targets", ("ethosu",)),
}


def require(use: str) -> None:
  """Checks that what a use of model files needs is installed.

  Args:
    use: ``"tflite"``, ``"onnx"`` or ``"stablehlo"``, to write and run such files; ``"tflm"``,
      ``"arena"`` or ``"vela"``.

  Raises:
    MissingExtraError: an ``ImportError`` that says what to install.

  Examples:
    >>> require("tflite")
  """
  need = NEEDS[use]
  try:
    for name in need.modules:
      importlib.import_module(name)
  except ImportError as error:
    raise MissingExtraError(
      f"{need.what} {error.name or error}, which is not installed; run"
      f' pip install "jaxcompress[{need.extra}]".'
    ) from error
