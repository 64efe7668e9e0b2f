"""What a step may leave behind: nothing that is not finite, and clocks that run on."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.prune.masked import PruneState

SMALL = 4096  # numbers in an array that is summed with others: each sum is a program of its own


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
  The count of a transformation that prunes stays: its masks were taken back with the weights.

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
  return [jnp.sum(known), *sums]


def _all_finite(numbers: list[jax.Array]) -> jax.Array:
  """One scalar, and a barrier: without it XLA copies the whole chain into each of the hundreds of
  fusions that read it, which doubles the time to compile."""
  return jax.lax.optimization_barrier(jnp.all(jnp.isfinite(jnp.stack(numbers))))
