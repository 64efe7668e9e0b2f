"""The end of a run: files are written, run on every test image, and measured for the report."""

import contextlib
import datetime
import itertools
import os
import pathlib
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import export, quantize
from jaxcompress.data.parts import PARTS
from jaxcompress.data.storage import EncodedImages, in_chunks
from jaxcompress.export.measure import VelaReport
from jaxcompress.export.metadata import LABELS, labels_text, own_version
from jaxcompress.export.verification import Both, compare, run_both
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.nn import fold, fuse_activations
from jaxcompress.pipeline.context import Context, Score
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.phases import losses_of
from jaxcompress.report.classes import confusion_of
from jaxcompress.report.layers import layer_rows, range_rows
from jaxcompress.report.metrics import curves
from jaxcompress.report.reading import in_words
from jaxcompress.report.results import Entry, Results, Run, Sample
from jaxcompress.terminal import say
from jaxcompress.training import processes

SAMPLES = 24
MOST_NAMED = 3  # operators that are left to the CPU
PACKAGES = ("flax", "optax", "numpy", "ai-edge-litert")  # whose versions are noted


def note_float(
  run: Context,
  key: str,
  trained: TrainedNetwork,
  steps: int | None = None,
  score: Score | None = None,
) -> None:
  """Measures a float network, its accuracy on all processes together, and keeps the facts.

  Args:
    run: the run.
    key: of the entry.
    trained: the network.
    steps: of its training; None: those of a phase in float.
    score: on validation images, if that is known.
  """
  network, variables = trained
  top1 = run.evaluate(network, variables, run.data.test).top1
  score = score or run.evaluate(network, variables, run.data.validation)
  steps = run.steps.float_steps if steps is None else steps
  say(run.console, f"{key:<10} {top1:.2%} top-1 on {len(run.data.test):,} test images")

  def note() -> None:
    file = pathlib.Path("float") / f"{key}.tflite"
    (run.folder / "float").mkdir(exist_ok=True)
    graph = fuse_activations(network.summary.graph)
    folded, metadata = fold(graph, variables), run.metadata(network.title)
    export.tflite_float(graph, folded, run.folder / file, metadata=metadata)
    rows = [row for row in run.metrics.rows() if row.get("phase") == key]
    kept = [row["kept"] for row in rows if row.get("kept") is not None]
    entry = Entry(
      **_sizes(network, run.folder / file),
      top1=top1,
      kept_step=kept[-1] if kept else None,
      steps=steps,
      seconds=run.seconds(key),
      file=str(file),
      validation_top1=score.top1,
      validation_loss=score.loss,
      rounds=len(run.rounds),
    )
    if rows and not any(row["step"] == steps and "top1" in row for row in rows):
      run.metrics.write(key, steps, top1=score.top1)
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


def better(facts: Mapping[str, Entry]) -> str:
  """Which student is made of integers: ``distilled``, unless ``alone`` validates better.

  Args:
    facts: entries of both, with their scores on validation images.

  Examples:
    >>> scored = lambda top1, loss: Entry("m", 0.5, 1, 1, 1, validation_top1=top1, validation_loss=loss)
    >>> better({"alone": scored(0.91, 0.4), "distilled": scored(0.9, 0.3)})
    'alone'
    >>> better({"alone": scored(0.9, 0.3), "distilled": scored(0.9, 0.4)})
    'distilled'
  """
  # losses are no judge between them: a teacher's soft labels leave a student less sure
  return max(("distilled", "alone"), key=lambda key: facts[key].validation_top1 or 0.0)


