"""report.html: one file with everything in it, which asks no server for anything.

Every string that comes from outside is escaped here.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from types import MappingProxyType
from typing import Any

from jaxcompress.export.certificate import Certificate
from jaxcompress.files.records import plain
from jaxcompress.report import certified, findings, plots, style, text
from jaxcompress.report.classes import class_figures, confused_pairs
from jaxcompress.report.layout import DASH, Column
from jaxcompress.report.results import NEEDED, Entry, Results, Sample, label, ordered
from jaxcompress.report.snippet import device_program
from jaxcompress.report.tables import ENTRY_FIGURES, maybe

FEW_CLASSES = 12  # are shown at once
Picture = tuple[bytes, bytes | None]  # of a page, and of a phone


class _Html(str):
  """Text that is HTML already."""


def render(
  results: Results,
  images: Mapping[str, bytes],
  narrow: Mapping[str, bytes] = MappingProxyType({}),
  certificate: tuple[Certificate | None, str] = (None, ""),
) -> str:
  """The page.

  Args:
    results: of the run; every string in it is escaped.
    images: PNG bytes by plot name, as from :func:`~jaxcompress.report.plots.render_plots`.
    narrow: those for phones, likewise.
    certificate: of the run's files, if there is one, and what is wrong with it, if anything.

  Returns:
    HTML with styles and images inside.
  """
  pictures = {name: (data, narrow.get(name)) for name, data in images.items()}
  page = resources.files("jaxcompress.report").joinpath("template.html").read_text("utf-8")
  run = results.run
  return Template(page).substitute(
    title=escape(f"{results.entries['int8'].model} on {run.data}"),
    headline=_safe(findings.headline(results)),
    facts=_join(" · ", _subtitle(results)),
    cards=_cards(results),
    entries=_entry_table(results),
    note=_safe(_note(results)),
    overview=_figures(results, pictures, "accuracy_against_size", "candidates", "costs", "latency"),
    training=_section(
      "training",
      "Training",
      _figures(results, pictures, "training_curves") + _phase_table(results),
    ),
    mistakes=_section(
      "mistakes",
      "What it mistakes",
      _class_words(results)
      + _figures(results, pictures, "confusion")
      + _class_table(results)
      + _pair_table(results)
      + _samples(results),
    ),
    layers=_section(
      "layers",
      "Layer by layer",
      _figures(results, pictures, "activation_ranges", "weight_ranges") + _layer_table(results),
    ),
    certificate=_section(
      "certificate", _certificate_title(certificate[0]), _certificate(*certificate)
    ),
    reading=_reading(results),
    snippet=escape(device_program(results)),
    run=_run_table(results),
  )


def certificate_page(certificate: Certificate, program: str | None = None) -> str:
  """A page about one certificate.

  Args:
    certificate: every string in it is escaped.
    program: that checks it elsewhere.

  Returns:
    HTML with styles inside.
  """
  page = resources.files("jaxcompress.report").joinpath("template.html").read_text("utf-8")
  head, _, _ = page.partition("<body>")
  shown = ""
  if program is not None:
    words = "To repeat it elsewhere, with LiteRT and NumPy alone: check.py beside inputs.npy"
    shown = f"<section><h2>Repeat it</h2><p>{words}.</p><pre><code>{escape(program)}</code></pre></section>"
  files = _join(", ", dict.fromkeys(name.partition("/")[0] for name in certificate.model))
  return Template(
    f"{head}<body><main><header><p class=brand>jaxcompress</p><h1>$title</h1>"
    f"<p class=facts-line>{files.replace('$', '$$')}</p></header>$body$program</main></body></html>\n"
  ).substitute(
    title=_safe(certificate.sentence.capitalize()), body=_certificate(certificate), program=shown
  )


def _certificate_title(certificate: Certificate | None) -> str:
  return "Certificate" if certificate is None else f"Certificate: {_safe(certificate.sentence)}"


def _certificate(certificate: Certificate | None, wrong: str = "") -> str:
  """Every runtime and processor, and the hashes."""
  warning = f"<p><b>{_safe(wrong)}</b></p>" if wrong else ""
  if certificate is None:
    return warning
  columns = [
    Column("file", lambda row: row.file),
    Column("runtime", certified.runtime),
    Column("processor", certified.processor),
    Column("logits", certified.outcome),
    Column("SHA-256 of logits", lambda row: _Html(f"<code>{escape(certified.short(row))}</code>")),
  ]
  rows = "".join(
    f"<tr><th scope=row>{escape(name)}</th><td>{_setting(value)}</td></tr>"
    for name, value in certified.facts(certificate).items()
  )
  return (
    f"{warning}{_table(columns, certificate.rows, 'certificate')}"
    f'<table class="facts"><tbody>{rows}</tbody></table>'
    f"<p class=note>{_join(' ', certificate.how)}</p>"
  )


def _section(anchor: str, title: str, body: str) -> str:
  return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' if body else ""


def _cards(results: Results) -> str:
  """The few numbers that matter, each against what it is measured by."""
  alone, distilled, small = (results.entries[key] for key in NEEDED)
  teacher = results.entries.get("teacher")
  beside = "" if teacher is None else f"teacher {text.percent(teacher.top1)}, "
  shipped = findings.shipped(results)
  float_latency = maybe(text.milliseconds, shipped.latency_ms)
  cards = (
    (
      text.percent(small.top1),
      "top-1",
      f"{beside}float {text.percent(shipped.top1)}",
    ),
    (
      text.size(small.bytes),
      "model file",
      f"{small.bytes / max(shipped.bytes, 1):.2f} of the float file",
    ),
    (
      text.points(distilled.top1 - alone.top1),
      f"by distillation{findings.within_noise(results)}",
      _steps_beside(alone, distilled),
    ),
    (
      maybe(text.percent_down, small.bit_equal),
      "logits bit-equal",
      f"{results.run.runtime} and exact evaluation",
    ),
    (
      maybe(text.milliseconds, small.latency_ms),
      "an image, 1 thread",
      f"float {float_latency}" if float_latency else "",
    ),
  )
  return "".join(
    f'<div class="card"><b>{_safe(value)}</b><span>{_safe(name)}</span>'
    f"<small>{_safe(beside)}</small></div>"
    for value, name, beside in cards
    if value is not None
  )


def _steps_beside(alone: Entry, distilled: Entry) -> str:
  if alone.steps == distilled.steps:
    return f"over the student alone, {alone.steps:,} steps each"
  return f"over the student alone, {distilled.steps:,} and {alone.steps:,} steps"


def _note(results: Results) -> str:
  """The words under the comparison: the device's match, and how far the test set reaches."""
  alone, distilled = (results.entries[key].top1 for key in ("alone", "distilled"))
  error = findings.standard_error(alone, distilled, results.run.test_images)
  small, chosen = results.entries["int8"], findings.choice(results)
  device = f"{chosen[:1].upper()}{chosen[1:]}. " if chosen else ""
  if small.bit_equal is not None:
    device += f"Device ({results.run.runtime}) against exact evaluation: "
    device += findings.bit_equality(small)
    if small.max_steps is not None:
      device += f", the largest difference is {small.max_steps} steps"
    if small.top1_agreement is not None:
      device += f", the same class on {text.percent_down(small.top1_agreement)} of the images"
    device += ". "
  return (
    f"{device}One standard error of a difference of two top-1 figures is {100 * error:.1f} points: "
    f"{results.run.test_images:,} test images say no more. Multiply-adds are those of "
    "convolutions and linear layers for one image."
  )


