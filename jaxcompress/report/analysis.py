"""Tables of post-training quantization: methods, bits of layers, and errors of layers."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from jaxcompress.files.records import plain
from jaxcompress.quantize import suggest
from jaxcompress.quantize.analysis.budget import Allocation
from jaxcompress.quantize.analysis.findings import Analysis, LayerAnalysis
from jaxcompress.quantize.analysis.sensitivity import Sensitivity
from jaxcompress.quantize.ptq.algorithms import ALGORITHMS
from jaxcompress.quantize.ptq.post_training import AUTO, SLACK, Ahead, Trial
from jaxcompress.report import findings, style, text
from jaxcompress.report.layout import Column, Table, Words
from jaxcompress.report.tables import LAYER_WIDTH


def trial_table(trials: Sequence[Trial], *, labels: bool, kept: str | None = None) -> Table:
  """The methods of post-training quantization that were tried.

  Args:
    trials: that :func:`jaxcompress.quantize.post_training` told of.
    labels: whether scores are shares that are right; else those on which the float network decides
      alike.
    kept: name of the method whose network was kept.

  Examples:
    >>> len(trial_table([Trial("minmax", 0.9, 0.01, 20.0, 1.5)], labels=True).rows)
    1
  """
  columns = (
    Words("method", lambda trial: trial.name, whole=True),
    Column("top-1" if labels else "agreement", lambda trial: text.percent(trial.score, 2)),
    Column(
      "drop", lambda trial: text.points(round(-trial.drop, 4) + 0.0)
    ),  # no minus before a zero
    Column("SQNR", _noise),
    Column("time", lambda trial: text.duration(trial.seconds)),
  )
  return Table(columns, trials, strong=lambda trial: trial.name == kept)


def trial_text(trial: Trial, *, labels: bool) -> str:
  """A method that was tried, in words; as :func:`trial_table`.

  Examples:
    >>> trial_text(Trial("minmax", 0.9, 0.01, 20.0, 1.5), labels=True)
    'minmax, top-1 90.00 % (-1.0 points), 20.0 dB'
  """
  measure = "top-1" if labels else "agreement"
  drop = text.points(round(-trial.drop, 4) + 0.0)
  return f"{trial.name}, {measure} {text.percent(trial.score, 2)} ({drop}), {_noise(trial)}"


def ahead_text(trial: Trial, ahead: Ahead) -> str:
  """Says how much accuracy the algorithms not yet tried may gain, and in about how much time.

  Examples:
    >>> ahead_text(Trial("minmax", 0.9, 0.012, 20.0, 1.5), Ahead(("ema", "kl"), 42.0))
    'next: ema, kl; they may gain up to 1.2 points in about 42 s, and an interruption keeps what is written'
  """
  gain = f"gain up to {100 * trial.drop:.1f} points"
  if trial.drop <= SLACK:
    gain = f"come nearer to the float network than {_noise(trial)}"
  return (
    f"next: {', '.join(ahead.names)}; they may {gain} in about {text.duration(ahead.seconds)},"
    " and an interruption keeps what is written"
  )


def left_text(trials: Sequence[Trial], method: str) -> str:
  """Names the slow algorithms that a search with a loss of accuracy left out; "" if there are none.

  Examples:
    >>> left_text([Trial("minmax", 0.9, 0.012, 20.0, 1.5)], "auto")
    "methods 'adaround', 'brecq', 'qdrop' take many times as long as all others; name one to try it"
    >>> left_text([Trial("minmax", 0.9, 0.0, 20.0, 1.5)], "auto")
    ''
  """
  slow = {name for name, algorithm in ALGORITHMS.items() if algorithm.learns}
  left, tried = sorted(slow), {trial.name for trial in trials}
  if method != AUTO or slow & tried or min(trial.drop for trial in trials) <= SLACK:
    return ""
  names = ", ".join(map(repr, left))
  return f"methods {names} take many times as long as all others; name one to try it"


def _noise(trial: Trial) -> str:
  return f"{trial.sqnr:.1f} dB" if trial.sqnr < math.inf else "exact"


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
    >>> [column.title for column in table.columns]
    ['layer', 'bits', 'bytes', 'KL at 8', '4']
  """
  measure = "KL" if sensitivity.measure == "kl" else "rise of the loss"

  def cost(i: int, bits: int) -> Column:
    return Column(
      f"{measure} at {bits}" if i == 0 else f"{bits}",
      lambda layer: Text(
        text.significant(layer.costs[i], 2),
        "bold" if allocation.bits[layer.name] == bits else "dim",
      ),
    )

  def size(layer: Any) -> str:
    return f"{layer.bytes[sensitivity.bits.index(allocation.bits[layer.name])]:,}"

  columns = (
    Words("layer", lambda layer: layer.name, f"{len(sensitivity.layers)} layers"),
    Column("bits", lambda layer: str(allocation.bits[layer.name])),
    Column("bytes", size, text.size(allocation.bytes)),
    *(cost(i, bits) for i, bits in enumerate(sensitivity.bits)),
  )
  return Table(columns, sensitivity.layers)


