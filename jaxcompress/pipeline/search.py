"""The search for a student within a budget: several are made to fit, trained and measured; the one
that is most often right is kept."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcompress import data as datasets
from jaxcompress import export, prune, quantize, training
from jaxcompress.files.records import damaged, from_plain, plain, read_record, write_record
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn import Graph
from jaxcompress.pipeline import budgets, networks, phases
from jaxcompress.pipeline.budgets import LOW_BITS, SENSED, Budget, Candidate
from jaxcompress.pipeline.context import DELETE, Context, PhaseSteps
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.quantize.analysis.budget import Allocation, choose_bits
from jaxcompress.report import text
from jaxcompress.report.results import Point, Search
from jaxcompress.terminal import say, waiting

WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125)  # that are tried where none is asked for
PLAN_FILE, TRIALS_FILE = "search.json", "candidates.jsonl"
FOLDER, MODEL_FILE, FLOAT_FOLDER = "candidates", "model.jcz", "float"
LONGEST_TITLE = 80  # characters, for the room that a budget leaves
SCORED = 1024  # training images from which the importance of channels is taken


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
    trained: in float, before it was trained at integers.
    quantized: the integer network.
    measured: what was.
    search: all candidates, for the report.
  """

  trained: TrainedNetwork
  quantized: quantize.QuantizedModel
  measured: Measured
  search: Search


def find_student(run: Context, student: Network, teacher: TrainedNetwork) -> FoundStudent:
  """Finds the best student within the budget of a run.

  Candidates start from networks of several widths, which are distilled in float once each. Channels
  of the least Taylor importance are removed, layers get the bits that cost least by their measured
  sensitivity, and what is left is trained on, the last part at integers. Every network and result is
  kept as it is done, so that a run that was killed goes on where it was.

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
  for candidate in candidates:
    if candidate.name not in done:
      result = _make(run, candidate, ladder[candidate.width], teacher)
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
  trained = _kept(home / FLOAT_FOLDER, f"{student.name} {best.name}")
  quantized = dataclasses.replace(export.load_packed(home / MODEL_FILE), preprocess=run.preprocess)
  return FoundStudent(trained, quantized, best, search)


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


def _make(run: Context, candidate: Candidate, whole: Network, teacher: TrainedNetwork) -> Measured:
  """Makes a candidate of a whole network, trains it, and measures its files.

  What an earlier part of the run made is used; the float network and the packed file are in the
  candidate's folder.
  """
  began, budget = time.perf_counter(), run.options.budget
  home = run.folder / FOLDER / _slug(candidate.name)
  home.mkdir(exist_ok=True)
  steps = run.steps.float_steps
  start, recovery, bits = _distilled(run, whole, teacher), 0, {}
  if candidate.prunes:
    start, recovery = _pruned(run, candidate, start, home / "start"), max(1, steps // 2)
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
    steps=PhaseSteps(recovery, run.steps.int_steps),
    start=start.variables,
    rules=rules,
  )
  quantized = state.quantized()
  packed = export.packed(
    quantized, home / MODEL_FILE, metadata=run.metadata(f"{whole.name} {candidate.name}")
  )
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
    steps + recovery + run.steps.int_steps,
    time.perf_counter() - began,
  )


def _distilled(run: Context, network: Network, teacher: TrainedNetwork) -> TrainedNetwork:
  """A whole network, distilled in float; once for all candidates that start from it."""
  name = _slug(f"float {network.title}")
  folder = run.folder / FOLDER / name
  if not folder.exists():
    steps = PhaseSteps(run.steps.float_steps, 0)
    state = phases.distill_student(run, network, teacher, phase=name, steps=steps)
    run.save(folder, TrainedNetwork(network, state.averaged.variables))
  return TrainedNetwork(network, networks.read_network(folder).variables)


def _pruned(
  run: Context, candidate: Candidate, start: TrainedNetwork, folder: pathlib.Path
) -> TrainedNetwork:
  """The network without the channels that are too many for the budget."""
  budget, bits, name = (
    run.options.budget,
    run.options.bits,
    f"{start.network.name} {candidate.name}",
  )
  few = min(LOW_BITS, bits) if candidate.mixed else bits

  def fits(graph: Graph) -> bool:
    return budgets.within(budgets.costs(graph, budget, few, _extra_bytes(run)), budget)

  if not folder.exists():
    with waiting(run.console, "removing channels"):
      images, labels = _sample(run)
      importance = prune.channel_importance(
        start.network.module,
        start.variables,
        images,
        method="taylor",
        labels=labels,
        preprocess=run.preprocess,
      )
      keep = prune.fit_channels(importance, fits, divisor=budgets.DIVISOR)
      module, variables = prune.remove_channels(start.network.module, start.variables, keep)
      module = module.clone(origin=name)
      variables = _with_norm_anew(run, module, variables)
    network = networks.network_of(name, None, module, run.data.image_shape)
    run.save(folder, TrainedNetwork(network, variables))
  return _kept(folder, name)


def _with_norm_anew(run: Context, module: nn.Module, variables: Any) -> Any:
  """The variables with the running statistics of training images."""
  size = run.options.batch_size
  batches = [
    datasets.batch_at(run.data.train, size, seed=run.options.seed, position=position)
    for position in range(max(1, SCORED // size))
  ]
  recipe = training.Recipe(student=module, optimizer=optax.identity(), preprocess=run.preprocess)
  state = training.init_state(recipe, jax.random.key(0), batches[0], student_variables=variables)
  return training.reestimate_norm(state, batches).variables


def _allocate(run: Context, start: TrainedNetwork, path: pathlib.Path) -> Allocation:
  """Bits of the layers with which the packed file fits."""
  if path.exists():
    return read_record(path, Allocation, DELETE)
  with waiting(run.console, "rounding one layer at a time"):
    found = quantize.sensitivity(
      start.network.module,
      start.variables,
      _sample(run)[0][:SENSED],
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
  bits = weights.levels.high.bit_length() + 1
  return rule if bits > LOW_BITS else dataclasses.replace(rule, weights=quantize.lsq(bits))


def _extra_bytes(run: Context) -> int:
  """Bytes that the metadata takes in the packed file, at most."""
  return len(json.dumps(run.metadata("?" * LONGEST_TITLE)))


def _sample(run: Context) -> tuple[np.ndarray, np.ndarray]:
  """Training images and their labels."""
  order = np.random.default_rng(run.options.seed).permutation(len(run.data.train))
  chosen = np.sort(order[:SCORED])
  return run.data.train.images[chosen], run.data.train.labels[chosen]


def _kept(folder: pathlib.Path, name: str) -> TrainedNetwork:
  """A network that was kept, under another name."""
  saved = networks.read_network(folder)
  assert saved.image_shape is not None  # that was kept too
  network = networks.network_of(name, None, saved.module, saved.image_shape)
  return TrainedNetwork(network, saved.variables)


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
