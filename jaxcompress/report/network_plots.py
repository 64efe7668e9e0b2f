"""Plots of one network: its confusion matrix, its ranges, and its errors layer by layer."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxcompress.quantize.analysis.findings import Analysis, LayerAnalysis
from jaxcompress.report import findings, style, text
from jaxcompress.report.classes import Pair, confused_pairs
from jaxcompress.report.results import Results

MISTAKES = LinearSegmentedColormap.from_list(
  "mistakes", ["#ffffff", "#fed7aa", "#ea580c", "#7f1d1d"]
)
RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#99d5cf", "#0d9488"])
FEW = 20  # classes whose cells have room for numbers
MOST_CLASSES = 100
PAIRS = 10
LETTERS = 9.4  # of names beside one another in an inch of the matrix and its names
DARKEST = 0.15  # the least share of a row that gets the darkest colour
MOST_LAYERS = 64  # that are named
MOST_DECIBELS = 100.0  # beyond it a bar says no more


@style.styled
def confusion_matrix(results: Results, width: float = style.WIDTH) -> Figure:
  """Shares of each true class: right answers on the diagonal, mistakes beside it."""
  matrix = np.asarray(results.confusion)
  names = [style.printable(name, i) for i, name in enumerate(results.run.classes)]
  classes = len(names)
  pairs = confused_pairs(matrix, PAIRS)
  title = findings.confusion(results)
  narrow = style.is_narrow(width)
  if classes <= FEW and not narrow:
    side = min(max(3.4, 0.32 * classes + 1.6), 6.6)
    fig = style.figure(title, side + 0.4)
    ax, beside = fig.subplots(1, 2, width_ratios=(side, style.WIDTH - side))
  else:
    width = 11.6 if classes > 60 and not narrow else width
    side, below = width - (0 if narrow else 1.0), 0.2 * max(len(pairs), 1) + 0.6
    fig = style.figure(title, side + below, width)
    ax, beside = fig.subplots(2, 1, height_ratios=(side, below))
  _matrix(ax, matrix, [text.clip(name, 10 if narrow else 14) for name in names], narrow, side)
  _pairs(beside, pairs, [text.clip(name, 14 if narrow else 22) for name in names])
  return fig


def _matrix(ax: Axes, matrix: np.ndarray, names: list[str], narrow: bool, side: float) -> None:
  shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  mistakes = shares - np.diag(np.diag(shares))
  picture = MISTAKES(np.sqrt(mistakes / max(float(mistakes.max()), DARKEST)))
  diagonal = np.arange(len(names))
  picture[diagonal, diagonal] = RIGHT(0.25 + 0.75 * np.diag(shares))
  ax.imshow(picture, aspect="equal", interpolation="nearest")
  _name_axes(ax, names, narrow, side)
  ax.spines["bottom"].set_visible(False)
  ax.grid(False)
  if len(names) <= MOST_CLASSES:
    edges = np.arange(len(names) + 1) - 0.5
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(True, which="minor", axis="both", color="#f1f5f9", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
  if len(names) <= (FEW / 2 if narrow else FEW):
    _numbers(ax, matrix, picture)


def _name_axes(ax: Axes, names: list[str], narrow: bool, side: float) -> None:
  positions = list(style.ticks_for(len(names), MOST_CLASSES // 3 if narrow else MOST_CLASSES))
  shown = [names[i] for i in positions]
  size = 8.5 if len(names) <= FEW else 7 if len(names) <= 60 else 5.8
  wide = max(map(len, shown)) * len(shown) > LETTERS * side
  ax.set_xticks(positions, shown, fontsize=size, rotation=90 if wide else 0, color=style.INK)
  ax.set_yticks(positions, shown, fontsize=size, color=style.INK)
  ax.tick_params(length=0, pad=2)
  ax.set_xlabel("picked")
  ax.set_ylabel("true")


def _numbers(ax: Axes, matrix: np.ndarray, picture: np.ndarray) -> None:
  size = 9 if len(matrix) <= 10 else 7
  for (row, column), number in np.ndenumerate(matrix):
    if number:
      dark = picture[row, column, :3] @ (0.3, 0.59, 0.11) < 0.55
      tone = style.PAPER if dark else style.INK
      ax.text(column, row, f"{number}", ha="center", va="center", fontsize=size, color=tone)


def _pairs(ax: Axes, pairs: tuple[Pair, ...], names: list[str]) -> None:
  """Bars of the most frequent mistakes."""
  ax.set_title("most frequent mistakes" if pairs else "no mistakes")
  if not pairs:
    ax.set_axis_off()
    return
  labels = [f"{names[p.true]} → {names[p.predicted]}" for p in pairs]
  ends = [f"{p.count} of {p.total}" for p in pairs]
  least = PAIRS if len(names) <= FEW else 1
  style.bars(ax, labels, [p.count for p in pairs], ["#ea580c"] * len(pairs), ends, least)


@style.styled
def activation_ranges(results: Results, width: float = style.WIDTH) -> Figure:
  """The interval that each activation tensor's integers span, and the width of one step."""
  fig = style.figure(findings.activations(results), 5.4, width)
  top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
  rows = results.ranges
  low = np.array([r.low for r in rows], float)
  high = np.array([r.high for r in rows], float)
  x = np.arange(len(rows))
  bar = _bar_width(len(rows))
  top.bar(x, high - low, bar, low, color=style.COLORS["int8"])
  top.axhline(0, color=style.MUTED, lw=0.8)
  extent = np.maximum(np.abs(low), np.abs(high))
  if extent.max() > 20 * np.median(extent):
    top.set_yscale("symlog", linthresh=max(float(np.median(extent)), 1e-6))
    top.yaxis.set_major_formatter(lambda value, _: text.significant(value, 2))
    top.yaxis.set_minor_locator(NullLocator())
  top.use_sticky_edges = False
  top.set_title("range of the real values")
  bottom.bar(x, [r.scale for r in rows], bar, color=style.FAINT)
  bottom.set_title("one quantization step")
  _name_columns(bottom, [r.tensor for r in rows], width)
  top.tick_params(axis="x", length=0)
  return fig


