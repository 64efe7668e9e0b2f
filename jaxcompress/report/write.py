"""Writes a report's files."""

import json
import os
import pathlib

from jaxcompress.files.writing import write_atomically
from jaxcompress.report import html, plots
from jaxcompress.report.results import Results
from jaxcompress.report.serial import to_json


def write_report(results: Results, folder: str | os.PathLike) -> dict[str, pathlib.Path]:
  """Writes ``report.html``, one PNG per plot and last ``report.json``, each whole or not at all.

  Args:
    results: what the run found.
    folder: where; it is made if it is not there. Files of an earlier report are replaced.

  Returns:
    The paths: ``json``, ``html``, and each plot's name.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.report.results import STAGES, Entry, Run
    >>> entries = dict.fromkeys(STAGES, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> write_report(results, tempfile.mkdtemp())["json"].name
    'report.json'
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  images = plots.render_plots(results)
  files: dict[str, tuple[str, str | bytes]] = {
    "html": ("report.html", html.render(results, images)),
    **{name: (f"{name}.png", data) for name, data in images.items()},
    "json": ("report.json", dumps(results)),
  }
  return {key: write_atomically(folder / name, data) for key, (name, data) in files.items()}


def dumps(results: Results) -> str:
  """The text of ``report.json``: strict JSON, one line per object of the top level."""
  fields = to_json(results).items()
  lines = (
    f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
    for name, value in fields
  )
  return "{\n" + ",\n".join(lines) + "\n}\n"
