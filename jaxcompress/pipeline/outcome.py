"""The end of a run: files are written, run on every test image, and measured for the report."""

import contextlib
import datetime
import os
import pathlib
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import export, quantize
from jaxcompress.data.storage import EncodedImages, in_chunks
from jaxcompress.export.extras import MissingExtraError
from jaxcompress.export.measure import VelaReport
from jaxcompress.export.metadata import own_version
from jaxcompress.nn import fold, fuse_activations
from jaxcompress.pipeline.context import Context
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.phases import losses_of
from jaxcompress.pipeline.presets import FINE_TUNE
from jaxcompress.report.layers import layer_rows, range_rows
from jaxcompress.report.metrics import curves
from jaxcompress.report.results import Entry, Results, Run, Sample
from jaxcompress.terminal import say
from jaxcompress.training import processes

SAMPLES = 24
MOST_NAMED = 3  # operators that are left to the CPU
PACKAGES = ("flax", "optax", "numpy", "ai-edge-litert")  # whose versions are noted


def note_float(run: Context, key: str, trained: TrainedNetwork, steps: int | None = None) -> None:
  """Measures a float network, its accuracy on all processes together, and keeps the facts.

  Args:
    run: the run.
    key: of the entry.
    trained: the network.
    steps: of its training; None: those of a phase in float.
  """
  network, variables = trained
  top1 = run.top1(network, variables, run.data.test)
  say(run.console, f"{key:<10} {top1:.2%} top-1 on {len(run.data.test):,} test images")

  def note() -> None:
    file = pathlib.Path("float") / f"{key}.tflite"
    (run.folder / "float").mkdir(exist_ok=True)
    graph = fuse_activations(network.summary.graph)
    export.tflite_float(graph, fold(graph, variables), run.folder / file)
    entry = Entry(
      **_sizes(network, run.folder / file),
      top1=top1,
      steps=run.steps.float_steps if steps is None else steps,
      seconds=run.seconds(key),
      file=str(file),
    )
    run.note(**{key: entry})

  processes.once(note)


def _sizes(network: Network, path: pathlib.Path) -> dict[str, Any]:
  return {
    "model": network.title,
    "parameters": network.summary.parameters,
    "macs": network.summary.macs,
    "bytes": path.stat().st_size,
    "latency_ms": export.benchmark(path, threads=1).median_ms,
    "latency_ms_2_threads": export.benchmark(path, threads=2).median_ms,
  }


def export_student(
  run: Context,
  student: Network,
  quantized: quantize.QuantizedModel,
  command: str,
  began: float,
) -> Results:
  """Writes the integer file, which runs on every test image, and the packed one; the results."""
  data, path = run.data, run.folder / "student.tflite"
  metadata = run.metadata(student.title)
  export.tflite(quantized, path, metadata=metadata)
  small = export.packed(quantized, run.folder / "student.jcz", metadata=metadata)
  verification, predictions = _verify(path, quantized, data.test.images)
  facts = run.recall()
  int8 = Entry(
    **_sizes(student, path),
    **device_facts(path),
    top1=float(np.mean(predictions == data.test.labels)),
    steps=facts["distilled"].steps + run.steps.int_steps,
    seconds=run.seconds("distilled") or facts["distilled"].seconds,
    weight_bits=run.options.bits,
    packed_bytes=small.stat().st_size,
    sparsity=quantize.zero_share(quantized) if run.options.prunes else None,
    bit_equal=verification.bit_equal,
    max_steps=verification.max_steps,
    top1_agreement=verification.top1_agreement,
    logits=len(data.test) * len(data.classes),
    file=path.name,
  )
  entries = {key: facts[key] for key in ("teacher", "alone", "distilled")}
  params = student.summary.variables["params"]
  return Results(
    run=Run(
      data=data.name,
      classes=data.classes,
      image_shape=data.image_shape,
      train_images=len(data.train),
      test_images=len(data.test),
      seed=run.options.seed,
      command=command,
      seconds=time.perf_counter() - began,
      settings=_settings(run),
      notes=data.notes,
      **environment(),
    ),
    entries={**entries, "int8": int8},
    curves=curves(run.metrics.rows()),
    confusion=_confusion(data.test.labels, predictions, len(data.classes)),
    layers=layer_rows(quantized.graph, params, run.options.bits, quantized),
    ranges=range_rows(quantized.grids),
    samples=_samples(data.test, predictions),
    preprocess=run.preprocess.to_metadata(),
  )


