"""The program: its commands, and how it starts."""

import gc
import logging
import os
import sys
from typing import Annotated

import typer

import jaxcompress
from jaxcompress.cli.certify import certify
from jaxcompress.cli.commands import bench, export, info, lint, quantize
from jaxcompress.cli.compress import compress
from jaxcompress.cli.ending import end, leave_threads
from jaxcompress.cli.explaining import explain
from jaxcompress.cli.locating import locate
from jaxcompress.cli.using import evaluate, predict
from jaxcompress.terminal import print_in_any_encoding

HEAVY = {"compress", "quantize"}  # commands that compute for long
KEPT_MEMORY = ":".join(  # huge pages, one heap, and nothing of it goes back to the system
  f"glibc.malloc.{setting}"
  for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**31 - 1}", "arena_max=1")
)
YOUNG, MIDDLE, OLD = 100_000, 50, 100  # allocations, and collections of the next younger ones

app = typer.Typer(
  add_completion=False,
  pretty_exceptions_enable=False,
  rich_markup_mode=None,
)
COMMANDS = (
  *(compress, predict, evaluate, quantize),
  *(export, certify, locate, explain),
  *(info, bench, lint),
)
for command in COMMANDS:
  app.command()(command)


def _say_version(asked: bool) -> None:
  if asked:
    typer.echo(f"jaxcompress {jaxcompress.__version__}")
    raise typer.Exit


@app.callback()
def options(
  version: Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version.")
  ] = False,
) -> None:
  """Small vision models for the edge: distilled, quantized and written to an integer file whose logits
  on the device are bit for bit those computed here.
  """


def start() -> None:
  """The program's entry: once more with an allocator that keeps memory, then :func:`main`.

  JAX frees and takes hundreds of megabytes at each step. With glibc's defaults these go back to the system
  in between, and a third of a step on CPU goes into page faults. A process cannot change this about
  itself, so it starts again as another program under the same number, with :data:`KEPT_MEMORY`.
  ``GLIBC_TUNABLES`` in the environment is left alone.

  Tracing makes millions of small objects that stay. Python's cyclic garbage collector, which would
  look at all of them again and again, comes rarely: a step is traced in two thirds of the time.
  Arrays are freed by their reference counts as before.
  """
  if sys.platform == "linux" and {*sys.argv[1:2]} & HEAVY and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = KEPT_MEMORY
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  gc.set_threshold(YOUNG, MIDDLE, OLD)
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # what orbax logs is said in our own words
  warnings = (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning")
  os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))  # of memory of killed processes
  try:
    main()
  except SystemExit as stop:
    leave_threads(stop.code)
    raise


def main() -> None:
  """Runs the command line; a mistake of the user's is one line on stderr and exit code 2."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  print_in_any_encoding(sys.stdout, sys.stderr)
  try:
    try:
      command = typer.main.get_command(app)
      with command.make_context("jaxcompress", sys.argv[1:] or ["--help"]) as context:
        command.invoke(context)
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()  # where it cannot be written, it is said here
  except typer.Exit as stop:
    sys.exit(stop.exit_code)
  except (Exception, KeyboardInterrupt) as error:
    end(error)
  sys.exit(0)
