"""``jaxcompress lint``: a model file against a device."""

from typing import Annotated

import typer


def lint(
  file: Annotated[str, typer.Argument(help="A .tflite file; an .onnx file for tensorrt.")],
  target: Annotated[
    str, typer.Option(help="xnnpack, tflm, ethos-u, edgetpu or tensorrt.")
  ] = "xnnpack",
) -> None:
  """Check a model file against what a device or its compiler asks; exit code 1 if it breaks that."""
  from rich.console import Console

  from jaxcompress import export, report
  from jaxcompress.terminal import say

  findings = export.lint(file, target)
  console = Console()
  if findings:
    console.print(report.finding_table(findings))
  errors = sum(finding.severity == "error" for finding in findings)
  warnings = len(findings) - errors
  say(console, f"{file} for {target}: errors {errors}, warnings {warnings}")
  if errors:
    raise typer.Exit(1)
