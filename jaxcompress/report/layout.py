"""Tables as data, whose figures stay whole at any width and in any encoding."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import rich.table
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from jaxcompress.terminal import fill, literal, spelled

LONGEST_PART = 8  # characters of a name that need not be broken where a table is narrow
SIGNS = "+-−±~ "
DASH = "–"
HASH = re.compile("(?=.*[a-f])[0-9a-f]{32,}")


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


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """A table for the terminal; one that does not fit is shown row by row.

  Figures, which begin with a digit or a sign, are never broken: where the widest ones do not fit
  side by side, every row becomes a few lines, each with a column's name and the cell. Names that
  are too long for their column are broken behind their slashes. Cells are text, not markup.

  Attributes:
    columns: what is shown of a row.
    rows: of any kind.
    title: above it.
    caption: below it.
    tight: whether columns stand near each other, and the first at the edge.
    strong: whether a row stands out.
    group: of a row; a line is drawn between groups.

  Examples:
    >>> columns = Words("file", lambda row: row), Column("size", lambda row: "1.23 MB")
    >>> Console(width=12).print(Table(columns, ["[b]a.tflite"]))
    [b]a.tflite
      size
        1.23 MB
  """

  columns: Sequence[Column]
  rows: Sequence[Any]
  title: str | None = None
  caption: str | None = None
  tight: bool = False
  strong: Callable[[Any], bool] = lambda row: False
  group: Callable[[Any], Any] = lambda row: None

  def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
    def spell(value: str | Text | None) -> Text:
      found = value if isinstance(value, Text) else Text(value or "")
      lines = "\n".join(map(literal, found.plain.split("\n")))  # line breaks are ours
      return Text(spelled(lines, options.encoding), found.style)

    heads = [spell(column.title) for column in self.columns]
    feet = [spell(column.total) for column in self.columns]
    cells = [[spell(column.cell(row) or DASH) for column in self.columns] for row in self.rows]
    title = Text(spell(self.title).plain, "bold") if self.title else None
    caption = Text(fill(spell(self.caption).plain, options.max_width)) if self.caption else None
    shown = [*cells, feet] if any(foot.plain for foot in feet) else cells
    needs = [
      _need(column, head, [row[i] for row in shown])
      for i, (column, head) in enumerate(zip(self.columns, heads, strict=True))
    ]
    thin = self._drawn(heads, feet, [], [1] * len(needs))
    wide = options.update_width(10_000)
    frame = rich.table.Table.__rich_measure__(thin, console, wide).maximum - len(needs)
    spare = options.max_width - frame - sum(least for least, _ in needs)
    if spare >= 0:
      table = self._drawn(heads, feet, cells, _shared(needs, spare))
      table.title, table.caption = title, caption
      yield table
      return
    yield from filter(None, [title])
    names = [_one_line(head) for head in heads]
    for first, *others in shown:
      yield Text(first.plain, "bold", overflow="fold")
      yield from _entries(names[1:], others, options.max_width)
    yield from filter(None, [caption])

  def _drawn(
    self,
    heads: Sequence[Text],
    feet: Sequence[Text],
    cells: Sequence[Sequence[Text]],
    widths: Sequence[int],
  ) -> rich.table.Table:
    """The table at some widths of its columns."""
    table = rich.table.Table(
      title_justify="left",
      caption_justify="left",
      box=box.SIMPLE_HEAD,
      header_style="dim",
      footer_style="bold",
      pad_edge=False,
      collapse_padding=self.tight,
      show_edge=not self.tight,
      show_footer=any(foot.plain for foot in feet),
    )
    for column, head, foot, width in zip(self.columns, heads, feet, widths, strict=True):
      justify = "left" if column.words else "right"
      table.add_column(head, foot, justify=justify, width=width, overflow="fold")  # type: ignore[arg-type]
    for i, (row, line) in enumerate(zip(self.rows, cells, strict=False)):
      ends = any(self.group(row) != self.group(following) for following in self.rows[i + 1 : i + 2])
      style = "bold" if self.strong(row) else ""
      table.add_row(*map(_at_slashes, line, widths), style=style, end_section=ends)
    return table


def _need(column: Column, head: Text, cells: Sequence[Text]) -> tuple[int, int]:
  """Characters that a column needs at least, and those with which nothing is broken."""
  most = least = column.least or 1
  for line in (line for cell in cells for line in cell.plain.splitlines()):
    whole = column.whole or (not column.words and _is_figure(line))
    kept = (
      cell_len(word) if whole or _is_figure(word) else min(cell_len(word), LONGEST_PART)
      for word in ([line] if whole else line.split())
    )
    most, least = max(most, cell_len(line)), max(least, *kept, 1)
  for line in head.plain.splitlines():
    most, least = max(most, cell_len(line)), max(least, *map(cell_len, line.split()), 1)
  return least, most


def _one_line(cell: Text) -> str:
  """A text's lines in one."""
  return cell.plain.replace("-\n", "-").replace("\n", " ")


def name_parts(name: str) -> list[str]:
  """Parts into which a name is broken where it is too long.

  Examples:
    >>> name_parts("stage0_block0/depthwise")
    ['stage0_block0/', 'depthwise']
  """
  return re.findall(r"[^/]*/|[^/]+", name)


def _lines(text: str) -> str:
  """A text in which only line breaks, which are ours, drive the terminal."""
  return "\n".join(map(literal, text.split("\n")))


def _is_figure(text: str) -> bool:
  """Whether a text begins as a figure; a hash may be broken, also one whose first digit is a decimal one.

  Examples:
    >>> _is_figure("+1.5 points"), _is_figure("52a83795bf7db8d179035375edb64962,")
    (True, False)
  """
  return text.lstrip(SIGNS)[:1].isdigit() and HASH.fullmatch(text.rstrip(",.")) is None


def _at_slashes(cell: Text, width: int) -> Text:
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


def _entries(names: Sequence[str], cells: Sequence[Text], width: int) -> Iterator[Text]:
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
