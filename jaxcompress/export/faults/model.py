"""Opens what a device runs as a model that is evaluated exactly."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxcompress.data import ImageReader
from jaxcompress.export.contents import find_metadata
from jaxcompress.export.metadata import preprocess_of
from jaxcompress.export.packed import SUFFIX, read_packed
from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.runtimes import KERNELS

STUDENT = f"student{SUFFIX}"  # of a run's folder


class Model(NamedTuple):
  """A model, and what its file says beside it.

  Attributes:
    quantized: the model, with the preprocessing that the file names.
    reader: how pictures are read; None: the file does not say.
    names: of its tensors in the file, where they differ from the model's.
  """

  quantized: QuantizedModel
  reader: ImageReader | None = None
  names: Mapping[str, str] = MappingProxyType({})


def open_model(model: Any) -> Model:
  """A model as it is, or of a file.

  Args:
    model: a :class:`Model` or a :class:`QuantizedModel`; the path of a packed file, of a run's folder with
      one, or of a .tflite file of integers.

  Raises:
    MissingExtraError: if it is a .tflite file, and the ``edge`` extra is not installed.
    ValueError: if it is something else, or cannot be read.
  """
  if isinstance(model, Model):
    return model
  if isinstance(model, QuantizedModel):
    return Model(model)
  if not isinstance(model, str | os.PathLike):
    raise ValueError(
      f"model: {type(model).__name__} must be a QuantizedModel or the path of a file."
    )
  path = pathlib.Path(model)
  path = path / STUDENT if (path / STUDENT).is_file() else path
  readers = {SUFFIX: _read_packed, ".tflite": _read_tflite}
  if path.suffix.lower() not in readers or not path.is_file():
    raise ValueError(
      f"model: {path} must be a packed file ({SUFFIX}) or a .tflite file that exists, a run's folder"
      " with a packed one, or a QuantizedModel."
    )
  return readers[path.suffix.lower()](path)


def _read_packed(path: pathlib.Path) -> Model:
  quantized, metadata = read_packed(path)
  preprocess = preprocess_of(metadata)
  if preprocess is not None:
    quantized = dataclasses.replace(quantized, preprocess=preprocess)
  return Model(quantized, _reader(quantized, metadata))


def _read_tflite(path: pathlib.Path) -> Model:
  from jaxcompress.export.foreign.reading import as_model, from_tflite, read

  metadata = find_metadata(path)
  said = metadata.get("kernels")
  kernels = str(said) if said in KERNELS and said != "onnxruntime" else "xnnpack"
  reading = read(path)
  if reading.problems:
    from_tflite(path)  # which says what they are
  quantized = as_model(path, reading, kernels)
  name = reading.builder.input_name
  names = {} if name == INPUT else {name: INPUT}
  return Model(quantized, _reader(quantized, metadata), names)


def _reader(quantized: QuantizedModel, metadata: Mapping[str, Any]) -> ImageReader | None:
  """How pictures are read for a model, as its file says."""
  if preprocess_of(metadata) is None:
    return None
  height, width, channels = quantized.graph.input_shape[1:]
  try:
    reader = ImageReader.from_metadata(metadata, (height, width))
  except ValueError:
    return None
  said = "reader" in metadata
  return reader if said else dataclasses.replace(reader, channels=channels)
