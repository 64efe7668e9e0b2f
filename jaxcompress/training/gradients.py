"""Gradients of a step, and what it may leave behind: nothing that is not finite."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Endpoints
from jaxcompress.prune.masked import PruneState

Network = Callable[..., tuple[Endpoints, Any]]
Criterion = Callable[[Any, Endpoints], tuple[list[jax.Array], Any]]
SMALL = 4096  # numbers in an array that is summed with others: each sum is a program of its own


class Found(NamedTuple):
  """Gradients, and all else that a step needs of its passes.

  Attributes:
    gradients: of the sum of all losses, in the form of the trained tree.
    parts: the gradients of each loss.
    carry: what the network's passes leave: running statistics and the quantizers' state.
    aux: what the losses give beside.
  """

  gradients: Any
  parts: tuple[Any, ...]
  carry: Any
  aux: Any


def find_gradients(
  network: Network,
  criterion: Criterion,
  trained: Any,
  carry: Any,
  images: jax.Array,
  *,
  losses: int = 1,
  microbatches: int = 1,
) -> Found:
  """Gradients from one pass, or with the memory of a microbatch, for any loss, from two.

  With microbatches all of them first pass the network, and only endpoints are kept. The losses see
  those of the whole batch, so even losses that compare examples, and memory banks, are what they are
  at once. Then each microbatch passes again, and its gradient is that of its endpoints times the
  network's. BatchNorm normalises each by its own statistics, and ``carry`` moves on with each.

  Args:
    network: ``(trained, carry, images, i) -> (endpoints, carry)``; ``i`` is the microbatch.
    criterion: ``(trained, endpoints) -> (losses, aux)``.
    trained: the tree to differentiate by.
    carry: running statistics and the quantizers' state.
    images: as the network reads them, (batch, height, width, channels).
    losses: how many there are.
    microbatches: into how many the batch is cut; it divides the batch.

  References:
    Gao et al., `Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
    <https://arxiv.org/abs/2101.06983>`_, 2021, section 3.2, for networks without BatchNorm.
  """
  one_each = [
    list(row) for row in np.eye(losses, dtype=np.float32)
  ]  # slopes that pick each in turn

  def objective(trained):
    endpoints, after = network(trained, carry, images, 0)
    values, aux = criterion(trained, endpoints)
    return values, (after, aux)

  if microbatches == 1:
    _, pullback, (carry_after, aux) = jax.vjp(objective, trained, has_aux=True)
    return _found(tuple(pullback(slopes)[0] for slopes in one_each), carry_after, aux)

  numbered = split(images, microbatches), jnp.arange(microbatches)

  def look(carry, given):
    endpoints, carry = network(trained, carry, *given)
    return carry, endpoints

  _, endpoints = jax.lax.scan(look, carry, numbered)
  endpoints = jax.tree.map(join, endpoints)
  _, by_loss, aux = jax.vjp(criterion, trained, endpoints, has_aux=True)
  direct, slopes = zip(*(by_loss(one) for one in one_each), strict=True)

  def add_gradients(after, given):
    (carry, sums), (images, i, slopes) = after, given
    _, pullback, carry = jax.vjp(
      lambda trained: network(trained, carry, images, i), trained, has_aux=True
    )
    found = tuple(pullback(slope)[0] for slope in slopes)
    return (carry, jax.tree.map(jnp.add, sums, found)), None

  slopes = jax.tree.map(lambda x: split(x, microbatches), slopes)
  (carry, parts), _ = jax.lax.scan(add_gradients, (carry, direct), (*numbered, slopes))
  return _found(parts, carry, aux)


def _found(parts: tuple[Any, ...], carry: Any, aux: Any) -> Found:
  whole = jax.tree.map(lambda *of_each: functools.reduce(operator.add, of_each), *parts)
  return Found(whole, parts, carry, aux)


def split(x: jax.Array, parts: int) -> jax.Array:
  """A batch in parts, every ``parts``-th example in one: what devices hold of a batch stays there.

  Examples:
    >>> split(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
  """
  return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def join(x: jax.Array) -> jax.Array:
  """The inverse of :func:`split`.

  Examples:
    >>> join(split(jnp.arange(6), 2)).tolist()
    [0, 1, 2, 3, 4, 5]
  """
  return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def is_sound(loss: jax.Array, gradients: Any) -> jax.Array:
  """Whether the loss and every gradient are finite, as one scalar that nothing recomputes.

  Examples:
    >>> bool(is_sound(jnp.float32(1), {"kernel": jnp.array([0.0, jnp.nan])}))
    False
  """
  arrays = jax.tree.leaves(gradients)
  return _all_finite([loss, *_sums(arrays, arrays)])


def stays_finite(before: Any, after: Any) -> jax.Array:
  """Whether all that a step has changed is finite, or was not before.

  Sums tell. Only small arrays, such as the ranges of what was not seen yet, may hold infinities from
  the start. A state that takes itself back (see :func:`~jaxcompress.distill.keep_where`), such as a
  memory bank, is taken at its word: only its scalars are looked at.

  Args:
    before: any pytree, such as parameters and an optimizer's state.
    after: the same after the step.

  Returns:
    () bool.

  Examples:
    >>> old, new = {"best": jnp.float32(jnp.inf), "w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    >>> bool(stays_finite(old, {**old, **new}))
    True
    >>> bool(stays_finite(old, {**old, "w": jnp.array([1.0, jnp.nan])}))
    False
  """
  pairs = list(_changed(before, after))
  return _all_finite(_sums([old for old, _ in pairs], [new for _, new in pairs]))


def run_on(opt_state: Any, latest: Any, where: jax.Array) -> Any:
  """An optimizer's state with the clocks of a later one: its whole numbers, each a scalar.

  A schedule whose rate is not finite at one count would be asked for the same rate again and again.
  The count of a transformation that prunes stays: its masks were rolled back with the weights.

  Args:
    opt_state: what was kept.
    latest: of the same form; where the clocks come from.
    where: () bool; whether they do.

  Examples:
    >>> import optax
    >>> state = optax.adam(0.1).init(jnp.ones(3))
    >>> _, after = optax.adam(0.1).update(jnp.ones(3), state)
    >>> kept = run_on(state, after, jnp.bool_(True))[0]
    >>> int(kept.count), kept.mu.tolist()
    (1, [0.0, 0.0, 0.0])
  """

  def later(kept, new):
    if isinstance(kept, PruneState):
      return kept._replace(inner=run_on(kept.inner, new.inner, where))
    clock = jnp.ndim(kept) == 0 and jnp.issubdtype(jnp.result_type(kept), jnp.integer)
    return jnp.where(where, new, kept) if clock else kept

  is_pruning = lambda tree: isinstance(tree, PruneState)  # noqa: E731
  return jax.tree.map(later, opt_state, latest, is_leaf=is_pruning)


def _changed(before: Any, after: Any) -> Iterator[tuple[jax.Array, jax.Array]]:
  """Float arrays that are not the very same, before and after."""

  def guards_itself(tree):
    return hasattr(tree, "keep_where")

  pairs = zip(
    jax.tree.leaves(before, is_leaf=guards_itself),
    jax.tree.leaves(after, is_leaf=guards_itself),
    strict=True,
  )
  for old, new in pairs:
    if guards_itself(new):
      inside = zip(*map(jax.tree.leaves, (old, new)), strict=True)
      yield from ((a, b) for a, b in inside if jnp.ndim(b) == 0 and _is_float(b))
    elif new is not old and _is_float(new):
      yield old, new


def _is_float(x: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _sums(before: Sequence[Any], after: Sequence[Any]) -> list[jax.Array]:
  """Sums of arrays, large ones each and small ones together, without what was not finite before."""
  small: list[tuple[Any, Any]] = [(jnp.zeros(1), jnp.zeros(1))]
  sums = []
  for old, new in zip(before, after, strict=True):
    if jnp.size(new) > SMALL:
      sums.append(jnp.sum(jnp.asarray(new, jnp.float32)))
    else:
      small.append((old, new))
  old, new = (
    jnp.concatenate([jnp.ravel(jnp.asarray(x, jnp.float32)) for x in side])
    for side in zip(*small, strict=True)
  )
  known = new if before is after else jnp.where(jnp.isfinite(old), new, 0.0)
  known = jax.lax.optimization_barrier(known)  # or XLA sums each part of it in a program of its own
  return [jnp.sum(known), *sums]


def _all_finite(numbers: list[jax.Array]) -> jax.Array:
  """One scalar, and a barrier: without it XLA copies the whole chain into each of the hundreds of
  fusions that read it, which doubles the time to compile."""
  return jax.lax.optimization_barrier(jnp.all(jnp.isfinite(jnp.stack(numbers))))
