"""Pruning of the smallest weights, gradually or at once, anywhere or some of every few."""

import math
import re

import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_fraction, check_type, check_whole, shown
from jaxcompress.nn import Graph
from jaxcompress.nn.checks import is_number
from jaxcompress.prune.masked import Kernels, Pruner, SparsitySchedule, masked
from jaxcompress.prune.rules import Rule, check_layers, find_targets
from jaxcompress.prune.scores import (
  INPUTS,
  alive_scores,
  count_of,
  keep_largest,
  keep_largest_of_all,
  keep_n_of_m,
  lamp_scores,
)
from jaxcompress.prune.shares import (
  DISTRIBUTIONS,
  SHARES,
  Distribution,
  check_amounts,
  check_floor,
  own_shares,
  shapes_of,
  shares_of,
)

SCHEDULE = "one such as prune.agp(100, 1000)"


def at_once(step: int = 0) -> SparsitySchedule:
  """All of it after one update.

  Args:
    step: number of the update, from 0.

  Raises:
    ValueError: if ``step`` is negative, or no whole number.

  Examples:
    >>> schedule = at_once(5)
    >>> [bool(schedule.due(jnp.int32(count))) for count in (4, 5, 6)]
    [False, True, False]
  """
  check_whole("step", step, 0)
  progress = lambda count: (count >= step).astype(jnp.float32)  # noqa: E731
  return SparsitySchedule(progress, lambda count: count == step, step)


def agp(
  begin: int, end: int, *, every: int = 100, initial: float = 0.0, power: float = 3.0
) -> SparsitySchedule:
  """Automated gradual pruning: fast at first, while there is much to remove, and ever more slowly.

  ``s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))**3``, from ``t_0`` to ``t_0 + n dt``; as a share
  of the way to ``s_f``, ``p_t = 1 - (1 - p_0) (1 - (t - t_0) / (n dt))**3``.

  Args:
    begin: ``t_0``, the first update that prunes.
    end: ``t_0 + n dt``, the last one.
    every: ``dt``, updates from one choice of masks to the next; the last one is always made.
    initial: ``p_0 = s_i / s_f``, the share of the final sparsity at which it starts, in [0, 1).
    power: 3 as published; 1 is linear.

  Raises:
    ValueError: if a number is out of range, or one of updates is not whole.

  Examples:
    >>> schedule = agp(100, 300, every=100)
    >>> [float(schedule.progress(jnp.int32(count))) for count in (0, 100, 200, 300, 400)]
    [0.0, 0.0, 0.875, 1.0, 1.0]

  References:
    Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, equation 1.
  """
  for name, value, least in (("begin", begin, 0), ("end", end, 1), ("every", every, 1)):
    check_whole(name, value, least)
  if not begin < end:
    raise ValueError(f"begin, end: {begin}, {end} must ascend.")
  check_fraction("initial", initial)
  if not is_number(power) or power <= 0:
    raise ValueError(f"power: {shown(power)} must be a number above 0.")

  def progress(count):
    done = jnp.clip((count - begin) / (end - begin), 0.0, 1.0)
    return (1 - (1 - initial) * (1 - done) ** power).astype(jnp.float32)

  def due(count):
    regular = (count - begin) % every == 0
    return (count >= begin) & (count <= end) & (regular | (count == end))

  return SparsitySchedule(progress, due, end)


