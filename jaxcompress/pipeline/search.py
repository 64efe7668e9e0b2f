"""The search for a student within a budget: several are made to fit, trained and measured; the one
that is most often right is kept."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from jaxcompress import export, quantize
from jaxcompress.files.records import damaged, from_plain, plain, read_record, write_record
from jaxcompress.files.writing import write_atomically
from jaxcompress.pipeline import budgets, networks, phases
from jaxcompress.pipeline.budgets import LOW_BITS, SENSED, Budget, Candidate
from jaxcompress.pipeline.context import DELETE, Context, PhaseSteps
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.thinning import kept_network, sample, thinned
from jaxcompress.quantize.analysis.budget import Allocation, choose_bits
from jaxcompress.report import text
from jaxcompress.report.results import Point, Search
from jaxcompress.terminal import say, waiting

WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125)  # that are tried where none is asked for
PLAN_FILE, TRIALS_FILE = "search.json", "candidates.jsonl"
FOLDER, MODEL_FILE, FLOAT_FOLDER = "candidates", "model.jcz", "float"
LONGEST_TITLE = 80  # characters, for the room that a budget leaves


@dataclasses.dataclass(frozen=True)
class Measured:
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


class FoundStudent(NamedTuple):
  """The student that a search ended with.

  Attributes:
    trained: in float, before quantization-aware training.
    quantized: the integer network.
    measured: what was.
    search: all candidates, for the report.
    note: of a narrower network that won over removed channels; empty where none did.
  """

  trained: TrainedNetwork
  quantized: quantize.QuantizedModel
  measured: Measured
  search: Search
  note: str = ""


def find_student(run: Context, student: Network, teacher: TrainedNetwork) -> FoundStudent:
  """Finds the best student within the budget of a run.

  Candidates start from networks of several widths, which are distilled in float once each. Channels
  of the least Taylor importance for their cost are removed, layers get the bits that cost least by
  their measured sensitivity, and what is left is trained on, the last part with quantization. Beside each
  network that lost channels stands one of its size that lost none: a narrower one, or the same shape from
  scratch, trained for as many steps. Every network and result is kept as it is done, so that a run that
  was killed goes on where it was.

  Args:
    run: the run; its options have a budget.
    student: of the options; without a width, its architecture is tried at :data:`WIDTHS`.
    teacher: the teacher.

  Returns:
    The :class:`FoundStudent`; ``candidates.jsonl`` in the run's folder has a line for each candidate.

  Raises:
    ValueError: if no student of this architecture meets the budget; the message says what is the
      least. Also if none did in the end, for another device's noise.
  """
  folder = run.folder / FOLDER
  folder.mkdir(exist_ok=True)
  candidates = plan_candidates(run, student)
  ladder = _ladder(run, student)
  done = {result.name: result for result in read_trials(run.folder)}
  recovers = any(candidate.prunes for candidate in candidates)
  for candidate in candidates:
    if candidate.name not in done:
      result = _make(run, candidate, ladder[candidate.width], teacher, recovers=recovers)
      _append(run.folder / TRIALS_FILE, result)
      done[candidate.name] = result
    _say(run, done[candidate.name])
  results = tuple(done[candidate.name] for candidate in candidates)
  best = choose(results)
  search = Search(
    tuple(Point(r.name, r.bytes, r.top1, chosen=r == best) for r in results),
    run.evaluate(*teacher, run.data.validation).top1,
    len(run.data.validation),
  )
  home = folder / _slug(best.name)
  note = rival_note(candidates, results)
  if note:
    say(run.console, note)
  trained = kept_network(home / FLOAT_FOLDER, f"{student.name} {best.name}")
  quantized = dataclasses.replace(export.load_packed(home / MODEL_FILE), preprocess=run.preprocess)
  return FoundStudent(trained, quantized, best, search, note)


def plan_candidates(run: Context, student: Network) -> tuple[Candidate, ...]:
  """Plans what is tried; a run that goes on has the plan that it started with.

  Args:
    run: the run; its options have a budget.
    student: as for :func:`find_student`.

  Raises:
    ValueError: if no student of this architecture meets the budget, or several processes run.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f"coordinator: {jax.process_count()} processes are given a budget, which one alone searches;"
      " leave the coordinator out."
    )
  path = run.folder / PLAN_FILE
  if path.exists():
    return tuple(read_record(path, list[Candidate], DELETE))
  ladder = _ladder(run, student)
  with waiting(run.console, "looking for networks that fit"):
    graphs = {width: network.summary.graph for width, network in ladder.items()}
    candidates = budgets.plan(run.options.budget, graphs, run.options.bits, _extra_bytes(run))
  names = "; ".join(candidate.name for candidate in candidates)
  say(run.console, f"candidates: {names}")
  write_record(path, candidates)
  return candidates


