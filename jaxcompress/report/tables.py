"""Tables for the terminal, and the figures of networks that the page shows too."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from rich.text import Text

from jaxcompress.nn import Graph
from jaxcompress.report import findings, style, text
from jaxcompress.report.layers import estimated_bytes, layer_rows
from jaxcompress.report.layout import DASH, Column, Table, Words, name_parts
from jaxcompress.report.results import Entry, Results, label, ordered

BITS = (32, 8, 4)
LAYER_WIDTH = 18  # characters of a layer's name between slashes that stay together


class EntryFigure(NamedTuple):
  """A figure of the networks that are compared.

  Attributes:
    terminal: its name in the terminal; None: it is not shown there.
    page: its name in report.html; likewise.
    cell: of an entry; None where it was not measured.
  """

  terminal: str | None
  page: str | None
  cell: Callable[[Entry], str | None]


def maybe(show: Callable[[Any], str], value: Any) -> str | None:
  """Shows a value that may be none."""
  return None if value is None else show(value)


ENTRY_FIGURES = (
  EntryFigure("model", None, lambda e: e.model),
  EntryFigure("top-1", "top-1", lambda e: text.percent(e.top1, 2)),
  EntryFigure("parameters", "parameters", lambda e: f"{e.parameters:,}"),
  EntryFigure("multiply-adds", "multiply-adds", lambda e: text.count(e.macs)),
  EntryFigure("file", "file", lambda e: text.size(e.bytes)),
  EntryFigure("packed", "packed", lambda e: maybe(text.size, e.packed_bytes)),
  EntryFigure("zeros", "zeros", lambda e: maybe(text.percent, e.sparsity)),
  EntryFigure("1 thread", "latency, 1 thread", lambda e: maybe(text.milliseconds, e.latency_ms)),
  EntryFigure("2 threads", "2 threads", lambda e: maybe(text.milliseconds, e.latency_ms_2_threads)),
  EntryFigure("bit-equal", "bit-equal logits", lambda e: maybe(text.percent_down, e.bit_equal)),
  EntryFigure(None, "TFLite-Micro, arena", lambda e: maybe(text.size, e.arena_bytes)),
  EntryFigure(None, "Ethos-U", lambda e: e.npu),
  EntryFigure("steps", None, lambda e: f"{e.steps:,}" if e.steps else None),
  EntryFigure("time", None, lambda e: text.duration(e.seconds) if e.seconds else None),
)


def result_table(results: Results) -> Table:
  """The comparison at the end of a run; rows that no network has are left out.

  Args:
    results: of the run.

  Returns:
    A table that rich prints with a column for each network; it fits 80 characters.

  Examples:
    >>> from jaxcompress.report.results import COMPARED, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> table = result_table(Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries))
    >>> len(table.rows), len(table.columns)  # model, top-1, parameters, multiply-adds, file
    (5, 5)
  """

  def column(key: str, entry: Entry) -> Column:
    weight = "bold" if key == "int8" else ""
    return Column(
      Text(label(key, entry), style.color(key)),
      lambda figure: Text(figure.cell(entry) or DASH, weight),
    )

  entries = ordered(results)
  shown = [
    figure
    for figure in ENTRY_FIGURES
    if figure.terminal is not None and any(figure.cell(entry) for _, entry in entries)
  ]
  names = Words("", lambda figure: Text(figure.terminal, "dim"), whole=True, least=13)
  columns = (names, *(column(key, entry) for key, entry in entries))
  return Table(columns, shown, caption=findings.headline(results))


def latency_table(found: Mapping[str, Any], threads: int) -> Table:
  """Measurements of model files side by side.

  Args:
    found: :class:`jaxcompress.export.measure.Latency` by file.
    threads: that they were timed on.

  Returns:
    A table that rich prints with a row for each file.

  Examples:
    >>> from jaxcompress.export.measure import Latency
    >>> len(latency_table({"a.tflite": Latency(1.5, 0.1, 2**20, 2**21)}, 1).rows)
    1
  """
  columns = (
    Words("file", lambda row: row[0]),
    Column("size", lambda row: text.size(row[1].file_bytes)),
    Column("one image", lambda row: text.milliseconds(row[1].median_ms)),
    Column("spread", lambda row: f"± {text.milliseconds(row[1].spread_ms / 2)}"),
    Column("memory", lambda row: maybe(text.size, row[1].memory_bytes)),
  )
  return Table(columns, tuple(found.items()), "1 thread" if threads == 1 else f"{threads} threads")


def finding_table(findings: Iterable[Any]) -> Table:
  """Findings of a linter in a model file.

  Args:
    findings: of :func:`jaxcompress.export.lint`.

  Returns:
    A table that rich prints with a row for each finding.

  Examples:
    >>> from jaxcompress.export import Finding
    >>> len(finding_table([Finding("batch", "MEAN", "pool", "one image at a time", "error")]).rows)
    1
  """
  columns = (
    Words("severity", lambda finding: finding.severity, whole=True),
    Words("op", lambda finding: finding.op, whole=True),
    Words("name", lambda finding: finding.name),
    Words("requirement", lambda finding: finding.requirement),
    Words("reason", lambda finding: finding.reason),
  )
  return Table(columns, tuple(findings))


def layer_table(graph: Graph, params: Mapping[str, Any], title: str = "", bits: int = 32) -> Table:
  """The layers of a model with their costs, and the totals.

  Args:
    graph: a traced graph.
    params: its parameters, arrays or shapes.
    title: of the table.
    bits: bits of a stored weight.

  Returns:
    A table that rich prints with a footer; with the names of the registry's models it fits 80 characters.

  Examples:
    >>> from jaxcompress import models
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> len(layer_table(summary.graph, summary.variables["params"]).rows)
    17
  """
  rows = layer_rows(graph, params, bits)
  word = max((len(word) for row in rows for word in row.op.split()), default=1)
  part = max((len(part) for row in rows for part in name_parts(row.name)), default=1)
  columns = (
    Words("layer", lambda row: row.name, f"{len(rows)} layers", least=min(part, LAYER_WIDTH)),
    Words("op", lambda row: Text(row.op, "dim"), least=word),
    Column("output", lambda row: text.shape(row.output_shape).replace(" ", "")),
    Column(
      "parameters",
      lambda row: f"{row.parameters:,}" if row.parameters else None,
      f"{sum(row.parameters for row in rows):,}",
    ),
    Column(
      "multiply-\nadds",
      lambda row: f"{row.macs:,}" if row.macs else None,
      f"{sum(row.macs for row in rows):,}",
    ),
    Column(
      "size",
      lambda row: text.size(row.weight_bytes) if row.weight_bytes else None,
      text.size(sum(row.weight_bytes for row in rows)),
    ),
  )
  return Table(columns, rows, title, tight=True)


def model_table(summaries: Mapping[str, Any], title: str = "") -> Table:
  """Models with their sizes: parameters, multiply-adds, and bytes at 32, 8 and 4 bit.

  Args:
    summaries: :class:`jaxcompress.models.Summary` by name.
    title: of the table.

  Returns:
    A table that rich prints that fits 80 characters.

  Examples:
    >>> from jaxcompress import models
    >>> len(model_table({"resnet8": models.summarize(models.resnet8())}).rows)
    1
  """

  def size(bits: int) -> Column:
    return Column(f"{bits} bit", lambda row: text.size(estimated_bytes(row[1].graph, bits)))

  columns = (
    Words("model", lambda row: row[0], whole=True),
    Column("px", lambda row: str(row[1].graph.input_shape[1])),
    Column("parameters", lambda row: f"{row[1].parameters:,}"),
    Column("mult-\nadds", lambda row: text.count(row[1].macs)),
    *map(size, BITS),
  )
  return Table(columns, tuple(summaries.items()), title, tight=True)


def loss_table(distillers: Mapping[str, Any], title: str = "") -> Table:
  """Distillation losses: what they read, their usual weight, and their formula.

  Args:
    distillers: :data:`jaxcompress.distill.DISTILLERS`.
    title: of the table.

  Returns:
    A table that rich prints that fits 80 characters.

  Examples:
    >>> from jaxcompress import distill
    >>> len(loss_table(distill.DISTILLERS).rows) == len(distill.DISTILLERS)
    True
  """
  columns = (
    Words("loss", lambda row: row[0], whole=True),
    Words("reads", lambda row: " ".join(row[1].reads)),
    Column("weight", lambda row: f"{row[1].weight:g}"),
    Words("formula", lambda row: row[1].formula),
  )
  caption = "s: student, t: teacher, y: the label"
  rows = tuple(distillers.items())
  return Table(columns, rows, title, caption, tight=True, group=lambda row: row[1].family)
