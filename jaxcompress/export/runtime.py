"""The runtimes of devices, as the few calls that checking a file needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jaxcompress.export.interpreters import Interpreter, OnnxRuntime, open_file
from jaxcompress.export.metadata import ENTRY, from_entry
from jaxcompress.export.trial import choose_kernels, does_not_run, read_runnable_model


class Runtime:
  """A model file in a device's runtime.

  A file that was not written in this process first runs in one of its own, since runtimes do not
  survive every damaged file.

  Args:
    path: a .tflite or .onnx file with one input and one output; its suffix says which it is.
    threads: that it computes on; microcontrollers have one.
    kernels: ``"xnnpack"``: LiteRT with XNNPACK as on phones, also as ``"xnnpack-int4"``;
      ``"reference"``: LiteRT with its reference kernels; ``"tflm"``: TensorFlow Lite for
      Microcontrollers; ``"onnxruntime"``: its CPU kernels. None: XNNPACK's or onnxruntime's, as the
      file needs.

  Raises:
    MissingExtraError: if the ``edge`` extra, or the runtime, is not installed.
    ValueError: if there is no such file, it is damaged, or it is of another kind.

  Examples:
    >>> import pathlib, tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 2), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> runtime = Runtime(path)
    >>> runtime.input_shape, runtime(np.int8([[-8, 8]])).tolist()  # -4 and 4, in steps of a half
    ((1, 2), [[0, 8]])
  """

  def __init__(self, path: str | os.PathLike, *, threads: int = 1, kernels: str | None = None):
    if threads < 1:
      raise ValueError(f"threads: {threads} must be at least 1.")
    self._path, self._kernels = path, choose_kernels(path, kernels)
    content = read_runnable_model(path, self._kernels)
    with self._refusing(), _no_chatter():
      self._interpreter = open_file(self._kernels, content, threads)
      self._interpreter.allocate()
      (self._input,), (self._output,) = self._interpreter.inputs, self._interpreter.outputs
      for end in (self._input, self._output):
        if not end.is_numeric:
          raise ValueError(f"{end.name!r} is a {end.dtype}; it must be an array of numbers")
    self._is_nchw = _layout(self._interpreter) == "NCHW"

  @contextmanager
  def _refusing(self) -> Iterator[None]:
    """Within it, what goes wrong is said of the file; onnxruntime's errors have no common base."""
    try:
      yield
    except Exception as error:
      raise does_not_run(self._path, error, self._kernels) from error

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Shape of the input, the batch included; images are NHWC, also where ours lie NCHW in a file."""
    shape = self._input.shape
    return (shape[0], *shape[2:], shape[1]) if self._is_nchw else shape

  @property
  def input_dtype(self) -> np.dtype:
    """Type of the input."""
    return np.dtype(self._input.dtype)

  @property
  def output_dtype(self) -> np.dtype:
    """Type of the output."""
    return np.dtype(self._output.dtype)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """The output for one batch of images, of the shape and type that the input has."""
    if self._is_nchw:
      images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    self._interpreter.feed(images)
    with self._refusing():
      self._interpreter.invoke()
    found = self._interpreter.read()
    return found.transpose(0, 2, 3, 1) if self._is_nchw and found.ndim == 4 else found

  def left_out(self) -> tuple[str, ...]:
    """Names of the operators that are not computed by the kernels that are asked for, in order.

    With XNNPACK those left to LiteRT's own kernels, with onnxruntime those that compute in float.
    Otherwise none.
    """
    return self._interpreter.left_out()


def _layout(interpreter: Interpreter) -> str | None:
  """How images lie in a file of ours; None for others'."""
  if not isinstance(interpreter, OnnxRuntime):
    return None
  try:
    return from_entry(interpreter.metadata.get(ENTRY)).get("layout")
  except ValueError:
    return None


@contextmanager
def _no_chatter() -> Iterator[None]:
  """Keeps the lines that LiteRT's C++ code writes to standard error off the terminal."""
  try:
    kept = os.dup(2)
  except OSError:  # there is no standard error
    yield
    return
  try:
    with open(os.devnull, "w") as nowhere:
      os.dup2(nowhere.fileno(), 2)
      yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
