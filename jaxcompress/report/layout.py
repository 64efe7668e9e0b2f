"""Tables whose cells are text and whose figures stay whole, at any width and in any encoding."""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import rich.table
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from jaxcompress.terminal import fill, literal, spelled

LONGEST_PART = 8  # characters of a name that need not be broken where a table is narrow
SIGNS = "+-−±~ "
DASH = "–"


class PlainTable(Table):
  """A table that takes strings as they are; one that does not fit is shown row by row.

  Figures, which begin with a digit or a sign, are never broken: where the widest ones do not fit
  side by side, every row becomes a few lines, each with a column's name and the cell. Names that
  are too long for their column are broken behind their slashes; ``min_width`` says what they need.

  Examples:
    >>> table = PlainTable()
    >>> table.add_column("file")
    >>> table.add_column("size", justify="right")
    >>> table.add_row("[b]a.tflite", "1.23 MB")
    >>> Console(width=12).print(table)
    [b]a.tflite
      size
        1.23 MB
  """

  def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
    shown = self._spelled(options)
    widths = shown._widths(console, options)
    if widths is None:
      yield from shown._records(options)
      return
    shown.columns = [
      dataclasses.replace(
        column,
        width=width,
        min_width=None,
        _cells=[_at_slashes(cell, width) for cell in column._cells],
      )
      for column, width in zip(shown.columns, widths, strict=True)
    ]
    yield from Table.__rich_console__(shown, console, options)

  def _spelled(self, options: ConsoleOptions) -> "PlainTable":
    """The table with texts alone, in the characters of the console's encoding."""

    def spell(value: Any) -> Any:
      found = value if isinstance(value, Text) else Text(str(value or ""))
      return Text(spelled(_lines(found.plain), options.encoding), found.style)

    made = copy.copy(self)
    made.columns = [
      dataclasses.replace(
        column,
        header=spell(column.header),
        footer=spell(column.footer),
        overflow="fold",
        _cells=list(map(spell, column._cells)),
      )
      for column in self.columns
    ]
    made.title = None if self.title is None else spell(self.title)
    if self.caption is not None:
      caption = spell(self.caption)
      made.caption = Text(fill(caption.plain, options.max_width), caption.style)
    return made

  def _widths(self, console: Console, options: ConsoleOptions) -> list[int] | None:
    """Widths of the columns; None if not even what must not be broken fits."""
    if not self.columns:
      return []
    thin = copy.copy(self)
    thin.columns = [dataclasses.replace(column, width=1, min_width=None) for column in self.columns]
    wide = options.update_width(10_000)
    room = options.max_width - (
      Table.__rich_measure__(thin, console, wide).maximum - len(thin.columns)
    )
    needs = [self._need(column) for column in self.columns]
    spare = room - sum(least for least, _ in needs)
    return None if spare < 0 else _shared(needs, spare)

  def _need(self, column: rich.table.Column) -> tuple[int, int]:
    """Characters that a column needs at least, and those with which nothing is broken."""
    cells: list[Any] = [*column._cells, *([column.footer] if self.show_footer else [])]
    most = least = column.min_width or 1
    for line in (line for cell in cells for line in cell.plain.splitlines()):
      aligned = column.justify == "right" and _is_figure(line)
      words = [line] if column.no_wrap or aligned else line.split()
      kept = (
        cell_len(word) if column.no_wrap or _is_figure(word) else min(cell_len(word), LONGEST_PART)
        for word in words
      )
      most, least = max(most, cell_len(line)), max(least, *kept, 1)
    header: Any = column.header
    for line in header.plain.splitlines() if self.show_header else ():
      most, least = max(most, cell_len(line)), max(least, *map(cell_len, line.split()), 1)
    return least, most

  def _records(self, options: ConsoleOptions) -> Iterator[Text]:
    """The rows one after another."""
    if isinstance(self.title, Text):
      yield self.title
    names = [_one_line(column.header) for column in self.columns]
    rows: list[Sequence[Any]] = list(zip(*(column._cells for column in self.columns), strict=True))
    if self.show_footer:
      rows.append([column.footer for column in self.columns])
    for first, *others in rows:
      yield Text(first.plain, "bold", overflow="fold")
      yield from _entries(names[1:], others, options.max_width)
    if isinstance(self.caption, Text):
      yield self.caption


