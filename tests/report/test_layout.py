"""Tables at every width, with any names, in any encoding."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxcompress import distill, models
from jaxcompress.export import Finding
from jaxcompress.export.measure import Latency
from jaxcompress.quantize.ptq.post_training import Trial
from jaxcompress.report.analysis import trial_table
from jaxcompress.report.layout import Column, Table, Words
from jaxcompress.report.tables import (
  finding_table,
  latency_table,
  layer_table,
  loss_table,
  model_table,
  result_table,
)

FIGURE = re.compile(r"\d[\d,.]*(?: (?:%|ms|kB|MB|k|M|G|dB|points))?")


def draw(table, width, encoding="utf-8"):
  stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="")
  Console(width=width, color_system=None, file=stream).print(table)
  stream.flush()
  return stream.buffer.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def summary():
  return models.summarize(models.mobilenet_v2(10, 0.25, layout="short"))


@pytest.fixture
def tables(full, summary):
  latency = Latency(12.34, 0.1, 2**20, 2**21)
  return {
    "results": result_table(full),
    "models": model_table({"mobilenet_v2": summary}),
    "layers": layer_table(summary.graph, summary.variables["params"], "[b]title"),
    "losses": loss_table(distill.DISTILLERS),
    "latency": latency_table({"[b]a[/x].tflite": latency, "b" * 60: latency}, 2),
    "trials": trial_table([Trial("minmax", 0.9123, 0.0123, 20.5, 1.5)], labels=True),
  }


@pytest.mark.parametrize("width", [24, 40, 57, 80])
@pytest.mark.parametrize("name", ["results", "models", "layers", "losses", "latency", "trials"])
def test_figures_are_whole_at_every_width(tables, name, width):
  wide, narrow = draw(tables[name], 400), draw(tables[name], width)
  assert max(map(len, narrow.splitlines())) <= width
  assert "…" not in narrow
  assert sorted(FIGURE.findall(spaced(narrow))) == sorted(FIGURE.findall(spaced(wide)))


def spaced(text):
  """Without what differs between the layouts: names that are broken, headings, spaces."""
  lines = [
    re.sub(r"[A-Za-z_/(²⁴)^]+\d+[\w./]*|\d+ (bit|thread)s?|3x3|1x1", "", line)
    for line in text.splitlines()
  ]
  return "\n".join(re.sub(r" {2,}", "  ", line) for line in lines)


@pytest.mark.parametrize("width", [30, 200])
@pytest.mark.parametrize("name", ["[bold]a", "b[/x]", ":smile:", "\\[c]", "$d$<b>", "_e"])
def test_names_in_cells_are_text(name, width):
  latency = Latency(1.5, 0.1, 2**20, 2**21)
  assert name in draw(latency_table({name: latency}, 1), width)
  finding = Finding("batch", name, name, name, "error")
  assert draw(finding_table([finding]), width).count(name) == 3


def test_control_characters_in_cells_are_written_as_their_numbers():
  drawn = draw(latency_table({"a\x1b[31m\udcff": Latency(1.5, 0.1, 1, 1)}, 1), 100)
  assert "a\\x1b[31m\\udcff" in drawn and "\x1b" not in drawn


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("width", [40, 100])
def test_every_table_can_be_encoded(tables, encoding, width):
  for table in tables.values():
    assert draw(table, width, encoding)
  assert "+- " in draw(tables["latency"], width, "ascii")


@settings(max_examples=50, deadline=None)
@given(
  rows=st.lists(
    st.tuples(st.text("ab /", min_size=1, max_size=30), st.integers(0, 10**12)), max_size=4
  ),
  width=st.integers(24, 60),
)
def test_no_row_is_lost_and_no_line_is_too_long(rows, width):
  columns = Words("name", lambda row: row[0]), Column("count", lambda row: f"{row[1]:,}")
  table = Table(columns, rows)
  lines = draw(table, width).splitlines()
  assert all(len(line) <= width for line in lines)
  found = re.findall(r"[\d,]+", "\n".join(lines))
  assert found == [f"{count:,}" for _, count in rows]
