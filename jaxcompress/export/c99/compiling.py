"""Compilers for folders of C, and the processors that they compile for."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxcompress.arguments import unknown
from jaxcompress.export.emulation import emulator_folder
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.files.values import one_line

CROSS_COMPILER = "arm-none-eabi-gcc"
EMULATOR = "qemu-arm"
STANDARD = ("-std=c99", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SEMIHOSTING = ("--specs=rdimon.specs",)
HERE = ("cc", "gcc", "clang")  # compilers of this machine, the first that there is
SHOWN = 400  # letters of what a compiler says
CORES: Mapping[str, tuple[str, ...]] = {
  "cortex-m0": ("-mcpu=cortex-m0", "-mthumb", "-mfloat-abi=soft"),
  "cortex-m4": ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
  "cortex-m7": ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
  "cortex-m55": ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
}
"""Options of the compiler, by processor."""


class Sections(NamedTuple):
  """Sizes of a program in bytes.

  Attributes:
    text: code and constants, in flash.
    data: values of variables, in flash and in memory.
    bss: of variables that are zero at first, in memory.
  """

  text: int
  data: int
  bss: int


def find_compiler(processor: str | None = None) -> str:
  """The compiler for a processor.

  Args:
    processor: of :data:`CORES`; None: this machine, whose compiler ``CC`` in the environment names, or
      else is the first one there is.

  Raises:
    MissingExtraError: if it is not installed.
    ValueError: if the processor is unknown.
  """
  if processor is None:
    named = os.environ.get("CC")
    for name in (named,) if named else HERE:
      if path := shutil.which(name):
        return path
    what = named or "cc"
    raise MissingExtraError(
      f"c: it needs a C compiler, {what}, which is not installed; on Debian run apt-get install gcc."
    )
  if processor not in CORES:
    raise unknown("processor", processor, CORES)
  if path := shutil.which(CROSS_COMPILER):
    return path
  raise MissingExtraError(
    f"processor: {processor} needs {CROSS_COMPILER}, which is not installed; on Debian run apt-get"
    " install gcc-arm-none-eabi libnewlib-arm-none-eabi."
  )


def find_emulator(processor: str) -> str:
  """The program that runs those of a processor: what ``.ci/arm`` of the repository put beside the one for
  64-bit Arm, or else what is installed.

  Raises:
    MissingExtraError: if it is not there.
  """
  try:
    own = emulator_folder() / EMULATOR
    if own.is_file():
      return str(own)
  except MissingExtraError:
    pass
  if path := shutil.which(EMULATOR):
    return path
  raise MissingExtraError(
    f"processor: {processor} needs {EMULATOR}, which is not installed; on Debian 13 run apt-get install"
    " qemu-user (the one of Debian 12 is too old)."
  )


def compile_c(
  sources: Sequence[pathlib.Path],
  out: pathlib.Path,
  include: pathlib.Path,
  *,
  processor: str | None = None,
  options: Sequence[str] = ("-O2",),
  libraries: Sequence[str] = ("-lm",),
) -> pathlib.Path:
  """Compiles C99 into a program, with all warnings as errors.

  Args:
    sources: the files.
    out: the program.
    include: folder of headers.
    processor: as for :func:`find_compiler`; then it runs under semihosting.
    options: further ones of the compiler.
    libraries: that it is linked with.

  Returns:
    The program.

  Raises:
    MissingExtraError: if the compiler is not installed.
    ValueError: if it does not compile; with what the compiler says first.
  """
  target = () if processor is None else (*CORES.get(processor, ()), *SEMIHOSTING)
  command = [find_compiler(processor), *target, *STANDARD, *options, f"-I{include}"]
  command += [*map(str, sources), "-o", str(out), *libraries]
  _run(command, sources[0])
  return out


def compile_objects(
  sources: Sequence[pathlib.Path], include: pathlib.Path, options: Sequence[str]
) -> Sections:
  """Compiles for a Cortex-M without linking, and adds up the sizes of the objects.

  Args:
    sources: the files, in a folder that gets the objects.
    include: folder of headers.
    options: of the compiler.

  Raises:
    MissingExtraError: if the compiler is not installed.
    ValueError: if it does not compile.
  """
  found = []
  for source in sources:
    out = source.with_suffix(".o")
    command = [
      find_compiler("cortex-m4"),
      *options,
      f"-I{include}",
      "-c",
      str(source),
      "-o",
      str(out),
    ]
    _run(command, source)
    found.append(sections(out))
  return Sections(*map(sum, zip(*found, strict=True)))


def _run(command: Sequence[str], source: pathlib.Path) -> None:
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode or not pathlib.Path(command[command.index("-o") + 1]).exists():
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
    said = one_line(lines[0])[:SHOWN] if lines[0].strip() else f"exit code {done.returncode}"
    raise ValueError(f"c: {source.parent} does not compile with {command[0]} ({said}).")


def sections(file: pathlib.Path) -> Sections:
  """Sizes of a program or an object for a Cortex-M.

  Raises:
    MissingExtraError: if the tools for Cortex-M are not installed.
  """
  tool = find_compiler("cortex-m4").removesuffix("gcc") + "size"
  done = subprocess.run([tool, str(file)], capture_output=True, text=True, check=True)
  return Sections(*map(int, done.stdout.splitlines()[1].split()[:3]))
