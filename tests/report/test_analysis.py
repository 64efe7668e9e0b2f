"""The table, the plots and the JSON of an analysis, from rows that are made up."""

import dataclasses
import io
import json
import math

import matplotlib
import pytest
from rich.console import Console

from jaxcompress.quantize.analysis.budget import Allocation
from jaxcompress.quantize.analysis.findings import Analysis, LayerAnalysis
from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity, Sensitivity
from jaxcompress.quantize.ptq.post_training import Trial
from jaxcompress.report import style
from jaxcompress.report.analysis import (
  allocation_table,
  analysis_table,
  analysis_text,
  trial_table,
)
from jaxcompress.report.network_plots import analysis_plot
from jaxcompress.report.plots import candidates_plot
from jaxcompress.report.results import Point


def row(name, kl, **fields):
  row = LayerAnalysis(name, "ConvNorm", 4, 20.0, 25.5, kl, kl, 19.0, kl, 0.97, 0.06, 0.0, 16, ())
  return row._replace(**fields)


@pytest.fixture
def analysis():
  rows = (
    row("input", 0.0, op="input", bits=None, isolated_sqnr=math.inf, weights_kl=None),
    row("stage2_block10/se/expand", 0.06, op="depthwise", dead=(1, 4)),
    row("stage2_block10/project", 0.01, saturation=0.125),
    row("classifier", 0.03),
  )
  return Analysis(rows, 18.5, 0.11, 0.875, 64)


def draw(table, width=100):
  console = Console(width=width, color_system=None, file=io.StringIO())
  console.print(table)
  return console.file.getvalue()


def texts(figure):
  return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def test_the_table_has_a_row_for_each_layer_and_fits(analysis):
  drawn = draw(analysis_table(analysis))
  lines = {line.split()[0]: line for line in drawn.splitlines() if line.strip()}
  assert "2 of 16" in lines["stage2_block10/se/expand"]
  assert "12 %" in lines["stage2_block10/project"]
  assert "inf" not in drawn and "…" not in drawn
  assert "decides as the float one on 87.50 % of 64 images" in " ".join(drawn.split())
  assert "stage2_block10/se/expand and classifier make 90 % of the isolated error" in " ".join(
    drawn.split()
  )


def test_the_worst_layers_fit_80_characters_in_their_order(analysis):
  layers = tuple(
    layer._replace(name=f"stage{i}_block10/{layer.name}", isolated_kl=layer.isolated_kl + i / 1e6)
    for i in range(20)
    for layer in analysis.layers
  )
  table = analysis_table(dataclasses.replace(analysis, layers=layers), 10)
  worst = sorted(layer.isolated_kl for layer in layers)[-10:]
  assert sorted(layer.isolated_kl for layer in table.rows) == worst
  assert list(table.rows) == [layer for layer in layers if layer in table.rows]
  lines = draw(table, 80).splitlines()
  assert len(lines) < 50 and any(line.split()[:2] == ["layer", "bits"] for line in lines)


def test_layers_to_blame_stand_out(analysis):
  table = analysis_table(analysis)
  styles = [str(table.columns[0].cell(row).style) for row in table.rows]
  assert [style.WARN in text for text in styles] == [False, True, False, True]


def test_bars_of_the_plot_are_the_rows(analysis):
  figure = analysis_plot(analysis)
  divergence, decibels, codes, clipped = figure.axes
  assert [bar.get_height() for bar in divergence.patches] == [0, 0.06, 0.01, 0.03]
  assert [bar.get_height() for bar in decibels.patches] == [20.0] * 4
  assert list(decibels.lines[0].get_ydata()) == [19.0] * 4
  assert [bar.get_height() for bar in codes.patches] == [97.0] * 4
  assert [bar.get_height() for bar in clipped.patches] == [0, 0, 12.5, 0]
  assert "stage2_block10/project" in texts(figure)
  assert style.png(figure).startswith(b"\x89PNG")


def test_layers_without_error_are_drawn(analysis):
  clean = [
    layer._replace(sqnr=math.inf, cumulative_sqnr=math.inf, isolated_kl=0.0)
    for layer in analysis.layers
  ]
  figure = analysis_plot(Analysis(tuple(clean), math.inf, 0.0, 1.0, 8))
  assert "no layer stands out." in figure.get_suptitle().replace("\n", " ")
  style.png(figure)


def test_json_is_strict_and_holds_rows_and_reasons(analysis):
  read = json.loads(analysis_text(analysis), parse_constant=pytest.fail)
  assert read["sqnr"] == analysis.sqnr and len(read["layers"]) == len(analysis.layers)
  assert read["layers"][0]["isolated_sqnr"] is None
  assert read["layers"][1]["dead"] == [1, 4]
  assert [s["match"] for s in read["suggestions"]] == [
    r"^(?:stage2_block10/se/expand)$",
    "^(?:classifier)$",
  ]
  assert "4-bit weights" in read["suggestions"][0]["reason"]


def test_trials_say_what_was_kept():
  trials = (Trial("minmax", 0.9, 0.05, 20.04, 1.5), Trial("mse", 0.95, 1e-9, math.inf, 2.0))
  table = trial_table(trials, labels=True, kept="mse")
  drawn = draw(table)
  for part in (
    "minmax",
    "90.00 %",
    "-5.0 points",
    "+0.0 points",
    "20.0 dB",
    "1.5 s",
    "top-1",
    "exact",
  ):
    assert part in drawn
  assert [table.strong(row) for row in table.rows] == [False, True]
  assert "agreement" in draw(trial_table(trials, labels=False))


def test_an_allocation_is_shown_with_what_other_bits_would_cost():
  rows = (
    LayerSensitivity("stem", 100, 4, (0.001, 0.5), (132, 82)),
    LayerSensitivity("head", 2000, 4, (0.002, 0.25), (2032, 1032)),
  )
  found = Sensitivity("kl", (8, 4), rows, 0, 32)
  drawn = draw(allocation_table(found, Allocation({"stem": 8, "head": 4}, 1164, 0.251)))
  rows = {line.split()[0]: line.split()[1:] for line in drawn.splitlines() if line.strip()}
  assert rows["stem"] == ["8", "132", "0.001", "0.5"]
  assert rows["head"] == ["4", "1,032", "0.002", "0.25"]
  assert "1.2 kB" in drawn and "KL at 8" in drawn


def test_candidates_are_drawn_at_their_size_and_score():
  candidates = [Point("8 bits", 10_000, 0.93), Point("mixed", 6000, 0.92, mixed=True)]
  figure = candidates_plot(candidates, 0.935, 1000)
  assert "mixed: 92.0 % in 6.0 kB, -1.5 points" in figure.get_suptitle()
  (ax,) = figure.axes
  points = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "o"]
  assert points == [(10_000, 0.93), (6000, 0.92)]
  assert any("8 bits\n93.0 %, 10.0 kB" in text for text in texts(figure))
  with pytest.raises(ValueError, match="points must not be empty"):
    candidates_plot([], 0.9, 10)
