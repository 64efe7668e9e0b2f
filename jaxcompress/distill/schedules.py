"""Numbers that may change over time: a constant, or a function of a step counted in state.

Counting in state keeps one compiled step for a whole run, and a step that is taken back (because
its gradients were not finite) takes its count back too.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], Any]
ScalarOrSchedule = float | jax.Array | Schedule
Count = jax.Array | tuple[()]


def start(value: ScalarOrSchedule) -> Count:
  """The state that a number needs: a step count, int32 scalar, or ``()`` for a constant.

  Examples:
    >>> start(4.0), start(optax.linear_schedule(1.0, 4.0, 10)).dtype.name
    ((), 'int32')
  """
  return jnp.zeros((), jnp.int32) if callable(value) else ()


def read(value: ScalarOrSchedule, count: Count) -> tuple[jax.Array, Count]:
  """The number now, float32 scalar, and the count for the next step. The first step is 0.

  Examples:
    >>> schedule = optax.linear_schedule(1.0, 4.0, 3)
    >>> now, count = read(schedule, start(schedule))
    >>> float(now), float(read(schedule, count)[0])
    (1.0, 2.0)
  """
  if callable(value):
    steps = cast(jax.Array, count)  # a schedule's count is an array; see start
    return jnp.asarray(value(steps), jnp.float32), optax.safe_increment(steps)
  return jnp.asarray(value, jnp.float32), count


def check_number(name: str, value: ScalarOrSchedule, *, positive: bool = False) -> None:
  """Checks a constant; schedules and traced numbers cannot be checked before they run.

  Raises:
    ValueError: if it is no finite number, or not positive where that is asked for.

  Examples:
    >>> check_number("temperature", -1.0, positive=True)
    Traceback (most recent call last):
    ValueError: temperature: -1.0 must be a finite number above 0, or a schedule of the step.
  """
  if callable(value) or isinstance(value, jax.core.Tracer):
    return
  try:
    wrong = not math.isfinite(value) or (positive and value <= 0)
  except TypeError:
    wrong = True
  if wrong:
    bound = " above 0" if positive else ""
    raise ValueError(
      f"{name}: {value!r} must be a finite number{bound}, or a schedule of the step."
    )
