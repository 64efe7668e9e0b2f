"""Plots of a run: training curves, accuracy against size, costs and latency; and all of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jaxcompress.report import findings, style, text
from jaxcompress.report.network_plots import activation_ranges, confusion_matrix, weight_ranges
from jaxcompress.report.results import Entry, Point, Results, label, ordered


class Plot(NamedTuple):
  """A plot of the report.

  Attributes:
    name: of its file, without the ending.
    make: draws it, in some width.
    finding: its title, in a sentence.
    caption: how to read it.
    present: whether the results hold what it shows.
  """

  name: str
  make: Callable[[Results, float], Figure]
  finding: Callable[[Results], str]
  caption: str
  present: Callable[[Results], bool] = lambda results: True


@style.styled
def training_curves(results: Results, width: float = style.WIDTH) -> Figure:
  """Loss and accuracy of every phase against its own steps."""
  fig, (left, right) = style.row_of_plots(findings.distillation(results), 3.9, width, (1, 1))
  for phase, rows in results.curves.items():
    name, color = label(phase, results.entries.get(phase)), style.color(phase)
    _line(left, rows, "loss", color, name)
    _line(right, rows, "accuracy", color, name)
    steps, held_out = series(rows, "top1")
    if steps.size:
      right.plot(steps, held_out, "o-", ms=4, lw=0.8, mfc=style.PAPER, color=color)
  left.set_title("training loss")
  right.set_title("training accuracy" + _markers(results))
  positive = [value for rows in results.curves.values() for value in series(rows, "loss")[1]]
  if positive and min(positive) > 0 and max(positive) / min(positive) > 20:
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: text.significant(v)))
    left.yaxis.set_minor_locator(NullLocator())
  else:
    left.set_ylim(bottom=0)
  right.set_ylim(0, 1.02)
  right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
  for ax in (left, right):
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.01)
    ax.set_xlim(left=0)
  handles, names = left.get_legend_handles_labels()
  fig.legend(
    handles,
    names,
    loc="outside lower center",
    ncols=2 if style.is_narrow(width) else max(len(names), 1),
  )
  return fig


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one quantity; rows without a finite value are left out."""
  pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
  array = np.array(pairs, float).reshape(-1, 2)
  array = array[np.isfinite(array[:, 1])]
  return array[:, 0], array[:, 1]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Centred moving average; the window shrinks at the ends.

  Examples:
    >>> smooth(np.array([0.0, 3.0, 6.0]), 3).tolist()
    [1.5, 3.0, 4.5]
  """
  kernel = np.ones(window)
  weight = np.convolve(np.ones_like(values), kernel, "same")
  return np.convolve(values, kernel, "same") / weight


def _line(ax, rows, name, color, text_label) -> None:
  """A smoothed line over the raw values where there are many."""
  steps, values = series(rows, name)
  window = min(len(values) // 12, 25) | 1
  if window > 1:
    ax.plot(steps, values, color=color, alpha=0.22, lw=0.9)
    values = smooth(values, window)
  marker = "o" if len(values) == 1 else None  # no line is seen of one value
  ax.plot(steps, values, marker=marker, ms=4, color=color, label=text_label)


def _markers(results: Results) -> str:
  held_out = any(row.get("top1") is not None for rows in results.curves.values() for row in rows)
  return " (circles: held-out images)" if held_out else ""


@style.styled
def accuracy_against_size(results: Results, width: float = style.WIDTH) -> Figure:
  """Top-1 against the size of the model file, on a logarithmic axis."""
  fig = style.figure(findings.compression(results), 4.0, width)
  ax = fig.subplots()
  points = [
    Point(label(key, entry), max(entry.bytes, 1), entry.top1) for key, entry in ordered(results)
  ]
  sizes = [point.bytes for point in points]
  ax.set_xscale("log")
  narrow = style.is_narrow(width)
  least, share = (4.0, 0.6) if narrow else (2.6, 0.19)
  room = max(least, (1.6 * max(sizes) / min(sizes)) ** share)  # for the names beside the points
  ax.set_xlim(min(sizes) / 1.6, max(sizes) * room)
  colors = [style.color(key) for key, _ in ordered(results)]
  _scatter(ax, points, colors, results.run.test_images, lambda size: size * 1.09, narrow=narrow)
  ax.xaxis.set_major_locator(LogLocator(subs=(1,) if narrow else (1, 2, 5)))
  ax.xaxis.set_minor_locator(NullLocator())
  ax.set_xlabel("model file (bars: one standard error of the test set)")
  ax.set_title("top-1")
  return fig


@style.styled
def candidates_plot(
  points: Sequence[Point],
  reference: float,
  images: int,
  what: str = "top-1",
  compared_with: str = "float network",
  sizes_of: str = "packed weights, scales and biases",
  width: float = style.WIDTH,
) -> Figure:
  """Scores of quantized networks against their packed sizes.

  Args:
    points: at least one.
    reference: the score that they are compared with, a share.
    images: on which the scores were measured.
    what: the scores are.
    compared_with: whose score the reference is.
    sizes_of: what the bytes are.
    width: of the figure, in inches.

  Raises:
    ValueError: if there are no points.

  Examples:
    >>> points = [Point("8 bits", 1000, 0.9), Point("mixed", 600, 0.89, mixed=True)]
    >>> fig = candidates_plot(points, reference=0.9, images=1000)
    >>> fig.axes[0].get_title(loc="left")
    'top-1'
  """
  if not points:
    raise ValueError("points must not be empty; give at least one.")
  fig = style.figure(findings.candidates(points, reference, compared_with), 4.0, width)
  ax = fig.subplots()
  most = max(point.bytes for point in points)
  narrow = style.is_narrow(width)
  ax.set_xlim(0, (1.8 if narrow else 1.35) * most)
  ax.axhline(reference, color=style.color("teacher"), lw=1, ls=(0, (4, 3)), zorder=1)
  name = compared_with.removesuffix(" network")
  ax.annotate(f" {name}", (0, reference), va="bottom", color=style.color("teacher"), fontsize=8.5)
  colors = [style.color("int8" if one.mixed or one.chosen else "distilled") for one in points]
  _scatter(ax, points, colors, images, lambda size: size + 0.02 * most, reference, narrow=narrow)
  ax.set_xlabel(f"{sizes_of} (bars: one standard error)")
  ax.set_title(what)
  return fig


def _scatter(
  ax: Axes,
  points: Sequence[Point],
  colors: Sequence[str],
  images: int,
  beside: Callable[[float], float],
  *others: float,
  narrow: bool,
) -> None:
  """Named scores against sizes, with standard errors, on an axis that shows other scores too.

  Args:
    beside: maps a size to where its point's name stands.
  """
  sizes, scores = [point.bytes for point in points], [point.score for point in points]
  noise = [math.sqrt(s * (1 - s) / max(images, 1)) for s in scores]
  ends = [*others, *(s + sign * e for s, e in zip(scores, noise, strict=True) for sign in (-1, 1))]
  span = max(max(ends) - min(ends), 0.02)
  low, high = max(min(ends) - 0.2 * span, -0.02), min(max(ends) + 0.15 * span, 1.02)
  ax.set_ylim(low, high)
  ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= 1 + 1e-9])
  places = style.spread(
    [(s - low) / (high - low) for s in scores], sizes, 0.135, 1e9 if narrow else 1.8
  )
  for point, color, error, place in zip(points, colors, noise, places, strict=True):
    spot = point.bytes, point.score
    ax.errorbar(*spot, error, fmt="o", ms=8, color=color, elinewidth=1.2, zorder=3)
    ax.annotate(
      f"{point.name}\n{text.percent(point.score)}, {text.size(point.bytes)}",
      spot,
      (beside(point.bytes), low + place * (high - low)),
      va="center",
      linespacing=1.25,
      bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1},
      color=color,
    )
  ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.size(value)))
  ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{round(100 * v, 2):g} %"))


@style.styled
def costs(results: Results, width: float = style.WIDTH) -> Figure:
  """Parameters, multiply-adds and file size, side by side."""
  columns = {
    "parameters": lambda entry: (entry.parameters, text.count(entry.parameters)),
    "multiply-adds": lambda entry: (entry.macs, text.count(entry.macs)),
    "model file": lambda entry: (entry.bytes, text.size(entry.bytes)),
  }
  return _side_by_side(findings.costs(results), ordered(results), columns, 0.34, width)


@style.styled
def latency(results: Results, width: float = style.WIDTH) -> Figure:
  """Median latency of each .tflite on one and two threads."""

  def column(field: str) -> Callable[[Entry], tuple[float, str]]:
    show = lambda value: text.milliseconds(value) if value else "not measured"  # noqa: E731
    return lambda entry: (getattr(entry, field) or 0.0, show(getattr(entry, field)))

  entries = [(key, entry) for key, entry in ordered(results) if _has_latency(entry)]
  columns = {"1 thread": column("latency_ms"), "2 threads": column("latency_ms_2_threads")}
  return _side_by_side(findings.latency(results), entries, columns, 0.36, width)


def _side_by_side(
  finding: str,
  entries: Sequence[tuple[str, Entry]],
  columns: Mapping[str, Callable[[Entry], tuple[float, str]]],
  height: float,
  width: float,
) -> Figure:
  """Bars of several quantities, each a value and a text for a network."""
  narrow = style.is_narrow(width)
  high = height * len(entries) + (0.6 if narrow else 1.1)
  fig, axes = style.row_of_plots(finding, high, width, [1] * len(columns))
  names = [label(key, entry) for key, entry in entries]
  colors = [style.color(key) for key, _ in entries]
  for ax, (title, column) in zip(axes, columns.items(), strict=True):
    values, ends = zip(*(column(entry) for _, entry in entries), strict=True)
    style.bars(ax, names, list(values), colors, list(ends))
    names = names if narrow else [""] * len(names)  # beside the first alone
    ax.set_title(title)
  return fig


def _has_latency(entry: Entry) -> bool:
  return bool(entry.latency_ms or entry.latency_ms_2_threads)


def _search_finding(results: Results) -> str:
  assert results.search is not None  # as for its plot
  return findings.candidates(results.search.candidates, results.search.reference, "teacher")


def _search_plot(results: Results, width: float = style.WIDTH) -> Figure:
  assert results.search is not None  # the plot is drawn where there is a search
  search, what = results.search, "top-1 of validation images"
  return candidates_plot(
    search.candidates, search.reference, search.images, what, "teacher", "packed file", width
  )


PLOTS = (
  Plot(
    "accuracy_against_size",
    accuracy_against_size,
    findings.compression,
    "Top-1 on the test images against the size of the model file.",
  ),
  Plot(
    "candidates",
    _search_plot,
    _search_finding,
    "Every student that was made to fit and trained, on validation images.",
    lambda results: results.search is not None,
  ),
  Plot("costs", costs, findings.costs, "What each network costs to store and to run."),
  Plot(
    "latency",
    latency,
    findings.latency,
    "Median time for one image, measured here; other devices differ.",
    lambda results: any(map(_has_latency, results.entries.values())),
  ),
  Plot(
    "training_curves",
    training_curves,
    findings.distillation,
    "Losses of different phases are of different kinds: compare accuracies instead.",
    lambda results: any(map(len, results.curves.values())),
  ),
  Plot(
    "confusion",
    confusion_matrix,
    findings.confusion,
    "Rows are true classes, columns what the int8 model picked, as shares of the row.",
    lambda results: results.confusion is not None and len(results.run.classes) > 0,
  ),
  Plot(
    "activation_ranges",
    activation_ranges,
    findings.activations,
    "The real values that each tensor's 256 integers span, from the input to the logits.",
    lambda results: bool(results.ranges),
  ),
  Plot(
    "weight_ranges",
    weight_ranges,
    findings.weights,
    "Largest magnitude of each output channel: from the least to the largest channel of a layer, "
    "with the median marked.",
    lambda results: any(layer.weights for layer in results.layers),
  ),
)


def render_plots(results: Results, width: float = style.WIDTH) -> dict[str, bytes]:
  """PNG bytes of every plot whose data is there, by name.

  Args:
    results: of the run.
    width: in inches; :data:`~jaxcompress.report.style.NARROW` ones have no title, for phones.
  """
  shown = (plot for plot in PLOTS if plot.present(results))
  return {plot.name: style.png(plot.make(results, width)) for plot in shown}
