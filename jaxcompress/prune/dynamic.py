"""Training that is sparse from the first step: weights are dropped, and as many grow elsewhere."""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_whole
from jaxcompress.nn import Graph
from jaxcompress.prune.masked import Pruner, masked
from jaxcompress.prune.rules import Rule, check_layers, find_targets
from jaxcompress.prune.scores import keep_largest, ranks, strongest
from jaxcompress.prune.shares import (
  SHARES,
  Shares,
  check_amounts,
  own_shares,
  shapes_of,
  shares_of,
)

Fraction = Callable[[jax.Array], jax.Array]
Growth = Callable[[jax.Array, jax.Array], jax.Array]


class Moves(NamedTuple):
  """The arguments of :func:`rigl`, in order."""

  sparsity: float
  stop: int
  every: int
  fraction: float
  distribution: Shares
  rules: tuple[Rule, ...]
  floor: int
  graph: Graph | None
  seed: int


def rigl(
  optimizer: optax.GradientTransformation,
  *,
  sparsity: float,
  stop: int,
  every: int = 100,
  fraction: float = 0.3,
  distribution: Shares = "erk",
  rules: tuple[Rule, ...] = (),
  floor: int = 1,
  graph: Graph | None = None,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """RigL: drops the smallest weights, and grows those with the largest gradients.

  After every ``every`` updates, of each layer's ``n`` weights that are not pruned, the ``f(t) n``
  of least magnitude are dropped, and as many of the others, those just dropped among them, come
  back where the magnitude of the gradient is largest. They start at zero.
  The update of such a step is applied too.

  Args:
    optimizer: what trains; any optax transformation.
    sparsity: share of zeros from the first step to the last, in [0, 1).
    stop: first update that moves nothing any more; about three quarters of the run.
    every: updates between moves.
    fraction: ``f(0)``, the share that moves at first; it falls to zero along a cosine.
    distribution: ``"erk"``: small layers are denser (:func:`~jaxcompress.prune.erdos_renyi`);
      ``"uniform"``: all are alike.
    rules: which kernels are pruned, and how far; see :func:`~jaxcompress.prune.magnitude`.
    floor: of every output so many weights stay at any time; see the same.
    graph: of the network, or None; see the same.
    seed: of the masks at first.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if a number or the distribution is out of range; on ``init``, as of
      :func:`~jaxcompress.prune.magnitude`.

  Examples:
    >>> params = {"a": {"kernel": jnp.ones((4, 4))}}
    >>> state = rigl(optax.sgd(0.1), sparsity=0.75, stop=1000).init(params)
    >>> int(state.masks["a"].sum())
    4

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020, section 3 and algorithm 1.
  """

  def by_gradient(gradient, rng):
    del rng
    return jnp.abs(gradient.astype(jnp.float32))

  moves = Moves(sparsity, stop, every, fraction, distribution, rules, floor, graph, seed)
  return _moving(optimizer, cosine_fraction, by_gradient, moves)


def sparse_evolution(
  optimizer: optax.GradientTransformation,
  *,
  sparsity: float,
  stop: int,
  every: int = 100,
  fraction: float = 0.3,
  distribution: Shares = "erk",
  rules: tuple[Rule, ...] = (),
  floor: int = 1,
  graph: Graph | None = None,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Sparse evolutionary training (SET): drops the smallest weights, and grows others at random.

  As :func:`rigl`, with the same share ``fraction`` in every move, and random places. Weights that
  grow start at zero.

  Args:
    optimizer: what trains; any optax transformation.
    sparsity: share of zeros from the first step to the last, in [0, 1).
    stop: first update that moves nothing any more.
    every: updates between moves; an epoch in the paper.
    fraction: share of the weights that move.
    distribution: as for :func:`rigl`.
    rules: which kernels are pruned, and how far; see :func:`~jaxcompress.prune.magnitude`.
    floor: of every output so many weights stay at any time; see the same.
    graph: of the network, or None; see the same.
    seed: of the masks at first, and of what grows.

  Returns:
    An optax transformation whose state holds the masks.

  Raises:
    ValueError: if a number or the distribution is out of range; on ``init``, as of
      :func:`~jaxcompress.prune.magnitude`.

  Examples:
    >>> params = {"a": {"kernel": jnp.ones((4, 4))}}
    >>> state = sparse_evolution(optax.sgd(0.1), sparsity=0.5, stop=1000).init(params)
    >>> int(state.masks["a"].sum())
    8

  References:
    Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science <https://arxiv.org/abs/1707.04780>`_, 2018, algorithm 1.
  """

  def anywhere(gradient, rng):
    return jax.random.uniform(rng, gradient.shape)

  moves = Moves(sparsity, stop, every, fraction, distribution, rules, floor, graph, seed)
  return _moving(optimizer, _steady_fraction, anywhere, moves)


def cosine_fraction(fraction: float, stop: int) -> Fraction:
  """``f(t) = a / 2 (1 + cos(pi t / T))``, zero from ``T`` on.

  Args:
    fraction: ``a``, in (0, 1].
    stop: ``T``, updates.

  Examples:
    >>> [round(float(cosine_fraction(0.3, 100)(jnp.int32(count))), 3) for count in (0, 50, 100)]
    [0.3, 0.15, 0.0]

  References:
    Evci et al., 2020, section 3.2.
  """

  def share(count):
    done = jnp.minimum(count / stop, 1.0)
    return fraction / 2 * (1 + jnp.cos(jnp.pi * done))

  return share


def _steady_fraction(fraction: float, stop: int) -> Fraction:
  return lambda count: jnp.where(count < stop, fraction, 0.0)


def move(
  mask: jax.Array,
  weights: jax.Array,
  growth: jax.Array,
  share: jax.Array | float,
  *,
  floor: int = 0,
) -> jax.Array:
  """A mask with as many weights, of which a share has moved.

  Args:
    mask: where weights are, bool.
    weights: of the same shape; the smallest are dropped.
    growth: of the same shape; of the places that are free then, those with most are taken.
    share: of the weights, rounded down to whole ones.
    floor: of every output, the last axis, so many of the largest weights are not dropped.

  Examples:
    >>> w = jnp.array([3.0, 1.0, 0.0, 0.0])
    >>> move(w > 0, w, jnp.array([0.0, 0.0, 0.1, 0.2]), 0.5).tolist()
    [True, False, False, True]
  """
  count = jnp.floor(share * jnp.sum(mask) + 1e-4).astype(jnp.int32)  # 0.3 * 10 is 3
  strength = jnp.where(mask, jnp.abs(weights.astype(jnp.float32)), jnp.inf)
  held = strongest(jnp.where(mask, strength, -1.0), floor)
  kept = mask & ((ranks(jnp.where(held, jnp.inf, strength)) >= count) | held)
  grown = ranks(jnp.where(kept, jnp.inf, -growth)) < jnp.sum(mask & ~kept)
  return kept | grown


def _moving(
  optimizer: optax.GradientTransformation,
  fraction_of: Callable[[float, int], Fraction],
  growth: Growth,
  moves: Moves,
) -> optax.GradientTransformationExtraArgs:
  """Moves masks as RigL and SET do; ``growth(gradient, rng)`` says where weights come back."""
  sparsity, stop, every, fraction, distribution, rules, floor, graph, seed = moves
  check_amounts(sparsity, floor, distribution, SHARES)
  check_layers(rules, graph)
  for name, value in {"every": every, "stop": stop}.items():
    check_whole(name, value, 1)
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction: {fraction} is out of range; it must be above 0 and at most 1.")
  share = fraction_of(fraction, stop)
  rng = lambda *numbers: reduce(jax.random.fold_in, numbers, jax.random.key(seed))  # noqa: E731

  def shares_in(kernels):
    own, shared = find_targets(kernels, rules, graph)
    apart = own_shares(own, shapes_of(kernels, own), floor)
    return apart | shares_of(distribution, shapes_of(kernels, shared), sparsity, floor)

  def init(kernels):
    masks = {}
    for i, (name, left_out) in enumerate(sorted(shares_in(kernels).items())):
      places = jax.random.uniform(rng(0, i), kernels[name].shape)
      masks[name] = keep_largest(places, left_out, floor=floor)
    return masks

  def goal(kernels):
    shares = {name: jnp.float32(share) for name, share in shares_in(kernels).items()}
    return {"layers": shares, "floor": jnp.int32(floor)}

  def due(count):
    return (count > 0) & (count % every == 0) & (count < stop)

  def renew(masks, weights, gradients, count, goal):
    del goal
    moved = {}
    for i, (name, mask) in enumerate(sorted(masks.items())):
      scores = growth(gradients[name], rng(count, i))
      moved[name] = move(mask, weights[name], scores, share(count), floor=floor)
    return moved

  return masked(optimizer, Pruner(init, due, renew, goal))
