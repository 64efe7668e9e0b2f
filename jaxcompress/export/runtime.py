"""Runs a file in the device's own runtime, and compares its logits with exact evaluation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import check_type
from jaxcompress.export.contents import holds_int4, holds_integers
from jaxcompress.export.interpreters import Interpreter, open_file
from jaxcompress.export.metadata import ENTRY, from_entry
from jaxcompress.export.pixels import check_input
from jaxcompress.export.trial import choose_kernels, does_not_run, read_model, read_runnable_model
from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.runtimes import kernels_of_file
from jaxcompress.quantize.model import QUANTIZED


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


class Verification(NamedTuple):
  """How a file's logits compare with exact evaluation.

  Attributes:
    bit_equal: share of the integer logits that are equal; 1.0 is what is promised.
    max_steps: largest difference, in quantization steps.
    top1_agreement: share of the images for which both pick the same class.
    images: number of images.
    left_out: operators that XNNPACK left to LiteRT's own kernels, usually none; all those with
      16-bit integers. In onnxruntime those computed in float, such as ``"HardSigmoid"``.
  """

  bit_equal: float
  max_steps: int
  top1_agreement: float
  images: int
  left_out: tuple[str, ...] = ()


def verify(
  path: str | os.PathLike, quantized: QuantizedModel, images: np.ndarray, *, threads: int = 1
) -> Verification:
  """Runs a file on images and compares its logits with exact evaluation.

  The runtime is the one whose arithmetic ``quantized`` evaluates: LiteRT with XNNPACK, LiteRT with
  its reference kernels, or TensorFlow Lite for Microcontrollers (the ``targets`` extra). A
  .onnx file runs in onnxruntime, on the images as the network reads them; its float logits are
  compared with those of ``quantized.with_kernels("onnxruntime")``, and what XNNPACK makes of a file
  with weights of 4 bits with those of ``quantized.with_kernels("xnnpack-int4")``.

  Args:
    path: a file that :func:`~jaxcompress.export.tflite` or :func:`~jaxcompress.export.onnx` wrote.
    quantized: the model that it was written from; ``quantized.with_kernels(...)`` for another
      runtime.
    images: (N, height, width, channels), what ``quantized`` takes; at least one.
    threads: that the runtime computes on.

  Returns:
    A :class:`Verification`.

  Raises:
    MissingExtraError: if the ``edge`` extra, or the runtime, is not installed.
    ValueError: if the file is missing, damaged or of another network, ``quantized`` is none, or
      there are no images.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export import tflite
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> path = tflite(quantized, tempfile.mkdtemp() + "/pool.tflite")
    >>> images = np.linspace(-9, 9, 60, dtype=np.float32).reshape(5, 2, 2, 3)
    >>> verify(path, quantized, images).bit_equal
    1.0
  """
  check_type("quantized", quantized, QuantizedModel, QUANTIZED)
  images = np.asarray(images)
  if len(images) == 0:
    raise ValueError("images: there are none; give at least one.")
  if choose_kernels(path) == "onnxruntime":
    quantized = quantized.with_kernels("onnxruntime")
  runtime = Runtime(path, threads=threads, kernels=quantized.kernels)
  int4 = quantized.kernels != "onnxruntime" and holds_int4(read_model(path))
  if (kernels := kernels_of_file(quantized.kernels, int4=int4)) != quantized.kernels:
    quantized = quantized.with_kernels(kernels)
  _check_match(path, quantized, runtime, images)
  if quantized.kernels == "onnxruntime":
    ours, theirs = quantized(images), device_logits(runtime, quantized.network_input(images))
    step = np.float64(quantized.grids[quantized.graph.output].scale)
  else:
    codes = quantized.quantize_input(images)
    fed = images if runtime.input_dtype == np.uint8 else codes
    if runtime.input_dtype == np.float32:
      fed = quantized.network_input(images)
    ours, theirs = quantized.run(codes), device_logits(runtime, fed)
    step = np.float64(1)
  if ours.shape != theirs.shape:
    raise ValueError(
      f"path: {path} has {theirs.shape[-1]} logits and the model {ours.shape[-1]}; it is of another"
      " network."
    )
  distance = np.abs(ours.astype(np.float64) - theirs) / step
  return Verification(
    bit_equal=float(np.mean(ours == theirs)),
    max_steps=int(np.rint(distance.max())),
    top1_agreement=float(np.mean(np.argmax(ours, -1) == np.argmax(theirs, -1))),
    images=len(images),
    left_out=runtime.left_out(),
  )


def device_logits(runtime: Runtime, codes: np.ndarray) -> np.ndarray:
  """A runtime's logits, image by image as on a device (batches are not faster there).

  Args:
    runtime: with a file loaded; one that was written for batches gets the last image repeatedly.
    codes: (N, height, width, channels), of the file's input type.

  Returns:
    (N, classes), of the file's output type.
  """
  count, size = len(codes), runtime.input_shape[0]
  whole = np.concatenate([codes, np.repeat(codes[-1:], -count % size, axis=0)])
  return np.concatenate([runtime(whole[i : i + size]) for i in range(0, count, size)])[:count]


def _check_match(
  path: str | os.PathLike, quantized: QuantizedModel, runtime: Runtime, images: np.ndarray
) -> None:
  ends = tuple(quantized.grids[name].dtype for name in (INPUT, quantized.graph.output))
  if quantized.kernels == "onnxruntime":
    ends = (np.dtype(np.float32),) * 2
    if not holds_integers(read_model(path)):
      raise ValueError(
        f"path: {path} computes in float; only files of the same integers can be compared bit for"
        " bit."
      )
  elif runtime.input_dtype == np.uint8:
    check_input(quantized, "uint8")
    if images.dtype != np.uint8:
      raise ValueError(
        f"images: {images.dtype} must be uint8, which {path} reads; pass pixels of 0 to 255."
      )
    ends = (runtime.input_dtype, ends[1])
  elif runtime.input_dtype == np.float32 and runtime.output_dtype == ends[1]:
    ends = (runtime.input_dtype, ends[1])
  if (runtime.input_dtype, runtime.output_dtype) != ends:
    raise ValueError(
      f"path: {path} has {runtime.input_dtype} input and {runtime.output_dtype} output, and the"
      f" model {ends[0]} and {ends[1]}; only files of the same integers can be compared bit for bit."
    )
  wanted = (*runtime.input_shape[:1], *quantized.graph.input_shape[1:])
  if runtime.input_shape != wanted:
    raise ValueError(
      f"path: {path} reads images of shape {runtime.input_shape} and the model {wanted}; it is of"
      " another network."
    )
