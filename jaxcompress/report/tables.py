"""Tables for the terminal."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from jaxcompress.nn import Graph
from jaxcompress.report import findings, style, text
from jaxcompress.report.layers import layer_rows, model_bytes
from jaxcompress.report.layout import name_parts, plain_table
from jaxcompress.report.results import Entry, Results, label, ordered

DASH = "–"
BITS = (32, 8, 4)
LAYER_WIDTH = 18  # characters of a layer's name between slashes that stay together


def result_table(results: Results) -> Table:
  """The comparison at the end of a run; rows that no network has are left out.

  Args:
    results: of the run.

  Returns:
    A rich table with a column for each network; it fits 80 characters.

  Examples:
    >>> from jaxcompress.report.results import STAGES, Run
    >>> entries = dict.fromkeys(STAGES, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> table = result_table(Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries))
    >>> table.row_count, len(table.columns)  # model, top-1, parameters, multiply-adds, file
    (5, 5)
  """
  entries = ordered(results)
  rows: dict[str, Callable[[Entry], str | None]] = {
    "model": lambda e: e.model,
    "top-1": lambda e: text.percent(e.top1, 2),
    "parameters": lambda e: f"{e.parameters:,}",
    "multiply-adds": lambda e: text.count(e.macs),
    "file": lambda e: text.size(e.bytes),
    "packed": lambda e: _maybe(text.size, e.packed_bytes),
    "zeros": lambda e: _maybe(lambda share: text.percent(share, 1), e.sparsity),
    "1 thread": lambda e: _maybe(text.milliseconds, e.latency_ms),
    "2 threads": lambda e: _maybe(text.milliseconds, e.latency_ms_2_threads),
    "bit-equal": lambda e: _maybe(text.percent_down, e.bit_equal),
    "steps": lambda e: f"{e.steps:,}" if e.steps else None,
    "time": lambda e: text.duration(e.seconds) if e.seconds else None,
  }
  table = plain_table(None, Text(findings.headline(results)))
  table.add_column("", no_wrap=True, min_width=13)
  for key, entry in entries:
    strong = "bold" if key == "int8" else ""
    head = Text(label(key, entry), style.color(key))
    table.add_column(head, justify="right", style=strong, overflow="fold")
  for name, cell in rows.items():
    cells = [cell(entry) for _, entry in entries]
    if any(cells):
      table.add_row(Text(name, "dim"), *(Text(value or DASH) for value in cells))
  return table


def latency_table(found: Mapping[str, Any], threads: int) -> Table:
  """Measurements of model files side by side.

  Args:
    found: :class:`jaxcompress.export.measure.Latency` by file.
    threads: that they were timed on.

  Returns:
    A rich table with a row for each file.

  Examples:
    >>> from jaxcompress.export.measure import Latency
    >>> latency_table({"a.tflite": Latency(1.5, 0.1, 2**20, 2**21)}, 1).row_count
    1
  """
  table = plain_table("1 thread" if threads == 1 else f"{threads} threads", None)
  table.add_column("file", overflow="fold")
  for name in ("size", "one image", "spread", "memory"):
    table.add_column(name, justify="right", no_wrap=True)
  for file, latency in found.items():
    table.add_row(
      file,
      text.size(latency.file_bytes),
      text.milliseconds(latency.median_ms),
      f"± {text.milliseconds(latency.spread_ms / 2)}",
      _maybe(text.size, latency.memory_bytes) or DASH,
    )
  return table


def finding_table(findings: Iterable[Any]) -> Table:
  """What a linter found in a model file.

  Args:
    findings: of :func:`jaxcompress.export.lint`.

  Returns:
    A rich table with a row for each finding.

  Examples:
    >>> from jaxcompress.export import Finding
    >>> finding_table([Finding("batch", "MEAN", "pool", "one image at a time", "error")]).row_count
    1
  """
  table = plain_table(None, None)
  for name in ("severity", "op", "name", "rule", "reason"):
    table.add_column(name, overflow="fold", no_wrap=name in ("severity", "op"))
  for finding in findings:
    cells = (finding.severity, finding.op, finding.name, finding.requirement, finding.reason)
    table.add_row(*map(Text, cells))  # a foreign file's names are not markup
  return table


def layer_table(graph: Graph, params: Mapping[str, Any], title: str = "", bits: int = 32) -> Table:
  """The layers of a model with their costs, and the totals.

  Args:
    graph: a traced graph.
    params: its parameters, arrays or shapes.
    title: of the table.
    bits: bits of a stored weight.

  Returns:
    A rich table with a footer; with the names of the registry's models it fits 80 characters.

  Examples:
    >>> from jaxcompress import models
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> layer_table(summary.graph, summary.variables["params"]).row_count
    17
  """
  rows = layer_rows(graph, params, bits)
  table = plain_table(title or None, None)
  table.show_footer = True
  table.collapse_padding = True
  part = max((len(part) for row in rows for part in name_parts(row.name)), default=1)
  table.add_column(
    "layer", f"{len(rows)} layers", overflow="fold", min_width=min(part, LAYER_WIDTH)
  )
  table.add_column("op", "", overflow="fold")
  table.add_column("output", "", justify="right", no_wrap=True)
  table.add_column("parameters", f"{sum(r.parameters for r in rows):,}", justify="right")
  table.add_column("multiply-\nadds", f"{sum(r.macs for r in rows):,}", justify="right")
  table.add_column("size", text.size(sum(r.weight_bytes for r in rows)), justify="right")
  for row in rows:
    table.add_row(
      Text(row.name),
      Text(row.op, "dim"),
      text.shape(row.output_shape),
      f"{row.parameters:,}" if row.parameters else DASH,
      f"{row.macs:,}" if row.macs else DASH,
      text.size(row.weight_bytes) if row.weight_bytes else DASH,
    )
  return table


def model_table(summaries: Mapping[str, Any], title: str = "") -> Table:
  """Models with their sizes: parameters, multiply-adds, and bytes at 32, 8 and 4 bit.

  Args:
    summaries: :class:`jaxcompress.models.Summary` by name.
    title: of the table.

  Returns:
    A rich table that fits 80 characters.

  Examples:
    >>> from jaxcompress import models
    >>> model_table({"resnet8": models.summarize(models.resnet8())}).row_count
    1
  """
  table = plain_table(title or None, None)
  table.collapse_padding = True
  table.add_column("model", no_wrap=True)
  for name in ("px", "parameters", "mult-\nadds", *(f"{bits} bit" for bits in BITS)):
    table.add_column(name, justify="right", no_wrap=True)
  for name, summary in summaries.items():
    table.add_row(
      Text(name),
      str(summary.graph.input_shape[1]),
      f"{summary.parameters:,}",
      text.count(summary.macs),
      *(text.size(model_bytes(summary.graph, bits)) for bits in BITS),
    )
  return table


def method_table(methods: Mapping[str, Any], title: str = "") -> Table:
  """Distillation losses: what they read, their usual weight, and their formula.

  Args:
    methods: :data:`jaxcompress.distill.DISTILLERS`.
    title: of the table.

  Returns:
    A rich table that fits 80 characters.

  Examples:
    >>> from jaxcompress import distill
    >>> method_table(distill.DISTILLERS).row_count == len(distill.DISTILLERS)
    True
  """
  table = plain_table(title or None, Text("s: student, t: teacher, y: the label"))
  table.collapse_padding = True
  table.add_column("loss", no_wrap=True)
  table.add_column("reads")
  table.add_column("weight", justify="right", no_wrap=True)
  table.add_column("formula")
  family = None
  for name, method in methods.items():
    if family not in (None, method.family):
      table.add_section()
    family = method.family
    row = (Text(name), Text(" ".join(method.reads)), f"{method.weight:g}", Text(method.formula))
    table.add_row(*row)
  return table


def _maybe(show: Callable[[Any], str], value: Any) -> str | None:
  return None if value is None else show(value)
