"""The program: commands and how they end."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from jaxcompress.cli.bench import bench
from jaxcompress.cli.compress import compress
from jaxcompress.cli.ending import INTERRUPTED, EndError, end, leave_threads
from jaxcompress.cli.export import export
from jaxcompress.cli.info import info
from jaxcompress.cli.lint import lint
from jaxcompress.cli.programs import collect_rarely
from jaxcompress.cli.quantize import quantize
from jaxcompress.terminal import print_in_any_encoding

app = typer.Typer(
  help="Small vision models for the edge: distilled, quantized and written to an integer file"
  " whose logits on the device are bit for bit those computed here.",
  no_args_is_help=True,
  add_completion=False,
  pretty_exceptions_enable=False,
  rich_markup_mode=None,
)


def _heard(command: Callable[..., None]) -> Callable[..., None]:
  """The command, whose Ctrl-C typer would take for an end without a word."""

  @functools.wraps(command)
  def run(**given: Any) -> None:
    try:
      command(**given)
    except KeyboardInterrupt as error:
      raise EndError("stopped", INTERRUPTED) from error

  return run


for command in (compress, quantize, export, info, bench, lint):
  app.command()(_heard(command))


def start() -> None:
  """The program's entry: once more with huge pages where glibc has them, then :func:`main`.

  JAX frees and takes hundreds of megabytes at each step; with ordinary pages a third of a step on
  CPU goes into page faults. A process cannot change this about itself, so it starts again as
  another program under the same number. ``GLIBC_TUNABLES`` in the environment is left alone.
  """
  if sys.platform == "linux" and "compress" in sys.argv[1:2] and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  collect_rarely()
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
      app()
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()  # where it cannot be written, it is said here
  except (Exception, KeyboardInterrupt) as error:
    end(error)
