"""A moving average of the student's weights, which is what is evaluated and deployed."""

from typing import Any

import jax
import jax.numpy as jnp

WARMUP = 10  # steps: the average of the first few is nearly that of all so far


def decay_at(decay: float, step: jax.Array) -> jax.Array:
  """The decay of one update: ``min(decay, (1 + step) / (10 + step))``, float32 scalar.

  The average starts at the first weights; with a small decay in the first steps it forgets them.

  Examples:
    >>> [round(float(decay_at(0.99, jnp.array(step))), 3) for step in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
  """
  step = step.astype(jnp.float32)
  return jnp.minimum(decay, (1 + step) / (WARMUP + step))


def move_average(average: Any, latest: Any, decay: float, step: jax.Array) -> Any:
  """``a + (1 - d) (x - a)`` in every array, with ``d`` of :func:`decay_at`.

  Args:
    average: ``a``, any pytree.
    latest: ``x``, of the same structure and dtypes.
    decay: in [0, 1).
    step: updates before this one, int32 scalar.

  Examples:
    >>> float(move_average(jnp.array(0.0), jnp.array(1.0), 0.9, jnp.array(1000)))
    0.10000002384185791
  """
  share = 1 - decay_at(decay, step)
  return jax.tree.map(lambda a, x: (a + share * (x - a)).astype(a.dtype), average, latest)
