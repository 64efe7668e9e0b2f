"""The search behind ``--max-size``, ``--max-macs`` and ``--max-latency-ms``: several students are
made to fit, trained and measured; the one that is most often right is kept."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.text import Text

from jaxcompress import export, models, prune, quantize
from jaxcompress.nn import Graph
from jaxcompress.pipeline import networks, phases
from jaxcompress.pipeline.budgets import (
  LOW_BITS,
  Budget,
  Candidate,
  costs,
  fit_channels,
  latency,
  packed_size,
  plan,
  sketch,
  within,
)
from jaxcompress.pipeline.networks import Network
from jaxcompress.report import Candidate as Point
from jaxcompress.report import Search, text

WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125)  # that are tried where none is asked for
PLAN_FILE, RESULTS_FILE = "search.json", "candidates.jsonl"
MODEL_FILE, FLOAT_FOLDER = "model.jcz", "float"
SCORED = 1024  # training images from which the importance of channels is taken
MEASURED = 256  # of which also the sensitivity of layers is


class Result(NamedTuple):
  """A candidate, trained and measured.

  Attributes:
    name: of the :class:`Candidate`.
    top1: share of the validation images that the integer network gets right.
    bytes: of its packed file.
    macs: multiply-adds for one image.
    latency_ms: for one image in LiteRT on one thread.
    parameters: trainable numbers.
    bits: of the weights by layer, where layers differ.
    fits: whether all that was asked for is met.
    steps: of training, those of the network that it was made of included.
    seconds: that it took.
  """

  name: str
  top1: float
  bytes: int
  macs: int
  latency_ms: float
  parameters: int
  bits: Mapping[str, int]
  fits: bool
  steps: int
  seconds: float


class Found(NamedTuple):
  """The student that a search ended with.

  Attributes:
    network: the student.
    variables: of the float network, before it was trained at integers.
    quantized: the integer network.
    packed: its packed file.
    result: what was measured.
    search: all candidates, for the report.
  """

  network: Network
  variables: Any
  quantized: quantize.QuantizedModel
  packed: pathlib.Path
  result: Result
  search: Search


def search(
  run: phases.Context, student: Network, teacher: Network, teacher_variables: Any
) -> Found:
  """Finds the best student within the budget of a run.

  Candidates start from networks of several widths, which are distilled in float once each. Channels
  of the least Taylor importance are removed, layers get the bits that cost least by their measured
  sensitivity, and what is left is trained on, the last part at integers. Every network and result is
  kept as it is done, so that a run that was killed goes on where it was.

  Args:
    run: the run; its options have a budget.
    student: of the options; without a width, its architecture is tried at :data:`WIDTHS`.
    teacher: the teacher.
    teacher_variables: its variables.

  Returns:
    The :class:`Found`; ``candidates.jsonl`` in the run's folder has a line for each candidate.

  Raises:
    ValueError: if no student of this architecture meets the budget; the message says what is the
      least. Also if none did in the end, for another device's noise.
  """
  budget, folder = run.options.budget, run.folder / "candidates"
  folder.mkdir(exist_ok=True)
  ladder = _ladder(run, student)
  candidates = _planned(run, budget, ladder)
  done = {result.name: result for result in read_results(run.folder)}
  for candidate in candidates:
    if candidate.name not in done:
      result = _try(run, candidate, ladder[candidate.width], teacher, teacher_variables)
      _append(run.folder / RESULTS_FILE, result)
      done[candidate.name] = result
    _say(run, done[candidate.name])
  results = tuple(done[candidate.name] for candidate in candidates)
  best = choose(results)
  search = Search(
    tuple(Point(r.name, r.bytes, r.top1, chosen=r == best) for r in results),
    run.top1(teacher, teacher_variables, run.data.validation),
    len(run.data.validation),
  )
  home = folder / _slug(best.name)
  network, variables = _load(home / FLOAT_FOLDER, f"{student.name} {best.name}")
  quantized = dataclasses.replace(export.load_packed(home / MODEL_FILE), preprocess=run.preprocess)
  return Found(network, variables, quantized, home / MODEL_FILE, best, search)


def choose(results: Sequence[Result]) -> Result:
  """The best of those that fit, the smallest of equal ones.

  Raises:
    ValueError: if none does.

  Examples:
    >>> make = lambda name, top1, fits: Result(name, top1, 9, 9, 0.1, 9, {}, fits, 1, 1.0)
    >>> choose([make("a", 0.9, False), make("b", 0.8, True), make("c", 0.7, True)]).name
    'b'
  """
  fitting = [result for result in results if result.fits]
  if not fitting:
    tried = "; ".join(f"{r.name}: {r.bytes:,} bytes, {r.latency_ms:.3g} ms" for r in results)
    raise ValueError(f"budget: none of the trained candidates meets it ({tried}); allow more.")
  return max(fitting, key=lambda result: (result.top1, -result.bytes))


def read_results(folder: str | os.PathLike) -> tuple[Result, ...]:
  """The candidates that a search has finished so far; a line cut off by a kill is none."""
  path = pathlib.Path(folder) / RESULTS_FILE
  found = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      found.append(Result(**json.loads(line)))
    except ValueError:
      continue
  return tuple(found)


def _ladder(run: phases.Context, student: Network) -> dict[float | None, Network]:
  """Networks by width, the wider first."""
  if student.width is None or run.options.width is not None:
    return {student.width: student}
  shape, count = run.data.image_shape, len(run.data.classes)
  build = lambda width: networks.build(  # noqa: E731
    student.name, count, shape, width, None, run.preset.network
  )
  return {width: build(width) for width in WIDTHS}


def _planned(
  run: phases.Context, budget: Budget, ladder: Mapping[float | None, Network]
) -> tuple[Candidate, ...]:
  """What is tried; a run that goes on has the plan that it started with."""
  path = run.folder / PLAN_FILE
  if path.exists():
    return tuple(Candidate(*fields) for fields in json.loads(path.read_text()))
  with run.console.status("looking for networks that fit"):
    graphs = {width: network.summary.graph for width, network in ladder.items()}
    candidates = plan(budget, graphs, run.options.bits, _extra(run))
  names = ", ".join(candidate.name for candidate in candidates)
  run.console.print(Text(f"candidates: {names}"), soft_wrap=True)
  export.write_atomically(path, json.dumps(candidates) + "\n")
  return candidates


def _try(
  run: phases.Context,
  candidate: Candidate,
  whole: Network,
  teacher: Network,
  teacher_variables: Any,
) -> Result:
  """Makes a candidate, trains it, and measures its files."""
  began, budget = time.perf_counter(), run.options.budget
  home = run.folder / "candidates" / _slug(candidate.name)
  home.mkdir(exist_ok=True)
  steps = run.schedule.float_steps
  network, variables = _distilled(run, whole, teacher, teacher_variables)
  recovery = 0
  if candidate.prunes:
    network, variables = _pruned(run, candidate, network, variables, home / "start")
    recovery = max(1, steps // 2)
  rules: tuple[quantize.Rule, ...] = ()
  allocation = None
  if candidate.mixed:
    allocation = _allocate(run, network, variables, home / "bits.json")
    rules = tuple(_trained_at_low_bits(rule) for rule in allocation.rules)

  def keep(latest: Any) -> None:
    shutil.rmtree(home / FLOAT_FOLDER, ignore_errors=True)
    _save(run, home / FLOAT_FOLDER, network, latest)

  state = phases.distill_student(
    run,
    network,
    teacher,
    teacher_variables,
    keep,
    phase=_slug(candidate.name),
    schedule=phases.Schedule(recovery, run.schedule.int_steps),
    start=variables,
    rules=rules,
  )
  quantized = state.quantized()
  packed = export.packed(quantized, home / MODEL_FILE, metadata=_metadata(run))
  images, labels = run.data.validation.images, run.data.validation.labels
  spent = Budget(
    packed.stat().st_size,
    network.summary.macs,
    latency(quantized),
  )
  return Result(
    candidate.name,
    float(np.mean(quantized.integers(images).argmax(-1) == labels)),
    spent.size,
    spent.macs,
    spent.latency_ms,
    network.summary.parameters,
    {} if allocation is None else dict(allocation.bits),
    within(_asked(spent, budget), budget),
    steps + recovery + run.schedule.int_steps,
    time.perf_counter() - began,
  )


def _asked(spent: Budget, budget: Budget) -> Budget:
  return Budget(
    *(cost if most is not None else None for cost, most in zip(spent, budget, strict=True))
  )


def _distilled(
  run: phases.Context, network: Network, teacher: Network, teacher_variables: Any
) -> tuple[Network, Any]:
  """A whole network, distilled in float; once for all candidates that start from it."""
  name = f"float {network.title}"
  folder = run.folder / "candidates" / _slug(name)
  if not folder.exists():
    state = phases.distill_student(
      run,
      network,
      teacher,
      teacher_variables,
      phase=_slug(name),
      schedule=phases.Schedule(run.schedule.float_steps, 0),
    )
    _save(run, folder, network, state.averaged.variables)
  return network, networks.read(folder).variables


def _pruned(
  run: phases.Context, candidate: Candidate, whole: Network, variables: Any, folder: pathlib.Path
) -> tuple[Network, Any]:
  """The network without the channels that are too many for the budget."""
  budget, bits = run.options.budget, run.options.bits
  if not folder.exists():
    with run.console.status("removing channels"):
      images, labels = _sample(run)
      importance = prune.channel_importance(
        whole.module,
        variables,
        images,
        method="taylor",
        labels=labels,
        preprocess=run.preprocess,
      )
      few = (LOW_BITS + bits) // 2 if candidate.mixed else bits

      def fits(graph: Graph) -> bool:
        return within(costs(graph, budget, few, _extra(run)), budget)

      keep = fit_channels(importance, fits)
      module, variables = prune.remove_channels(whole.module, variables, keep)
    module = module.clone(origin=f"{whole.name} {candidate.name}")
    network = _network(module.origin, module, run.data.image_shape)
    _save(run, folder, network, variables)
  return _load(folder, f"{whole.name} {candidate.name}")


def _allocate(
  run: phases.Context, network: Network, variables: Any, path: pathlib.Path
) -> quantize.Allocation:
  """Bits of the layers with which the packed file fits."""
  if path.exists():
    return quantize.Allocation(*json.loads(path.read_text()))
  with run.console.status("rounding one layer at a time"):
    found = quantize.sensitivity(
      network.module,
      variables,
      _sample(run)[0][:MEASURED],
      bits=tuple(n for n in (8, 6, 5, 4, 3, 2) if n <= run.options.bits),
      preprocess=run.preprocess,
      progress=False,
    )
  most = found.bits[0]
  around = packed_size(sketch(network.summary.graph, most)) + _extra(run) - found.bytes_at(most)
  allocation = quantize.choose_bits(
    found, max(run.options.budget.size - around, found.bytes_at(found.bits[-1]))
  )
  export.write_atomically(path, json.dumps(allocation) + "\n")
  return allocation


def _trained_at_low_bits(rule: quantize.Rule) -> quantize.Rule:
  """The rule with steps that are trained, which few bits need."""
  bits = rule.weights.levels.high.bit_length() + 1
  return rule if bits > LOW_BITS else dataclasses.replace(rule, weights=quantize.lsq(bits))


def _metadata(run: phases.Context) -> dict[str, Any]:
  """What the packed file says of the images."""
  return {"classes": list(run.data.classes), "preprocess": run.preprocess.to_metadata()}


def _extra(run: phases.Context) -> int:
  """Bytes that this takes at most."""
  return len(json.dumps(_metadata(run)))


def _sample(run: phases.Context) -> tuple[np.ndarray, np.ndarray]:
  """Training images and their labels."""
  order = np.random.default_rng(run.options.seed).permutation(len(run.data.train))
  chosen = np.sort(order[:SCORED])
  return run.data.train.images[chosen], run.data.train.labels[chosen]


def _network(name: str, module: Any, image_shape: tuple[int, ...]) -> Network:
  summary = models.summarize(module, image_shape[0], image_shape[-1])
  return Network(name, None, module, summary)


def _save(run: phases.Context, folder: pathlib.Path, network: Network, variables: Any) -> None:
  networks.save(folder, network, variables, run.data.classes, run.preprocess)


def _load(folder: pathlib.Path, name: str) -> tuple[Network, Any]:
  saved = networks.read(folder)
  return _network(name, saved.module, saved.image_shape), saved.variables


def _slug(name: str) -> str:
  return name.replace(",", "").replace(" ", "-")


def _append(path: pathlib.Path, result: Result) -> None:
  """Adds a line; what a kill cut off before it is dropped."""
  kept = [json.dumps(earlier._asdict()) for earlier in read_results(path.parent)]
  lines = [*kept, json.dumps(result._asdict())]
  export.write_atomically(path, "\n".join(lines) + "\n")


def _say(run: phases.Context, result: Result) -> None:
  beyond = "" if result.fits else ", which is too much"
  run.console.print(
    Text(
      f"{result.name}: {text.percent(result.top1, 2)} top-1 on validation images,"
      f" {text.size(result.bytes)} packed, {result.macs:,} multiply-adds,"
      f" {text.milliseconds(result.latency_ms)}{beyond}"
    ),
    soft_wrap=True,
  )
