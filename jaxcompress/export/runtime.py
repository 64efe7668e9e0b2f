"""The runtimes of devices, as the few calls that checking a file needs."""

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxcompress.export.files import MissingExtraError, require_edge
from jaxcompress.export.micro import MicroInterpreter, arena_bytes, require_micro
from jaxcompress.export.ort import OnnxInterpreter
from jaxcompress.export.trial import NAMES, Ends, does_not_run, try_out
from jaxcompress.files.checksums import check_seal

FORMATS = {  # kernels that run a kind of file, by its suffix; the first ones if none are named
  ".tflite": ("xnnpack", "reference", "tflm", "xnnpack-int4"),
  ".onnx": ("onnxruntime",),
}


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
    >>> import tempfile
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
    kernels = choose_kernels(path, kernels)
    self._path, self._kernels = path, kernels
    content = read_runnable_model(path, kernels)
    with _no_chatter():
      self._interpreter = _open(path, content, threads, kernels)
      try:
        self._interpreter.allocate_tensors()
      except (RuntimeError, ValueError) as error:
        raise does_not_run(path, error, kernels) from error
    (self._input,) = self._interpreter.get_input_details()
    (self._output,) = self._interpreter.get_output_details()

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Shape of the input, the batch included."""
    return tuple(int(size) for size in self._input["shape"])

  @property
  def input_dtype(self) -> np.dtype:
    """Type of the input."""
    return np.dtype(self._input["dtype"])

  @property
  def output_dtype(self) -> np.dtype:
    """Type of the output."""
    return np.dtype(self._output["dtype"])

  def feed(self, images: np.ndarray) -> None:
    """Sets the input, of the shape and type that it has."""
    self._interpreter.set_tensor(self._input["index"], images)

  def invoke(self) -> None:
    """Computes."""
    try:
      self._interpreter.invoke()
    except RuntimeError as error:
      raise does_not_run(self._path, error, self._kernels) from error

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """The output for one batch of images."""
    self.feed(images)
    self.invoke()
    return self._interpreter.get_tensor(self._output["index"])

  def left_out(self) -> tuple[str, ...]:
    """Names of the operators that are not computed by the kernels that are asked for, in order.

    With XNNPACK those left to LiteRT's own kernels, read from the execution plan backwards: what a
    delegate writes, it computes. With onnxruntime those that compute in float. Otherwise none.
    """
    if self._kernels == "onnxruntime":
      return self._interpreter.float_operators()
    if not self._kernels.startswith("xnnpack"):
      return ()
    nodes = self._interpreter._get_ops_details()  # LiteRT has no public way to ask
    makers: dict[int, Any] = {}
    for node in nodes:
      delegate = node["op_name"] == "DELEGATE"
      for tensor in node["outputs"]:
        if delegate or int(tensor) not in makers:
          makers[int(tensor)] = node
    wanted, found = [int(self._output["index"])], {}
    while wanted:
      node = makers.get(wanted.pop())
      if node is not None and node["index"] not in found:
        found[node["index"]] = node["op_name"]
        wanted += [int(tensor) for tensor in node["inputs"]]
    return tuple(name for _, name in sorted(found.items()) if name != "DELEGATE")


def choose_kernels(path: str | os.PathLike, kernels: str | None = None) -> str:
  """The kernels that run a file.

  Args:
    path: a .tflite or .onnx file, by its name.
    kernels: what was asked for; None: the usual ones.

  Raises:
    ValueError: if the suffix is another one, or the kernels are unknown or run other files.

  Examples:
    >>> choose_kernels("a.onnx"), choose_kernels("a.tflite", "tflm")
    ('onnxruntime', 'tflm')
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in FORMATS:
    raise ValueError(f"path: {path} is no model file; it must end in {' or '.join(FORMATS)}.")
  if kernels is not None and kernels not in NAMES:
    raise ValueError(f"kernels: {kernels!r} is unknown; it must be one of {', '.join(NAMES)}.")
  if kernels is not None and kernels not in FORMATS[suffix]:
    raise ValueError(
      f"kernels: {kernels!r} does not run {path}; for {suffix} files it must be one of"
      f" {', '.join(FORMATS[suffix])}."
    )
  return kernels or FORMATS[suffix][0]


def read_model(path: str | os.PathLike) -> bytes:
  """The bytes of a .tflite or .onnx file.

  Raises:
    ValueError: if there is no such file, it is something else, or jaxcompress wrote it and it was
      damaged since.
  """
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"path: {path} cannot be read ({error.strerror}).") from error
  if pathlib.Path(path).suffix.lower() != ".onnx" and content[4:8] != b"TFL3":
    raise ValueError(f"path: {path} is no .tflite file.")
  check_seal(content, f"path: {path}", rewritable=True)
  return content


def read_sound_model(path: str | os.PathLike) -> bytes:
  """The bytes of a file whose structure its runtime found sound, so that it can be parsed.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if there is no such file, it is something else, or it is damaged.
  """
  content, kernels = read_model(path), choose_kernels(path)
  _try_out(path, content, kernels, run=False)
  return content


def read_runnable_model(path: str | os.PathLike, kernels: str) -> bytes:
  """The bytes of a file that its runtime was seen to run, with one input and one output.

  Raises:
    MissingExtraError: if the ``edge`` extra, or the runtime, is not installed.
    ValueError: as :func:`read_sound_model`, or if it does not run.
  """
  content = read_model(path)
  ends = _try_out(path, content, kernels, run=True)
  if ends != (1, 1):
    raise ValueError(
      f"path: {path} has {ends.inputs} inputs and {ends.outputs} outputs; it must have one each."
    )
  return content


def _try_out(path: str | os.PathLike, content: bytes, kernels: str, *, run: bool) -> Ends:
  require_edge("onnx" if kernels == "onnxruntime" else "tflite")
  if not (run and kernels == "tflm"):
    return try_out(path, content, kernels, run=run)
  require_micro()
  try_out(path, content, kernels, run=False)  # so that it can be parsed
  return try_out(path, content, kernels, run=True, arena_bytes=arena_bytes(path, content))


def _open(path: str | os.PathLike, content: bytes, threads: int, kernels: str) -> Any:
  if kernels == "onnxruntime":
    try:
      return OnnxInterpreter(content, threads)
    except RuntimeError as error:
      raise does_not_run(path, error, kernels) from error
  from ai_edge_litert.interpreter import Interpreter, OpResolverType

  resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
  try:
    interpreter = Interpreter(
      model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
    )
    return (
      MicroInterpreter(content, arena_bytes(path, content)) if kernels == "tflm" else interpreter
    )
  except (RuntimeError, ValueError) as error:
    if isinstance(error, MissingExtraError):
      raise
    raise does_not_run(path, error, kernels) from error


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