def _figures(results: Results, pictures: Mapping[str, Picture], *names: str) -> str:
  return "".join(
    _figure(plot, plot.finding(results), *pictures[plot.name])
    for plot in plots.PLOTS
    if plot.name in names and plot.name in pictures
  )


def _figure(plot: plots.Plot, finding: str, data: bytes, narrow: bytes | None) -> str:
  """A plot under its finding; the picture's own title is pushed out of sight."""
  width = int.from_bytes(data[16:20], "big")  # of the PNG, in pixels
  height = int.from_bytes(data[20:24], "big")
  inches = width / style.DPI
  hidden = 100 * style.title_strip(finding, inches) / inches
  phone = f'<source media="(max-width: 640px)" srcset="{_source(narrow)}">' if narrow else ""
  return (
    f'<figure><p class="finding">{_safe(finding)}</p><picture class="picture">{phone}'
    f'<img alt="{escape(finding)}" width="{width}" height="{height}" '
    f'style="--title:-{hidden:.2f}%" src="{_source(data)}"></picture>'
    f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
  )


def _source(png: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


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
    f'<figure class="{kind}"><img alt="{true}, picked {picked}" src="{_source(sample.png)}">'
    f"<figcaption>{words}{score}{file}</figcaption></figure>"
  )


def _reading(results: Results) -> str:
  words = results.run.reading
  return f"<p>How it reads a picture: {_safe(words)}.</p>" if words else ""


