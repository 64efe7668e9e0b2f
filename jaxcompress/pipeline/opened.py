"""Files of networks, each ready to compute: what one says of itself, and its outputs for pixels."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.codes import to_codes
from jaxcompress.data.preprocess import PIXELS, Preprocess
from jaxcompress.export.trial import KERNELS_BY_SUFFIX, KERNELS_OF_C, OWN_KERNELS

LOGITS = "logits"  # as nn.graph has it
STUDENT = "student.tflite"  # of a run's folder
AS_THEY_ARE = PIXELS["0..255"]
RUN_FILE = "run.json"
MANIFEST = "manifest.json"  # of a folder of C
MOST_THREADS = 4
LAST_OPERATORS = {
  "SOFTMAX": "softmax",
  "LOGISTIC": "sigmoid",
  "Softmax": "softmax",
  "Sigmoid": "sigmoid",
}


class Opened(NamedTuple):
  """A network in a file.

  Attributes:
    path: of what was opened.
    metadata: what the file says: ``classes``, ``reader``, ``preprocess`` and more, if it does.
    image_shape: (height, width, channels); a size that is left open is 1 x 1.
    classes: how many there are.
    ends_in: ``"softmax"`` or ``"sigmoid"`` where that is its last operation, else ``"logits"``.
    outputs: of pixels, (count, height, width, channels) uint8, as a preprocessing maps them; float32
      (count, classes).
    takes_pixels: whether it reads pixels as they are where no preprocessing is known.
  """

  path: pathlib.Path
  metadata: Mapping[str, Any]
  image_shape: tuple[int, ...]
  classes: int
  ends_in: str
  outputs: Callable[[np.ndarray, Preprocess], np.ndarray]
  takes_pixels: bool = False


def file_of(path: str | os.PathLike) -> pathlib.Path:
  """The file that a path stands for: of a run's folder its ``student.tflite``, else itself.

  Raises:
    ValueError: if the run has not written it yet.
  """
  path = pathlib.Path(path)
  if not (path / RUN_FILE).is_file():
    return path
  if not (path / STUDENT).is_file():
    raise ValueError(f"model: the run in {path} has written no {STUDENT} yet; let it finish.")
  return path / STUDENT


def open_network(path: str | os.PathLike) -> Opened:
  """Opens a file, by its suffix, or a run's folder.

  Args:
    path: a .tflite, .onnx or .jcz file; a folder of C; a .safetensors file of ``models.save``; the
      folder of a run, whose ``student.tflite`` is opened; or ``OUT/student`` and ``OUT/teacher``, its networks in
      float.

  Raises:
    MissingExtraError: if the file's runtime is not installed.
    ValueError: if there is no such file, it is damaged or of another kind, or gives something else
      than one score for each class.
  """
  path = file_of(path)
  if not path.exists():
    raise ValueError(
      f"model: {path} does not exist; give a .tflite, .onnx, .jcz or .safetensors file, or a run's"
      " folder."
    )
  suffix = path.suffix.lower()
  if (path / MANIFEST).is_file():
    return _open_for_device(path)
  if path.is_dir() or suffix == ".safetensors":
    return _open_float(path)
  if suffix in KERNELS_BY_SUFFIX:
    return _open_for_device(path)
  if suffix == ".jcz":
    return _open_packed(path)
  raise ValueError(
    f"model: {path} cannot be run; it must end in .tflite, .onnx, .jcz or .safetensors, or"
    " be a run's folder."
  )


def _open_for_device(path: pathlib.Path) -> Opened:
  """A .tflite or .onnx file or a folder of C, in the runtime whose integers it was written for."""
  from jaxcompress.export.contents import find_metadata
  from jaxcompress.export.runtime import Runtime, device_outputs

  metadata = find_metadata(path)
  kernels = metadata.get("kernels")
  known = KERNELS_OF_C if path.is_dir() else KERNELS_BY_SUFFIX[path.suffix.lower()]
  kernels = kernels if kernels in known else None
  runtime = Runtime(path, threads=min(MOST_THREADS, os.cpu_count() or 1), kernels=kernels)
  shape, is_nchw = runtime.input_shape, False
  if len(shape) != 4:
    raise ValueError(f"model: {path} reads arrays of shape {shape}; it must read images.")
  if path.suffix.lower() == ".onnx" and not metadata:  # others lay images as PyTorch has them
    is_nchw = shape[1] in (1, 3) or shape[3] not in (1, 3)
    shape = (shape[0], *shape[2:], shape[1]) if is_nchw else shape
  source, rounding = runtime.input_end, OWN_KERNELS.get(runtime.kernels, runtime.kernels)
  name = _logits_name(path, runtime.output_ends)
  target = runtime.output_ends[name]
  if np.dtype(source.dtype).kind in "iu" and source.dtype != "uint8" and not source.scale:
    raise ValueError(
      f"model: {path} reads {source.dtype} without a scale; it cannot be fed images."
    )

  def fed(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    if source.dtype == "uint8" and (metadata or preprocess == AS_THEY_ARE):
      return pixels
    values = np.asarray(preprocess(pixels), np.float32)
    if np.dtype(source.dtype).kind == "f":
      return values.astype(source.dtype)
    return to_codes(values, source.scale, source.zero_point, source.dtype, rounding)

  def outputs(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    images = fed(pixels, preprocess)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if is_nchw else images
    found = device_outputs(runtime, images)[name]
    found = found.reshape(len(pixels), -1).astype(np.float32)
    if np.dtype(target.dtype).kind in "iu" and target.scale:
      return (found - target.zero_point) * np.float32(target.scale)
    return found

  return Opened(
    path,
    metadata,
    (shape[1], shape[2], shape[3]),
    int(np.prod(target.shape[1:])),
    _last_function(path, runtime.output_places[name]),
    outputs,
    takes_pixels=source.dtype == "uint8",
  )


def _last_function(path: pathlib.Path, place: int) -> str:
  """Returns the function that an output of an exported file ends in."""
  if path.is_dir():
    from jaxcompress.export.c99.manifest import read_manifest

    return read_manifest(path).ends_in[place]
  from jaxcompress.export.contents import last_operator

  return LAST_OPERATORS.get(last_operator(path, place), LOGITS)


def _logits_name(path: pathlib.Path, ends: Mapping[str, Any]) -> str:
  """The output that holds a score of each class."""
  flat = [n for n, end in ends.items() if np.prod(end.shape) == max(end.shape[-1:], default=0)]
  if LOGITS in flat or len(flat) == 1:
    return LOGITS if LOGITS in flat else flat[0]
  listed = ", ".join(f"{name} {end.shape}" for name, end in ends.items())
  raise ValueError(
    f"model: {path} gives {listed}; it must give one score for each class, or call that output"
    f" {LOGITS!r}."
  )


def _open_packed(path: pathlib.Path) -> Opened:
  """A packed file, whose integers are evaluated exactly."""
  from jaxcompress.export.packed import read_packed

  quantized, metadata = read_packed(path)
  name = _logits_of(path, quantized.graph)

  def outputs(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    ready = dataclasses.replace(quantized, preprocess=preprocess)
    return ready.real(name, ready.outputs(ready.quantize_input(pixels))[name])

  shape = quantized.graph.input_shape[1:]
  return Opened(path, metadata, shape, *_facts_of(quantized.graph, name), outputs)


def _open_float(path: pathlib.Path) -> Opened:
  """A network in float, compiled for batches."""
  import jax

  from jaxcompress import models
  from jaxcompress.nn.outputs import as_endpoints, name_outputs
  from jaxcompress.pipeline.networks import read_network

  saved = read_network(path)
  shape = saved.image_shape
  graph = models.summarize(saved.module, *(() if shape is None else (shape[0], shape[-1]))).graph
  name = _logits_of(path, graph)

  @jax.jit
  def run(variables: Any, images: Any) -> Any:
    return name_outputs(as_endpoints(saved.module.apply(variables, images, train=False)))[name]

  def outputs(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    images = np.asarray(preprocess(pixels), np.float32)
    return np.asarray(run(saved.variables, images), np.float32)

  metadata: dict[str, Any] = {}
  if saved.reader is not None and saved.reader.size is not None:
    metadata, shape = saved.reader.to_metadata(), (*saved.reader.size, saved.reader.channels)
  if saved.classes is not None:
    metadata["classes"] = list(saved.classes)
  shape = shape or (1, 1, graph.input_shape[-1])
  return Opened(path, metadata, shape, *_facts_of(graph, name), outputs)


def _logits_of(path: pathlib.Path, graph: Any) -> str:
  shapes = {name: graph.shape(tensor) for name, tensor in graph.outputs}
  flat = [name for name, shape in shapes.items() if len(shape) == 2]
  if LOGITS in flat or len(flat) == 1:
    return LOGITS if LOGITS in flat else flat[0]
  listed = ", ".join(f"{name} {shape[1:]}" for name, shape in shapes.items())
  raise ValueError(f"model: {path} gives {listed}; it must give one score for each class.")


def _facts_of(graph: Any, name: str) -> tuple[int, str]:
  """Number of classes, and what the network ends in."""
  from jaxcompress.nn.outputs import last_function

  tensor = dict(graph.outputs)[name]
  return graph.shape(tensor)[-1], last_function(graph, tensor)
