"""``jaxcompress bench``: model files side by side."""

from typing import Annotated

import typer


def bench(
  files: Annotated[list[str], typer.Argument(help=".tflite and .onnx files.")],
  threads: Annotated[int, typer.Option(help="Threads that the runtimes compute on.")] = 1,
  repeats: Annotated[int, typer.Option(help="Timed runs of each file.")] = 200,
) -> None:
  """Time model files side by side in their runtimes, one image at a time."""
  from rich.console import Console

  from jaxcompress import export, report

  found = {file: export.benchmark(file, threads=threads, repeats=repeats) for file in files}
  Console().print(report.latency_table(found, threads))
