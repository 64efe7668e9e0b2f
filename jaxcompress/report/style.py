"""The look of the plots: one palette, light background, no pyplot."""

import functools
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

WIDTH = 9.6  # inches; the page shows an inch as 100 pixels
NARROW = 4.6  # for phones: such figures have no title, and plots stand below each other
DPI = 200
INK, MUTED, GRID, FAINT, PAPER = "#1f2937", "#6b7280", "#e5e7eb", "#cbd5e1", "#ffffff"
ACCENT, WARN = "#0f766e", "#b91c1c"
COLORS = {
  "teacher": "#64748b",
  "alone": "#d97706",
  "alone_equal_time": "#92400e",
  "distilled": "#2563eb",
  "int8": "#0d9488",
}
SPARE = ("#7c3aed", "#db2777", "#65a30d", "#0891b2")

RC = {
  "axes.axisbelow": True,
  "axes.edgecolor": GRID,
  "axes.facecolor": PAPER,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.labelcolor": MUTED,
  "axes.labelsize": 9,
  "axes.spines.left": False,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlecolor": INK,
  "axes.titlelocation": "left",
  "axes.titlesize": 10,
  "figure.facecolor": PAPER,
  "figure.constrained_layout.use": True,
  "font.family": ["DejaVu Sans"],
  "font.size": 9,
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "lines.linewidth": 1.8,
  "savefig.facecolor": PAPER,
  "text.color": INK,
  "text.parse_math": False,  # a class may be called "$"
  "xtick.color": GRID,
  "xtick.labelcolor": MUTED,
  "xtick.labelsize": 8.5,
  "ytick.color": GRID,
  "ytick.labelcolor": MUTED,
  "ytick.labelsize": 8.5,
  "ytick.left": False,
}

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def look() -> Iterator[None]:
  """Settings under which figures are made and saved; the caller's are back afterwards."""
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(RC)  # type: ignore[arg-type]  # its stubs list every name
    yield


def styled(function: Callable[P, R]) -> Callable[P, R]:
  """Runs a function under :func:`look`, whatever style the user has set."""

  @functools.wraps(function)
  def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
    with look():
      return function(*args, **kwargs)

  return wrapper


def figure(title: str, height: float, width: float = WIDTH) -> Figure:
  """An empty figure whose title says the finding; a narrow one has none."""
  fig = Figure(figsize=(width, height))
  if is_narrow(width):
    fig.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, hspace=0.06)
    return fig
  below = (0, 0, 1, 1 - title_strip(title, width) / height)
  fig.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04, rect=below)
  fig.suptitle(
    "\n".join("".join(c if _has_glyph(c) else "?" for c in line) for line in _lines(title, width)),
    x=0.1 / width,
    y=1 - 0.1 / height,
    ha="left",
    va="top",
    fontsize=12,
    fontweight="bold",
  )
  return fig


def row_of_plots(
  title: str, height: float, width: float, shares: Sequence[float]
) -> tuple[Figure, Sequence[Axes]]:
  """A figure of plots beside each other, or in a narrow one below each other.

  Args:
    title: of the figure.
    height: of a row, in inches.
    width: of the figure.
    shares: of the width, one for each plot.

  Examples:
    >>> fig, axes = row_of_plots("title", 3.0, NARROW, (1, 1))
    >>> fig.get_size_inches().tolist(), len(axes)
    ([4.6, 6.0], 2)
  """
  if is_narrow(width):
    fig = figure(title, height * len(shares), width)
    return fig, list(np.atleast_1d(fig.subplots(len(shares), 1)))
  fig = figure(title, height, width)
  return fig, list(np.atleast_1d(fig.subplots(1, len(shares), width_ratios=tuple(shares))))


def is_narrow(width: float) -> bool:
  """Whether a figure is one for phones."""
  return width <= NARROW


def title_strip(title: str, width: float) -> float:
  """Height in inches of the strip at the top of a figure that its title takes.

  Examples:
    >>> title_strip("short", 9.6) < title_strip("long " * 40, 9.6)
    True
  """
  return 0.16 + 0.2 * len(_lines(title, width))


def _lines(title: str, width: float) -> list[str]:
  return textwrap.wrap(title, width=int(width * 9.5)) or [""]


def color(key: str) -> str:
  """Colour of an entry or phase; the same in every plot."""
  return COLORS.get(key) or SPARE[sum(key.encode()) % len(SPARE)]


def spread(
  heights: Sequence[float], places: Sequence[float], gap: float, near: float = 1.8
) -> list[float]:
  """Moves labels apart that stand at nearly the same place, keeping their order.

  Args:
    heights: of the labels, as shares of the axis.
    places: positions on a logarithmic axis.
    gap: least distance of two touching labels.
    near: labels within this factor may touch.

  Examples:
    >>> [round(h, 2) for h in spread([0.50, 0.52, 0.5], [1, 1, 100], 0.1)]
    [0.46, 0.56, 0.5]
  """
  moved = list(heights)
  for _ in range(50):
    for i in range(len(moved)):
      for j in range(len(moved)):
        touch = abs(math.log(places[i] / places[j])) < math.log(near)
        below = (heights[i], -i) < (heights[j], -j)
        overlap = gap - (moved[j] - moved[i])
        if i != j and touch and below and overlap > 1e-6:
          moved[i] -= overlap / 2
          moved[j] += overlap / 2
  return moved


@styled
def png(fig: Figure) -> bytes:
  """The figure as PNG bytes; equal figures give equal bytes."""
  buffer = io.BytesIO()
  fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
  return buffer.getvalue()


def printable(name: str, index: int) -> str:
  """A class name that the plots' font can draw; otherwise the class's number.

  Examples:
    >>> printable("Ä", 3), printable("\N{CJK UNIFIED IDEOGRAPH-732B}", 3)
    ('Ä', '#3')
  """
  return name if name.strip() and all(map(_has_glyph, name)) else f"#{index}"


def _has_glyph(character: str) -> bool:
  font = get_font(findfont(FontProperties(family="DejaVu Sans")))
  return character.isprintable() and font.get_char_index(ord(character)) > 0


def ticks_for(count: int, most: int) -> range:
  """Positions of labels: all, or every n-th where there are more than fit.

  Examples:
    >>> list(ticks_for(3, 10)), list(ticks_for(10, 4))
    ([0, 1, 2], [0, 3, 6, 9])
  """
  return range(0, count, -(-count // most))


def bars(
  ax: Axes,
  labels: list[str],
  values: list[float],
  colors: list[str],
  ends: list[str],
  least: int = 1,
) -> None:
  """Bars from top to bottom, each with a text at its end, and room for at least ``least``."""
  rows = range(len(labels))
  room = max(len(labels), least)
  ax.barh(rows, values, color=colors, height=0.62)
  ax.set_yticks(rows, labels, color=INK)
  ax.set_ylim(room - 0.4, -0.6)
  ax.set_xlim(0, 1.32 * (max(values, default=0) or 1))  # room for the texts
  ax.set_xticks([])
  ax.grid(False)
  ax.spines["bottom"].set_visible(False)
  for row, value, end in zip(rows, values, ends, strict=True):
    ax.annotate(end, (value, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
