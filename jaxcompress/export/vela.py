"""Where an Arm Ethos-U NPU computes a file's operators, as Arm's compiler places them."""

import csv
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

from jaxcompress.export.contents import parse_operators
from jaxcompress.export.extras import require
from jaxcompress.export.trial import parsing, read_sound_model

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
      :data:`~jaxcompress.export.vela.ACCELERATORS`.

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
