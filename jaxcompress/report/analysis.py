"""An analysis of a quantized network as a table, a plot, and JSON."""

import json
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from jaxcompress.files.records import plain
from jaxcompress.quantize import suggest
from jaxcompress.quantize.analysis.rows import Analysis, LayerAnalysis
from jaxcompress.report import style, text
from jaxcompress.report.layout import plain_table
from jaxcompress.report.ranges import bar_width, name_columns
from jaxcompress.report.tables import DASH

MOST_NAMED = 3
MOST_DECIBELS = 100.0  # beyond it a bar says no more


def analysis_finding(analysis: Analysis) -> str:
  """What an analysis found, in a sentence.

  Examples:
    >>> analysis_finding(Analysis((), 30.0, 0.0, 1.0, 8))
    'The integer network decides as the float one on 100 % of 8 images; no layer stands out.'
  """
  start = (
    f"The integer network decides as the float one on {text.percent_down(analysis.agreement)} of"
    f" {analysis.images:,} images; "
  )
  total = sum(layer.isolated_kl for layer in analysis.layers)
  blamed = analysis.blamed()[:MOST_NAMED]
  if not blamed:
    return start + "no layer stands out."
  share = sum(layer.isolated_kl for layer in blamed) / total
  *names, last = (layer.name for layer in blamed)
  who = f"{', '.join(names)} and {last} make" if names else f"{last} makes"
  return f"{start}{who} {text.percent(share, 0)} of the isolated error."


def analysis_table(analysis: Analysis) -> Table:
  """The layers in order; those that make up most of the isolated error stand out.

  Args:
    analysis: of a quantized network.

  Returns:
    A rich table; it fits 100 characters.

  Examples:
    >>> layer = LayerAnalysis(
    ...   "stem", "ConvNorm", 4, 20.0, 12.0, 0.5, 0.4, 12.0, 0.5, 0.9, 0.06, 0.0, 16, ()
    ... )
    >>> table = analysis_table(Analysis((layer,), 12.0, 0.5, 0.9, 64))
    >>> table.row_count, len(table.columns)
    (1, 10)
  """
  table = plain_table(None, Text(analysis_finding(analysis)))
  table.collapse_padding = True
  table.add_column("layer", no_wrap=True)
  table.add_column("op", overflow="fold")
  for name in (
    "bits",
    "output\ndB",
    "alone\ndB",
    "alone\nKL",
    "up to\ndB",
    "codes",
    "clipped",
    "dead",
  ):
    table.add_column(name, justify="right", no_wrap=True)
  blamed = {layer.name for layer in analysis.blamed()}
  for layer in analysis.layers:
    strong = f"bold {style.WARN}" if layer.name in blamed else ""
    table.add_row(
      Text(layer.name, strong),
      Text(layer.op, "dim"),
      str(layer.bits) if layer.bits else DASH,
      _decibels(layer.sqnr),
      _decibels(layer.isolated_sqnr),
      Text(text.significant(layer.isolated_kl, 2), strong),
      _decibels(layer.cumulative_sqnr),
      text.percent(layer.codes_used, 0),
      f"{100 * layer.saturation:.2g} %" if layer.saturation else DASH,
      f"{len(layer.dead)} of {layer.channels}" if layer.dead else DASH,
    )
  return table


def _decibels(value: float) -> str:
  return f"{value:.1f}" if math.isfinite(value) else DASH


@style.styled
def analysis_plot(analysis: Analysis) -> Figure:
  """Bars for each layer: isolated divergence, signal-to-noise ratios, and use of the grid.

  Examples:
    >>> layer = LayerAnalysis(
    ...   "stem", "ConvNorm", 4, 20.0, 12.0, 0.5, 0.4, 12.0, 0.5, 0.9, 0.06, 0.0, 16, ()
    ... )
    >>> len(analysis_plot(Analysis((layer,), 12.0, 0.5, 0.9, 64)).axes)
    4
  """
  fig = style.figure(analysis_finding(analysis), 8.0)
  axes = fig.subplots(4, 1, sharex=True, height_ratios=(1.4, 1.4, 0.7, 0.7))
  top, middle, codes, clipped = axes
  layers = analysis.layers
  x, width = np.arange(len(layers)), bar_width(len(layers))
  blamed = {layer.name for layer in analysis.blamed()}
  colors = [style.WARN if layer.name in blamed else style.COLORS["int8"] for layer in layers]
  top.bar(x, [layer.isolated_kl for layer in layers], width, color=colors)
  top.set_title("divergence of the class probabilities if this layer alone is on integers, in nats")
  middle.bar(x, _heights(layers, "sqnr"), width, color=style.FAINT, label="of its output")
  label = "of the logits, if all up to here are on integers"
  middle.plot(x, _heights(layers, "cumulative_sqnr"), color=style.ACCENT, label=label)
  middle.axhline(0, color=style.MUTED, lw=0.8)
  middle.set_title("signal-to-noise ratio, in decibels")
  middle.legend(loc="upper right", ncols=2)
  middle.margins(y=0.25)
  codes.bar(x, [100 * layer.codes_used for layer in layers], width, color=style.FAINT)
  codes.set_title("share of the output's 256 codes between the least and the largest seen")
  codes.set_ylim(0, 100)
  clipped.bar(x, [100 * layer.saturation for layer in layers], width, color=style.WARN)
  clipped.set_title("share of the output's values that are clipped")
  for ax in (codes, clipped):
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g} %")
  name_columns(clipped, [layer.name for layer in layers])
  for ax in axes[:-1]:
    ax.tick_params(axis="x", length=0)
  return fig


def _heights(layers: tuple[LayerAnalysis, ...], field: str) -> list[float]:
  return [min(getattr(layer, field), MOST_DECIBELS) for layer in layers]


def analysis_json(analysis: Analysis) -> dict[str, Any]:
  """Plain JSON of an analysis with its suggestions; infinite decibels become null.

  Examples:
    >>> analysis_json(Analysis((), math.inf, 0.0, 1.0, 8))["sqnr"] is None
    True
  """
  fields = {name: getattr(analysis, name) for name in ("sqnr", "kl", "agreement", "images")}
  return plain(
    {
      **fields,
      "layers": [layer._asdict() for layer in analysis.layers],
      "suggestions": [
        {"match": suggestion.rule.match, "reason": suggestion.reason}
        for suggestion in suggest(analysis)
      ],
    }
  )


def analysis_text(analysis: Analysis) -> str:
  """The text of a JSON file of an analysis.

  Examples:
    >>> json.loads(analysis_text(Analysis((), 30.0, 0.0, 1.0, 8)))["agreement"]
    1.0
  """
  return json.dumps(analysis_json(analysis), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