def export_student(
  run: Context,
  student: Network,
  quantized: quantize.QuantizedModel,
  made_from: str,
  command: str,
  began: float,
) -> Results:
  """Writes the integer file, which runs on every test image, and the packed one; the results.

  Args:
    run: the run.
    student: the network.
    quantized: the same network, quantized.
    made_from: key of the float student that it was made from.
    command: the command line.
    began: seconds of the clock when this part of the run began.
  """
  data, path = run.data, run.folder / "student.tflite"
  metadata = run.metadata(student.title)
  export.tflite(quantized, path, metadata=metadata)
  (run.folder / LABELS).write_text(labels_text(data.classes), encoding="utf-8")
  small = export.packed(quantized, run.folder / "student.jcz", metadata=metadata)
  verification, scores = _verify(path, quantized, data.test.images)
  predictions = np.argmax(scores, axis=-1)
  facts = run.recall()
  int8 = Entry(
    **_sizes(student, path),
    **device_facts(path),
    top1=float(np.mean(predictions == data.test.labels)),
    steps=facts[made_from].steps + run.steps.int_steps,
    seconds=facts[made_from].seconds + run.seconds("int8"),
    made_from=made_from,
    rounds=len(run.rounds),
    weight_bits=run.options.bits,
    packed_bytes=small.stat().st_size,
    sparsity=quantize.zero_share(quantized) if run.options.prunes else None,
    bit_equal=verification.bit_equal,
    max_steps=verification.max_steps,
    top1_agreement=verification.top1_agreement,
    logits=len(data.test) * len(data.classes),
    file=path.name,
  )
  entries: dict[str, Entry] = {
    key: facts[key] for key in ("teacher", "head", "alone", "distilled") if key in facts
  }
  params = student.summary.variables["params"]
  return Results(
    run=Run(
      data=data.name,
      classes=data.classes,
      image_shape=data.image_shape,
      train_images=len(data.train),
      validation_images=len(data.validation),
      test_images=len(data.test),
      class_counts={
        name: tuple(np.bincount(split.labels, minlength=len(data.classes)).tolist())
        for name in PARTS
        for split in [getattr(data, name)]
      },
      seed=run.options.seed,
      command=command,
      seconds=time.perf_counter() - began,
      settings=_settings(run, student),
      epochs=run.options.epochs,
      reading=in_words(data.reader),
      notes=data.notes,
      **environment(),
    ),
    entries={**entries, "int8": int8},
    curves=curves(run.metrics.rows()),
    confusion=confusion_of(data.test.labels, predictions, len(data.classes)),
    layers=layer_rows(quantized.graph, params, run.options.bits, quantized),
    ranges=range_rows(quantized.grids),
    samples=samples_of(data.test, scores),
    **data.reader.to_metadata(),
  )


def _verify(
  path: pathlib.Path,
  quantized: quantize.QuantizedModel,
  images: np.ndarray | EncodedImages,
) -> tuple[export.Verification, np.ndarray]:
  """Runs a file on all images, of those on disk some at a time; and the score of each class."""
  found, scores = [], []
  for chunk in in_chunks(images):
    both = run_both(path, quantized, chunk)
    found.append(compare(both))
    scores.append(_probabilities(both))
  counts = [one.images for one in found]
  whole = found[0]._replace(
    bit_equal=float(np.average([one.bit_equal for one in found], weights=counts)),
    max_steps=max(one.max_steps for one in found),
    top1_agreement=float(np.average([one.top1_agreement for one in found], weights=counts)),
    images=sum(counts),
  )
  return whole, np.concatenate(scores)


def _probabilities(both: Both) -> np.ndarray:
  """Scores of the classes: what a network gives that ends in a softmax, else the softmax of its logits."""
  ((name, codes),) = both.ours.items()
  logits = both.quantized.real(name, codes)
  if both.quantized.graph.nodes[-1].op == "Softmax":
    return logits
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def _settings(run: Context, student: Network) -> dict[str, Any]:
  def given(*names: str) -> dict[str, Any]:
    found = {name.replace("_", " "): getattr(run.options, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}

  protocol = run.protocol_of("student", student)
  rate = protocol.learning_rate
  asked = losses_of(run.options, len(run.data.train))
  return {
    **given("max_size", "max_macs", "max_latency_ms", "batch_size"),
    "float steps": run.steps.float_steps,
    "int8 steps": run.steps.int_steps,
    **given("preset", "sparsity", "sparsity_distribution", "sparsity_pattern", "cluster"),
    "learning rate": rate,
    "fine-tuning rate": rate * protocol.fine_tuning,
    "distillation": ", ".join(f"{name} {weight:g}" for name, weight in asked.weights.items()),
  }


def samples_of(split: datasets.Split, scores: np.ndarray) -> tuple[Sample, ...]:
  """Some images: half of them the worst mistakes, the surest first, the others right, of many classes.

  Args:
    split: the images.
    scores: (count, classes) of each class, 0 to 1.
  """
  predictions, labels = np.argmax(scores, axis=-1), split.labels
  surest = np.argsort(-scores.max(axis=-1), kind="stable")
  wrong = [i for i in surest if predictions[i] != labels[i]][: SAMPLES // 2]
  of_class: dict[int, list[int]] = {}
  for i in np.flatnonzero(predictions == labels):
    of_class.setdefault(int(labels[i]), []).append(int(i))
  turns = itertools.zip_longest(*of_class.values())  # one of each class, then another of each
  right = [i for turn in turns for i in turn if i is not None][: SAMPLES - len(wrong)]
  return tuple(
    Sample.of(
      split.images[i],
      labels[i],
      predictions[i],
      name=None if split.names is None else split.names[i],
      score=float(scores[i, predictions[i]]),
    )
    for i in (*wrong, *right)
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
