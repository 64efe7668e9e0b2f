"""The runs behind ``jaxcompress quantize`` and ``export``: a trained network becomes integer files."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, quantize
from jaxcompress.export.c99.manifest import read_manifest
from jaxcompress.export.metadata import preprocess_of
from jaxcompress.export.packed import SUFFIX, read_packed
from jaxcompress.export.trial import KERNELS_BY_SUFFIX
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn import INPUT
from jaxcompress.pipeline.budgets import SENSED, integer_top1
from jaxcompress.pipeline.checks import OptionError, parse_size
from jaxcompress.pipeline.formats import (
  FORMATS,
  check_ram,
  check_target,
  require_formats,
  runnable,
  without_suffix,
  write_all,
)
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.pipeline.trained import Trained, read_torch, read_trained
from jaxcompress.quantize.analysis.budget import Allocation, choose_bits
from jaxcompress.quantize.analysis.findings import Analysis
from jaxcompress.quantize.analysis.sensitivity import Sensitivity
from jaxcompress.quantize.ptq.post_training import Ahead, Trial
from jaxcompress.report import analysis as tables
from jaxcompress.report import style, text
from jaxcompress.report.network_plots import analysis_plot
from jaxcompress.report.plots import candidates_plot
from jaxcompress.report.results import Point
from jaxcompress.terminal import say, waiting

SHOWN, SHOWN_UNLABELLED = 256, 32  # images that the file itself is run on
SHOWN_RANDOM = 8  # likewise, of a packed network
MOST_NUMBERS = 1 << 24  # in these together, but for the first
ANALYZED = 128  # test images of which the analysis makes hundreds of passes
MOST_LAYERS, MOST_SUGGESTIONS = 10, 5  # are printed


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
  """A quantized network, its worth and its files.

  Attributes:
    model: the integer network.
    trials: methods that were tried; without labels, scores are shares of the images on which the
      float network decides alike.
    float_top1: share of the test images that the float network gets right; None without labels.
    top1: share that the integer network gets right; likewise.
    verification: of the file; None if no runtime runs it, or it is not installed.
    allocation: bits by layer; None without a budget.
    analysis: of the layers; None if it was not asked for.
    files: paths by what they are.
  """

  model: quantize.QuantizedModel
  trials: tuple[Trial, ...]
  float_top1: float | None
  top1: float | None
  verification: export.Verification | None
  allocation: Allocation | None
  analysis: Analysis | None
  files: dict[str, pathlib.Path]


def quantize_model(options: QuantizeOptions, *, console: Console | None = None) -> Quantized:
  """Quantizes a trained network after training, writes the file, and reports its accuracy.

  With method ``"auto"`` the file of the cheapest method is written first. Others are tried after it
  where they can pay, as :func:`jaxcompress.quantize.post_training` has it, and a better one replaces
  the file; an interruption leaves the one that is there.

  A checkpoint of PyTorch's is calibrated on images without labels; they are resized, cropped and
  normalized as those that the source's original was trained on.

  Args:
    options: what to do.
    console: tables and what was found go here.

  Returns:
    A :class:`Quantized`.

  Raises:
    ValueError: for options that do not fit together or with the data, a model, checkpoint or image
      that cannot be read, a file that exists, a budget or a drop that cannot be met; nothing is
      written then.

  Examples:
    ``jaxcompress quantize OUT/student --budget 80KB`` runs it, on what a compress run left in OUT;
    ``jaxcompress quantize --torch timm/mobilenetv3_small_100 --weights FILE --calibration FOLDER``
    on a checkpoint.
  """
  started = time.perf_counter()
  console, files = console or Console(stderr=True), options.files
  require_formats(options.kinds)  # now, not after the work
  _check_free([*options.models, *files.values()], options.kinds, force=options.force)
  trained = (read_torch if options.torch is not None else read_trained)(options, console)
  allocation = analysis = float_top1 = top1 = None
  bits: dict[str, Any] = {"bits": options.bits or 8}
  if options.budget_bytes is not None:
    sensitivity, allocation = _allocate(trained, options.budget_bytes, console)
    bits = {"rules": allocation.rules}
  trials: list[Trial] = []
  written: list[Trial] = []
  test = trained.test
  images = trained.images[:SHOWN_UNLABELLED] if test is None else test.images[:SHOWN]
  found: dict[pathlib.Path, export.Verification | None] = {}

  def write(model: quantize.QuantizedModel, trial: Trial, ahead: Ahead) -> None:
    write_all(
      model,
      options.models,
      options.kinds,
      trained.metadata,
      trained.in_float,
      options.target,
      options.ram_bytes,
    )
    written.append(trial)
    seconds = text.duration(time.perf_counter() - started)
    what = "first file" if len(written) == 1 else "replaced"
    say(
      console,
      f"{what} after {seconds}: {tables.trial_text(trial, labels=trained.labels is not None)}",
    )
    for path, name in zip(options.models, options.kinds, strict=True):
      found[path] = _describe(model, path, name, images, console)
    if ahead.names:
      say(console, tables.ahead_text(trial, ahead))

  try:
    model = trained.quantized(
      options,
      options.method,
      max_drop=options.max_drop,
      on_trial=trials.append,
      on_better=write,
      **bits,
    )
  except KeyboardInterrupt:
    if written:
      names = ", ".join(map(str, options.models))
      say(console, f"stopped: {written[-1].name} is kept, whole, in {names}")
    raise
  kept = written[-1].name
  console.print(tables.trial_table(trials, labels=trained.labels is not None, kept=kept))
  left = tables.left_text(trials, options.method)
  if left and options.max_drop is None:
    say(console, left)
  contents: dict[str, Any] = {}
  if test is not None:
    float_top1, top1 = trained.top1(test), integer_top1(model, test)
    say(
      console,
      f"top-1 on {len(test):,} test images: float {text.percent(float_top1, 2)}, integers"
      f" {text.percent(top1, 2)} ({text.points(top1 - float_top1)})",
    )
    if allocation is not None:
      scores = {"mixed": (allocation.bytes, top1)}
      for n in (8, 4):
        other = trained.quantized(options, kept, bits=n)
        scores[f"{n} bits"] = sensitivity.bytes_at(n), integer_top1(other, test)
      contents["candidates_plot"] = _compared(scores, float_top1, len(test), console)
    if options.analyze:
      analysis = _analyze(model, trained, test, files["analysis"], console)
      contents["analysis"] = tables.analysis_text(analysis)
      contents["analysis_plot"] = style.png(analysis_plot(analysis))
  for name, content in contents.items():
    write_atomically(files[name], content)
  if allocation is not None:
    most = text.size(options.budget_bytes or 0)
    say(console, f"packed weights: {text.size(allocation.bytes)} of a budget of {most}")
  return Quantized(
    model, tuple(trials), float_top1, top1, found[files["model"]], allocation, analysis, files
  )


def export_model(
  model: str,
  formats: Sequence[str] = ("tflite",),
  *,
  out: str | None = None,
  force: bool = False,
  target: str | None = None,
  ram: str | None = None,
  console: Console | None = None,
  **options: Any,
) -> list[pathlib.Path]:
  """Writes a network in several formats; one that is not quantized yet is quantized first.

  Args:
    model: a packed file (.jcz), or what :class:`QuantizeOptions` takes.
    formats: names of the formats that are written.
    out: the files without their suffixes; None: beside the model.
    force: whether files that exist are replaced.
    target: a device whose rules the files obey, or None.
    ram: size such as ``"64KB"`` of the memory that C may take, or None.
    console: what was written and found goes here.
    options: further ones of :class:`QuantizeOptions`, for a model that is not quantized yet.

  Returns:
    The files.

  Raises:
    ValueError: if the model cannot be read, a file exists, a format cannot hold the network, options
      of quantization, or formats of float networks, are given for a model that is quantized, or as
      :func:`quantize_model`; nothing is written then.

  Examples:
    ``jaxcompress export OUT/student --format tflite,onnx`` runs it, on what a compress run left in
    OUT.
  """
  console = console or Console(stderr=True)
  is_packed = pathlib.Path(model).suffix.lower() == SUFFIX
  if is_packed and options:
    name, value = next(iter(options.items()))
    raise ValueError(f"{name}: {value} is given, but {model} is quantized already; leave it out.")
  check_target(target, formats)
  most = None if ram is None else parse_size(ram, "ram")
  check_ram(most, formats)
  floats = [name for name in formats if FORMATS[name].is_float]
  if is_packed and floats:
    raise ValueError(
      f"format: {floats[0]!r} holds the float network, and {model} is quantized; give the trained"
      " model."
    )
  paths = files_beside(model, formats, out)
  if not is_packed:
    out, *also = map(str, paths)
    asked = QuantizeOptions(
      model=model,
      out=out,
      also=tuple(also),
      formats=tuple(formats),
      force=force,
      target=target,
      ram=ram,
      **options,
    )
    (packed,) = files_beside(model, ("packed",))
    if pathlib.Path(model).is_dir() and packed.is_file():
      say(console, f"{model} is quantized anew; the integers that its run trained are in {packed}")
    quantize_model(asked, console=console)
    return paths
  require_formats(formats)
  _check_free(paths, formats, force=force)
  quantized, metadata = read_packed(model)
  quantized = dataclasses.replace(quantized, preprocess=preprocess_of(metadata))
  write_all(quantized, paths, formats, metadata, target=target, ram=most)
  images = _random_images(quantized)
  for path, name in zip(paths, formats, strict=True):
    _describe(quantized, path, name, images, console)
  return paths


def files_beside(model: str, formats: Sequence[str], out: str | None = None) -> list[pathlib.Path]:
  """Names of the files of a network, by default beside it; of a folder of C alone ``out`` is the folder.

  Raises:
    ValueError: if the model or ``out`` is no name of a file.

  Examples:
    >>> [path.name for path in files_beside("a/net_0.5.jcz", ("onnx",))]
    ['net_0.5.onnx']
    >>> [path.name for path in files_beside("net.jcz", ("c",), "mine/")]
    ['mine']
    >>> [path.name for path in files_beside("net.jcz", ("c", "onnx"), "mine")]
    ['mine_c', 'mine.onnx']
  """
  for option, path in (("model", model), ("out", out)):
    if path is not None and not pathlib.Path(path).name:
      raise ValueError(f"{option}: {path!r} is no name of a file; give one, such as OUT/student.")
  folders = any(FORMATS[one].is_folder for one in formats)
  if out is not None and folders and len(formats) == 1:
    return [pathlib.Path(out)]
  base = without_suffix(pathlib.Path(out or model), folders=folders)
  name = base.stem if base.suffix.lower() == ".safetensors" else base.name
  return [base.parent / (name + FORMATS[one].suffix) for one in formats]


def _check_free(paths: Sequence[pathlib.Path], formats: Sequence[str], *, force: bool) -> None:
  """Checks that files can be written: folders exist, and files do not or are to be replaced.

  Args:
    paths: of models, and of what is written beside them.
    formats: of the models, in order.
    force: whether what exists is replaced.
  """
  folders = {path for path, name in zip(paths, formats, strict=False) if FORMATS[name].is_folder}
  for path in paths:
    if not path.parent.is_dir():
      raise ValueError(f"out: the folder {path.parent} does not exist; make it, or name another.")
    free = path in folders and path.is_dir() and (force or not any(path.iterdir()))
    if not free and (path.is_dir() or (path.exists() and not force)):
      raise OptionError(
        f"out: {path} exists; name another file, or add ", " to replace it.", force=True
      )


def _allocate(
  trained: Trained, budget_bytes: int, console: Console
) -> tuple[Sensitivity, Allocation]:
  """Bits under the budget, and a table of why."""
  with waiting(console, "rounding one layer at a time"):
    found = quantize.sensitivity(
      trained.module,
      trained.variables,
      trained.images[:SENSED],
      preprocess=trained.preprocess,
      progress=False,
    )
  allocation = choose_bits(found, budget_bytes)
  console.print(tables.allocation_table(found, allocation))
  for bits, rule in zip(allocation.widths, allocation.rules, strict=True):
    say(console, f"Rule(match={rule.match!r}, weights=absmax({bits}))")
  return found, allocation


def _compared(
  scores: dict[str, tuple[int, float]], float_top1: float, images: int, console: Console
) -> bytes:
  """A plot of the mixed network beside those with as many bits everywhere."""
  candidates = [
    Point(name, size, score, mixed=name == "mixed") for name, (size, score) in scores.items()
  ]
  for one in candidates:
    say(console, f"{one.name}: {text.percent(one.score, 2)} top-1 in {text.size(one.bytes)} packed")
  return style.png(candidates_plot(candidates, float_top1, images))


def _analyze(
  model: quantize.QuantizedModel,
  trained: Trained,
  test: datasets.Split,
  path: pathlib.Path,
  console: Console,
) -> Analysis:
  analysis = quantize.analyze(model, trained.module, trained.variables, test.images[:ANALYZED])
  console.print(tables.analysis_table(analysis, MOST_LAYERS))
  if len(analysis.layers) > MOST_LAYERS:
    say(console, f"the {MOST_LAYERS} worst of {len(analysis.layers)} layers; all are in {path}")
  suggestions = quantize.suggest(analysis)
  for suggestion in suggestions[:MOST_SUGGESTIONS]:
    say(console, f"suggestion: {suggestion.reason}")
  if len(suggestions) > MOST_SUGGESTIONS:
    more = len(suggestions) - MOST_SUGGESTIONS
    say(console, f"and {more} more for layers that matter less, in {path}")
  return analysis


def _describe(
  model: quantize.QuantizedModel,
  path: pathlib.Path,
  format: str,
  images: np.ndarray,
  console: Console,
) -> export.Verification | None:
  """Prints a file's size, and what its own runtime makes of images, if it has one.

  Returns:
    The verification; None if no runtime runs the file or it is not installed, or for a float file.
  """
  size, found = f"{path}: {_size_text(path)}", None
  if FORMATS[format].is_float:
    size += ", the float network"
  elif path.is_dir() or path.suffix.lower() in KERNELS_BY_SUFFIX:
    try:
      found = export.verify(path, runnable(model, format), images)
      share = text.percent_down(found.bit_equal)
      size += f", {share} of the logits of {found.images} images are bit for bit the device's"
    except MissingExtraError:
      size += ", not verified, since its runtime is not installed"
  say(console, size)
  return found


def _size_text(path: pathlib.Path) -> str:
  """The size of a file, or what a folder of C takes of a device."""
  if not path.is_dir():
    return text.size(path.stat().st_size)
  sizes = read_manifest(path).sizes
  return f"{text.size(sizes.weights)} of weights, {text.size(sizes.ram)} of memory"


def _random_images(model: quantize.QuantizedModel) -> np.ndarray:
  """Draws pixels, or without preprocessing what the network reads, on every code of its grid alike."""
  grid = model.grids[INPUT]
  shape = model.graph.input_shape[1:]
  count = max(1, min(SHOWN_RANDOM, MOST_NUMBERS // math.prod(shape)))
  rng = np.random.default_rng(0)
  if model.preprocess is not None:
    return rng.integers(0, 256, (count, *shape), np.uint8)
  steps = rng.integers(grid.low, grid.high, (count, *shape), endpoint=True)
  return steps.astype(np.float32) * grid.scale
