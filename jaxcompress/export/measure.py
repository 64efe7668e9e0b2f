"""Measures what a model file takes: time and memory on this machine, and its place on an NPU."""

import csv
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np

from jaxcompress.export.contents import parse_operators
from jaxcompress.export.trial import (
  choose_kernels,
  does_not_run,
  parsing,
  read_runnable_model,
  read_sound_model,
  run_apart,
)
from jaxcompress.files.extras import require

ALLOCATED = re.compile(r"Arena allocation total (\d+) bytes")
ACCELERATORS = (
  *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
  *(f"ethos-u65-{macs}" for macs in (256, 512)),
  *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
COUNT = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)
ON_CPU = re.compile(r"^ +CPU: (\S+) = (.*) \(outputs ", re.MULTILINE)
REFUSED = re.compile(r"^Warning .*?operator: [^']*ofm: '(.*)'\nReason: (.*)$", re.MULTILINE)
DEFAULTS = ("Warning: No ",)  # says that there are no options
STORAGE = ("dram_memory_used", "on_chip_flash_memory_used", "off_chip_flash_memory_used")


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
    path: a .tflite or .onnx file with one input.
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
  if kernels == "c":
    raise ValueError(
      f"path: {path} is a folder; of C the time here says little of a microcontroller; give a .tflite or"
      " .onnx file."
    )
  read_runnable_model(path, kernels)
  found, _ = run_apart(
    path, "time_runs", kernels, kernels=kernels, file=str(path), threads=threads, repeats=repeats
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


class CpuOperator(NamedTuple):
  """An operator that the NPU does not compute.

  Attributes:
    op: its name in the file, such as ``"DEPTHWISE_CONV_2D"``.
    name: of what it writes; in files of jaxcompress that is the layer.
    reason: the compiler's; empty if it gives none.
  """

  op: str
  name: str
  reason: str


class VelaReport(NamedTuple):
  """The compiler's report on a file.

  Attributes:
    operators: their number after the compiler's own rewriting, which splits and fuses some.
    on_npu: how many of them the NPU computes.
    cpu_ops: those left to the CPU.
    sram_kib: the most of the fast memory that is used at once.
    storage_kib: of weights and the rest, in flash or DRAM.
    milliseconds: estimated, of one image.
  """

  operators: int
  on_npu: int
  cpu_ops: tuple[CpuOperator, ...]
  sram_kib: float
  storage_kib: float
  milliseconds: float


def vela(path: str | os.PathLike, accelerator: str = "ethos-u55-128") -> VelaReport:
  """Compiles a file for an Ethos-U NPU with Arm's Vela, and reads its report.

  Memory and time are those of the compiler's default system for the accelerator. The compiled file
  is not kept: the one that was verified stays the one there is.

  Args:
    path: a .tflite file.
    accelerator: the NPU and its multiply-adds per cycle, one of
      :data:`~jaxcompress.export.measure.ACCELERATORS`.

  Returns:
    A :class:`VelaReport`.

  Raises:
    MissingExtraError: if ``ethos-u-vela`` or the ``edge`` extra is not installed.
    ValueError: if the accelerator is unknown, the file is missing, damaged or of another kind, or
      the compiler does not take it.

  References:
    `Vela <https://pypi.org/project/ethos-u-vela/>`_, the Ethos-U compiler.
  """
  if accelerator not in ACCELERATORS:
    raise ValueError(
      f"accelerator: {accelerator!r} is unknown; it must be one of {', '.join(ACCELERATORS)}."
    )
  if pathlib.Path(path).suffix.lower() != ".tflite":
    raise ValueError(f"path: {path} is no .tflite file, which is what Vela compiles.")
  require("vela")
  content = read_sound_model(path)
  output, summary = _compile(path, content, accelerator)
  with parsing(path):
    names = {tensor.name: op.name for op in parse_operators(content) for tensor in op.outputs}
  reasons = dict(REFUSED.findall(output))
  counts = {unit: int(count) for unit, count in COUNT.findall(output)}
  return VelaReport(
    operators=sum(counts.values()),
    on_npu=counts["NPU"],
    cpu_ops=tuple(
      CpuOperator(names.get(tensor, kind), tensor, reasons.get(tensor, ""))
      for kind, tensor in ON_CPU.findall(output)
    ),
    sram_kib=float(summary["sram_memory_used"]),
    storage_kib=sum(float(summary[column]) for column in STORAGE),
    milliseconds=1e3 * float(summary["inference_time"]),
  )


def _compile(
  path: str | os.PathLike, content: bytes, accelerator: str
) -> tuple[str, dict[str, str]]:
  """Runs the compiler: all that it prints, and the row of its summary."""
  with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "model.tflite").write_bytes(content)
    options = ["--accelerator-config", accelerator, "--output-dir", "out", "--show-cpu-operations"]
    done = subprocess.run(
      [sys.executable, "-m", "ethosu.vela", "model.tflite", *options],
      cwd=folder,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )
    summaries = list(pathlib.Path(folder).glob("out/*summary*.csv"))
    if done.returncode or not summaries:
      lines = (line for line in done.stdout.splitlines() if not line.startswith(DEFAULTS))
      reason = " ".join(" ".join(lines).split())[-200:].rstrip(".")
      raise ValueError(
        f"path: Vela does not compile {path} (exit code {done.returncode}{reason and ': '}{reason})."
      )
    with summaries[0].open(newline="") as file:
      (row,) = csv.DictReader(file)
  return done.stdout, row
