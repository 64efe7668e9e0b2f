"""The end of a run: files are written, run on every test image, and measured for the report."""

import pathlib
import time
from typing import Any

import numpy as np

from jaxcompress import data as datasets
from jaxcompress import export, quantize, report
from jaxcompress.data.storage import EncodedImages, in_chunks
from jaxcompress.nn import fold, fuse_activations
from jaxcompress.pipeline.context import Context
from jaxcompress.pipeline.devices import device_facts
from jaxcompress.pipeline.networks import Network
from jaxcompress.pipeline.phases import losses_of
from jaxcompress.pipeline.presets import FINE_TUNE
from jaxcompress.pipeline.pruning import is_pruned
from jaxcompress.terminal import say
from jaxcompress.training import processes

SAMPLES = 24


def note_float(run: Context, key: str, network: Network, variables: Any, *, steps: int) -> None:
  """Measures a float network, its accuracy on all processes together, and keeps the facts."""
  top1 = run.top1(network, variables, run.data.test)
  say(run.console, f"{key:<10} {top1:.2%} top-1 on {len(run.data.test):,} test images")
  processes.once(lambda: run.note(**{key: _float_entry(run, key, network, variables, steps, top1)}))


def _float_entry(
  run: Context, key: str, network: Network, variables: Any, steps: int, top1: float
) -> dict[str, Any]:
  """Facts of a float network, measured on its own .tflite file."""
  file = pathlib.Path("float") / f"{key}.tflite"
  (run.folder / "float").mkdir(exist_ok=True)
  graph = fuse_activations(network.summary.graph)
  export.tflite_float(graph, fold(graph, variables), run.folder / file)
  return {
    **_sizes(network, run.folder / file),
    "top1": top1,
    "steps": steps,
    "seconds": run.seconds(key),
    "file": str(file),
  }


def _sizes(network: Network, path: pathlib.Path) -> dict[str, Any]:
  return {
    "model": network.title,
    "parameters": network.summary.parameters,
    "macs": network.summary.macs,
    "bytes": path.stat().st_size,
    "latency_ms": export.benchmark(path, threads=1).median_ms,
    "latency_ms_2_threads": export.benchmark(path, threads=2).median_ms,
  }


def write_files(
  run: Context,
  student: Network,
  quantized: quantize.QuantizedModel,
  command: str,
  began: float,
) -> report.Results:
  """Writes the integer file, which runs on every test image, and the packed one; the results."""
  data, path = run.data, run.folder / "student.tflite"
  preprocess = run.preprocess.to_metadata()
  metadata = run.metadata(student.title)
  export.tflite(quantized, path, metadata=metadata)
  small = export.packed(quantized, run.folder / "student.jcz", metadata=metadata)
  verification, predictions = _verify(path, quantized, data.test.images)
  facts = run.recall()
  schedule = run.schedule
  int8 = report.Entry(
    **_sizes(student, path),
    **device_facts(path),
    top1=float(np.mean(predictions == data.test.labels)),
    steps=facts["distilled"]["steps"] + schedule.int_steps,
    seconds=run.seconds("distilled") or facts["distilled"]["seconds"],
    weight_bits=run.options.bits,
    packed_bytes=small.stat().st_size,
    sparsity=quantize.zero_share(quantized) if is_pruned(run.options) else None,
    bit_equal=verification.bit_equal,
    max_steps=verification.max_steps,
    top1_agreement=verification.top1_agreement,
    logits=len(data.test) * len(data.classes),
    file=path.name,
  )
  entries = {key: report.Entry(**facts[key]) for key in ("teacher", "alone", "distilled")}
  params = student.summary.variables["params"]
  return report.Results(
    run=report.Run(
      data=data.name,
      classes=data.classes,
      image_shape=data.image_shape,
      train_images=len(data.train),
      test_images=len(data.test),
      seed=run.options.seed,
      command=command,
      seconds=time.perf_counter() - began,
      settings=_settings(run),
      **report.environment(),
    ),
    entries={**entries, "int8": int8},
    curves=report.curves(run.metrics.rows()),
    confusion=report.count_confusion(data.test.labels, predictions, len(data.classes)),
    layers=report.layer_rows(quantized.graph, params, run.options.bits, quantized),
    ranges=report.range_rows(quantized.grids),
    samples=_samples(data.test, predictions),
    preprocess=preprocess,
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


def _settings(run: Context) -> dict[str, Any]:
  schedule = run.schedule
  rate = run.preset.protocol_of(run.options.student).learning_rate
  asked = losses_of(run.options, len(run.data.train))
  asked_for = {
    name.replace("_", " "): value
    for name in ("max_size", "max_macs", "max_latency_ms")
    if (value := getattr(run.options, name)) is not None
  }
  return {
    **asked_for,
    "batch size": run.options.batch_size,
    "float steps": schedule.float_steps,
    "int8 steps": schedule.int_steps,
    "preset": run.options.preset,
    **{
      name.replace("_", " "): value
      for name in ("sparsity", "sparsity_distribution", "sparsity_pattern", "cluster")
      if (value := getattr(run.options, name)) is not None
    },
    "learning rate": rate,
    "fine-tuning rate": rate * FINE_TUNE,
    "distillation": ", ".join(f"{name} {weight:g}" for name, weight in asked.weights.items()),
  }


def _samples(split: datasets.Split, predictions: np.ndarray) -> tuple[report.Sample, ...]:
  """A few test images, every second one a mistake where there are enough."""
  wrong = np.flatnonzero(predictions != split.labels)[: SAMPLES // 2]
  right = np.flatnonzero(predictions == split.labels)[: SAMPLES - len(wrong)]
  return tuple(
    report.Sample.of(split.images[i], split.labels[i], predictions[i])
    for i in np.concatenate([right, wrong])
  )