def choose(results: Sequence[Measured]) -> Measured:
  """The best of those that fit, the smallest of equal ones.

  Raises:
    ValueError: if none does.

  Examples:
    >>> make = lambda name, top1, fits: Measured(name, top1, 9, 9, 0.1, 9, {}, fits, 1, 1.0)
    >>> choose([make("a", 0.9, False), make("b", 0.8, True), make("c", 0.7, True)]).name
    'b'
  """
  fitting = [result for result in results if result.fits]
  if not fitting:
    tried = "; ".join(f"{r.name}: {r.bytes:,} bytes, {r.latency_ms:.3g} ms" for r in results)
    raise ValueError(
      f"max_size, max_macs, max_latency_ms: no trained candidate meets them ({tried}); allow more."
    )
  return max(fitting, key=lambda result: (result.top1, -result.bytes))


def rival_note(candidates: Sequence[Candidate], results: Sequence[Measured]) -> str:
  """Says that a network that lost no channels is as good as those that did; empty if none is.

  Examples:
    >>> make = lambda name, top1: Measured(name, top1, 9, 9, 0.1, 9, {}, True, 1, 1.0)
    >>> both = Candidate("x0.25", 0.25), Candidate("x0.35 pruned", 0.35, prunes=True)
    >>> rival_note(both, [make("x0.25", 0.9), make("x0.35 pruned", 0.875)])
    'x0.25, which lost no channels, is kept: 90.0 % on validation images, 87.5 % of x0.35 pruned'
    >>> rival_note(both, [make("x0.25", 0.8), make("x0.35 pruned", 0.875)])
    ''
  """
  best = choose(results)
  lost = {one.name for one in candidates if one.prunes and not one.fresh}
  pruned = [result for result in results if result.name in lost and result.fits]
  if best.name in lost or not pruned:
    return ""
  other = max(pruned, key=lambda result: result.top1)
  return (
    f"{best.name}, which lost no channels, is kept: {text.percent(best.top1)} on validation images,"
    f" {text.percent(other.top1)} of {other.name}"
  )


def read_trials(folder: str | os.PathLike) -> tuple[Measured, ...]:
  """The candidates that a search has finished so far; a line cut off by a kill is none.

  Raises:
    ValueError: naming the file, if a line holds no candidate.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _append(folder / TRIALS_FILE, Measured("x0.5", 0.9, 9, 9, 0.1, 9, {}, True, 1, 1.0))
    >>> [result.name for result in read_trials(folder)]
    ['x0.5']
  """
  path, found = pathlib.Path(folder) / TRIALS_FILE, []
  for line in path.read_bytes().splitlines() if path.exists() else ():
    try:
      fields = json.loads(line)
    except ValueError:
      continue
    try:
      found.append(from_plain(Measured, fields))
    except ValueError as error:
      raise damaged(path, error, DELETE) from error
  return tuple(found)


