"""Printing: names as the text that they are, figures whole, in any encoding."""

import codecs
import contextlib
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich import get_console
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  ProgressColumn,
  Task,
  TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Column
from rich.text import Text

SPELLED = "jaxcompress.spelled"  # how codecs know :func:`_spell`
SPELLINGS = {
  "\N{NO-BREAK SPACE}": " ",
  "\N{EN DASH}": "-",
  "\N{HORIZONTAL ELLIPSIS}": "...",
  "\N{PLUS-MINUS SIGN}": "+-",
  "\N{RIGHTWARDS ARROW}": "->",
  "\N{MIDDLE DOT}": "*",
  "\N{SUPERSCRIPT TWO}": "^2",
  "\N{DOUBLE VERTICAL LINE}": "||",
}
NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no UTF-8, ends of lines
BAR, LEAST_BAR, LEAST_NAME = 28, 4, 10
TIME = 7  # characters of h:mm:ss


def literal(text: str) -> str:
  """A text on one line in which nothing drives the terminal.

  Args:
    text: such as a path; bytes in it that are no UTF-8 are surrogates.

  Examples:
    >>> literal("[bold]a\\x1b[31m b\\n"), literal("\\udcff.png")
    ('[bold]a\\\\x1b[31m b\\\\n', '\\\\udcff.png')
  """
  return "".join(repr(c)[1:-1] if unicodedata.category(c) in NOT_TEXT else c for c in text)


def spelled(text: str, encoding: str) -> str:
  """A text in an encoding's characters; others are spelled, or else written as their numbers.

  Examples:
    >>> spelled("5 ± 2 … é σ", "ascii"), spelled("é", "utf-8")
    ('5 +- 2 ... \\\\xe9 sigma', 'é')
  """
  return text.encode(encoding, SPELLED).decode(encoding)


def _spell(error: UnicodeError) -> tuple[str, int]:
  if not isinstance(error, UnicodeEncodeError):
    raise error
  return "".join(map(_spelling, error.object[error.start : error.end])), error.end


def _spelling(character: str) -> str:
  greek = re.match(r"GREEK SMALL LETTER (\w+)$", unicodedata.name(character, ""))
  if greek:
    return greek[1].lower()
  return SPELLINGS.get(character) or character.encode("ascii", "backslashreplace").decode()


codecs.register_error(SPELLED, _spell)


def print_in_any_encoding(*streams: Any) -> None:
  """Lets text streams write every character, spelled where their encoding has it not.

  Examples:
    >>> import io
    >>> stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    >>> print_in_any_encoding(stream)
    >>> stream.write("10 ± 1") and stream.flush()
    >>> stream.buffer.getvalue()
    b'10 +- 1'
  """
  for stream in streams:
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors=SPELLED)


def fill(text: str, width: int) -> str:
  """A text in lines that end between words, but not after a number: its unit follows it.

  Words that are longer than a line stay whole.

  Examples:
    >>> print(fill("it takes 12.3 MB", 11))
    it takes
    12.3 MB
  """
  glued = re.sub(r"(?<=\d) (?=\S)", "\N{NO-BREAK SPACE}", text)
  lines = textwrap.wrap(glued, max(width, 1), break_long_words=False, break_on_hyphens=False)
  return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def say(console: Console, text: str) -> None:
  """Prints a sentence as it is: no markup, no emoji codes; one line where no terminal shows it.

  Examples:
    >>> say(Console(width=9), "[bold]net.tflite: 1 kB :smile:")
    [bold]net.tflite: 1 kB :smile:
  """
  line = spelled(literal(text), console.encoding)
  line = fill(line, console.width) if console.is_terminal else line
  console.print(line, markup=False, emoji=False, soft_wrap=True)


def waiting(console: Console, text: str) -> Status:
  """A context that shows what is being done, as :func:`say` would print it."""
  spinner = "dots" if console.encoding.startswith("utf") else "line"
  return console.status(Text(spelled(literal(text), console.encoding)), spinner=spinner)


def progress(
  console: Console | None, time: type[ProgressColumn], *, transient: bool = False
) -> Progress:
  """A bar with a name, how many of how many, figures and a time; fewer figures where it is narrow.

  Args:
    console: where it is shown; None: rich's own.
    time: kind of the last column.
    transient: whether it disappears at the end.

  Returns:
    The bar; its tasks have ``figures``, a sequence of texts, the first of which are shown.

  Examples:
    >>> from rich.progress import TimeElapsedColumn
    >>> with progress(Console(quiet=True), TimeElapsedColumn) as bar:
    ...   bar.update(bar.add_task("[x]", total=9, figures=()), completed=3, figures=("loss 0.1",))
  """
  console = console or get_console()
  whole = Column(no_wrap=True)
  return Progress(
    _Name(console, table_column=whole),
    BarColumn(bar_width=BAR),
    MofNCompleteColumn(table_column=whole),
    _Figures(console, table_column=whole),
    time(table_column=whole),
    console=console,
    transient=transient,
  )


class Meter(NamedTuple):
  """Callbacks that drive a progress bar.

  Attributes:
    start: of ``(name, total)``: shows it, from its beginning.
    tick: goes one further.
    hide: takes it off the terminal until the next start, so that lines can be printed.
  """

  start: Callable[[str, int], None]
  tick: Callable[[], None]
  hide: Callable[[], None]


@contextlib.contextmanager
def meter(show: bool) -> Iterator[Meter]:
  """A bar on the standard error that tells the time left; it disappears at the end.

  It is silent unless a terminal shows it.

  Args:
    show: whether it is wanted.

  Yields:
    A :class:`Meter`.

  Examples:
    >>> with meter(False) as (start, tick, hide):
    ...   start("mse", 1)
    ...   tick()
    ...   hide()
  """
  console = Console(stderr=True)
  if not (show and console.is_interactive):
    yield Meter(lambda name, total: None, lambda: None, lambda: None)
    return
  with progress(console, TimeRemainingColumn, transient=True) as bar:
    task = bar.add_task("", total=None)

    def start(name: str, total: int) -> None:
      bar.reset(task, total=total, description=name)
      bar.start()

    yield Meter(start, lambda: bar.advance(task), bar.stop)


class _Name(ProgressColumn):
  """The task's name, of which a narrow terminal shows the start."""

  def __init__(self, console: Console, **options: Any):
    super().__init__(**options)
    self._console = console

  def render(self, task: Task) -> Text:
    name = spelled(literal(task.description), self._console.encoding)
    most = max(1, min(max(LEAST_NAME, self._console.width // 4), self._room(task)))
    shown = name if len(name) <= most else name[: most - 1] + "~"
    return Text(shown.ljust(min(LEAST_NAME, most)))

  def _room(self, task: Task) -> int:
    """Characters of a line beside the bar, the count and the time."""
    count = 0 if task.total is None else 2 * len(f"{int(task.total)}")
    gaps = 5  # between columns, and the stroke in the count
    return self._console.width - LEAST_BAR - count - TIME - gaps


class _Figures(_Name):
  """Column of as many of the task's figures as there is room for, each whole."""

  def render(self, task: Task) -> Text:
    room = self._room(task) - len(super().render(task))
    shown = ""
    for figure in task.fields.get("figures", ()):
      longer = f"{shown}  {figure}" if shown else figure
      if len(longer) > room:
        break
      shown = longer
    return Text(shown)
