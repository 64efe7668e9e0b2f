"""When masks are chosen anew, and how far pruning has come by then."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Schedule(NamedTuple):
  """How pruning proceeds. Hashable by identity, as optax's schedules.

  Attributes:
    progress: ``count -> share`` of the way to the final sparsity, float32 in [0, 1], after the
      update with that number, counted from 0.
    due: ``count -> bool``: whether that update chooses the masks anew.
    end: the last update that does so, if there is one. After it the masks are chosen once more if
      they have not come all the way, as those of a run that went on with a shorter schedule.
  """

  progress: Callable[[jax.Array], jax.Array]
  due: Callable[[jax.Array], jax.Array]
  end: int | None = None


def at_once(step: int = 0) -> Schedule:
  """All of it after one update.

  Args:
    step: number of the update, from 0.

  Raises:
    ValueError: if ``step`` is negative.

  Examples:
    >>> schedule = at_once(5)
    >>> [bool(schedule.due(jnp.int32(count))) for count in (4, 5, 6)]
    [False, True, False]
  """
  if step < 0:
    raise ValueError(f"step: {step} must not be negative.")
  progress = lambda count: (count >= step).astype(jnp.float32)  # noqa: E731
  return Schedule(progress, lambda count: count == step, step)


def agp(
  begin: int, end: int, *, every: int = 100, initial: float = 0.0, power: float = 3.0
) -> Schedule:
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
    ValueError: if a number is out of range.

  Examples:
    >>> schedule = agp(100, 300, every=100)
    >>> [float(schedule.progress(jnp.int32(count))) for count in (0, 100, 200, 300, 400)]
    [0.0, 0.0, 0.875, 1.0, 1.0]

  References:
    Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, equation 1.
  """
  if not 0 <= begin < end:
    raise ValueError(f"begin, end: {begin}, {end} must not be negative, and ascend.")
  if every < 1 or not 0 <= initial < 1 or power <= 0:
    raise ValueError(
      f"every, initial, power: {every}, {initial}, {power} must be at least 1, in [0, 1), above 0."
    )

  def progress(count):
    done = jnp.clip((count - begin) / (end - begin), 0.0, 1.0)
    return (1 - (1 - initial) * (1 - done) ** power).astype(jnp.float32)

  def due(count):
    regular = (count - begin) % every == 0
    return (count >= begin) & (count <= end) & (regular | (count == end))

  return Schedule(progress, due, end)
