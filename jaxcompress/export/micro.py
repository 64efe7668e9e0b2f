"""TensorFlow Lite for Microcontrollers on this machine, with the calls of LiteRT's interpreter."""

from typing import Any

import numpy as np

from jaxcompress.export.files import MissingExtraError

SPARE_BYTES = 2**20  # of the arena, beyond what tensors and their quantization need


class MicroInterpreter:
  """A model in the interpreter of the ``tflite-micro`` package.

  Args:
    content: of a sound .tflite file: this runtime does not survive damaged ones.

  Raises:
    MissingExtraError: if the package is not installed.
    RuntimeError: if the runtime does not take the file.
  """

  def __init__(self, content: bytes):
    try:
      from tflite_micro import runtime
    except ImportError as error:
      raise MissingExtraError(
        "kernels: 'tflm' runs in TensorFlow Lite for Microcontrollers, which is not installed; run"
        " pip install tflite-micro."
      ) from error
    self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=_arena(content))

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


def _arena(content: bytes) -> int:
  """More bytes than the runtime can need; it breaks down where it runs out of them."""
  from ai_edge_litert import schema_py_generated as schema

  graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
  maps = sum(int(np.prod(tensor.shape)) for tensor in graph.tensors)
  return SPARE_BYTES + 4 * (maps + len(content))
