"""report.html: one file with everything in it, which asks no server for anything."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from string import Template

from jaxcompress.report import findings, plots, style, text
from jaxcompress.report import html_tables as tables
from jaxcompress.report.results import Entry, Results
from jaxcompress.report.snippet import device_program


def render(results: Results, images: Mapping[str, bytes]) -> str:
  """The page.

  Args:
    results: of the run; every string in it is escaped.
    images: PNG bytes by plot name, as from :func:`~jaxcompress.report.plots.render_plots`.

  Returns:
    HTML with styles and images inside.
  """
  page = resources.files("jaxcompress.report").joinpath("template.html").read_text("utf-8")
  run = results.run
  return Template(page).substitute(
    title=escape(f"{results.entries['int8'].model} on {run.data}"),
    headline=tables.safe(findings.headline(results)),
    facts=tables.join(" · ", tables.subtitle(results)),
    cards="".join(_cards(results)),
    entries=tables.entry_table(results),
    note=tables.safe(_note(results)),
    overview=_figures(results, images, "accuracy_against_size", "candidates", "costs", "latency"),
    training=_section(
      "training",
      "Training",
      _figures(results, images, "training_curves") + tables.phase_table(results),
    ),
    mistakes=_section(
      "mistakes",
      "What it mistakes",
      _figures(results, images, "confusion") + tables.pair_table(results) + _samples(results),
    ),
    layers=_section(
      "layers",
      "Layer by layer",
      _figures(results, images, "activation_ranges", "weight_ranges") + tables.layer_table(results),
    ),
    snippet=escape(device_program(results)),
    run=tables.run_table(results),
  )


def _section(anchor: str, title: str, body: str) -> str:
  return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' if body else ""


def _cards(results: Results) -> Iterable[str]:
  """The few numbers that matter, each against what it is measured by."""
  teacher, alone = results.entries["teacher"], results.entries["alone"]
  distilled, small = results.entries["distilled"], results.entries["int8"]

  safe = tables.safe

  def card(value: str, name: str, beside: str) -> str:
    return (
      f'<div class="card"><b>{safe(value)}</b><span>{safe(name)}</span>'
      f"<small>{safe(beside)}</small></div>"
    )

  yield card(
    text.percent(small.top1),
    "top-1",
    f"teacher {text.percent(teacher.top1)}, float {text.percent(distilled.top1)}",
  )
  yield card(
    text.size(small.bytes),
    "model file",
    f"{small.bytes / max(distilled.bytes, 1):.2f} of the float file",
  )
  yield card(
    text.points(distilled.top1 - alone.top1), "by distillation", _steps_beside(alone, distilled)
  )
  if small.bit_equal is not None:
    yield card(
      text.percent_down(small.bit_equal),
      "logits bit-equal",
      f"{results.run.runtime} and exact evaluation",
    )
  if small.latency_ms is not None:
    beside = f"float {text.milliseconds(distilled.latency_ms)}" if distilled.latency_ms else ""
    yield card(text.milliseconds(small.latency_ms), "an image, 1 thread", beside)


def _steps_beside(alone: Entry, distilled: Entry) -> str:
  if alone.steps == distilled.steps:
    return f"over the student alone, {alone.steps:,} steps each"
  return f"over the student alone, {distilled.steps:,} and {alone.steps:,} steps"


def _note(results: Results) -> str:
  """What stands under the comparison: the device's match, and how far the test set reaches."""
  alone, distilled = (results.entries[key].top1 for key in ("alone", "distilled"))
  error = findings.standard_error(alone, distilled, results.run.test_images)
  small = results.entries["int8"]
  device = ""
  if small.bit_equal is not None:
    device = f"Device ({results.run.runtime}) against exact evaluation: "
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


def _figures(results: Results, images: Mapping[str, bytes], *names: str) -> str:
  return "".join(
    _figure(plot, plot.finding(results), images[plot.name])
    for plot in plots.PLOTS
    if plot.name in names and plot.name in images
  )


def _figure(plot: plots.Plot, finding: str, data: bytes) -> str:
  """A plot under its finding; the picture's own title is pushed out of sight."""
  width = int.from_bytes(data[16:20], "big")  # of the PNG, in pixels
  height = int.from_bytes(data[20:24], "big")
  inches = width / style.DPI
  hidden = 100 * style.title_strip(finding, inches) / inches
  source = base64.b64encode(data).decode("ascii")
  return (
    f'<figure><p class="finding">{tables.safe(finding)}</p><div class="scroll">'
    f'<div class="picture"><img alt="{escape(finding)}" width="{width}" height="{height}" '
    f'style="margin-top:-{hidden:.2f}%" src="data:image/png;base64,{source}"></div></div>'
    f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
  )


def _samples(results: Results) -> str:
  names, tiles = results.run.classes, []
  for sample in results.samples:
    true, picked = escape(names[sample.label]), escape(names[sample.prediction])
    right = sample.label == sample.prediction
    words = true if right else f"{true} → {picked}"
    source = base64.b64encode(sample.png).decode("ascii")
    tiles.append(
      f'<figure class="{"right" if right else "wrong"}"><img alt="{true}, picked {picked}" '
      f'src="data:image/png;base64,{source}"><figcaption>{words}</figcaption></figure>'
    )
  return f'<h3>Test images</h3><div class="samples">{"".join(tiles)}</div>' if tiles else ""
