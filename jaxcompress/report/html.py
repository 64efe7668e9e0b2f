"""report.html: one file with everything in it, which asks no server for anything."""

from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from string import Template
from types import MappingProxyType

from jaxcompress.export.certificate import Certificate
from jaxcompress.report import certified, findings, plots, style, text
from jaxcompress.report.layout import Column
from jaxcompress.report.markup import Html, join, safe, section, setting, source, table
from jaxcompress.report.mistakes import mistakes
from jaxcompress.report.results import NEEDED, Entry, Results, label, ordered
from jaxcompress.report.snippet import device_program
from jaxcompress.report.tables import ENTRY_FIGURES, maybe

Picture = tuple[bytes, bytes | None]  # of a page, and of a phone


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
    headline=safe(findings.headline(results)),
    facts=join(" · ", _subtitle(results)),
    cards=_cards(results),
    entries=_entry_table(results),
    note=safe(_note(results)),
    overview=_figures(results, pictures, "accuracy_against_size", "candidates", "costs", "latency"),
    training=section(
      "training",
      "Training",
      _figures(results, pictures, "training_curves") + _phase_table(results),
    ),
    mistakes=section(
      "mistakes",
      "What it mistakes",
      mistakes(results, _figures(results, pictures, "confusion")),
    ),
    layers=section(
      "layers",
      "Layer by layer",
      _figures(results, pictures, "activation_ranges", "weight_ranges") + _layer_table(results),
    ),
    certificate=section(
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
  files = join(", ", dict.fromkeys(name.partition("/")[0] for name in certificate.model))
  return Template(
    f"{head}<body><main><header><p class=brand>jaxcompress</p><h1>$title</h1>"
    f"<p class=facts-line>{files.replace('$', '$$')}</p></header>$body$program</main></body></html>\n"
  ).substitute(
    title=safe(certificate.sentence.capitalize()), body=_certificate(certificate), program=shown
  )


def _certificate_title(certificate: Certificate | None) -> str:
  return "Certificate" if certificate is None else f"Certificate: {safe(certificate.sentence)}"


def _certificate(certificate: Certificate | None, wrong: str = "") -> str:
  """Every runtime and processor, and the hashes."""
  warning = f"<p><b>{safe(wrong)}</b></p>" if wrong else ""
  if certificate is None:
    return warning
  columns = [
    Column("file", lambda row: row.file),
    Column("runtime", certified.runtime),
    Column("processor", certified.processor),
    Column("logits", certified.outcome),
    Column("SHA-256 of logits", lambda row: Html(f"<code>{escape(certified.short(row))}</code>")),
  ]
  rows = "".join(
    f"<tr><th scope=row>{escape(name)}</th><td>{setting(value)}</td></tr>"
    for name, value in certified.facts(certificate).items()
  )
  return (
    f"{warning}{table(columns, certificate.rows, 'certificate')}"
    f'<table class="facts"><tbody>{rows}</tbody></table>'
    f"<p class=note>{join(' ', certificate.how)}</p>"
  )


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
    f'<div class="card"><b>{safe(value)}</b><span>{safe(name)}</span>'
    f"<small>{safe(beside)}</small></div>"
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
  phone = f'<source media="(max-width: 640px)" srcset="{source(narrow)}">' if narrow else ""
  return (
    f'<figure><p class="finding">{safe(finding)}</p><picture class="picture">{phone}'
    f'<img alt="{escape(finding)}" width="{width}" height="{height}" '
    f'style="--title:-{hidden:.2f}%" src="{source(data)}"></picture>'
    f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
  )


def _reading(results: Results) -> str:
  words = results.run.reading
  return f"<p>How it reads a picture: {safe(words)}.</p>" if words else ""


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


def _entry_table(results: Results) -> str:
  """The comparison; the first row of figures stands out."""

  def column(title: str, cell: Callable[[Entry], str | None]) -> Column:
    if title == "top-1":
      return Column(title, lambda row: Html(f"<b>{escape(cell(row[1]) or '')}</b>"))
    return Column(title, lambda row: cell(row[1]))

  def name(row: tuple[str, Entry]) -> str:
    return Html(f"{_name(row)}<small>{escape(row[1].model)}</small>")

  figures = (column(one.page, one.cell) for one in ENTRY_FIGURES if one.page is not None)
  return table([Column("", name), *figures], ordered(results), "entries")


def _name(row: tuple[str, Entry]) -> str:
  swatch = f'<i class="swatch" style="background:{style.color(row[0])}"></i>'
  return Html(swatch + escape(label(*row)))


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
  notes = [f"Not trained in this run: {join(', ', loaded)}."] if loaded else []
  before = results.entries.get(results.entries["int8"].made_from or "")
  if before is not None and before.steps:
    name = escape(label("int8", results.entries["int8"]))
    own = results.entries["int8"].steps - before.steps
    notes.append(
      f"Of the steps and the time of {name}, {own:,} steps are quantized; the rest came before."
    )
  shown = f"<p class=note>{' '.join(notes)}</p>" if notes else ""
  return (table(columns, rows) if rows else "") + shown


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
    return Html(bar) if layer.macs else None

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
  shown = table(columns, results.layers, "layers")
  return f"<details><summary>All {count}</summary>{shown}</details>"


def _ratio(ratio: float) -> str:
  return text.times(ratio) if ratio < float("inf") else "a channel is all zero"


def _run_table(results: Results) -> str:
  """All that it takes to run this again."""
  run = results.run
  facts = {
    "command": Html(f"<code>{escape(run.command)}</code>") if run.command else "",
    "data": ", ".join(_subtitle(results)[:4]),
    "notes": Html("<br>".join(map(escape, run.notes))),
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
    if (cell := setting(value))
  )
  return f'<table class="facts"><tbody>{rows}</tbody></table>'
