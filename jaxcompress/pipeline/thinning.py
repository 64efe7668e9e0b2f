"""Channels removed from a trained network, a few at a time, until it fits a budget."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcompress import data as datasets
from jaxcompress import prune, training
from jaxcompress.nn import Graph
from jaxcompress.pipeline import budgets, networks, phases
from jaxcompress.pipeline.budgets import Budget
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.networks import TrainedNetwork
from jaxcompress.prune.fit import limits_of
from jaxcompress.terminal import waiting

SCORED = 1024  # training images from which the importance of channels is taken
MOST_ROUNDS = 3  # in which channels are removed; each leaves about half of the costs, or more
BETWEEN = 1 / 4  # of the steps of recovery, between two of them


def excess(spent: Budget, budget: Budget) -> float:
  """The largest of the costs as multiples of what they may be.

  Examples:
    >>> excess(Budget(size=90, macs=30), Budget(size=100, macs=10))
    3.0
  """
  pairs = zip(spent, budget, strict=True)
  return max(cost / most for cost, most in pairs if cost is not None and most is not None)


def rounds_for(over: float) -> int:
  """In how many rounds channels are removed.

  Args:
    over: of :func:`excess`, of the whole network.

  Examples:
    >>> [rounds_for(over) for over in (1.5, 3.0, 30.0)]
    [1, 2, 3]
  """
  return min(MOST_ROUNDS, max(1, math.ceil(math.log2(over))))


def thinned(
  run: Context,
  name: str,
  start: TrainedNetwork,
  teacher: TrainedNetwork,
  folder: pathlib.Path,
  *,
  bits: int,
  recovery: int,
  extra: int,
) -> tuple[TrainedNetwork, int]:
  """The network without the channels that are too many for the budget.

  They go in rounds; in each those of the least Taylor importance for what they cost, which is measured
  anew, and between two the network follows the teacher. What an earlier part of the run made is used.

  Args:
    run: the run; its options have a budget.
    name: of the smaller network, which also names its folders and phases.
    start: the whole network.
    teacher: the teacher.
    folder: where the smaller network is kept, and beside it those on the way.
    bits: of all weights, with which the budget is to be met.
    recovery: steps of training after the first round.
    extra: bytes that the packed file holds beside the model.

  Returns:
    The network, and the steps of recovery that are left.
  """
  budget = run.options.budget

  def size(graph: Graph) -> float:
    return excess(budgets.costs(graph, budget, bits, extra), budget)

  over = size(start.network.summary.graph)
  rounds = rounds_for(over)
  between = max(1, math.floor(BETWEEN * recovery))
  rounds = min(rounds, 1 + (recovery - 1) // between)
  phase = folder.parent.name
  for n, limit in enumerate(limits_of(over, 1.0, rounds), 1):
    home = folder if n == rounds else folder.with_name(f"{folder.name}-{n}")
    if not home.exists():
      smaller = _without(run, start, size, limit, name)
      if n < rounds:
        state = phases.distill_student(
          run,
          smaller.network,
          teacher,
          phase=f"{phase}-{n}",
          steps=PhaseSteps(between, 0),
          start=smaller.variables,
        )
        smaller = TrainedNetwork(smaller.network, state.averaged.variables)
      run.save(home, smaller)
    start = kept_network(home, name)
  return start, recovery - (rounds - 1) * between


def _without(
  run: Context, start: TrainedNetwork, size: Callable[[Graph], float], limit: float, name: str
) -> TrainedNetwork:
  """The network without channels beyond a limit, with the running statistics of training images."""
  module, variables = start.network.module, start.variables
  with waiting(run.console, "removing channels"):
    images, labels = sample(run)
    importance = prune.channel_importance(
      module,
      variables,
      images,
      method="taylor",
      labels=labels,
      preprocess=run.preprocess,
    )
    keep = prune.fit_channels(
      importance,
      lambda graph: size(graph) <= limit,
      divisor=budgets.DIVISOR,
      cost="macs" if run.options.budget.size is None else "weights",
    )
    module, variables = prune.remove_channels(module, variables, keep)
    module = module.clone(origin=name)
    variables = _with_norm_anew(run, module, variables)
  return TrainedNetwork(networks.network_of(name, None, module, run.data.image_shape), variables)


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


def sample(run: Context) -> tuple[np.ndarray, np.ndarray]:
  """Training images and their labels."""
  order = np.random.default_rng(run.options.seed).permutation(len(run.data.train))
  chosen = np.sort(order[:SCORED])
  return run.data.train.images[chosen], run.data.train.labels[chosen]


def kept_network(folder: pathlib.Path, name: str) -> TrainedNetwork:
  """A network that was kept, under another name."""
  saved = networks.read_network(folder)
  assert saved.image_shape is not None  # that was kept too
  network = networks.network_of(name, None, saved.module, saved.image_shape)
  return TrainedNetwork(network, saved.variables)
