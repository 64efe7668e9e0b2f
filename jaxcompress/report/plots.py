"""Plots of a run: training curves, accuracy against size, costs and latency; and all of them."""

import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jaxcompress.files.writing import write_atomically
from jaxcompress.report import findings, style, text
from jaxcompress.report.candidates import candidates_finding, candidates_plot
from jaxcompress.report.confusion import confusion_matrix
from jaxcompress.report.ranges import activation_ranges, weight_ranges
from jaxcompress.report.results import Results, label, ordered


class Plot(NamedTuple):
  """A plot of the report.

  Attributes:
    name: of its file, without the ending.
    make: draws it.
    finding: its title, in a sentence.
    present: whether the results hold what it shows.
    caption: how to read it.
  """

  name: str
  make: Callable[[Results], Figure]
  finding: Callable[[Results], str]
  present: Callable[[Results], bool]
  caption: str


@style.styled
def training_curves(results: Results) -> Figure:
  """Loss and accuracy of every phase against its own steps."""
  fig = style.figure(findings.distillation(results), 3.9)
  left, right = fig.subplots(1, 2)
  for phase, rows in results.curves.items():
    name, color = label(phase, results.entries.get(phase)), style.color(phase)
    _line(left, rows, "loss", color, name)
    _line(right, rows, "accuracy", color, name)
    steps, held_out = series(rows, "top1")
    if steps.size:
      right.plot(steps, held_out, "o", ms=4, mfc=style.PAPER, color=color)
  _mark_integers(results, (left, right))
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
  handles, names = left.get_legend_handles_labels()
  fig.legend(handles, names, loc="outside lower center", ncols=max(len(names), 1))
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
  ax.plot(steps, values, color=color, label=text_label)


def _mark_integers(results: Results, axes: Sequence[Axes]) -> None:
  """A line where a distilled student goes on at integers, if one curve holds both."""
  steps = results.entries["distilled"].steps
  rows = results.curves.get("distilled", ())
  if steps and rows and rows[-1]["step"] > steps:
    for ax in axes:
      ax.axvline(steps, color=style.color("int8"), lw=1, ls=(0, (4, 3)), zorder=1)
    name = label("int8", results.entries["int8"]).removeprefix("distilled, ")
    axes[0].annotate(
      f"{name} ",
      (steps, 0.97),
      xycoords=axes[0].get_xaxis_transform(),
      ha="right",
      color=style.color("int8"),
      fontsize=8.5,
    )


def _markers(results: Results) -> str:
  held_out = any(row.get("top1") is not None for rows in results.curves.values() for row in rows)
  return " (circles: held-out images)" if held_out else ""


@style.styled
def accuracy_against_size(results: Results) -> Figure:
  """Top-1 against the size of the model file, on a logarithmic axis."""
  fig = style.figure(findings.compression(results), 4.0)
  ax = fig.subplots()
  entries = ordered(results)
  sizes = [max(entry.bytes, 1) for _, entry in entries]
  shares = [entry.top1 for _, entry in entries]
  ax.set_xscale("log")
  ax.set_xlim(min(sizes) / 1.6, max(sizes) * 2.6)
  noise = [math.sqrt(s * (1 - s) / max(results.run.test_images, 1)) for s in shares]
  ends = [s + sign * e for s, e in zip(shares, noise, strict=True) for sign in (-1, 1)]
  span = max(max(ends) - min(ends), 0.02)
  low, high = max(min(ends) - 0.2 * span, -0.02), min(max(ends) + 0.15 * span, 1.02)
  ax.set_ylim(low, high)
  places = style.spread([(s - low) / (high - low) for s in shares], sizes, 0.135)
  for (key, entry), size, share, error, place in zip(
    entries, sizes, shares, noise, places, strict=True
  ):
    color = style.color(key)
    ax.errorbar(size, share, error, fmt="o", ms=8, color=color, elinewidth=1.2, zorder=3)
    ax.annotate(
      f"{label(key, entry)}\n{text.percent(share)}, {text.size(size)}",
      (size, share),
      (size * 1.09, low + place * (high - low)),
      va="center",
      linespacing=1.25,
      bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1},
      color=color,
    )
  ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.size(value)))
  ax.xaxis.set_minor_locator(NullLocator())
  ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{round(100 * v, 2):g} %"))
  ax.set_xlabel("model file (bars: one standard error of the test set)")
  ax.set_title("top-1")
  return fig


