"""Numbers of losses that follow a schedule of the step: weights and temperatures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.scalars import at_count


class Scheduled(NamedTuple):
  """State of a loss with numbers that follow schedules.

  Attributes:
    count: steps so far, () int32.
    inner: state of the loss with constant numbers.
  """

  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  inner: Any


def on_schedules(
  make: Callable[..., LossTransform], **numbers: optax.ScalarOrSchedule
) -> LossTransform | None:
  """A loss whose numbers follow schedules; None where all of them are constants.

  Each step's loss is the one that is made with that step's numbers, so losses need not know of it.

  Args:
    make: builds the loss from its numbers, also from traced ones.
    **numbers: constants, or schedules: functions of the step, such as optax's. Steps are counted in the
      state; the first update sees step 0.

  Returns:
    A :class:`~jaxcompress.distill.LossTransform` with the same parameters and a :class:`Scheduled`.

  Raises:
    ValueError: as ``make`` with the numbers of step 0.

  Examples:
    >>> from jaxcompress.distill.base import stateless
    >>> ones = lambda weight: stateless("ones", lambda student, teachers, batch: weight * jnp.ones(()))
    >>> loss = on_schedules(ones, weight=optax.linear_schedule(0.0, 1.0, 2))
    >>> _, state = loss.init(jax.random.key(0), (), (), {})
    >>> for _ in range(3):
    ...   value, state, _ = loss.update((), state, (), (), {})
    ...   print(float(value))
    0.0
    0.5
    1.0
    >>> on_schedules(ones, weight=1.0)
  """
  if not any(map(callable, numbers.values())):
    return None

  def at(count: jax.Array) -> dict[str, Any]:
    return {
      name: at_count(value, count)[0] if callable(value) else value
      for name, value in numbers.items()
    }

  with jax.ensure_compile_time_eval():
    first = at(jnp.zeros((), jnp.int32))
    first = {name: float(first[name]) if callable(v) else v for name, v in numbers.items()}
  at_start = make(**first)

  def init(rng, student, teachers, batch):
    params, inner = at_start.init(rng, student, teachers, batch)
    return params, Scheduled(jnp.zeros((), jnp.int32), inner)

  def update(params, state, *args, **extras):
    loss, inner, metrics = make(**at(state.count)).update(params, state.inner, *args, **extras)
    return loss, Scheduled(optax.safe_increment(state.count), inner), metrics

  return LossTransform(init, update, at_start.check)
