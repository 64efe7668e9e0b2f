"""Versions of the runtimes, and a description of the machine."""

import contextlib
import pathlib
import platform
import subprocess
from importlib import metadata as packages

from jaxcompress.export.emulation import emulator_folder

PACKAGES = {
  "xnnpack": ("ai-edge-litert",),
  "reference": ("ai-edge-litert",),
  "tflm": ("tflite-micro",),
  "onnxruntime": ("onnxruntime",),
  "stablehlo": ("jax", "jaxlib"),
}


def versions_of(kernels: str, processor: str | None) -> dict[str, str]:
  """Versions of the packages and programs that compute."""
  if kernels == "c":
    from jaxcompress.export.c99.compiling import find_compiler, find_emulator

    programs = [find_compiler(processor)]
    programs += [find_emulator(processor)] if processor is not None else []
    return {pathlib.Path(program).name: _says(program) for program in programs}
  found = {}
  for name in PACKAGES.get(kernels, ()):
    with contextlib.suppress(packages.PackageNotFoundError):
      found[name] = packages.version(name)
  if processor is not None:
    folder = emulator_folder()
    found = {name: _version_in(folder, name) for name in PACKAGES.get(kernels, ())}
    found["qemu-aarch64"] = _says(str(folder / "qemu-aarch64"))
  return found


def _version_in(folder: pathlib.Path, package: str) -> str:
  """Version of a package that an emulated Python has."""
  for found in packages.distributions(path=[str(folder / "packages")]):
    if found.metadata["Name"].replace("_", "-").lower() == package:
      return found.version
  return "unknown"


def _says(program: str) -> str:
  """The first line of what a program says of its version."""
  try:
    done = subprocess.run(
      [program, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
  except (OSError, subprocess.SubprocessError):
    return "unknown"
  line = (done.stdout.splitlines() or ["unknown"])[0].strip()
  return line.removeprefix(pathlib.Path(program).name).strip() or line


def machine() -> dict[str, str]:
  """The present machine, in words."""
  return {
    "architecture": platform.machine().lower(),
    "processor": _processor(),
    "system": f"{platform.system()} {platform.release()}",
    "python": platform.python_version(),
  }


def _processor() -> str:
  """The processor's own name, where the system tells it."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()