class Column(NamedTuple):
  """A column of a table, as data: figures at the right, or words at the left.

  Attributes:
    title: its heading.
    cell: of a row; None for a dash.
    total: its foot.
    words: whether it has words, which may be broken.
    whole: whether no cell may.
    least: characters that its cells need.
  """

  title: str | Text
  cell: Callable[[Any], str | Text | None]
  total: str = ""
  words: bool = False
  whole: bool = False
  least: int | None = None


Words = functools.partial(Column, words=True)


def draw(
  columns: Sequence[Column],
  rows: Iterable[Any],
  title: str | None = None,
  caption: str | None = None,
  *,
  tight: bool = False,
  strong: Callable[[Any], bool] = lambda row: False,
) -> PlainTable:
  """A table of columns and rows, for the terminal.

  Args:
    columns: what is shown of a row.
    rows: of any kind.
    title: above it.
    caption: below it.
    tight: whether columns stand near each other.
    strong: whether a row stands out.

  Examples:
    >>> table = draw([Words("name", lambda row: row), Column("size", lambda row: None)], ["a"])
    >>> table.row_count, [column.justify for column in table.columns]
    (1, ['left', 'right'])
  """
  table = PlainTable(
    title=Text(literal(title), "bold") if title else None,
    title_justify="left",
    caption=Text(caption) if caption else None,
    caption_justify="left",
    box=box.SIMPLE_HEAD,
    header_style="dim",
    footer_style="bold",
    pad_edge=False,
    collapse_padding=tight,
    show_footer=any(column.total for column in columns),
  )
  for column in columns:
    table.add_column(
      column.title,
      column.total,
      justify="left" if column.words else "right",
      no_wrap=column.whole,
      min_width=column.least,
      overflow="fold",
    )
  for row in rows:
    found = (column.cell(row) for column in columns)
    cells = (cell if isinstance(cell, Text) else Text(cell or DASH) for cell in found)
    table.add_row(*cells, style="bold" if strong(row) else "")
  return table


def name_parts(name: str) -> list[str]:
  """What a name is broken into where it is too long.

  Examples:
    >>> name_parts("stage0_block0/depthwise")
    ['stage0_block0/', 'depthwise']
  """
  return re.findall(r"[^/]*/|[^/]+", name)


def _lines(text: str) -> str:
  """A text in which only line breaks, which are ours, drive the terminal."""
  return "\n".join(map(literal, text.split("\n")))


def _one_line(cell: Any) -> str:
  """A text's lines in one."""
  return cell.plain.replace("-\n", "-").replace("\n", " ")


def _is_figure(text: str) -> bool:
  return text.lstrip(SIGNS)[:1].isdigit()


def _at_slashes(cell: Any, width: int) -> Any:
  """A name in lines that end with a slash, where it is longer than the column is wide."""
  if cell_len(cell.plain) <= width or any(map(str.isspace, cell.plain)):
    return cell
  lines = [""]
  for part in name_parts(cell.plain):
    if lines[-1] and cell_len(lines[-1] + part) > width:
      lines.append("")
    lines[-1] += part
  return Text("\n".join(lines), cell.style)


def _shared(needs: Sequence[tuple[int, int]], spare: int) -> list[int]:
  """Widths of columns that share what is spare; those that wish little get it first.

  Examples:
    >>> _shared([(4, 6), (4, 30), (4, 20)], 12)
    [6, 9, 9]
  """
  widths = [least for least, _ in needs]
  order = sorted(range(len(needs)), key=lambda i: needs[i][1] - needs[i][0])
  for done, i in enumerate(order):
    more = min(needs[i][1] - needs[i][0], spare // (len(order) - done))
    widths[i], spare = widths[i] + more, spare - more
  return widths


def _entries(names: Sequence[str], cells: Sequence[Any], width: int) -> Iterator[Text]:
  """Lines with a name and a cell each; a cell that does not fit beside the names stands below."""
  column = max(map(len, names), default=0)
  for name, cell in zip(names, cells, strict=True):
    value = _one_line(cell)
    if not value:
      continue
    if 2 + column + 2 + len(value) <= width:
      yield Text(f"  {name:<{column}}  {value}")
    else:
      yield Text(f"  {name}", overflow="fold")
      for line in fill(value, width - 4).splitlines():
        yield Text(f"    {line}", overflow="fold")
