"""Terminal output in every encoding and width: names stay text, and figures whole."""

import ast
import io
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import TimeElapsedColumn, TimeRemainingColumn

from jaxcompress.terminal import (
  fill,
  literal,
  print_in_any_encoding,
  progress,
  say,
  spelled,
  waiting,
)

PACKAGE = pathlib.Path(__file__).parents[1] / "jaxcompress"
NASTY = ["[bold]x", "a[/x]", ":smile:", "[link=http://a]b[/link]", "$x_1$ <b>&amp;", "\\[", "%s {}"]


def console(width=80, encoding="utf-8", **options):
  stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="")
  return Console(file=stream, width=width, color_system=None, **options)


def printed(to):
  to.file.flush()
  return to.file.buffer.getvalue().decode(to.file.encoding)


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_sentence_with_a_name_is_printed_letter_by_letter(name, terminal):
  to = console(force_terminal=terminal)
  say(to, f"{name}: 1 kB")
  assert printed(to) == f"{name}: 1 kB\n"


@pytest.mark.parametrize("name", NASTY)
def test_what_is_being_done_is_shown_letter_by_letter(name):
  to = console(force_terminal=True)
  with waiting(to, f"reading {name}"):
    pass
  assert f"reading {name}" in printed(to)


@pytest.mark.parametrize("name", NASTY)
def test_a_bar_shows_its_name_letter_by_letter(name):
  to = console(200)
  with progress(to, TimeElapsedColumn) as bar:
    bar.add_task(name, total=3)
  assert name in printed(to)


def test_where_no_terminal_shows_it_a_sentence_is_one_line():
  to, sentence = console(20), "report: " + "a long/path with spaces/" * 5
  say(to, sentence)
  assert printed(to) == sentence + "\n"


@given(st.text(max_size=60))
def test_nothing_in_a_text_drives_the_terminal_and_all_of_it_can_be_encoded(text):
  for encoding in ("utf-8", "ascii", "latin-1"):
    shown = spelled(literal(text), encoding)
    assert shown.encode(encoding).decode(encoding) == shown
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60))
def test_ordinary_text_is_not_touched(text):
  assert spelled(literal(text), "utf-8") == text


@given(st.lists(st.sampled_from(["it", "takes", "12.34 MB", "1,234,567 images", "of"])))
def test_lines_never_end_between_a_number_and_its_unit(words):
  lines = fill(" ".join(words), 18).splitlines()
  assert all(len(line) <= 18 for line in lines)
  for whole in ("12.34 MB", "1,234,567 images"):
    assert sum(line.count(whole) for line in lines) == words.count(whole)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("terminal", [False, True])
def test_any_encoding_takes_sentences_bars_and_what_is_being_done(encoding, terminal):
  to = console(encoding=encoding, force_terminal=terminal)
  with waiting(to, "reading Größe/\udcff…"):
    pass
  say(to, "± 3 … Größe/\udcff 猫")
  with progress(to, TimeRemainingColumn) as bar:
    bar.add_task("猫/\udcff", total=3, figures=("loss 1",))
  assert "猫" in printed(to) or encoding != "utf-8"


@pytest.mark.parametrize("width", [30, 40, 56, 80, 120])
@pytest.mark.parametrize("name", ["a", "float-mobilenet_v2-x0.75"])
def test_figures_of_a_bar_are_whole_or_left_out(width, name):
  to = console(width)
  figures = ("loss 0.123", "accuracy 98.7%", "1,234 images/s")
  with progress(to, TimeRemainingColumn) as bar:
    task = bar.add_task(name, total=2048, figures=("compiling",))
    bar.update(task, completed=1999, figures=figures)
  line = printed(to).rstrip("\n")
  assert len(line) <= width and "…" not in line
  assert "1999/2048" in line and line.endswith("-:--:--")
  shown = [figure for figure in figures if figure in line]
  assert shown == list(figures[: len(shown)]) and (len(shown) == 3 or width < 120)
  rest = line.split("1999/2048")[1].removesuffix("-:--:--").split()
  assert rest == " ".join(shown).split()


def test_streams_take_every_character_afterwards():
  stream = io.TextIOWrapper(io.BytesIO(), "ascii")
  print_in_any_encoding(stream, None, object())
  stream.write("± → – σ \udcff é\n")
  stream.flush()
  assert stream.buffer.getvalue() == b"+- -> - sigma \\udcff \\xe9\n"


def test_nothing_else_prints_strings_in_the_package():
  """Printing them with rich would read names as markup."""
  found = []
  for path in PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if path.name == "terminal.py" or not isinstance(node, ast.Call):
        continue
      named = isinstance(node.func, ast.Attribute) and node.func.attr in ("print", "status")
      if named and any(isinstance(one, ast.Constant | ast.JoinedStr) for one in node.args):
        found.append(f"{path.name}:{node.lineno}")
  assert found == []
