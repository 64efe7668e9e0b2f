"""The confusion matrix, readable from 2 to 100 classes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxcompress.report import findings, style, text
from jaxcompress.report.results import Results

MISTAKES = LinearSegmentedColormap.from_list(
  "mistakes", ["#ffffff", "#fed7aa", "#ea580c", "#7f1d1d"]
)
RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#99d5cf", "#0d9488"])
FEW = 20  # classes whose cells have room for numbers
MOST_LABELS = 100
PAIRS = 10
DARKEST = 0.15  # the least share of a row that gets the darkest colour


def count_confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
  """Counts of (true, predicted) pairs.

  Args:
    labels: (images,) integers below ``classes``.
    predictions: (images,) likewise.
    classes: number of classes.

  Returns:
    int64 (classes, classes), rows true.

  Examples:
    >>> count_confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
  """
  index = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
  return np.bincount(index, minlength=classes**2).reshape(classes, classes)


@style.styled
def confusion_matrix(results: Results) -> Figure:
  """Shares of each true class: right answers on the diagonal, mistakes beside it."""
  matrix = np.asarray(results.confusion)
  names = [style.printable(name, i) for i, name in enumerate(results.run.classes)]
  classes = len(names)
  pairs = findings.confused_pairs(matrix, PAIRS)
  title = findings.confusion(results)
  if classes <= FEW:
    side = min(max(3.4, 0.32 * classes + 1.6), 6.6)
    fig = style.figure(title, side + 0.4)
    ax, beside = fig.subplots(1, 2, width_ratios=(side, style.WIDTH - side))
  else:
    width = style.WIDTH if classes <= 60 else 11.6
    side, below = width - 1.0, 0.2 * max(len(pairs), 1) + 0.6
    fig = style.figure(title, side + below, width)
    ax, beside = fig.subplots(2, 1, height_ratios=(side, below))
  _matrix(ax, matrix, [text.clip(name, 14) for name in names])
  _pairs(beside, pairs, [text.clip(name, 22) for name in names])
  return fig


def _matrix(ax: Axes, matrix: np.ndarray, names: list[str]) -> None:
  shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  mistakes = shares - np.diag(np.diag(shares))
  picture = MISTAKES(np.sqrt(mistakes / max(float(mistakes.max()), DARKEST)))
  diagonal = np.arange(len(names))
  picture[diagonal, diagonal] = RIGHT(0.25 + 0.75 * np.diag(shares))
  ax.imshow(picture, aspect="equal", interpolation="nearest")
  _name_axes(ax, names)
  ax.spines["bottom"].set_visible(False)
  ax.grid(False)
  if len(names) <= MOST_LABELS:
    edges = np.arange(len(names) + 1) - 0.5
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(True, which="minor", axis="both", color="#f1f5f9", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
  if len(names) <= FEW:
    _numbers(ax, matrix, picture)


def _name_axes(ax: Axes, names: list[str]) -> None:
  positions = list(style.ticks_for(len(names), MOST_LABELS))
  shown = [names[i] for i in positions]
  size = 8.5 if len(names) <= FEW else 7 if len(names) <= 60 else 5.8
  wide = max(map(len, shown)) * len(shown) > 100
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


def _pairs(ax: Axes, pairs: tuple[findings.Pair, ...], names: list[str]) -> None:
  """Bars of the most frequent mistakes."""
  ax.set_title("most frequent mistakes" if pairs else "no mistakes")
  if not pairs:
    ax.set_axis_off()
    return
  labels = [f"{names[p.true]} → {names[p.predicted]}" for p in pairs]
  ends = [f"{p.count} of {p.total}" for p in pairs]
  least = PAIRS if len(names) <= FEW else 1
  style.bars(ax, labels, [p.count for p in pairs], ["#ea580c"] * len(pairs), ends, least)
