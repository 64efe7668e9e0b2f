"""Measures the time and the memory that a model file takes on this machine."""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from jaxcompress.export.extras import require
from jaxcompress.export.trial import (
  choose_kernels,
  does_not_run,
  read_runnable_model,
  read_sound_model,
  run_apart,
)

ALLOCATED = re.compile(r"Arena allocation total (\d+) bytes")


class Latency(NamedTuple):
  """Time for one image, and what a runtime needs for it.

  Attributes:
    median_ms: milliseconds, the median of all runs.
    spread_ms: milliseconds between the first and the third quartile.
    memory_bytes: by how much the runtime's process grew at most, from before the file was loaded;
      None where the system does not say.
    file_bytes: size of the file.
  """

  median_ms: float
  spread_ms: float
  memory_bytes: int | None
  file_bytes: int


def benchmark(path: str | os.PathLike, *, threads: int = 1, repeats: int = 200) -> Latency:
  """Times a file in LiteRT with XNNPACK, or in onnxruntime, on one image, after a warm-up.

  The file runs in a process of its own, in which there is nothing else.

  Args:
    path: a .tflite or .onnx file with one input and one output.
    threads: that the runtime computes on.
    repeats: timed runs.

  Returns:
    A :class:`Latency`.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged, or there is nothing to time.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 4), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> benchmark(path, repeats=5).median_ms > 0
    True
  """
  if repeats < 1:
    raise ValueError(f"repeats: {repeats} must be at least 1.")
  if threads < 1:
    raise ValueError(f"threads: {threads} must be at least 1.")
  kernels = choose_kernels(path)
  read_runnable_model(path, kernels)
  found, _ = run_apart(
    path,
    "time_runs",
    kernels,
    kernels=kernels,
    file=str(path),
    threads=threads,
    repeats=repeats,
  )
  low, median, high = np.percentile(found["times"], (25, 50, 75))
  size = pathlib.Path(path).stat().st_size
  return Latency(float(median), float(high - low), found["memory"], size)


def arena(path: str | os.PathLike) -> int:
  """Bytes of working memory that TensorFlow Lite for Microcontrollers needs for a file.

  It is measured on this machine, whose pointers have 64 bits: on a microcontroller the tables of
  operators and tensors are about half as large, and the activations the same.

  Args:
    path: a .tflite file.

  Returns:
    The size of the arena in bytes; the file itself lies elsewhere, in flash.

  Raises:
    MissingExtraError: if ``tflite-micro`` or the ``edge`` extra is not installed.
    ValueError: if the file is missing, damaged or of another kind, or the runtime does not take it.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 4), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> 0 < arena(path) < 10_000
    True
  """
  if pathlib.Path(path).suffix.lower() != ".tflite":
    raise ValueError(f"path: {path} is no .tflite file, which is what microcontrollers run.")
  require("arena")
  _, said = run_apart(path, "print_allocations", "tflm", read_sound_model(path))
  if (found := ALLOCATED.search(said)) is None:
    raise does_not_run(path, f"it allocates nothing: {said[-200:]}", "tflm")
  return int(found[1])
