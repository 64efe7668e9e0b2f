"""The run behind ``jaxcompress quantize``: a trained network becomes an integer file."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, models, quantize, report, training
from jaxcompress.data.storage import in_chunks
from jaxcompress.export.runtime import FORMATS as RUNTIMES
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn import fold, fuse_activations
from jaxcompress.pipeline import networks
from jaxcompress.pipeline.formats import (
  FORMATS,
  FloatNetwork,
  check_free,
  format_of,
  require_formats,
  runnable,
  write_all,
)
from jaxcompress.pipeline.networks import Saved
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.report import style, text
from jaxcompress.terminal import say, waiting

EVAL_BATCH = 250
VERIFIED = 256  # test images that the file itself is run on
ANALYZED = 128  # test images of which the analysis makes hundreds of passes
MEASURED = 256  # of the calibration images, on which the sensitivities are measured
SYMMETRIC = "tensorrt"  # the target whose activations have no zero points
MOST_SUGGESTIONS = 5  # are printed


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
  """What came of a run.

  Attributes:
    model: the integer network.
    trials: methods that were tried.
    float_top1: share of the test images that the float network gets right.
    top1: share that the integer network gets right.
    verification: of the file; None if no runtime runs it, or it is not installed.
    allocation: bits by layer; None without a budget.
    analysis: of the layers; None if it was not asked for.
    files: paths by what they are.
  """

  model: quantize.QuantizedModel
  trials: tuple[quantize.Trial, ...]
  float_top1: float
  top1: float
  verification: export.Verification | None
  allocation: quantize.Allocation | None
  analysis: quantize.Analysis | None
  files: dict[str, pathlib.Path]


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
  """What every step needs."""

  options: QuantizeOptions
  saved: Saved
  data: datasets.Dataset
  preprocess: datasets.Preprocess
  images: np.ndarray
  labels: np.ndarray
  console: Console

  def search(self, method: str, **bits: Any):
    """Post-training quantization on the calibration images."""
    return quantize.search(
      self.saved.module,
      self.saved.variables,
      self.images,
      labels=self.labels,
      method=method,
      preprocess=self.preprocess,
      kernels=self.options.runtime,
      symmetric=self.options.target == SYMMETRIC,
      seed=self.options.seed,
      **bits,
    )

  def top1(self, model: quantize.QuantizedModel) -> float:
    """Share of the test images that an integer network gets right."""
    test = self.data.test
    chunks = in_chunks(test.images)
    found = np.concatenate([model.integers(chunk).argmax(axis=-1) for chunk in chunks])
    return float(np.mean(found == test.labels))


def quantize_model(options: QuantizeOptions, *, console: Console | None = None) -> Quantized:
  """Quantizes a trained network after training, writes the file, and says what it is worth.

  Args:
    options: what to do.
    console: tables and what was found go here.

  Returns:
    A :class:`Quantized`.

  Raises:
    ValueError: for options that do not fit together or with the data, a file that exists, a budget
      or a drop that cannot be met; nothing is written then.

  Examples:
    ``jaxcompress quantize OUT/student --budget 80KB`` runs it, on what a compress run left in OUT.
  """
  console = console or Console(stderr=True)
  require_formats(options.models)  # now, not after the work
  check_free([*options.models, *options.files.values()], force=options.force)
  run = _prepare(options, console)
  allocation = None
  bits: dict[str, Any] = {"bits": options.bits or 8}
  if options.budget_bytes is not None:
    sensitivity, allocation = _allocate(run, options.budget_bytes)
    bits = {"rules": allocation.rules}
  model, trials = run.search(options.method, max_drop=options.max_drop, **bits)
  kept = max(trials, key=lambda trial: (trial.score, trial.sqnr)).name
  console.print(report.trial_table(trials, labels=True, kept=kept))
  batches = datasets.eval_batches(run.data.test, min(EVAL_BATCH, len(run.data.test)))
  float_top1 = training.evaluate(
    run.saved.module, run.saved.variables, batches, preprocess=run.preprocess
  )["top1"]
  top1 = run.top1(model)
  files, analysis = options.files, None
  contents: dict[str, Any] = {}
  if allocation is not None:
    plot = _candidates(run, sensitivity, allocation, kept, top1, float_top1)
    contents["candidates_plot"] = plot
  if options.analyze:
    analysis = _analyze(run, model)
    contents["analysis"] = report.analysis_text(analysis)
    contents["analysis_plot"] = style.png(report.analysis_plot(analysis))
  metadata = {
    "model": run.saved.title,
    "classes": list(run.data.classes),
    "preprocess": run.preprocess.to_metadata(),
    "data": run.data.name,
  }
  graph = models.summarize(run.saved.module, run.images.shape[1]).graph
  floats = FloatNetwork(graph, fold(fuse_activations(graph), run.saved.variables))
  write_all(model, options.models, metadata, floats, options.target)
  for name, content in contents.items():
    write_atomically(files[name], content)
  say(
    console,
    f"top-1 on {len(run.data.test):,} test images: float {text.percent(float_top1, 2)}, integers"
    f" {text.percent(top1, 2)} ({text.points(top1 - float_top1)})",
  )
  images = run.data.test.images[:VERIFIED]
  found = {path: describe_file(model, path, images, console) for path in options.models}
  verification = found[files["model"]]
  return Quantized(model, trials, float_top1, top1, verification, allocation, analysis, files)


def _prepare(options: QuantizeOptions, console: Console) -> _Run:
  saved = networks.read(options.model)
  size = options.image_size or (saved.image_shape[0] if saved.image_shape else None)
  with waiting(console, f"reading {options.data}"):
    data = datasets.load(options.data, seed=options.seed, size=size)
  for note in data.notes:
    say(console, note)
  if saved.classes is not None and saved.classes != data.classes:
    raise ValueError(
      f"data: {options.data} has {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...) and"
      f" the model knows {len(saved.classes)} ({', '.join(saved.classes[:3])}, ...); name the data"
      " that it was trained on, or other data with the same classes."
    )
  wanted = saved.module.num_classes
  if wanted != len(data.classes):
    raise ValueError(
      f"data: {options.data} has {len(data.classes)} classes and the model {wanted} logits; they must"
      " be as many."
    )
  if len(data.test) == 0:
    raise ValueError(f"data: {options.data} has no test images; give it more images.")
  if saved.preprocess is None:
    say(
      console,
      "the model's file names no preprocessing; that of compress is taken: every image at the same"
      " brightness and contrast",
    )
  order = np.random.default_rng(options.seed).permutation(len(data.train))
  chosen = np.sort(order[: options.images])
  say(
    console, f"{saved.title} on {data.name}: {len(chosen):,} training images calibrate and decide"
  )
  return _Run(
    options,
    saved,
    data,
    saved.preprocess or datasets.Preprocess(),
    data.train.images[chosen],
    data.train.labels[chosen],
    console,
  )


def _allocate(run: _Run, budget_bytes: int) -> tuple[quantize.Sensitivity, quantize.Allocation]:
  """Bits under the budget, and a table of why."""
  with waiting(run.console, "rounding one layer at a time"):
    found = quantize.sensitivity(
      run.saved.module,
      run.saved.variables,
      run.images[:MEASURED],
      preprocess=run.preprocess,
      progress=False,
    )
  allocation = quantize.choose_bits(found, budget_bytes)
  run.console.print(report.allocation_table(found, allocation))
  for bits, rule in zip(allocation.widths, allocation.rules, strict=True):
    say(run.console, f"Rule(match={rule.match!r}, weights=absmax({bits}))")
  return found, allocation


def _candidates(
  run: _Run,
  sensitivity: quantize.Sensitivity,
  allocation: quantize.Allocation,
  method: str,
  top1: float,
  float_top1: float,
) -> bytes:
  """A plot of the mixed network beside those with 8 and with 4 bits everywhere."""
  candidates = [report.Candidate("mixed", allocation.bytes, top1, mixed=True)]
  for bits in (8, 4):
    model, _ = run.search(method, bits=bits)
    size = sensitivity.bytes_at(bits)
    candidates.append(report.Candidate(f"{bits} bits", size, run.top1(model)))
  for one in candidates:
    say(
      run.console,
      f"{one.name}: {text.percent(one.score, 2)} top-1 in {text.size(one.bytes)} packed",
    )
  return style.png(report.candidates_plot(candidates, float_top1, len(run.data.test)))


def _analyze(run: _Run, model: quantize.QuantizedModel) -> quantize.Analysis:
  analysis = quantize.analyze(
    model,
    run.saved.module,
    run.saved.variables,
    run.data.test.images[:ANALYZED],
  )
  run.console.print(report.analysis_table(analysis))
  suggestions = quantize.suggest(analysis)
  for suggestion in suggestions[:MOST_SUGGESTIONS]:
    say(run.console, f"suggestion: {suggestion.reason}")
  if len(suggestions) > MOST_SUGGESTIONS:
    more = len(suggestions) - MOST_SUGGESTIONS
    say(
      run.console,
      f"and {more} more for layers that matter less, in {run.options.files['analysis']}",
    )
  return analysis


def describe_file(
  model: quantize.QuantizedModel, path: pathlib.Path, images: np.ndarray, console: Console
) -> export.Verification | None:
  """Prints a file's size, and what its own runtime makes of it, if it has one.

  Args:
    model: that was written.
    path: of the file.
    images: that the runtime is run on.
    console: where it is printed.

  Returns:
    The verification; None if no runtime runs the file or it is not installed, or for a float file.
  """
  size = f"{path}: {text.size(path.stat().st_size)}"
  if FORMATS[format_of(path)].is_float:
    say(console, f"{size}, the float network")
    return None
  if path.suffix.lower() not in RUNTIMES:
    say(console, size)
    return None
  try:
    found = export.verify(path, runnable(model, path), images)
  except export.MissingExtraError:
    say(console, f"{size}, not verified, since its runtime is not installed")
    return None
  share = text.percent_down(found.bit_equal)
  say(
    console,
    f"{size}, {share} of the logits of {found.images} images are bit for bit the device's",
  )
  return found
