"""Results as report.json and back, and the files of a report."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.export.certificate import (
  CERTIFICATE_FILE,
  Certificate,
  hash_file,
  read_certificate,
)
from jaxcompress.files.records import from_plain, plain
from jaxcompress.files.values import check_format
from jaxcompress.files.writing import write_atomically
from jaxcompress.report import html, plots, style
from jaxcompress.report.results import COMPARED, NEEDED, Results

FORMAT = 1
CERTIFICATE_PAGE = "certificate.html"


def to_json(results: Results) -> dict[str, Any]:
  """The results as plain JSON: dicts, lists, strings and finite numbers.

  Returns:
    A dict with the objects ``teacher``, ``alone``, ``distilled`` and ``int8``, each with the fields
    of an :class:`~jaxcompress.report.Entry`, null where they were not measured. Further entries are
    under ``others``. Numbers that are not finite become null.

  Examples:
    >>> from jaxcompress.report.results import Entry, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> data = to_json(results)
    >>> data["int8"]["top1"], data["run"]["classes"]
    (0.9, ['odd', 'even'])
  """
  fields = plain(
    {field.name: getattr(results, field.name) for field in dataclasses.fields(results)}
  )
  entries = fields.pop("entries")
  for layer, found in zip(fields["layers"], results.layers, strict=True):
    if found.weights is not None:
      layer["weights"] |= plain({"absmax": found.weights.high, "spread": found.weights.ratio})
  stages = {key: entries.pop(key) for key in COMPARED if key in entries}
  return {"format": FORMAT, **stages, "others": entries, **fields}


def from_json(data: Any) -> Results:
  """The results that :func:`to_json` wrote; what later versions added is left out.

  Raises:
    ValueError: if an object is missing, a value is of another type, or the file is of a later format.

  Examples:
    >>> from jaxcompress.report.results import Entry, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> same = from_json(to_json(results))
    >>> same.run == results.run, same.entries == results.entries
    (True, True)
  """
  if not isinstance(data, Mapping):
    raise ValueError("data: it is no object; this is no report.json.")
  check_format(data.get("format", FORMAT), FORMAT, "data:")
  missing = [key for key in (*NEEDED, "run") if key not in data]
  if missing:
    raise ValueError(f"data: {', '.join(missing)} missing; this is no report.json.")
  others = from_plain(dict[str, Any], data.get("others", {}))
  entries = {**{key: data[key] for key in COMPARED if key in data}, **others}
  results = from_plain(Results, {**data, "entries": entries, "confusion": None}, newer=True)
  if data.get("confusion") is None:
    return results
  counts = from_plain(list[list[int]], data["confusion"])
  try:
    return dataclasses.replace(results, confusion=np.array(counts, np.int64))
  except (ValueError, OverflowError) as error:  # rows of several lengths, or not one for each class
    raise ValueError(f"confusion: it is no matrix of the classes ({error})") from error


def write_report(results: Results, folder: str | os.PathLike) -> dict[str, pathlib.Path]:
  """Writes ``report.html``, one PNG per plot and last ``report.json``, each whole or not at all.

  Args:
    results: what the run found.
    folder: where; it is made if it is not there. Files of an earlier report are replaced.

  Returns:
    The paths: ``json``, ``html``, and each plot's name.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.report.results import Entry, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> write_report(results, tempfile.mkdtemp())["json"].name
    'report.json'
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  images, narrow = plots.render_plots(results), plots.render_plots(results, style.NARROW)
  files: dict[str, tuple[str, str | bytes]] = {
    "html": ("report.html", html.render(results, images, narrow, find_certificate(folder))),
    **{name: (f"{name}.png", data) for name, data in images.items()},
    "json": ("report.json", dumps(results)),
  }
  return {key: write_atomically(folder / name, data) for key, (name, data) in files.items()}


def find_certificate(folder: pathlib.Path) -> tuple[Certificate | None, str]:
  """The certificate in a folder, if there is one, and what is wrong with it, or with the files there.

  Examples:
    >>> find_certificate(pathlib.Path("/nowhere"))
    (None, '')
  """
  path = folder / CERTIFICATE_FILE
  if not path.is_file():
    return None, ""
  try:
    certificate, damage = read_certificate(path)
  except ValueError as error:
    return None, str(error)
  if damage is not None:
    return certificate, f"{CERTIFICATE_FILE} was changed after it was written: {damage}."
  for name, sha256 in certificate.model.items():
    if not (folder / name).is_file() or hash_file(folder / name) != sha256:
      return certificate, f"{name} is another one now than when it was certified."
  return certificate, ""


def write_certificate_page(
  certificate: Certificate, path: str | os.PathLike, program: str | None = None
) -> pathlib.Path:
  """Writes a page about a certificate.

  Args:
    certificate: what it shows.
    path: the file.
    program: that checks it elsewhere.

  Returns:
    The path.
  """
  return write_atomically(path, html.certificate_page(certificate, program))


def dumps(results: Results) -> str:
  """The text of ``report.json``: strict JSON, one line per object of the top level."""
  lines = (
    f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
    for name, value in to_json(results).items()
  )
  return "{\n" + ",\n".join(lines) + "\n}\n"
