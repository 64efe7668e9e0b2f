"""onnxruntime on this machine, with the calls of LiteRT's interpreter."""

import pathlib
import tempfile
from typing import Any

import numpy as np

from jaxcompress.export.files import require_edge
from jaxcompress.export.metadata import ENTRY, from_entry

PROVIDERS = ["CPUExecutionProvider"]
WIDTHS = ("8", "16", "32", "64")
NUMBERS = {  # ONNX's types of arrays of numbers -> numpy's
  "tensor(float)": "float32",
  "tensor(double)": "float64",
  "tensor(float16)": "float16",
  "tensor(bool)": "bool",
  **{f"tensor({kind}{width})": f"{kind}{width}" for kind in ("int", "uint") for width in WIDTHS},
}
QUIET = 4  # of onnxruntime's levels: fatal errors only


class OnnxInterpreter:
  """A model in an onnxruntime session with default optimizations on the CPU.

  Images are NHWC, also where the file has them NCHW, as those of jaxcompress do.

  Args:
    content: of an ONNX file.
    threads: that it computes on.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    RuntimeError: if the runtime does not take the file, or it reads or writes no numbers.
  """

  def __init__(self, content: bytes, threads: int):
    require_edge("onnx")
    self._content = content
    self._session = _session(content, threads)
    self._is_nchw = _layout(self._session) == "NCHW"
    for end in (*self._session.get_inputs(), *self._session.get_outputs()):
      if end.type not in NUMBERS:
        raise RuntimeError(f"{end.name!r} is a {end.type}; it must be an array of numbers")
    self._images: np.ndarray | None = None
    self._logits: np.ndarray | None = None

  def allocate_tensors(self) -> None:
    """Done already."""

  def get_input_details(self) -> list[dict[str, Any]]:
    """Of the inputs; free sizes are one."""
    details = [_details(i, end) for i, end in enumerate(self._session.get_inputs())]
    if self._is_nchw:
      batch, channels, height, width = details[0]["shape"]
      details[0]["shape"] = (batch, height, width, channels)
    return details

  def get_output_details(self) -> list[dict[str, Any]]:
    """Of the outputs."""
    return [_details(i, end) for i, end in enumerate(self._session.get_outputs())]

  def set_tensor(self, index: int, value: np.ndarray) -> None:
    """Sets the input."""
    self._images = np.ascontiguousarray(value.transpose(0, 3, 1, 2)) if self._is_nchw else value

  def invoke(self) -> None:
    """Computes."""
    name = self._session.get_inputs()[0].name
    try:
      (self._logits,) = self._session.run(None, {name: self._images})
    except Exception as error:  # onnxruntime's have no common base
      raise RuntimeError(str(error)) from error

  def get_tensor(self, index: int) -> np.ndarray:
    """The output."""
    if self._logits is None:
      raise RuntimeError("nothing was computed yet; call invoke")
    if self._is_nchw and self._logits.ndim == 4:
      return self._logits.transpose(0, 2, 3, 1)
    return self._logits

  def float_operators(self) -> tuple[str, ...]:
    """Kinds of the operators that compute in float after optimization, in order."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "optimized.onnx"
      _session(self._content, 1, path)
      graph = onnx.load(path).graph
    floats, found = {end.name for end in graph.input}, []
    for node in graph.node:
      if node.op_type == "DequantizeLinear":
        floats |= set(node.output)
      elif node.op_type != "QuantizeLinear" and floats & set(node.input):
        floats |= set(node.output)
        found.append(node.op_type)
    return tuple(found)


def _layout(session: Any) -> str | None:
  """How images lie in a file of ours; None for others'."""
  entry = session.get_modelmeta().custom_metadata_map.get(ENTRY)
  try:
    return from_entry(entry).get("layout")
  except ValueError:
    return None


def _session(content: bytes, threads: int, optimized: pathlib.Path | None = None) -> Any:
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.inter_op_num_threads = 1
  options.log_severity_level = QUIET
  if optimized is not None:
    options.optimized_model_filepath = str(optimized)
  try:
    return onnxruntime.InferenceSession(content, options, providers=PROVIDERS)
  except Exception as error:  # onnxruntime's have no common base
    raise RuntimeError(str(error)) from error


def _details(index: int, end: Any) -> dict[str, Any]:
  """LiteRT's description of an input or output of a session."""
  shape = tuple(size if isinstance(size, int) else 1 for size in end.shape)
  return {"index": index, "shape": shape, "dtype": NUMBERS[end.type]}