@style.styled
def weight_ranges(results: Results, width: float = style.WIDTH) -> Figure:
  """Per layer, the channels' largest weights: least, median and largest channel."""
  layers = [(layer.name, layer.weights) for layer in results.layers if layer.weights is not None]
  fig = style.figure(findings.weights(results), 4.6, width)
  ax = fig.subplots()
  low, median, high = (
    np.array([getattr(weights, end) for _, weights in layers], np.float64)
    for end in ("low", "median", "high")
  )
  positive = np.concatenate([v[v > 0] for v in (low, median, high)])
  floor = float(positive.min()) / 2 if positive.size else 1e-3
  low, median, high = (np.maximum(v, floor) for v in (low, median, high))
  x = np.arange(len(layers))
  bar = _bar_width(len(layers))
  ax.bar(x, high - low, bar, low, color="#93c5fd")
  ax.hlines(median, x - bar / 2, x + bar / 2, color="#1d4ed8", lw=2)
  ax.set_yscale("log")
  ax.set_ylim(floor, float(high.max()) * 1.5)
  ax.yaxis.set_major_formatter(lambda value, _: text.significant(value, 2))
  ax.yaxis.set_minor_formatter(lambda value, _: "")
  ax.set_title("largest magnitude of each output channel")
  _name_columns(ax, [name for name, _ in layers], width)
  return fig


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
  fig = style.figure(findings.analysis(analysis), 8.0)
  axes = fig.subplots(4, 1, sharex=True, height_ratios=(1.4, 1.4, 0.7, 0.7))
  top, middle, codes, clipped = axes
  layers = analysis.layers
  x, width = np.arange(len(layers)), _bar_width(len(layers))
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
  _name_columns(clipped, [layer.name for layer in layers])
  for ax in axes[:-1]:
    ax.tick_params(axis="x", length=0)
  return fig


def _heights(layers: tuple[LayerAnalysis, ...], field: str) -> list[float]:
  return [min(getattr(layer, field), MOST_DECIBELS) for layer in layers]


def _bar_width(count: int) -> float:
  """Share of a column that its bar fills; few columns get slender bars."""
  return min(0.72, 0.06 * max(count, 1))


def _name_columns(ax: Axes, names: list[str], width: float = style.WIDTH) -> None:
  """Names under columns, turned upright; every n-th where there are too many."""
  positions = style.ticks_for(
    len(names), MOST_LAYERS // 2 if style.is_narrow(width) else MOST_LAYERS
  )
  labels = [text.clip(style.printable(names[i], i), 30) for i in positions]
  size = 7 if len(positions) > 24 else 8
  ax.set_xticks(list(positions), labels, rotation=90, fontsize=size)
  pad = 0.6 if len(names) > 8 else 0.6 + (8 - len(names)) / 4
  ax.set_xlim(-pad, math.fsum((len(names) - 1, pad)))
