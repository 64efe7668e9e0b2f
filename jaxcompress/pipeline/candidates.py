"""Makes a candidate of a search: channels removed, bits chosen, trained, and measured."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcompress import data as datasets
from jaxcompress import export, models, prune, quantize, training
from jaxcompress.data.storage import in_chunks
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
  sketch,
  within,
)
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.networks import Network
from jaxcompress.pipeline.small_files import DELETE, built, read_json, write_json
from jaxcompress.terminal import waiting

FOLDER, MODEL_FILE, FLOAT_FOLDER = "candidates", "model.jcz", "float"
LONGEST_TITLE = 80  # characters, for the room that a budget leaves
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


def make(
  run: Context,
  candidate: Candidate,
  whole: Network,
  teacher: Network,
  teacher_variables: Any,
) -> Result:
  """Makes a candidate, trains it, and measures its files.

  Args:
    run: the run; what an earlier part of it made is used.
    candidate: what to make.
    whole: the network that it starts from.
    teacher: the teacher.
    teacher_variables: its variables.

  Returns:
    The :class:`Result`; the float network and the packed file are in the candidate's folder.
  """
  began, budget = time.perf_counter(), run.options.budget
  home = run.folder / FOLDER / slug(candidate.name)
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
    _save(run, home / FLOAT_FOLDER, network, latest)

  state = phases.distill_student(
    run,
    network,
    teacher,
    teacher_variables,
    keep,
    phase=slug(candidate.name),
    schedule=PhaseSteps(recovery, run.schedule.int_steps),
    start=variables,
    rules=rules,
  )
  quantized = state.quantized()
  packed = export.packed(
    quantized, home / MODEL_FILE, metadata=run.metadata(title(whole, candidate.name))
  )
  size, macs, latency_ms = packed.stat().st_size, network.summary.macs, latency(quantized)
  return Result(
    candidate.name,
    _top1(quantized, run.data.validation),
    size,
    macs,
    latency_ms,
    network.summary.parameters,
    {} if allocation is None else dict(allocation.bits),
    within(Budget(size, macs, latency_ms), budget),
    steps + recovery + run.schedule.int_steps,
    time.perf_counter() - began,
  )


def _distilled(
  run: Context, network: Network, teacher: Network, teacher_variables: Any
) -> tuple[Network, Any]:
  """A whole network, distilled in float; once for all candidates that start from it."""
  name = f"float {network.title}"
  folder = run.folder / FOLDER / slug(name)
  if not folder.exists():
    state = phases.distill_student(
      run,
      network,
      teacher,
      teacher_variables,
      phase=slug(name),
      schedule=PhaseSteps(run.schedule.float_steps, 0),
    )
    _save(run, folder, network, state.averaged.variables)
  return network, networks.read(folder).variables


def _pruned(
  run: Context, candidate: Candidate, whole: Network, variables: Any, folder: pathlib.Path
) -> tuple[Network, Any]:
  """The network without the channels that are too many for the budget."""
  budget, bits = run.options.budget, run.options.bits
  if not folder.exists():
    with waiting(run.console, "removing channels"):
      images, labels = _sample(run)
      importance = prune.channel_importance(
        whole.module,
        variables,
        images,
        method="taylor",
        labels=labels,
        preprocess=run.preprocess,
      )
      few = min(LOW_BITS, bits) if candidate.mixed else bits

      def fits(graph: Graph) -> bool:
        return within(costs(graph, budget, few, extra_bytes(run)), budget)

      keep = fit_channels(importance, fits)
      module, variables = prune.remove_channels(whole.module, variables, keep)
      module = module.clone(origin=f"{whole.name} {candidate.name}")
      variables = _with_norm_anew(run, module, variables)
    network = _network(module.origin, module, run.data.image_shape)
    _save(run, folder, network, variables)
  return load(folder, f"{whole.name} {candidate.name}")


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


def _allocate(
  run: Context, network: Network, variables: Any, path: pathlib.Path
) -> quantize.Allocation:
  """Bits of the layers with which the packed file fits."""
  if path.exists():
    return built(quantize.Allocation, read_json(path, list, DELETE), path, DELETE)
  with waiting(run.console, "rounding one layer at a time"):
    found = quantize.sensitivity(
      network.module,
      variables,
      _sample(run)[0][:MEASURED],
      bits=tuple(n for n in (8, 6, 5, 4, 3, 2) if n <= run.options.bits),
      preprocess=run.preprocess,
      progress=False,
    )
  size, most = run.options.budget.size, found.bits[0]
  assert size is not None  # of which alone a plan with mixed bits comes
  around = (
    packed_size(sketch(network.summary.graph, most)) + extra_bytes(run) - found.bytes_at(most)
  )
  allocation = quantize.choose_bits(found, max(size - around, found.bytes_at(found.bits[-1])))
  write_json(path, allocation)
  return allocation


def _trained_at_low_bits(rule: quantize.Rule) -> quantize.Rule:
  """The rule with steps that are trained, which few bits need."""
  weights = rule.weights
  if not isinstance(weights, quantize.Quantizer):
    return rule
  bits = weights.levels.high.bit_length() + 1
  return rule if bits > LOW_BITS else dataclasses.replace(rule, weights=quantize.lsq(bits))


def _top1(quantized: quantize.QuantizedModel, split: datasets.Split) -> float:
  """The share of a split's images that an integer network gets right."""
  said = [quantized.integers(images).argmax(-1) for images in in_chunks(split.images)]
  return float(np.mean(np.concatenate(said) == split.labels))


def extra_bytes(run: Context) -> int:
  """Bytes that the metadata takes in the packed file, at most."""
  return len(json.dumps(run.metadata("?" * LONGEST_TITLE)))


def title(whole: Network, name: str) -> str:
  """What a person calls a candidate.

  Args:
    whole: the network that it was made of.
    name: the candidate's.
  """
  return f"{whole.name} {name}"


def _sample(run: Context) -> tuple[np.ndarray, np.ndarray]:
  """Training images and their labels."""
  order = np.random.default_rng(run.options.seed).permutation(len(run.data.train))
  chosen = np.sort(order[:SCORED])
  return run.data.train.images[chosen], run.data.train.labels[chosen]


def _network(name: str, module: nn.Module, image_shape: tuple[int, ...]) -> Network:
  summary = models.summarize(module, image_shape[0], image_shape[-1])
  return Network(name, None, module, summary)


def _save(run: Context, folder: pathlib.Path, network: Network, variables: Any) -> None:
  networks.save(folder, network, variables, run.data.classes, run.preprocess)


def load(folder: pathlib.Path, name: str) -> tuple[Network, Any]:
  """A network that was kept, under another name."""
  saved = networks.read(folder)
  assert saved.image_shape is not None  # _save keeps it
  return _network(name, saved.module, saved.image_shape), saved.variables


def slug(name: str) -> str:
  """A candidate's name as that of its folder and of its training phase."""
  return name.replace(",", "").replace(" ", "-")