@style.styled
def costs(results: Results) -> Figure:
  """Parameters, multiply-adds and file size, side by side."""
  entries = ordered(results)
  fig = style.figure(findings.costs(results), 0.34 * len(entries) + 1.1)
  names = [label(key, entry) for key, entry in entries]
  colors = [style.color(key) for key, _ in entries]
  columns = (
    ("parameters", "parameters", text.count),
    ("multiply-adds", "macs", text.count),
    ("model file", "bytes", text.size),
  )
  for i, (ax, (title, field, show)) in enumerate(zip(fig.subplots(1, 3), columns, strict=True)):
    values = [getattr(entry, field) for _, entry in entries]
    style.bars(ax, names if i == 0 else [""] * len(names), values, colors, list(map(show, values)))
    ax.set_title(title)
  return fig


@style.styled
def latency(results: Results) -> Figure:
  """Median latency of each .tflite on one and two threads."""
  entries = [(k, e) for k, e in ordered(results) if e.latency_ms or e.latency_ms_2_threads]
  fig = style.figure(findings.latency(results), 0.36 * len(entries) + 1.1)
  names = [label(key, entry) for key, entry in entries]
  colors = [style.color(key) for key, _ in entries]
  for i, (ax, field) in enumerate(
    zip(fig.subplots(1, 2), ("latency_ms", "latency_ms_2_threads"), strict=True)
  ):
    values = [getattr(entry, field) or 0.0 for _, entry in entries]
    ends = [text.milliseconds(value) if value else "not measured" for value in values]
    style.bars(ax, names if i == 0 else [""] * len(names), values, colors, ends)
    ax.set_title(("1 thread", "2 threads")[i])
  return fig


def _has_latency(results: Results) -> bool:
  return any(e.latency_ms or e.latency_ms_2_threads for e in results.entries.values())


def _search_finding(results: Results) -> str:
  assert results.search is not None  # as for its plot
  search = results.search
  return candidates_finding(search.candidates, search.reference, "teacher")


def _search_plot(results: Results) -> Figure:
  assert results.search is not None  # the plot is drawn where there is a search
  search = results.search
  return candidates_plot(
    search.candidates,
    search.reference,
    search.images,
    "top-1 of validation images",
    compared_with="teacher",
    sizes_of="packed file",
  )


PLOTS = (
  Plot(
    "accuracy_against_size",
    accuracy_against_size,
    findings.compression,
    lambda results: True,
    "Top-1 on the test images against the size of the model file.",
  ),
  Plot(
    "candidates",
    _search_plot,
    _search_finding,
    lambda results: results.search is not None,
    "Every student that was made to fit and trained, on validation images.",
  ),
  Plot(
    "costs",
    costs,
    findings.costs,
    lambda results: True,
    "What each network costs to store and to run.",
  ),
  Plot(
    "latency",
    latency,
    findings.latency,
    _has_latency,
    "Median time for one image, measured here; other devices differ.",
  ),
  Plot(
    "training_curves",
    training_curves,
    findings.distillation,
    lambda results: any(map(len, results.curves.values())),
    "Losses of different phases are of different kinds: compare accuracies instead.",
  ),
  Plot(
    "confusion",
    confusion_matrix,
    findings.confusion,
    lambda results: results.confusion is not None and len(results.run.classes) > 0,
    "Rows are true classes, columns what the int8 model picked, as shares of the row.",
  ),
  Plot(
    "activation_ranges",
    activation_ranges,
    findings.activations,
    lambda results: bool(results.ranges),
    "The real values that each tensor's 256 integers span, from the input to the logits.",
  ),
  Plot(
    "weight_ranges",
    weight_ranges,
    findings.weights,
    lambda results: any(layer.weights for layer in results.layers),
    "Largest magnitude of each output channel: from the least to the largest channel of a layer, "
    "with the median marked.",
  ),
)


def render_plots(results: Results) -> dict[str, bytes]:
  """PNG bytes of every plot whose data is there, by name."""
  return {plot.name: style.png(plot.make(results)) for plot in PLOTS if plot.present(results)}


def write_plots(results: Results, folder: str | os.PathLike) -> dict[str, pathlib.Path]:
  """Writes every plot whose data is there as ``NAME.png``, and returns the paths by name.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.report.results import STAGES, Entry, Run
    >>> entries = dict.fromkeys(STAGES, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> [path.name for path in write_plots(results, tempfile.mkdtemp()).values()]
    ['accuracy_against_size.png', 'costs.png']
  """
  return {
    name: write_atomically(pathlib.Path(folder) / f"{name}.png", data)
    for name, data in render_plots(results).items()
  }
