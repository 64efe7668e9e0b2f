"""metrics.jsonl: one JSON object per line, readable while a run writes it and after a kill."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Required, TextIO, TypedDict

from msgspec import Meta

from jaxcompress.files.records import from_plain, plain
from jaxcompress.files.values import parse_json
from jaxcompress.files.writing import write_atomically

Row = dict[str, Any]


class _Drawn(TypedDict, total=False):
  """Values of a row that the report uses; it may have others."""

  phase: str
  step: Required[Annotated[int, Meta(le=1 << 53)]]
  loss: float | None
  accuracy: float | None
  top1: float | None
  seconds: float | None


class MetricsWriter:
  """Appends rows to a file of JSON lines; each line is complete and flushed, or absent.

  A line counts once its newline is there: what a killed process left of its last one is cut off
  when the file is opened, which is with the first row. Values may be device scalars; those that are
  not finite become null.

  Args:
    path: the file; it is made if it is not there.

  Examples:
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/metrics.jsonl"
    >>> with MetricsWriter(path) as writer:
    ...   writer.write("teacher", 10, loss=1.5, accuracy=0.25)
    ...   writer.write("teacher", 20, loss=1.2, accuracy=0.5)
    >>> with MetricsWriter(path) as writer:
    ...   writer.rewind("teacher", 10)  # the run resumes after step 10
    >>> read_metrics(path)
    [{'phase': 'teacher', 'step': 10, 'loss': 1.5, 'accuracy': 0.25}]
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self._file: TextIO | None = None

  def write(self, phase: str, step: int, **values: Any) -> None:
    """Appends one row of a phase."""
    if self._file is None:
      if self.path.exists():
        _cut_torn_line(self.path)
      self._file = self.path.open("a", encoding="utf-8")
    self._file.write(_line(plain({"phase": phase, "step": int(step), **values})))
    self._file.flush()

  def rows(self) -> list[Row]:
    """The rows that are there, also those of an earlier writer."""
    return read_metrics(self.path) if self.path.exists() else []

  def rewind(self, phase: str, step: int) -> None:
    """Drops a phase's rows past a step, as when a run resumes there; 0 starts the phase anew."""
    rows = self.rows()
    kept = [row for row in rows if row.get("phase") != phase or row["step"] <= step]
    if len(kept) == len(rows):
      return
    self.close()
    write_atomically(self.path, "".join(_line(plain(row)) for row in kept))

  def close(self) -> None:
    """Closes the file; another row opens it again."""
    if self._file is not None:
      self._file.close()
    self._file = None

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def read_metrics(path: str | os.PathLike) -> list[Row]:
  """The rows of a metrics file, in order; a torn last line is left out.

  Raises:
    ValueError: if a complete line is no row: a JSON object with a ``step``, whose figures are
      finite.

  Examples:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text('{"phase": "teacher", "step": 10, "loss": 1.5}\\n{"phase": "tea')
    >>> read_metrics(path)
    [{'phase': 'teacher', 'step': 10, 'loss': 1.5}]
  """
  lines = pathlib.Path(path).read_bytes().split(b"\n")[:-1]
  return [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
  """Rows by phase, in the order in which the phases began, without their ``phase``.

  Examples:
    >>> curves([{"phase": "teacher", "step": 1, "loss": 2.0}])
    {'teacher': [{'step': 1, 'loss': 2.0}]}
  """
  result: dict[str, list[Row]] = {}
  for row in rows:
    fields = {name: value for name, value in row.items() if name != "phase"}
    result.setdefault(row.get("phase", "train"), []).append(fields)
  return result


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(path: str | os.PathLike, number: int, line: bytes) -> Row:
  try:
    row = parse_json(line)
    from_plain(_Drawn, row, newer=True)
  except ValueError as error:
    raise ValueError(
      f"path: line {number} of {os.fspath(path)} is no row of metrics: {line[:60]!r}; delete it."
    ) from error
  return row


def _cut_torn_line(path: pathlib.Path) -> None:
  """Truncates a file after its last newline."""
  data = path.read_bytes()
  whole = data.rfind(b"\n") + 1
  if whole < len(data):
    os.truncate(path, whole)
