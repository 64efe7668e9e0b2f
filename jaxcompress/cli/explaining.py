"""The command that says what a .tflite file is made of."""

import json
from typing import Any

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command


@command(
  model=Argument(str, "A .tflite file, whoever wrote it.", NEEDED, more={"metavar": "FILE"}),
  json=Parameter(bool, "Print JSON.", False),
)
def explain(model: str, **given: Any) -> None:
  """Say what a .tflite file is made of: operators, grids, metadata, and what is evaluated exactly.

  Exit code 0: all of it is; 1: some operators are not.
  """
  import typer
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  from jaxcompress import export
  from jaxcompress.terminal import literal, spelled

  found = export.explain(model)
  if given["json"]:
    print(json.dumps(found.to_json(), indent=2))
  else:
    console = Console()
    show = lambda words: Text(spelled(literal(words), console.encoding))  # noqa: E731
    for name, words in found.facts():
      console.print(show(f"{name:8}"), show(words))
    table = Table("", "operator", "makes", "grid", "read as", "computed alike in", box=None)
    for row in found.rows():
      table.add_row(*map(show, row))
    console.print(table)
    console.print(show(found.verdict()))
  if not found.is_exact:
    raise typer.Exit(1)
