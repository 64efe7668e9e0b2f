"""Per-layer ranges of activations and weights."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxcompress.report import findings, style, text
from jaxcompress.report.results import Results

MOST_LABELS = 64


@style.styled
def activation_ranges(results: Results) -> Figure:
  """The interval that each activation tensor's integers span, and the width of one step."""
  fig = style.figure(findings.activations(results), 5.4)
  top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
  rows = results.ranges
  low = np.array([r.low for r in rows], float)
  high = np.array([r.high for r in rows], float)
  x = np.arange(len(rows))
  width = bar_width(len(rows))
  top.bar(x, high - low, width, low, color=style.COLORS["int8"])
  top.axhline(0, color=style.MUTED, lw=0.8)
  extent = np.maximum(np.abs(low), np.abs(high))
  if extent.max() > 20 * np.median(extent):
    top.set_yscale("symlog", linthresh=max(float(np.median(extent)), 1e-6))
    top.yaxis.set_major_formatter(lambda value, _: text.significant(value, 2))
    top.yaxis.set_minor_locator(NullLocator())
  top.use_sticky_edges = False
  top.set_title("range of the real values")
  bottom.bar(x, [r.scale for r in rows], width, color=style.FAINT)
  bottom.set_title("one quantization step")
  name_columns(bottom, [r.tensor for r in rows])
  top.tick_params(axis="x", length=0)
  return fig


@style.styled
def weight_ranges(results: Results) -> Figure:
  """Per layer, the channels' largest weights: least, median and largest channel."""
  layers = [(layer.name, layer.weights) for layer in results.layers if layer.weights is not None]
  fig = style.figure(findings.weights(results), 4.6)
  ax = fig.subplots()
  low, median, high = (
    np.array([getattr(weights, end) for _, weights in layers], np.float64)
    for end in ("low", "median", "high")
  )
  positive = np.concatenate([v[v > 0] for v in (low, median, high)])
  floor = float(positive.min()) / 2 if positive.size else 1e-3
  low, median, high = (np.maximum(v, floor) for v in (low, median, high))
  x = np.arange(len(layers))
  width = bar_width(len(layers))
  ax.bar(x, high - low, width, low, color="#93c5fd")
  ax.hlines(median, x - width / 2, x + width / 2, color="#1d4ed8", lw=2)
  ax.set_yscale("log")
  ax.set_ylim(floor, float(high.max()) * 1.5)
  ax.yaxis.set_major_formatter(lambda value, _: text.significant(value, 2))
  ax.yaxis.set_minor_formatter(lambda value, _: "")
  ax.set_title("largest magnitude of each output channel")
  name_columns(ax, [name for name, _ in layers])
  return fig


def bar_width(count: int) -> float:
  """Share of a column that its bar fills; few columns get slender bars."""
  return min(0.72, 0.06 * max(count, 1))


def name_columns(ax: Axes, names: list[str]) -> None:
  """Names under columns, turned upright; every n-th where there are too many."""
  positions = style.ticks_for(len(names), MOST_LABELS)
  labels = [text.clip(style.printable(names[i], i), 30) for i in positions]
  size = 7 if len(positions) > 24 else 8
  ax.set_xticks(list(positions), labels, rotation=90, fontsize=size)
  pad = 0.6 if len(names) > 8 else 0.6 + (8 - len(names)) / 4
  ax.set_xlim(-pad, math.fsum((len(names) - 1, pad)))