def _verify(
  path: pathlib.Path,
  quantized: quantize.QuantizedModel,
  images: np.ndarray | EncodedImages,
) -> tuple[export.Verification, np.ndarray]:
  """Runs a file on all images, of those on disk some at a time; and the class of each."""
  found, predictions = [], []
  for chunk in in_chunks(images):
    found.append(export.verify(path, quantized, chunk))
    predictions.append(np.argmax(quantized.integers(chunk), axis=-1))
  counts = [one.images for one in found]
  whole = found[0]._replace(
    bit_equal=float(np.average([one.bit_equal for one in found], weights=counts)),
    max_steps=max(one.max_steps for one in found),
    top1_agreement=float(np.average([one.top1_agreement for one in found], weights=counts)),
    images=sum(counts),
  )
  return whole, np.concatenate(predictions)


def _confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
  """Counts (classes, classes) of true and predicted classes; rows are the true ones."""
  pairs = labels.astype(np.int64) * classes + predictions
  return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _settings(run: Context) -> dict[str, Any]:
  def given(*names: str) -> dict[str, Any]:
    found = {name.replace("_", " "): getattr(run.options, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}

  rate = run.preset.protocol_of(run.options.student).learning_rate
  asked = losses_of(run.options, len(run.data.train))
  return {
    **given("max_size", "max_macs", "max_latency_ms", "batch_size"),
    "float steps": run.steps.float_steps,
    "int8 steps": run.steps.int_steps,
    **given("preset", "sparsity", "sparsity_distribution", "sparsity_pattern", "cluster"),
    "learning rate": rate,
    "fine-tuning rate": rate * FINE_TUNE,
    "distillation": ", ".join(f"{name} {weight:g}" for name, weight in asked.weights.items()),
  }


def _samples(split: datasets.Split, predictions: np.ndarray) -> tuple[Sample, ...]:
  """A few test images, every second one a mistake where there are enough."""
  wrong = np.flatnonzero(predictions != split.labels)[: SAMPLES // 2]
  right = np.flatnonzero(predictions == split.labels)[: SAMPLES - len(wrong)]
  return tuple(
    Sample.of(split.images[i], split.labels[i], predictions[i])
    for i in np.concatenate([right, wrong])
  )


def device_facts(path: pathlib.Path) -> dict[str, Any]:
  """The arena of TensorFlow Lite for Microcontrollers and the operators on an Ethos-U.

  Args:
    path: a .tflite file.

  Returns:
    ``arena_bytes`` and ``npu`` of an :class:`~jaxcompress.report.Entry`; what is not installed, or
    does not take the file, is left out, but for the compiler's reason.
  """
  facts: dict[str, Any] = {}
  with contextlib.suppress(ValueError):  # not installed, or the file is not for it
    facts["arena_bytes"] = export.arena(path)
  try:
    with contextlib.suppress(MissingExtraError):
      facts["npu"] = npu_sentence(export.vela(path), export.lint(path, "ethos-u"))
  except ValueError as error:
    facts["npu"] = str(error)
  return facts


def npu_sentence(found: VelaReport, findings: Iterable[export.Finding] = ()) -> str:
  """How many operators the NPU computes, and why not the others.

  Args:
    found: by the compiler.
    findings: of the linter, whose reasons stand where the compiler gives none.

  Examples:
    >>> from jaxcompress.export.measure import CpuOperator
    >>> left = (CpuOperator("ABS", "a", "no kernel"),)
    >>> npu_sentence(VelaReport(9, 8, left, 1.0, 1.0, 0.1))
    '8 of 9 operators on the NPU; on the CPU: ABS of a (no kernel)'
  """
  sentence = f"{found.on_npu} of {found.operators} operators on the NPU"
  if not found.cpu_ops:
    return sentence
  reasons = {finding.name: finding.reason for finding in findings}
  named = [
    f"{one.op} of {one.name} ({one.reason or reasons.get(one.name, 'no reason given')})"
    for one in found.cpu_ops[:MOST_NAMED]
  ]
  more = len(found.cpu_ops) - len(named)
  rest = f", and {more} more" if more else ""
  return f"{sentence}; on the CPU: {', '.join(named)}{rest}"


def environment() -> dict[str, Any]:
  """Fields of :class:`~jaxcompress.report.Run` that do not depend on the run's settings.

  Returns:
    ``version``, ``jax_version``, ``device``, ``date`` (UTC) and ``packages``.

  Examples:
    >>> sorted(environment())
    ['date', 'device', 'jax_version', 'packages', 'version']
  """
  devices, kind = jax.devices(), jax.devices()[0].device_kind
  number = f"{len(devices)} x " if len(devices) > 1 else ""
  packages = {"python": platform.python_version()}
  for name in PACKAGES:
    with contextlib.suppress(PackageNotFoundError):
      packages[name] = version(name)
  return {
    "version": own_version(),
    "jax_version": jax.__version__,
    "device": f"{number}{kind}, {platform.machine()}, {_cores()} CPU cores",
    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    "packages": packages,
  }


def _cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
