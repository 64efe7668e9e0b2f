"""What was tried to quantize a network: methods, and networks of several sizes."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.table import Table
from rich.text import Text

from jaxcompress.quantize.analysis.budget import Allocation
from jaxcompress.quantize.analysis.sensitivity import Sensitivity
from jaxcompress.quantize.ptq.drive import Trial
from jaxcompress.report import style, text
from jaxcompress.report.layout import plain_table
from jaxcompress.report.results import Point


def trial_table(trials: Sequence[Trial], *, labels: bool, kept: str | None = None) -> Table:
  """The methods of post-training quantization that were tried.

  Args:
    trials: from :func:`jaxcompress.quantize.search`.
    labels: whether scores are shares that are right; else those on which the float network decides
      alike.
    kept: name of the method whose network was kept.

  Examples:
    >>> trial_table([Trial("minmax", 0.9, 0.01, 20.0, 1.5)], labels=True).row_count
    1
  """
  table = plain_table(None, None)
  table.add_column("method", no_wrap=True)
  for name in ("top-1" if labels else "agreement", "drop", "SQNR", "time"):
    table.add_column(name, justify="right", no_wrap=True)
  for trial in trials:
    table.add_row(
      Text(trial.name),
      text.percent(trial.score, 2),
      text.points(round(-trial.drop, 4) + 0.0),  # no minus before a zero
      f"{trial.sqnr:.1f} dB" if math.isfinite(trial.sqnr) else "exact",
      text.duration(trial.seconds),
      style="bold" if trial.name == kept else "",
    )
  return table


def allocation_table(sensitivity: Sensitivity, allocation: Allocation) -> Table:
  """The bits of every layer, what they cost, and what each other number would have.

  Args:
    sensitivity: of the network.
    allocation: from :func:`jaxcompress.quantize.analysis.budget.choose_bits`.

  Examples:
    >>> from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity
    >>> rows = (LayerSensitivity("stem", 100, 1, (0.0, 0.5), (108, 58)),)
    >>> found = Sensitivity("kl", (8, 4), rows, 0, 32)
    >>> table = allocation_table(found, Allocation({"stem": 8}, 108, 0.0))
    >>> [column.header for column in table.columns]
    ['layer', 'bits', 'bytes', 'KL at 8', '4']
  """
  measure = "KL" if sensitivity.measure == "kl" else "rise of the loss"
  table = plain_table(None, None)
  table.show_footer = True
  table.add_column("layer", f"{len(sensitivity.layers)} layers", overflow="fold")
  table.add_column("bits", "", justify="right")
  table.add_column("bytes", text.size(allocation.bytes), justify="right")
  for i, bits in enumerate(sensitivity.bits):
    head = f"{measure} at {bits}" if i == 0 else f"{bits}"
    table.add_column(head, "", justify="right")
  for layer in sensitivity.layers:
    bits = allocation.bits[layer.name]
    column = sensitivity.bits.index(bits)
    costs = (text.significant(cost, 2) for cost in layer.costs)
    table.add_row(
      Text(layer.name),
      str(bits),
      f"{layer.bytes[column]:,}",
      *(Text(cost, "bold" if i == column else "dim") for i, cost in enumerate(costs)),
    )
  return table


def candidates_finding(
  candidates: Sequence[Point], reference: float, compared_with: str = "float network"
) -> str:
  """Which network is best in its size, in a sentence.

  Examples:
    >>> candidates_finding([Point("8 bits", 1000, 0.9), Point("mixed", 600, 0.89, True)], 0.9)
    'mixed: 89.0 % in 600 B, -1.0 points beside the float network.'
  """
  chosen = next((one for one in candidates if one.chosen), None)
  chosen = chosen or next((one for one in candidates if one.mixed), None)
  chosen = chosen or max(candidates, key=lambda one: one.score)
  return (
    f"{chosen.name}: {text.percent(chosen.score)} in {text.size(chosen.bytes)},"
    f" {text.points(chosen.score - reference)} beside the {compared_with}."
  )


@style.styled
def candidates_plot(
  candidates: Sequence[Point],
  reference: float,
  images: int,
  what: str = "top-1",
  compared_with: str = "float network",
  sizes_of: str = "packed weights, scales and biases",
) -> Figure:
  """Scores of quantized networks against their packed sizes.

  Args:
    candidates: at least one.
    reference: the score that they are compared with, a share.
    images: on which the scores were measured.
    what: the scores are.
    compared_with: whose score the reference is.
    sizes_of: what the bytes are.

  Raises:
    ValueError: if there are no candidates.

  Examples:
    >>> candidates = [Point("8 bits", 1000, 0.9), Point("mixed", 600, 0.89, mixed=True)]
    >>> fig = candidates_plot(candidates, reference=0.9, images=1000)
    >>> fig.axes[0].get_title(loc="left")
    'top-1'
  """
  if not candidates:
    raise ValueError("candidates: there are none; give at least one.")
  fig = style.figure(candidates_finding(candidates, reference, compared_with), 4.0)
  ax = fig.subplots()
  sizes = [one.bytes for one in candidates]
  scores = [one.score for one in candidates]
  noise = [math.sqrt(s * (1 - s) / max(images, 1)) for s in scores]
  ends = [
    reference,
    *(s + sign * e for s, e in zip(scores, noise, strict=True) for sign in (-1, 1)),
  ]
  span = max(max(ends) - min(ends), 0.02)
  low, high = min(ends) - 0.15 * span, max(ends) + 0.15 * span
  ax.set_ylim(low, high)
  ax.set_xlim(0, 1.35 * max(sizes))
  ax.axhline(reference, color=style.color("teacher"), lw=1, ls=(0, (4, 3)), zorder=1)
  name = compared_with.removesuffix(" network")
  ax.annotate(f" {name}", (0, reference), va="bottom", color=style.color("teacher"), fontsize=8.5)
  places = style.spread([(s - low) / (high - low) for s in scores], sizes, 0.135)
  for one, error, place in zip(candidates, noise, places, strict=True):
    color = style.color("int8" if one.mixed or one.chosen else "distilled")
    ax.errorbar(one.bytes, one.score, error, fmt="o", ms=8, color=color, elinewidth=1.2, zorder=3)
    ax.annotate(
      f"{one.name}\n{text.percent(one.score)}, {text.size(one.bytes)}",
      (one.bytes, one.score),
      (one.bytes + 0.02 * max(sizes), low + place * (high - low)),
      va="center",
      linespacing=1.25,
      bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1},
      color=color,
    )
  ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.size(value)))
  ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{round(100 * v, 2):g} %"))
  ax.set_xlabel(f"{sizes_of} (bars: one standard error)")
  ax.set_title(what)
  return fig