def agp_within(
  steps: int, *, begin: float = 0.0, end: float = 0.5, choices: int = 40
) -> SparsitySchedule:
  """Automated gradual pruning within a run of so many steps.

  It ends at the half, while a learning rate that falls along a cosine is still high: what is left
  then has to take over what is gone, and with low rates it does not.

  Args:
    steps: of the run.
    begin: share of the steps before the first update that prunes; 0 for a network that was trained,
      about a quarter for a fresh one.
    end: share of the steps before the last.
    choices: how often masks are chosen, about.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> schedule = agp_within(1000)
    >>> [round(float(schedule.progress(jnp.int32(count))), 3) for count in (0, 250, 500, 600)]
    [0.0, 0.875, 1.0, 1.0]

  References:
    Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3,
    for rates that must not be low before pruning has ended.
  """
  if not 0 <= begin < end <= 1:
    raise ValueError(f"begin, end: {begin:g}, {end:g} must be shares of the steps, and ascend.")
  if steps < 0 or choices < 1:
    raise ValueError(f"steps, choices: {steps}, {choices} must be at least 0 and 1.")
  first = math.floor(begin * steps)
  last = max(first + 1, math.floor(end * steps))
  return agp(first, last, every=max(1, (last - first) // choices))


def magnitude(
  optimizer: optax.GradientTransformation,
  *,
  sparsity: float,
  distribution: Distribution = "erk",
  schedule: SparsitySchedule | None = None,
  rules: tuple[Rule, ...] = (),
  floor: int = 1,
  graph: Graph | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Prunes the weights of least magnitude; what is pruned once stays zero.

  Args:
    optimizer: what trains; any optax transformation.
    sparsity: share of zeros in the end, in [0, 1).
    distribution: of the zeros among layers. ``"erk"``: small layers are denser
      (:func:`~jaxcompress.prune.erdos_renyi`), which keeps far more accuracy where only a few
      weights stay; ``"lamp"``: by one threshold for ``w**2 / sum v**2`` over the weights ``v`` of the
      layer that are no smaller, which is what removing it costs the layer; ``"global"``: by one
      threshold for magnitudes; ``"uniform"``: every layer has ``sparsity``.
    schedule: such as :func:`~jaxcompress.prune.agp`, which reaches the target gradually; None:
      after the first update.
    rules: which kernels are pruned, and how far; by default all but those of the first and the last
      layer and of depthwise convolutions. Kernels with a sparsity of their own are left out of the
      distribution.
    floor: of every output so many of its largest weights stay, or all if it has fewer, so that no
      output is dead and no layer vanishes. 0: they may be.
    graph: of the network, such as ``models.summarize(model, image_size).graph``; None: the one that
      ``training.init_state`` traces. Without any, parameters of a whole network are refused, whose
      first and last layers they do not tell.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if an argument is out of range; on ``init``, if a rule matches no kernel, it needs a
      graph, or so many zeros leave a layer fewer weights than the floor; the message names it.

  Examples:
    >>> params = {"a": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]])}}
    >>> optimizer = magnitude(optax.sgd(0.1), sparsity=0.5)
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].tolist()
    [[0.8999999761581421, 0.0], [0.0, 3.5999999046325684]]

  References:
    Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015;
    Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017; Evci et
    al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.1, for ``"erk"``;
    Lee et al., `Layer-adaptive Sparsity for the Magnitude-based Pruning
    <https://arxiv.org/abs/2010.07611>`_, 2021, section 2, for ``"lamp"``.
  """
  check_amounts(sparsity, floor, distribution, DISTRIBUTIONS)
  check_layers(rules, graph)
  check_type("schedule", schedule, SparsitySchedule | None, SCHEDULE)
  schedule = schedule or at_once()
  score = lamp_scores if distribution == "lamp" else alive_scores
  pool_name = "lamp" if distribution == "lamp" else "pool"

  def init(kernels):
    layers = find_targets(kernels, rules, graph).layers
    return {name: jnp.ones(kernels[name].shape, bool) for name in layers}

  def goal(kernels):
    """The sparsity of every layer, and apart of those that share a threshold."""
    own, shared = find_targets(kernels, rules, graph)
    shapes = shapes_of(kernels, shared)
    apart, pool = own_shares(own, shapes_of(kernels, own), floor), dict[str, float]()
    if distribution in SHARES:
      apart |= shares_of(distribution, shapes, sparsity, floor)
    else:
      check_floor(shapes, sparsity, floor)
      pool = dict.fromkeys(shared, sparsity)
    found = {"layers": _arrays(apart), "pool": {}, "floor": jnp.int32(floor)}
    return found | {pool_name: _arrays(pool)}

  def renew(masks, weights, gradients, count, goal):
    del gradients
    done = schedule.progress(count)
    pool = {name: weights[name] for name in goal[pool_name]}
    found: Kernels = {}
    if pool:
      found = keep_largest_of_all(pool, sparsity * done, masks, floor=floor, score=score)
    for name, share in goal["layers"].items():
      found[name] = keep_largest(weights[name], share * done, masks[name], floor=floor)
    return found

  return masked(optimizer, Pruner(init, schedule.due, renew, goal, schedule))


def _arrays(shares: dict[str, float]) -> Kernels:
  return {name: jnp.float32(share) for name, share in shares.items()}


def n_m(
  optimizer: optax.GradientTransformation,
  pattern: str = "2:4",
  *,
  schedule: SparsitySchedule | None = None,
  rules: tuple[Rule, ...] = (),
  graph: Graph | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Keeps at most ``n`` of every ``m`` successive inputs of an output, as sparse tensor cores read.

  Args:
    optimizer: what trains; any optax transformation.
    pattern: ``"n:m"``, such as ``"2:4"`` or ``"4:8"``.
    schedule: such as :func:`~jaxcompress.prune.agp`, along which the number that stays falls from
      ``m`` to ``n``; None: after the first update.
    rules: which kernels are pruned; see :func:`magnitude`. A rule has no sparsity here. Kernels
      with at most ``n`` inputs for each output, such as depthwise ones, keep all their weights.
    graph: as of :func:`magnitude`.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if the pattern is none, or a rule has a sparsity; on ``init``, if a rule matches no
      kernel, no kernel has more than ``n`` inputs, or it needs a graph.

  Examples:
    >>> params = {"a": {"kernel": jnp.array([[1.0], [-2.0], [0.5], [4.0]])}}
    >>> optimizer = n_m(optax.sgd(0.0), "2:4")
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["a"]["kernel"].ravel().tolist()
    [0.0, -2.0, 0.0, 4.0]

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks <https://arxiv.org/abs/2104.08378>`_,
    2021, section 3.
  """
  n, m = parse_pattern(pattern)
  check_layers(rules, graph)
  for rule in rules:
    if rule.sparsity is not None:
      raise ValueError(
        f"rules: {rule.match!r} has sparsity {rule.sparsity}, but {pattern} has its own."
      )
  check_type("schedule", schedule, SparsitySchedule | None, SCHEDULE)
  schedule = schedule or at_once()

  def init(kernels):
    layers = find_targets(kernels, rules, graph).layers
    if all(kernels[name].shape[INPUTS] <= n for name in layers):
      raise ValueError(
        f"pattern: {pattern} prunes nothing of {', '.join(layers)}, which have at most {n} inputs for"
        " each output; use prune.magnitude, or other rules."
      )
    return {name: jnp.ones(kernels[name].shape, bool) for name in layers}

  def goal(kernels):
    del kernels
    return {"n": jnp.int32(n), "m": jnp.int32(m)}

  def renew(masks, weights, gradients, count, goal):
    del gradients, goal
    kept = m - count_of(schedule.progress(count), m - n)
    return {name: keep_n_of_m(w, kept, m, masks[name]) for name, w in weights.items()}

  return masked(optimizer, Pruner(init, schedule.due, renew, goal, schedule))


def parse_pattern(pattern: str) -> tuple[int, int]:
  """How many stay of how many.

  Raises:
    ValueError: if the text is no pattern.

  Examples:
    >>> parse_pattern("2:4")
    (2, 4)
  """
  found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", str(pattern))
  n, m = map(int, found.groups()) if found else (0, 0)
  if not 0 < n < m:
    raise ValueError(f"pattern: {pattern!r} must be 'n:m' with 0 < n < m, such as '2:4'.")
  return n, m