def _class_words(results: Results) -> str:
  words = "" if results.confusion is None else findings.balance(results.confusion)
  return f'<p class="note">{_safe(words)}</p>' if words else ""


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
  table = _table(columns, rows, "classes")
  if len(rows) <= FEW_CLASSES:
    return table
  return f"<details><summary>All {len(rows)} classes</summary>{table}</details>"


def _safe(sentence: str) -> str:
  """Escapes a sentence; numbers keep their units on one line."""
  return escape(text.unbroken(sentence))


def _join(separator: str, parts: Iterable[str]) -> str:
  """Escapes the parts that are not empty, and joins them."""
  return separator.join(escape(part) for part in parts if part)


def _subtitle(results: Results) -> list[str]:
  """The subject of the run, in a few words each."""
  run = results.run
  return [
    run.data,
    f"{len(run.classes)} classes",
    f"{text.shape(run.image_shape)} images",
    f"{run.train_images:,} to train, {run.test_images:,} to test",
    f"seed {run.seed}",
    run.date,
  ]


def _table(columns: Iterable[Column], rows: Sequence[Any], kind: str = "") -> str:
  """A table without columns that no row has; on phones each row is a list of its figures."""

  def html(cell: str | None) -> str:
    if not cell:
      return f'<span class="none">{DASH}</span>'
    return cell if isinstance(cell, _Html) else escape(cell)

  found = [(column.title, [column.cell(row) for row in rows]) for column in columns]
  shown = [(str(title), cells) for title, cells in found if any(cells)]
  head = "".join(f"<th scope=col>{escape(title)}</th>" for title, _ in shown)
  body = []
  for first, *others in zip(*(cells for _, cells in shown), strict=True):
    titles = (title for title, _ in shown[1:])
    rest = "".join(
      f'<td data-title="{escape(title)}">{html(cell)}</td>'
      for title, cell in zip(titles, others, strict=True)
    )
    body.append(f"<tr><th scope=row>{html(first)}</th>{rest}</tr>")
  return (
    f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table></div>"
  )


def _entry_table(results: Results) -> str:
  """The comparison; the first row of figures stands out."""

  def column(title: str, cell: Callable[[Entry], str | None]) -> Column:
    if title == "top-1":
      return Column(title, lambda row: _Html(f"<b>{escape(cell(row[1]) or '')}</b>"))
    return Column(title, lambda row: cell(row[1]))

  def name(row: tuple[str, Entry]) -> str:
    return _Html(f"{_name(row)}<small>{escape(row[1].model)}</small>")

  figures = (column(one.page, one.cell) for one in ENTRY_FIGURES if one.page is not None)
  return _table([Column("", name), *figures], ordered(results), "entries")


def _name(row: tuple[str, Entry]) -> str:
  swatch = f'<i class="swatch" style="background:{style.color(row[0])}"></i>'
  return _Html(swatch + escape(label(*row)))


