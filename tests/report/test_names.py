"""Class names, data and commands in a report are text, whatever they spell elsewhere."""

import dataclasses
import html
import json
import re

import pytest

from jaxcompress.report import plots
from jaxcompress.report.style import figure
from jaxcompress.report.write import from_json, write_report

NAMES = ("[bold]a[/x]", "$x_1$", "<b>c</b>", "_d", "\\frac{e}", "&amp;", "\udcff猫\x1b[31m")


@pytest.fixture
def odd(full):
  count = len(full.run.classes)
  names = tuple(NAMES[i] if i < len(NAMES) else f"n{i}" for i in range(count))
  command = "jaxcompress compress --data 'folder:<b>[x]$\udcff'"
  run = dataclasses.replace(full.run, classes=names, data="folder:<b>$[x]$\udcff", command=command)
  return dataclasses.replace(full, run=run)


@pytest.mark.slow
def test_the_page_shows_names_as_text_and_the_json_keeps_them(odd, tmp_path):
  files = write_report(odd, tmp_path)
  page = files["html"].read_text("utf-8")
  assert "<b>c</b>" not in page and html.escape("<b>$[x]$") in page
  shown = html.unescape(re.sub(r"<(?!!)[^>]*>", "", page))
  for name in odd.run.classes:
    if name in NAMES[:6]:
      assert name in shown or html.escape(name) in page
  assert from_json(json.loads(files["json"].read_text("utf-8"))).run == odd.run


@pytest.mark.slow
def test_pictures_show_names_as_text(odd):
  """Matplotlib would read formulas in them, and warn of characters that it cannot draw."""
  for plot in plots.PLOTS:
    if plot.present(odd):
      assert plots.style.png(plot.make(odd))[:4] == b"\x89PNG"
  with plots.style.look():
    ticks = [tick for ax in plots.confusion_matrix(odd).axes for tick in ax.get_yticklabels()]
    assert not any(tick.get_parse_math() for tick in ticks)
    assert "$x_1$" in " ".join(tick.get_text() for tick in ticks)


def test_titles_without_glyphs_are_drawn_all_the_same():
  assert figure("猫 is $x$", 2.0)._suptitle.get_text() == "? is $x$"
