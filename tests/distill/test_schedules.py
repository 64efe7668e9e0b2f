"""Numbers of losses that follow a schedule of the step."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill
from jaxcompress.distill import DISTILLERS
from jaxcompress.nn import Endpoints
from tests.distill.test_extremes import BATCH, HEAD, MAPS, POOLED, STUDENT, TEACHER

HEADS = {"student_params": HEAD, "teacher_params": (HEAD,)}
STUDENT_ENDS = Endpoints(jnp.asarray(STUDENT, jnp.float32), POOLED, MAPS, MAPS)
TEACHER_ENDS = Endpoints(
  jnp.asarray(TEACHER, jnp.float32), POOLED[::-1] ** 2, MAPS[::-1], MAPS[::-1]
)
CONSTANT = {  # weights and temperatures that stay what they are, and why
  ("crd", "temperature"): "its sums of the first step would be wrong",
  ("mlkd", "temperatures"): "several; each may be a schedule",
}

SETTINGS = {"crld": {"weak_confidence": 0.1}}  # the teacher is not sure of more


def scheduled(make):
  """Names of a loss's arguments that take schedules, as its signature says."""
  parameters = inspect.signature(make).parameters.values()
  return [one.name for one in parameters if one.annotation == optax.ScalarOrSchedule]


NUMBERS = {name: found for name in DISTILLERS if (found := scheduled(DISTILLERS[name].make))}


def test_every_temperature_and_weight_takes_a_schedule():
  for name, method in DISTILLERS.items():
    for argument in inspect.signature(method.make).parameters:
      weighs = argument in ("alpha", "beta", "gamma") or "temperature" in argument
      if weighs and (name, argument) not in CONSTANT:
        assert argument in NUMBERS.get(name, ()), (name, argument)


def of_steps(loss, count):
  """The losses of the first steps on one batch, and how often the state says it was updated."""
  rest = (STUDENT_ENDS, (TEACHER_ENDS,), BATCH)
  params, state = loss.init(jax.random.key(0), *rest)
  found = []
  for _ in range(count):
    value, after, _ = loss.update(params, state, *rest, **HEADS)
    state = jax.tree.map(lambda new, old: new if new.dtype == jnp.int32 else old, after, state)
    found.append(value)
  return jnp.stack(found)


@pytest.mark.parametrize(
  ("name", "argument"), [(name, argument) for name, of in NUMBERS.items() for argument in of]
)
def test_each_steps_loss_is_that_of_its_number(name, argument, quick_jit):
  make = partial(DISTILLERS[name].make, **SETTINGS.get(name, {}))
  usual = inspect.signature(make).parameters[argument].default
  follows = make(**{argument: optax.linear_schedule(usual, 3 * usual, 2)})
  constants = [make(**{argument: factor * usual}) for factor in (1, 2, 3)]
  found, expected = quick_jit(
    lambda: (of_steps(follows, 3), jnp.concatenate([of_steps(loss, 1) for loss in constants]))
  )()
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  assert abs(expected[2] - expected[0]) > 1e-6 * abs(expected[0])


def test_each_of_several_temperatures_may_follow_a_schedule(quick_jit):
  follows = distill.mlkd((2.0, optax.linear_schedule(3.0, 5.0, 1)))
  constants = [distill.mlkd((2.0, number)) for number in (3.0, 5.0)]
  found, expected = quick_jit(
    lambda: (of_steps(follows, 2), jnp.concatenate([of_steps(loss, 1) for loss in constants]))
  )()
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_schedule_that_starts_out_of_range_and_other_arguments_are_refused_when_built():
  with pytest.raises(ValueError, match=r"^temperature: 0.0 must be a finite number above 0"):
    distill.wkd_l(temperature=optax.linear_schedule(0.0, 1.0, 3))
  with pytest.raises(ValueError, match=r"^sharpen: -1.0 must be"):
    distill.wkd_l(optax.linear_schedule(600.0, 0.0, 3), sharpen=-1.0)
