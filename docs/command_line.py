"""The page of the command line, from the commands themselves."""

import typer

from jaxcompress.cli import app

PLACE = "{{ commands }}"


def on_page_markdown(markdown: str, **kwargs: object) -> str:
  """Puts every command with its arguments and options where the page asks for them."""
  return markdown.replace(PLACE, "\n".join(commands())) if PLACE in markdown else markdown


def commands() -> list[str]:
  """A section for each command, in the order of ``jaxcompress --help``."""
  group = typer.main.get_command(app)
  lines = []
  for name, command in group.commands.items():
    lines += [f"## {name}", "", " ".join((command.help or "").split()), ""]
    lines += ["| option | |", "|---|---|"]
    for parameter in command.params:
      record = parameter.get_help_record(typer.Context(command)) or (parameter.name.upper(), "")
      usage, text = (
        record if parameter.param_type_name == "option" else (record[0], _help(parameter))
      )
      lines.append(f"| `{_cell(usage)}` | {_cell(text)} |")
    lines.append("")
  return lines


def _help(parameter: object) -> str:
  return getattr(parameter, "help", None) or ""


def _cell(text: str) -> str:
  return " ".join(text.split()).replace("|", "\\|")
