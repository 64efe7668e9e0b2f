"""The tables of report.html; every string that comes from outside is escaped here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from jaxcompress.files.records import plain
from jaxcompress.report import findings, style, text
from jaxcompress.report.results import Entry, Results, label, ordered

# A column: its title, its cell for an entry or a layer (None: a dash).
Column = tuple[str, Callable[[Any], str | None]]

DASH = '<span class="none">–</span>'


def safe(sentence: str) -> str:
  """Escapes a sentence; numbers keep their units on one line."""
  return escape(text.unbroken(sentence))


def join(separator: str, parts: Iterable[str]) -> str:
  """Escapes the parts that are not empty, and joins them."""
  return separator.join(escape(part) for part in parts if part)


def subtitle(results: Results) -> list[str]:
  """What the run was about, in a few words each."""
  run = results.run
  return [
    run.data,
    f"{len(run.classes)} classes",
    f"{text.shape(run.image_shape)} images",
    f"{run.train_images:,} to train, {run.test_images:,} to test",
    f"seed {run.seed}",
    run.date,
  ]


def _table(columns: Sequence[Column], rows: Sequence[Any], kind: str = "") -> str:
  """A table that scrolls sideways where it must; the first column is a heading of its row."""
  head = "".join(f"<th scope=col>{escape(title)}</th>" for title, _ in columns)
  body = []
  for row in rows:
    cells = [cell(row) for _, cell in columns]
    first = f"<th scope=row>{cells[0]}</th>"
    body.append(f"<tr>{first}{''.join(f'<td>{cell or DASH}</td>' for cell in cells[1:])}</tr>")
  return (
    f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table></div>"
  )


def entry_table(results: Results) -> str:
  """The comparison; columns that no network has are left out."""
  optional = {
    "packed": lambda row: _maybe(text.size, row[1].packed_bytes),
    "zeros": lambda row: _maybe(lambda share: text.percent(share, 1), row[1].sparsity),
    "latency, 1 thread": lambda row: _ms(row[1].latency_ms),
    "2 threads": lambda row: _ms(row[1].latency_ms_2_threads),
    "bit-equal logits": lambda row: _maybe(text.percent_down, row[1].bit_equal),
    "TFLite-Micro, arena": lambda row: _maybe(text.size, row[1].arena_bytes),
    "Ethos-U": lambda row: _maybe(escape, row[1].npu),
  }
  rows = ordered(results)
  columns: list[Column] = [
    ("", lambda row: f"{_name(row)}<small>{escape(row[1].model)}</small>"),
    ("top-1", lambda row: f"<b>{text.percent(row[1].top1, 2)}</b>"),
    ("parameters", lambda row: f"{row[1].parameters:,}"),
    ("multiply-adds", lambda row: text.count(row[1].macs)),
    ("file", lambda row: text.size(row[1].bytes)),
  ]
  columns += [(name, cell) for name, cell in optional.items() if any(map(cell, rows))]
  return _table(columns, rows, "entries")


def _name(row: tuple[str, Entry]) -> str:
  swatch = f'<i class="swatch" style="background:{style.color(row[0])}"></i>'
  return swatch + escape(label(*row))


def _maybe(show: Callable[[Any], str], value: Any) -> str | None:
  return None if value is None else show(value)


def _ms(value: float | None) -> str | None:
  return _maybe(text.milliseconds, value)


def phase_table(results: Results) -> str:
  """Steps and time of each phase, and which networks were not trained here."""
  rows = [row for row in ordered(results) if row[1].steps or row[1].seconds]
  loaded = [label(*row) for row in ordered(results) if not row[1].steps]
  columns: list[Column] = [
    ("", _name),
    ("steps", lambda row: f"{row[1].steps:,}"),
    ("time", lambda row: text.duration(row[1].seconds) if row[1].seconds else None),
    (
      "time per step",
      lambda row: _ms(
        1000 * row[1].seconds / row[1].steps if row[1].seconds and row[1].steps else None
      ),
    ),
  ]
  note = f"<p class=note>Not trained in this run: {join(', ', loaded)}.</p>" if loaded else ""
  return (_table(columns, rows) if rows else "") + note


def pair_table(results: Results) -> str:
  """The most frequent mistakes."""
  if results.confusion is None:
    return ""
  names = results.run.classes
  pairs = findings.confused_pairs(results.confusion)
  columns: list[Column] = [
    ("true", lambda pair: escape(names[pair.true])),
    ("picked", lambda pair: escape(names[pair.predicted])),
    ("images", lambda pair: f"{pair.count} of {pair.total}"),
    ("share", lambda pair: text.percent(pair.count / pair.total)),
  ]
  table = _table(columns, pairs, "pairs")
  return (
    f"<details><summary>The most frequent mistakes as a table</summary>{table}</details>"
    if pairs
    else ""
  )


def layer_table(results: Results) -> str:
  """Every layer with its costs and ranges."""
  if not results.layers:
    return ""
  ranges = {r.tensor: r for r in results.ranges}
  most = max(layer.macs for layer in results.layers) or 1
  number = text.significant

  def macs(layer):
    share = 100 * layer.macs / most
    return f'<span class="bar" style="--share:{share:.1f}%">{layer.macs:,}</span>'

  def of_range(show):
    return lambda layer: _maybe(show, ranges.get(layer.tensor or layer.name))

  columns: list[Column] = [
    ("layer", lambda layer: escape(layer.name)),
    ("op", lambda layer: escape(layer.op)),
    ("output", lambda layer: text.shape(layer.output_shape)),
    ("parameters", lambda layer: f"{layer.parameters:,}" if layer.parameters else None),
    ("multiply-adds", lambda layer: macs(layer) if layer.macs else None),
    ("bytes", lambda layer: f"{layer.weight_bytes:,}" if layer.weight_bytes else None),
    ("largest weight", lambda layer: _maybe(lambda w: number(w.high), layer.weights)),
    ("channels differ", lambda layer: _maybe(lambda w: _ratio(w.ratio), layer.weights)),
    ("output range", of_range(lambda r: f"{number(r.low)} to {number(r.high)}")),
    ("step", of_range(lambda r: number(r.scale))),
    ("zero point", of_range(lambda r: str(r.zero_point))),
  ]
  columns = [c for c in columns if any(c[1](layer) for layer in results.layers)]
  count = f"{len(results.layers)} layers, {sum(x.parameters for x in results.layers):,} parameters"
  return (
    f"<details><summary>All {count}</summary>{_table(columns, results.layers, 'layers')}</details>"
  )


def _ratio(ratio: float) -> str:
  return text.times(ratio) if ratio < float("inf") else "a channel is all zero"


def run_table(results: Results) -> str:
  """What it takes to run this again."""
  run = results.run
  facts = {
    "command": f"<code>{escape(run.command)}</code>" if run.command else "",
    "data": join(", ", subtitle(results)[:4]),
    "seed": str(run.seed),
    **{escape(name): _setting(value) for name, value in run.settings.items()},
    "time": text.duration(run.seconds) if run.seconds else "",
    "device": escape(run.device),
    "runtime": escape(run.runtime),
    "jaxcompress": escape(run.version),
    "jax": escape(run.jax_version),
    **{escape(name): escape(version) for name, version in run.packages.items()},
    "preprocess": _setting(
      {name: value for name, value in results.preprocess.items() if name != "python"}
    ),
    "date": escape(run.date),
  }
  rows = "".join(f"<tr><th scope=row>{k}</th><td>{v}</td></tr>" for k, v in facts.items() if v)
  return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _setting(value: Any) -> str:
  if isinstance(value, Mapping):
    return join(", ", (f"{name} {item}" for name, item in plain(value).items()))
  if isinstance(value, list | tuple):
    return join(", ", map(str, value))
  return escape(str(value))
