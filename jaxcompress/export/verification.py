"""Compares the logits of a file in the device's own runtime with exact evaluation."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxcompress.export.contents import ends_in_codes, holds_int4, holds_integers
from jaxcompress.export.emulation import USUAL_ARM64, is_arm64
from jaxcompress.export.interpreters import End
from jaxcompress.export.pixels import SHIFT, check_input
from jaxcompress.export.runtime import Runtime, device_outputs
from jaxcompress.export.trial import OWN_KERNELS, choose_kernels, read_model
from jaxcompress.nn import INPUT
from jaxcompress.nn.foreign import check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import OF_ARM64, kernels_of_file, runtime_of
from jaxcompress.quantize.model import QUANTIZED

Evaluate = Callable[[QuantizedModel, np.ndarray], dict[str, np.ndarray]]


class Verification(NamedTuple):
  """The result of comparing a file's logits with exact evaluation.

  Attributes:
    bit_equal: share of the integers of all outputs that are equal; 1.0 is what is promised.
    max_steps: largest difference, in quantization steps.
    top1_agreement: share of the images, or of the pixels of a map, for which both pick the same class:
      the largest of the logits, the first output.
    images: number of images.
    left_out: operators that XNNPACK left to LiteRT's own kernels, usually none; all those with
      16-bit integers. In onnxruntime those computed in float, such as ``"HardSigmoid"``.
    outputs: where there are several, ``bit_equal`` of each by name.
  """

  bit_equal: float
  max_steps: int
  top1_agreement: float
  images: int
  left_out: tuple[str, ...] = ()
  outputs: Mapping[str, float] = MappingProxyType({})


def verify(
  path: str | os.PathLike,
  quantized: QuantizedModel,
  images: np.ndarray,
  *,
  threads: int = 1,
  processor: str | None = None,
) -> Verification:
  """Runs a file on images and compares its outputs with exact evaluation, by name.

  The runtime is the one whose arithmetic ``quantized`` evaluates: LiteRT with XNNPACK, LiteRT with
  its reference kernels, or TensorFlow Lite for Microcontrollers (the ``targets`` extra). A folder of C
  is compiled, and compared with ``quantized.with_kernels("tflm")``. A
  .onnx file runs in onnxruntime, on the images as the network reads them; its float logits are
  compared with those of ``quantized.with_kernels("onnxruntime")``, and what XNNPACK makes of a file
  with weights of 4 bits with those of ``quantized.with_kernels("xnnpack-int4")``. What it makes on
  64-bit Arm is compared with ``"xnnpack-arm64"`` or ``"xnnpack-int4-arm64"``.

  Args:
    path: a file that :func:`~jaxcompress.export.tflite` or :func:`~jaxcompress.export.onnx` wrote, or a
      folder of C.
    quantized: the model that it was written from; ``quantized.with_kernels(...)`` for another
      runtime.
    images: (N, height, width, channels), what ``quantized`` takes; at least one.
    threads: that the runtime computes on.
    processor: that the runtime runs on; see :class:`~jaxcompress.export.Runtime`. None: this machine's,
      or an emulated Cortex-A76 for kernels of 64-bit Arm, such as ``"xnnpack-arm64"``.

  Returns:
    A :class:`Verification`.

  Raises:
    MissingExtraError: if the ``edge`` extra, the runtime or the emulator is not installed.
    ValueError: if the file is missing, damaged or of another network, ``quantized`` is not a quantized model,
      there are no images, or the processor is unknown.

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
  return compare(run_both(path, quantized, images, threads=threads, processor=processor))


class Both(NamedTuple):
  """The outputs of a file and of exact evaluation for the same images.

  Attributes:
    quantized: the model, with the kernels whose arithmetic the file's runtime has.
    codes: (N, height, width, channels), the integer input.
    ours: integers of exact evaluation, by output.
    theirs: of the file, likewise: integers, or float32 from onnxruntime.
    left_out: as of a :class:`Verification`.
  """

  quantized: QuantizedModel
  codes: np.ndarray
  ours: dict[str, np.ndarray]
  theirs: dict[str, np.ndarray]
  left_out: tuple[str, ...]


