"""Runs a file in the device's own runtime."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxcompress.export.emulation import Emulated, check_processor
from jaxcompress.export.interpreters import End, Interpreter, open_file
from jaxcompress.export.metadata import ENTRY, from_entry
from jaxcompress.export.trial import choose_kernels, does_not_run, read_runnable_model
from jaxcompress.files.extras import MissingExtraError


class Runtime:
  """A model file in a device's runtime.

  A file that is not as jaxcompress wrote it first runs in a process of its own, since runtimes do not
  survive every damaged file.

  Args:
    path: a .tflite or .onnx file with one input; its suffix says which it is. Or a folder of C, which
      is compiled.
    threads: that it computes on; microcontrollers have one.
    kernels: ``"xnnpack"``: LiteRT with XNNPACK as on phones, also as ``"xnnpack-int4"``;
      ``"reference"``: LiteRT with its reference kernels; ``"tflm"``: TensorFlow Lite for
      Microcontrollers; ``"onnxruntime"``: its CPU kernels; ``"c"``: a folder of C. None:
      XNNPACK's, onnxruntime's or C, as the file needs.
    processor: that is emulated: of a file a 64-bit Arm one by name, of
      :data:`~jaxcompress.export.emulation.ARM64`, of a folder of C a Cortex-M. None: this machine's.
      TFLite-Micro has no build for 64-bit Arm.

  Raises:
    MissingExtraError: if the ``edge`` extra, the runtime, the compiler or the emulator is not
      installed.
    ValueError: if there is no such file, it is damaged, or it is of another kind, or the processor is
      unknown.

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

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    threads: int = 1,
    kernels: str | None = None,
    processor: str | None = None,
  ):
    if threads < 1:
      raise ValueError(f"threads: {threads} must be at least 1.")
    self._path, self._kernels = path, choose_kernels(path, kernels)
    self._processor = processor
    if self._kernels == "c":
      from jaxcompress.export.c99.running import CRuntime

      self._interpreter: Interpreter = CRuntime(path, processor)
    else:
      check_processor(processor, self._kernels)
      content = read_runnable_model(path, self._kernels, apart=processor is not None)
      with self._refusing(), _no_chatter():
        self._interpreter = _opened(self._kernels, content, threads, processor)
        self._interpreter.allocate()
    with self._refusing():
      (self._input,) = self._interpreter.inputs
      for end in (self._input, *self._interpreter.outputs):
        if not end.is_numeric:
          raise ValueError(f"{end.name!r} is a {end.dtype}; it must be an array of numbers")
    self._is_nchw = _layout(self._interpreter) == "NCHW"

  @contextmanager
  def _refusing(self) -> Iterator[None]:
    """Turns errors into ones that name the file; onnxruntime's errors have no common base."""
    try:
      yield
    except MissingExtraError:
      raise
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
  def kernels(self) -> str:
    """Name of the runtime whose arithmetic it is."""
    return self._kernels

  @property
  def takes_any(self) -> bool:
    """Whether it takes any number of images at once, and not only as many as the file was written for."""
    return self._interpreter.takes_any

  @property
  def processor(self) -> str | None:
    """The emulated processor that it runs on; None: this machine's."""
    return self._processor

  @property
  def input_end(self) -> End:
    """The input as it lies in the file."""
    return self._input

  @property
  def output_places(self) -> Mapping[str, int]:
    """Where the outputs stand in the file, by their names."""
    return self._interpreter.places

  @property
  def output_ends(self) -> dict[str, End]:
    """The outputs, by their names in the file."""
    return {name: self._interpreter.outputs[i] for name, i in self._interpreter.places.items()}

  @property
  def output_dtype(self) -> np.dtype:
    """Type of the first output."""
    return np.dtype(self._interpreter.outputs[0].dtype)

  @property
  def output_dtypes(self) -> dict[str, np.dtype]:
    """Types of the outputs, by their names in the file."""
    return {name: np.dtype(end.dtype) for name, end in self.output_ends.items()}

  def __call__(self, images: np.ndarray) -> Any:
    """The output for one batch of images, of the shape and type that the input has.

    Returns:
      An array; of a file with several outputs a dict of them by the names that it gives them.
    """
    from jaxcompress.nn.outputs import only_or_all

    return only_or_all(self.outputs(images))

  def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """As calling it, by name also where there is one output."""
    if self._is_nchw:
      images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    self._interpreter.feed(images)
    with self._refusing():
      self._interpreter.invoke()
    found = [
      array.transpose(0, 2, 3, 1) if self._is_nchw and array.ndim == 4 else array
      for array in self._interpreter.read()
    ]
    return {name: found[place] for name, place in self._interpreter.places.items()}

  def left_out(self) -> tuple[str, ...]:
    """Names of the operators that are not computed by the kernels that are asked for, in order.

    With XNNPACK those left to LiteRT's own kernels, with onnxruntime those that compute in float.
    Otherwise none.
    """
    return self._interpreter.left_out()


def _opened(kernels: str, content: bytes, threads: int, processor: str | None) -> Interpreter:
  if processor is None:
    return open_file(kernels, content, threads)
  return Emulated(processor, kernels, content, threads)


def _layout(interpreter: Interpreter) -> str | None:
  """How images lie in a file of ours; None for others'."""
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


def device_outputs(runtime: Runtime, codes: np.ndarray) -> dict[str, np.ndarray]:
  """A runtime's outputs by name, image by image as on a device (batches are not faster there).

  Args:
    runtime: with a file loaded; one that was written for batches gets the last image repeatedly.
    codes: (N, height, width, channels), of the file's input type.

  Returns:
    (N, ...) arrays, of the types that the file's outputs have.
  """
  count = len(codes)
  size = count if runtime.takes_any else runtime.input_shape[0]
  whole = np.concatenate([codes, np.repeat(codes[-1:], -count % size, axis=0)])
  parts = [runtime.outputs(whole[i : i + size]) for i in range(0, count, size)]
  return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