def _phase_table(results: Results) -> str:
  """Steps and time of each phase, and which networks were not trained here."""
  rows = [row for row in ordered(results) if row[1].steps or row[1].seconds]
  loaded = [label(*row) for row in ordered(results) if row not in rows]

  def step_time(entry: Entry) -> str | None:
    has_both = entry.seconds and entry.steps
    return text.milliseconds(1000 * entry.seconds / entry.steps) if has_both else None

  columns = [
    Column("", _name),
    Column("steps", lambda row: f"{row[1].steps:,}" if row[1].steps else None),
    Column("time", lambda row: text.duration(row[1].seconds) if row[1].seconds else None),
    Column("time per step", lambda row: step_time(row[1])),
  ]
  notes = [f"Not trained in this run: {_join(', ', loaded)}."] if loaded else []
  before = results.entries.get(results.entries["int8"].made_from or "")
  if before is not None and before.steps:
    name = escape(label("int8", results.entries["int8"]))
    own = results.entries["int8"].steps - before.steps
    notes.append(
      f"Of the steps and the time of {name}, {own:,} steps are quantized; the rest came before."
    )
  shown = f"<p class=note>{' '.join(notes)}</p>" if notes else ""
  return (_table(columns, rows) if rows else "") + shown


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
  table = _table(columns, pairs, "pairs")
  summary = "The most frequent mistakes as a table"
  return f"<details><summary>{summary}</summary>{table}</details>" if pairs else ""


def _layer_table(results: Results) -> str:
  """Every layer with its costs and ranges."""
  if not results.layers:
    return ""
  ranges = {r.tensor: r for r in results.ranges}
  most = max(layer.macs for layer in results.layers) or 1
  number = text.significant

  def macs(layer):
    share = 100 * layer.macs / most
    bar = f'<span class="bar" style="--share:{share:.1f}%">{layer.macs:,}</span>'
    return _Html(bar) if layer.macs else None

  def of_range(show):
    return lambda layer: maybe(show, ranges.get(layer.tensor or layer.name))

  columns = [
    Column("layer", lambda layer: layer.name),
    Column("op", lambda layer: layer.op),
    Column("output", lambda layer: text.shape(layer.output_shape)),
    Column("parameters", lambda layer: f"{layer.parameters:,}" if layer.parameters else None),
    Column("multiply-adds", macs),
    Column("bytes", lambda layer: f"{layer.weight_bytes:,}" if layer.weight_bytes else None),
    Column("largest weight", lambda layer: maybe(lambda w: number(w.high), layer.weights)),
    Column("channels differ", lambda layer: maybe(lambda w: _ratio(w.ratio), layer.weights)),
    Column("output range", of_range(lambda r: f"{number(r.low)} to {number(r.high)}")),
    Column("step", of_range(lambda r: number(r.scale))),
    Column("zero point", of_range(lambda r: str(r.zero_point))),
  ]
  count = f"{len(results.layers)} layers, {sum(x.parameters for x in results.layers):,} parameters"
  table = _table(columns, results.layers, "layers")
  return f"<details><summary>All {count}</summary>{table}</details>"


def _ratio(ratio: float) -> str:
  return text.times(ratio) if ratio < float("inf") else "a channel is all zero"


def _run_table(results: Results) -> str:
  """All that it takes to run this again."""
  run = results.run
  facts = {
    "command": _Html(f"<code>{escape(run.command)}</code>") if run.command else "",
    "data": ", ".join(_subtitle(results)[:4]),
    "notes": _Html("<br>".join(map(escape, run.notes))),
    "seed": run.seed,
    **run.settings,
    "time": text.duration(run.seconds) if run.seconds else "",
    "device": run.device,
    "runtime": run.runtime,
    "jaxcompress": run.version,
    "jax": run.jax_version,
    **run.packages,
    "pictures": run.reading,
    "date": run.date,
  }
  rows = "".join(
    f"<tr><th scope=row>{escape(name)}</th><td>{cell}</td></tr>"
    for name, value in facts.items()
    if (cell := _setting(value))
  )
  return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _setting(value: Any) -> str:
  if isinstance(value, Mapping):
    return _join(", ", (f"{name} {item}" for name, item in plain(value).items()))
  if isinstance(value, list | tuple):
    return _join(", ", map(str, value))
  return value if isinstance(value, _Html) else escape(str(value))
