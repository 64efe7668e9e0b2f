"""The operators of a .tflite file, as a table for the terminal."""

from collections.abc import Iterable, Sequence
from operator import itemgetter

from jaxcompress.report.layout import Table, Words

LONGEST = 14  # characters of a word that is not broken


def operator_table(rows: Sequence[tuple[str, ...]]) -> Table:
  """A row for each operator.

  Args:
    rows: of an :class:`~jaxcompress.export.foreign.explain.Explanation`.

  Examples:
    >>> rows = [("0", "MEAN", "INT8 (1, 4)", "0.5 * q", "GlobalAvgPool", "xnnpack = tflm")]
    >>> [column.cell(rows[0]) for column in operator_table(rows).columns][:2]
    ['0 MEAN', 'INT8 (1, 4)']
  """
  rows = [(*row[:2], row[2].replace(", ", ","), *row[3:]) for row in rows]
  heads = ("makes", "grid", "read as", "computed alike in")
  columns = [Words("operator", lambda row: f"{row[0]} {row[1]}", whole=True)]
  columns += [
    Words(head, itemgetter(place), least=_longest(row[place] for row in rows))
    for place, head in enumerate(heads, 2)
  ]
  return Table(columns, rows, tight=True)


def _longest(cells: Iterable[str]) -> int:
  """Characters of the longest word, up to :data:`LONGEST`."""
  return min(LONGEST, max((len(word) for cell in cells for word in cell.split()), default=1))