def _make(
  run: Context, candidate: Candidate, whole: Network, teacher: TrainedNetwork, *, recovers: bool
) -> Measured:
  """Makes a candidate of a whole network, trains it, and measures its files.

  What an earlier part of the run made is used; the float network and the packed file are in the
  candidate's folder. Where channels are removed of one, all train on for as many steps.
  """
  began, budget = time.perf_counter(), run.options.budget
  home = run.folder / FOLDER / _slug(candidate.name)
  home.mkdir(exist_ok=True)
  recovery = max(1, run.steps.float_steps // 2) if recovers else 0
  float_steps, left, bits = run.steps.float_steps + recovery, recovery, dict[str, int]()
  name = f"{whole.name} {candidate.name}"
  if candidate.fresh:
    shape = kept_network(_start(run, candidate), name)
    start, left = TrainedNetwork(shape.network, None), float_steps
  else:
    start = _distilled(run, whole, teacher)
  if candidate.prunes and not candidate.fresh:
    start, left = thinned(
      run,
      name,
      start,
      teacher,
      _start(run, candidate),
      bits=min(LOW_BITS, run.options.bits) if candidate.mixed else run.options.bits,
      recovery=recovery,
      extra=_extra_bytes(run),
    )
  rules: tuple[quantize.Rule, ...] = ()
  if candidate.mixed:
    allocation = _allocate(run, start, home / "bits.json")
    rules, bits = tuple(map(_trained_at_low_bits, allocation.rules)), dict(allocation.bits)
  network = start.network
  state = phases.distill_student(
    run,
    network,
    teacher,
    lambda latest: run.save(home / FLOAT_FOLDER, TrainedNetwork(network, latest)),
    phase=_slug(candidate.name),
    steps=PhaseSteps(left, run.steps.int_steps),
    start=start.variables,
    rules=rules,
  )
  quantized = state.quantized()
  packed = export.packed(quantized, home / MODEL_FILE, metadata=run.metadata(name))
  size, macs, latency_ms = packed.stat().st_size, network.summary.macs, budgets.latency(quantized)
  return Measured(
    candidate.name,
    budgets.integer_top1(quantized, run.data.validation),
    size,
    macs,
    latency_ms,
    network.summary.parameters,
    bits,
    budgets.within(Budget(size, macs, latency_ms), budget),
    float_steps + run.steps.int_steps,
    time.perf_counter() - began,
  )


def _start(run: Context, candidate: Candidate) -> pathlib.Path:
  """The folder of what a candidate with fewer channels trains on from, or has the shape of."""
  pruned = candidate.name.removesuffix(f", {budgets.FROM_SCRATCH}")
  return run.folder / FOLDER / _slug(pruned) / "start"


def _distilled(run: Context, network: Network, teacher: TrainedNetwork) -> TrainedNetwork:
  """A whole network, distilled in float; once for all candidates that start from it."""
  name = _slug(f"float {network.title}")
  folder = run.folder / FOLDER / name
  if not folder.exists():
    steps = PhaseSteps(run.steps.float_steps, 0)
    state = phases.distill_student(run, network, teacher, phase=name, steps=steps)
    run.save(folder, TrainedNetwork(network, state.averaged.variables))
  return TrainedNetwork(network, networks.read_network(folder).variables)


def _allocate(run: Context, start: TrainedNetwork, path: pathlib.Path) -> Allocation:
  """Bits of the layers with which the packed file fits."""
  if path.exists():
    return read_record(path, Allocation, DELETE)
  with waiting(run.console, "rounding one layer at a time"):
    found = quantize.sensitivity(
      start.network.module,
      start.variables,
      sample(run)[0][:SENSED],
      bits=tuple(n for n in (8, 6, 5, 4, 3, 2) if n <= run.options.bits),
      preprocess=run.preprocess,
      progress=False,
    )
  size, most = run.options.budget.size, found.bits[0]
  assert size is not None  # of which alone a plan with mixed bits comes
  whole = budgets.packed_size(budgets.sketch(start.network.summary.graph, most))
  around = whole + _extra_bytes(run) - found.bytes_at(most)
  allocation = choose_bits(found, max(size - around, found.bytes_at(found.bits[-1])))
  write_record(path, allocation)
  return allocation


def _trained_at_low_bits(rule: quantize.Rule) -> quantize.Rule:
  """The rule with steps that are trained, which few bits need."""
  weights = rule.weights
  if not isinstance(weights, quantize.Quantizer):
    return rule
  return dataclasses.replace(rule, weights=phases.for_few_bits(weights))


def _extra_bytes(run: Context) -> int:
  """Bytes that the metadata takes in the packed file, at most."""
  return len(json.dumps(run.metadata("?" * LONGEST_TITLE)))


def _slug(name: str) -> str:
  """A candidate's name as that of its folder and of its training phase."""
  return name.replace(",", "").replace(" ", "-")


def _ladder(run: Context, student: Network) -> dict[float | None, Network]:
  """Networks by width, the wider first."""
  if student.width is None or run.options.width is not None:
    return {student.width: student}
  shape, count = run.data.image_shape, len(run.data.classes)
  wanted = run.preset.network
  return {w: networks.build(student.name, count, shape, w, None, wanted) for w in WIDTHS}


def _append(path: pathlib.Path, result: Measured) -> None:
  """Adds a line; what a kill cut off before it is dropped."""
  lines = [json.dumps(plain(one)) + "\n" for one in (*read_trials(path.parent), result)]
  write_atomically(path, "".join(lines))


def _say(run: Context, result: Measured) -> None:
  beyond = "" if result.fits else ", which is too much"
  say(
    run.console,
    f"{result.name}: {text.percent(result.top1, 2)} top-1 on validation images,"
    f" {text.size(result.bytes)} packed, {result.macs:,} multiply-adds,"
    f" {text.milliseconds(result.latency_ms)}{beyond}",
  )