def run_both(
  path: str | os.PathLike,
  quantized: QuantizedModel,
  images: np.ndarray | None = None,
  *,
  codes: np.ndarray | None = None,
  threads: int = 1,
  processor: str | None = None,
  evaluate: Evaluate = QuantizedModel.outputs,
) -> Both:
  """Runs a file on images, and evaluates them exactly by the rules of its runtime.

  Args:
    path: as for :func:`verify`.
    quantized: likewise.
    images: likewise; None: there are codes.
    codes: the integers that the network makes of images, in their place: all runtimes get the same.
    threads: likewise.
    processor: likewise.
    evaluate: exact evaluation of ``(quantized, codes)``, which a caller may keep from an earlier file.

  Raises:
    MissingExtraError: as :func:`verify`.
    ValueError: as :func:`verify`.
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  given = np.asarray(images if codes is None else codes)
  if len(given) == 0:
    raise ValueError("images must not be empty; give at least one.")
  kind = choose_kernels(path)
  if kind != "c" and processor is None and quantized.kernels.endswith(OF_ARM64) and not is_arm64():
    processor = USUAL_ARM64  # these rules are of no other processors
  if (own := OWN_KERNELS.get(kind)) is not None:
    quantized = quantized.with_kernels(own)
  asked = runtime_of(quantized.kernels)
  runtime = Runtime(path, threads=threads, kernels=asked, processor=processor)
  int4 = runtime.kernels not in OWN_KERNELS and holds_int4(read_model(path))
  kernels = kernels_of_file(asked, int4=int4, arm64=is_arm64(runtime.processor))
  if kernels != quantized.kernels:
    quantized = quantized.with_kernels(kernels)
  _check_match(path, quantized, runtime, None if codes is not None else given)
  if codes is None:
    codes = quantized.quantize_input(given)
    fed = given if runtime.input_dtype == np.uint8 else codes
    if runtime.input_dtype == np.float32:
      fed = quantized.network_input(given)
  else:
    fed = _behind(codes, quantized, runtime.input_dtype)
  ours = evaluate(quantized, codes)
  theirs = {name: _signed(array) for name, array in device_outputs(runtime, fed).items()}
  if len(ours) == len(theirs) == 1:  # files of others call theirs as they like
    theirs = dict(zip(ours, theirs.values(), strict=True))
  if runtime_of(quantized.kernels) != "onnxruntime":
    theirs = {name: _as_codes(array, name, quantized) for name, array in theirs.items()}
  shapes = [{name: array.shape[1:] for name, array in some.items()} for some in (theirs, ours)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"path: {path} has {_listed(shapes[0])} and the model {_listed(shapes[1])}; it is of another"
      " network."
    )
  return Both(quantized, codes, ours, theirs, runtime.left_out())


def compare(found: Both) -> Verification:
  """Counts what is equal of what a file and exact evaluation give."""
  quantized, ours, theirs = found.quantized, found.ours, found.theirs
  steps = dict.fromkeys(ours, np.float64(1))
  if runtime_of(quantized.kernels) == "onnxruntime":
    steps = {
      name: np.float64(quantized.grids[tensor].scale) for name, tensor in quantized.graph.outputs
    }
    ours = {name: quantized.real(name, array) for name, array in ours.items()}
  equal = {name: ours[name] == theirs[name] for name in ours}
  first = quantized.graph.outputs[0][0]
  return Verification(
    bit_equal=float(sum(map(np.sum, equal.values())) / sum(map(np.size, equal.values()))),
    max_steps=max(_most_steps(ours[name], theirs[name], steps[name]) for name in ours),
    top1_agreement=float(np.mean(ours[first].argmax(-1) == theirs[first].argmax(-1))),
    images=len(found.codes),
    left_out=found.left_out,
    outputs={name: float(np.mean(same)) for name, same in equal.items() if len(equal) > 1},
  )


def _behind(codes: np.ndarray, quantized: QuantizedModel, dtype: np.dtype) -> np.ndarray:
  """Returns the input that a file maps to these codes: the codes, real numbers or pixels."""
  if dtype == np.float32:
    grid = quantized.grids[INPUT]
    return (codes.astype(np.float32) - grid.zero_point) * grid.scale
  if dtype != np.uint8:
    return codes
  table = check_input(quantized, "uint8")
  assert table is not None  # of this kind
  pixels = np.empty(codes.shape, np.uint8)
  for channel in range(codes.shape[-1]):
    pixel_of = np.full(256, -1)
    pixel_of[table[::-1, channel].astype(np.int64) + SHIFT] = np.arange(256)[::-1]
    found = pixel_of[codes[..., channel].astype(np.int64) + SHIFT]
    if found.min() < 0:
      raise ValueError("images: some integers are not those of any pixel; give the pixels.")
    pixels[..., channel] = found
  return pixels


def _signed(array: np.ndarray) -> np.ndarray:
  """Codes of an output that a file gives as uint8, plus 128."""
  return (array.astype(np.int16) - SHIFT).astype(np.int8) if array.dtype == np.uint8 else array


def _as_codes(array: np.ndarray, name: str, quantized: QuantizedModel) -> np.ndarray:
  """The codes of an output that a file gives as the float32 numbers that they stand for.

  Raises:
    ValueError: if numbers lie between those of codes.
  """
  if array.dtype != np.float32:
    return array
  grid = quantized.grids[dict(quantized.graph.outputs)[name]]
  steps = np.rint(array / np.float64(grid.scale))
  codes = np.clip(steps + grid.zero_point, *(np.iinfo(grid.dtype).min, np.iinfo(grid.dtype).max))
  if not np.array_equal(quantized.real(name, codes), array):
    raise ValueError(
      f"path: output {name!r} has numbers that no codes stand for; it is of another network."
    )
  return codes.astype(grid.dtype)


def _most_steps(ours: np.ndarray, theirs: np.ndarray, step: np.float64) -> int:
  return int(np.rint((np.abs(ours.astype(np.float64) - theirs) / step).max()))


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
  (first, *others) = shapes.values()
  if not others and len(first) == 1:
    return f"{first[0]} logits"
  return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _check_match(
  path: str | os.PathLike, quantized: QuantizedModel, runtime: Runtime, images: np.ndarray | None
) -> None:
  types = {name: quantized.grids[tensor].dtype for name, tensor in quantized.graph.outputs}
  found = {n: np.dtype(np.int8) if t == np.uint8 else t for n, t in runtime.output_dtypes.items()}
  if len(types) == len(found) == 1:  # files of others call theirs as they like
    found = dict(zip(types, found.values(), strict=True))
  source, is_integer = quantized.grids[INPUT].dtype, found == types
  if (
    set(found.values()) == {np.dtype(np.float32)} and runtime_of(quantized.kernels) != "onnxruntime"
  ):
    is_integer = ends_in_codes(read_model(path))
    found = types if is_integer else found
  if runtime_of(quantized.kernels) == "onnxruntime":
    source, types = np.dtype(np.float32), dict.fromkeys(types, np.dtype(np.float32))
    if not holds_integers(read_model(path)):
      raise ValueError(
        f"path: {path} computes in float; only files of the same integers can be compared bit for"
        " bit."
      )
  elif runtime.input_dtype == np.uint8:
    check_input(quantized, "uint8")
    if images is not None and images.dtype != np.uint8:
      raise ValueError(
        f"images: {images.dtype} must be uint8, which {path} reads; pass pixels of 0 to 255."
      )
    source = runtime.input_dtype
  elif runtime.input_dtype == np.float32 and is_integer:
    source = runtime.input_dtype
  wrong = [
    (found[name], types[name]) for name in types if found.get(name, types[name]) != types[name]
  ]
  if runtime.input_dtype != source or wrong:
    theirs, ours = wrong[0] if wrong else (runtime.output_dtype, next(iter(types.values())))
    raise ValueError(
      f"path: {path} has {runtime.input_dtype} input and {theirs} output, and the model {source} and"
      f" {ours}; only files of the same integers can be compared bit for bit."
    )
  wanted = (*runtime.input_shape[:1], *quantized.graph.input_shape[1:])
  if runtime.input_shape != wanted:
    raise ValueError(
      f"path: {path} reads images of shape {runtime.input_shape} and the model {wanted}; it is of"
      " another network."
    )
  ends = list(runtime.output_ends.items())
  if len(types) == len(ends) == 1:
    ends = list(zip(types, runtime.output_ends.values(), strict=True))
  _check_grid(path, "input", runtime.input_end, quantized.grids[INPUT])
  for name, tensor in quantized.graph.outputs:
    for end in (end for found_name, end in ends if found_name == name):
      _check_grid(path, f"output {name!r}", end, quantized.grids[tensor])


def _check_grid(path: str | os.PathLike, what: str, end: End, grid: Grid) -> None:
  """Checks what the integers of a file stand for; floats and pixels, and some runtimes, say nothing."""
  if end.dtype != grid.dtype.name or not end.scale:
    return
  theirs, ours = (np.float32(end.scale), int(end.zero_point)), (grid.scale, int(grid.zero_point))
  if theirs != ours:
    raise ValueError(
      f"path: the {what} of {path} has scale and zero point {theirs[0]!s}, {theirs[1]}, and the model"
      f" {ours[0]!s}, {ours[1]}; it is of another network."
    )
