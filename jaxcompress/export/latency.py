"""How long a model file takes on this machine, and how much memory."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np

from jaxcompress.export import measure
from jaxcompress.export.runtime import choose_kernels, read_runnable_model
from jaxcompress.files.values import one_line


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
  read_runnable_model(path, choose_kernels(path))
  # -P: beside the script lie modules of ours that are named as those that it imports
  script = [sys.executable, "-P", measure.__file__, str(path), str(threads), str(repeats)]
  done = subprocess.run(script, capture_output=True, text=True, check=False)
  if done.returncode:
    reason = one_line(done.stderr[-200:])
    raise ValueError(f"path: {path} cannot be timed (exit code {done.returncode}: {reason}).")
  found = json.loads(done.stdout.splitlines()[-1])
  low, median, high = np.percentile(found["times"], (25, 50, 75))
  size = pathlib.Path(path).stat().st_size
  return Latency(float(median), float(high - low), found["memory"], size)
