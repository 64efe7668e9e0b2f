"""TFLite's own metadata, read: how pictures are normalised, and names of classes, as other tools wrote them."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.standard import AXIS_LABELS, NORMALIZATION, STANDARD

SUBGRAPHS, INPUTS, OUTPUTS = 3, 2, 3  # places of fields in the schema
UNITS, FILES = 4, 6
MOST_LABELS = 2**20  # bytes
MOST_SHOWN = 8  # numbers of a mean


class Standard(NamedTuple):
  """Contents of TFLite's metadata.

  Attributes:
    name: of the model.
    pictures: how they are normalised, in words; empty if it says nothing.
    classes: their names; empty if there are none.
  """

  name: str = ""
  pictures: str = ""
  classes: tuple[str, ...] = ()


class _Table:
  """A table of a flatbuffer, field by field."""

  def __init__(self, content: bytes, place: int):
    import flatbuffers

    self.content, self._table = content, flatbuffers.table.Table(content, place)

  def _place(self, field: int) -> int:
    found = self._table.Offset(4 + 2 * field)
    return found and found + self._table.Pos

  def text(self, field: int) -> str:
    place = self._place(field)
    return self._table.String(place).decode(errors="replace") if place else ""

  def number(self, field: int) -> int:
    place = self._place(field)
    return self.content[place] if place else 0

  def table(self, field: int) -> "_Table | None":
    place = self._place(field)
    return _Table(self.content, self._table.Indirect(place)) if place else None

  def tables(self, field: int) -> Iterator["_Table"]:
    if not self._place(field):
      return
    offset = self._place(field) - self._table.Pos
    first = self._table.Vector(offset)
    for i in range(min(self._table.VectorLen(offset), len(self.content))):
      yield _Table(self.content, self._table.Indirect(first + 4 * i))

  def floats(self, field: int) -> list[float]:
    if not self._place(field):
      return []
    offset = self._place(field) - self._table.Pos
    first, count = self._table.Vector(offset), self._table.VectorLen(offset)
    numbers: list[float] = np.frombuffer(self.content, "<f4", count, first).tolist()
    return numbers


def describe_standard(path: str | os.PathLike, entries: Mapping[str, bytes | None]) -> Standard:
  """Reads pictures' normalization and classes from a file's TFLite metadata; empty if it is damaged.

  Args:
    path: of the file, behind whose model labels lie in an archive.
    entries: of its metadata, by name.
  """
  content = entries.get(STANDARD)
  if not content:
    return Standard()
  try:
    root = _Table(content, int.from_bytes(content[:4], "little"))
    name, graphs = root.text(0), list(root.tables(SUBGRAPHS))
    units = [unit for graph in graphs for end in graph.tables(INPUTS) for unit in end.tables(UNITS)]
    files = [
      file for graph in graphs for end in graph.tables(OUTPUTS) for file in end.tables(FILES)
    ]
    labels = [file.text(0) for file in files if file.number(2) == AXIS_LABELS]
    pictures = [_normalization(unit) for unit in units if unit.number(0) == NORMALIZATION]
  except Exception:  # whatever other bytes lead to
    return Standard(pictures="(TFLite's metadata is damaged)")
  classes = _labels(path, labels[0]) if labels else ()
  return Standard(name, "; ".join(pictures), classes)


def _normalization(unit: _Table) -> str:
  options: Any = unit.table(1)
  mean, std = (options.floats(place)[:MOST_SHOWN] for place in (0, 1))
  words = [", ".join(f"{number:g}" for number in part) for part in (mean, std)]
  return f"(pixel - mean) / std with mean {words[0]} and std {words[1]}"


def _labels(path: str | os.PathLike, name: str) -> tuple[str, ...]:
  try:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
      return tuple(file.read(MOST_LABELS).decode(errors="replace").splitlines())
  except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
    return ()