def analysis_table(analysis: Analysis, most: int | None = None) -> Table:
  """The layers in order; those that make up most of the isolated error stand out.

  Args:
    analysis: of a quantized network.
    most: layers that are shown, those with the largest isolated divergence, with fewer figures; None:
      all of both.

  Returns:
    A table that rich prints; it fits 100 characters, of some layers 80.

  Examples:
    >>> from jaxcompress.quantize.analysis.findings import LayerAnalysis
    >>> layer = LayerAnalysis(
    ...   "stem", "ConvNorm", 4, 20.0, 12.0, 0.5, 0.4, 12.0, 0.5, 0.9, 0.06, 0.0, 16, ()
    ... )
    >>> table = analysis_table(Analysis((layer,), 12.0, 0.5, 0.9, 64))
    >>> len(table.rows), len(table.columns)
    (1, 10)
  """
  blamed, short = {layer.name for layer in analysis.blamed()}, most is not None
  worst = sorted(analysis.layers, key=lambda layer: -layer.isolated_kl)[:most]

  def marked(layer: Any, cell: str) -> Text:
    return Text(cell, f"bold {style.WARN}" if layer.name in blamed else "")

  columns = (
    Words("layer", lambda layer: marked(layer, layer.name), whole=not short, least=LAYER_WIDTH),
    None if short else Words("op", lambda layer: Text(layer.op, "dim")),
    Column("bits", lambda layer: str(layer.bits) if layer.bits else None),
    Column("output\ndB", lambda layer: _decibels(layer.sqnr)),
    Column("alone\ndB", lambda layer: _decibels(layer.isolated_sqnr)),
    Column("alone\nKL", lambda layer: marked(layer, text.significant(layer.isolated_kl, 2))),
    Column("up to\ndB", lambda layer: _decibels(layer.cumulative_sqnr)),
    Column("codes", lambda layer: text.percent(layer.codes_used, 0)),
    Column(
      "clipped", lambda layer: f"{100 * layer.saturation:.2g} %" if layer.saturation else None
    ),
    None if short else Column("dead", _dead),
  )
  rows = [layer for layer in analysis.layers if layer in worst]
  caption = findings.analysis(analysis)
  return Table(tuple(filter(None, columns)), rows, caption=caption, tight=True)


def _dead(layer: LayerAnalysis) -> str | None:
  return f"{len(layer.dead)} of {layer.channels}" if layer.dead else None


def _decibels(value: float) -> str | None:
  return f"{value:.1f}" if math.isfinite(value) else None


def analysis_text(analysis: Analysis) -> str:
  """The text of a JSON file of an analysis with its suggestions; infinite decibels become null.

  Examples:
    >>> json.loads(analysis_text(Analysis((), math.inf, 0.0, 1.0, 8)))["sqnr"] is None
    True
  """
  fields = {
    **{name: getattr(analysis, name) for name in ("sqnr", "kl", "agreement", "images")},
    "layers": [layer._asdict() for layer in analysis.layers],
    "suggestions": [
      {"match": suggestion.rule.match, "reason": suggestion.reason}
      for suggestion in suggest(analysis)
    ],
  }
  return json.dumps(plain(fields), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
