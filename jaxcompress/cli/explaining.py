"""The command that says what a .tflite file is made of."""

import json
from typing import Any

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command


@command(
  model=Argument(
    str,
    "A .tflite file, whoever wrote it, or the folder of a run, whose student.tflite is meant.",
    NEEDED,
    more={"metavar": "FILE"},
  ),
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
  from jaxcompress.pipeline.opened import file_of
  from jaxcompress.report.explained import operator_table
  from jaxcompress.terminal import literal, say, spelled

  found = export.explain(file_of(model))
  if given["json"]:
    print(json.dumps(found.to_json(), indent=2))
  else:
    console = Console()
    show = lambda words: Text(spelled(literal(words), console.encoding))  # noqa: E731
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for fact in found.facts():
      facts.add_row(*map(show, fact))
    console.print(facts)
    console.print(operator_table(found.rows()))
    say(console, found.verdict())
  if not found.is_exact:
    raise typer.Exit(1)
