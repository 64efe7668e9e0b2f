"""The part of report.html that says what a model mistakes."""

from collections.abc import Sequence
from html import escape

from jaxcompress.report import findings, text
from jaxcompress.report.classes import class_figures, confused_pairs
from jaxcompress.report.layout import Column
from jaxcompress.report.markup import safe, source, table
from jaxcompress.report.results import Results, Sample
from jaxcompress.report.tables import maybe

FEW_CLASSES = 12  # are shown at once


def mistakes(results: Results, figure: str) -> str:
  """Classes, pairs of them that are confused, and pictures.

  Args:
    results: of the run.
    figure: HTML of the confusion matrix, between the words about the classes and their table.

  Returns:
    HTML, empty where nothing is known.
  """
  return (
    _class_words(results)
    + figure
    + _class_table(results)
    + _pair_table(results)
    + _samples(results)
  )


def _class_words(results: Results) -> str:
  words = "" if results.confusion is None else findings.balance(results.confusion)
  return f'<p class="note">{safe(words)}</p>' if words else ""


def _class_table(results: Results) -> str:
  """Figures of each class; behind a click where there are many."""
  if results.confusion is None:
    return ""
  show = lambda share: maybe(text.percent, share)  # noqa: E731
  rows = list(zip(results.run.classes, class_figures(results.confusion), strict=True))
  columns = [
    Column("class", lambda row: row[0]),
    Column("images", lambda row: f"{row[1].support:,}"),
    Column("recall", lambda row: show(row[1].recall)),
    Column("precision", lambda row: show(row[1].precision)),
    Column("F1", lambda row: show(row[1].f1)),
  ]
  shown = table(columns, rows, "classes")
  if len(rows) <= FEW_CLASSES:
    return shown
  return f"<details><summary>All {len(rows)} classes</summary>{shown}</details>"


def _pair_table(results: Results) -> str:
  """The most frequent mistakes."""
  pairs = () if results.confusion is None else confused_pairs(results.confusion)
  names = results.run.classes
  columns = [
    Column("true", lambda pair: names[pair.true]),
    Column("picked", lambda pair: names[pair.predicted]),
    Column("images", lambda pair: f"{pair.count} of {pair.total}"),
    Column("share", lambda pair: text.percent(pair.count / pair.total)),
  ]
  shown = table(columns, pairs, "pairs")
  summary = "The most frequent mistakes as a table"
  return f"<details><summary>{summary}</summary>{shown}</details>" if pairs else ""


def _samples(results: Results) -> str:
  """Mistakes, the surest first, then what was right."""
  wrong = [one for one in results.samples if one.label != one.prediction]
  right = [one for one in results.samples if one.label == one.prediction]
  counts = {} if results.confusion is None else findings.right_and_wrong(results.confusion)
  parts = []
  for title, key, shown in (("Wrong", "wrong", wrong), ("Right", "right", right)):
    if shown:
      of = f"{len(shown)} of {counts[key]:,}" if counts else f"{len(shown)}"
      surest = ", the surest first" if key == "wrong" and shown[0].score is not None else ""
      tiles = "".join(_tile(results.run.classes, sample, key) for sample in shown)
      parts.append(f'<h3>{title}: {of}{surest}</h3><div class="samples">{tiles}</div>')
  return "".join(parts)


def _tile(names: Sequence[str], sample: Sample, kind: str) -> str:
  true, picked = escape(names[sample.label]), escape(names[sample.prediction])
  words = true if sample.label == sample.prediction else f"{true} → {picked}"
  score = "" if sample.score is None else f" {escape(text.percent(sample.score, 0))}"
  file = "" if sample.name is None else f"<small>{escape(sample.name)}</small>"
  return (
    f'<figure class="{kind}"><img alt="{true}, picked {picked}" src="{source(sample.png)}">'
    f"<figcaption>{words}{score}{file}</figcaption></figure>"
  )
