"""Numbers of losses: constants, and schedules that count steps."""

import math
from typing import cast

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import shown

Count = jax.Array | tuple[()]


def init_count(value: optax.ScalarOrSchedule) -> Count:
  """The state that a number needs: a step count, int32 scalar, or ``()`` for a constant.

  Counting in state keeps one compiled step for a whole run, and a step that is rolled back (because
  its gradients were not finite) takes its count back too.

  Examples:
    >>> init_count(4.0), init_count(optax.linear_schedule(1.0, 4.0, 10)).dtype.name
    ((), 'int32')
  """
  return jnp.zeros((), jnp.int32) if callable(value) else ()


def at_count(value: optax.ScalarOrSchedule, count: Count) -> tuple[jax.Array, Count]:
  """The number now, float32 scalar, and the count for the next step. The first step is 0.

  Examples:
    >>> schedule = optax.linear_schedule(1.0, 4.0, 3)
    >>> now, count = at_count(schedule, init_count(schedule))
    >>> float(now), float(at_count(schedule, count)[0])
    (1.0, 2.0)
  """
  if callable(value):
    steps = cast(jax.Array, count)  # a schedule's count is an array; see init_count
    return jnp.asarray(value(steps), jnp.float32), optax.safe_increment(steps)
  return jnp.asarray(value, jnp.float32), count


def check_number(
  name: str,
  value: optax.ScalarOrSchedule,
  *,
  positive: bool = False,
  scheduled: bool = False,
) -> None:
  """Checks a constant; schedules and traced numbers cannot be checked before they run.

  Args:
    name: of the argument, for errors.
    value: its value.
    positive: whether it must be above 0.
    scheduled: whether it may be a schedule of the step.

  Raises:
    ValueError: if it is no finite number, or not positive where that is asked for.

  Examples:
    >>> check_number("temperature", -1.0, positive=True)
    Traceback (most recent call last):
    ValueError: temperature: -1.0 must be a finite number above 0.
  """
  if isinstance(value, jax.core.Tracer) or (scheduled and callable(value)):
    return
  try:
    wrong = not math.isfinite(value) or (positive and value <= 0)
  except TypeError:
    wrong = True
  if wrong:
    bound = " above 0" if positive else ""
    schedule = ", or a schedule of the step" if scheduled else ""
    way = ""
    if callable(value):
      way = "; it is the same in all steps: for a weight that changes, write distill.scale(schedule, loss)"
    raise ValueError(f"{name}: {shown(value)} must be a finite number{bound}{schedule}{way}.")
