"""An update with a value that is not finite is rolled back, whatever its cause."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxcompress import distill, prune, quantize
from jaxcompress.distill import LossTransform
from jaxcompress.prune.masked import sparsity_of
from jaxcompress.training import DivergedError, distill_step, fit, init_state, train_step
from jaxcompress.training.gradients import is_sound, run_on, stays_finite


def at(count, bad, good=0.1):
  """A rate that is ``bad`` at one count."""
  return lambda step: jnp.where(step == count, bad, good)


def trained(recipe, batches, steps, **options):
  """The states of a run, copied, and the last metrics."""
  state, states = init_state(recipe, jax.random.key(0), batches(0), **options), []
  step = distill_step if recipe.teachers else train_step
  for position in range(steps):
    states.append(jax.tree.map(jnp.copy, state))
    state, metrics = step(state, batches(position))
  return [*states, state], metrics


def finite(tree):
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
  return all(bool(jnp.isfinite(x).all()) for x in floats)


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "make",
  [
    lambda rate: optax.sgd(rate, momentum=0.9),
    lambda rate: optax.adamw(rate),
    lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.lion(rate)),
    lambda rate: optax.inject_hyperparams(optax.sgd)(rate),
    lambda rate: prune.magnitude(optax.sgd(rate), sparsity=0.5),
  ],
  ids=["sgd", "adamw", "lion", "injected", "pruned"],
)
def test_a_rate_that_is_not_finite_once_costs_one_step(recipe_of, batches, make, bad):
  states, metrics = trained(recipe_of(optimizer=make(at(2, bad))), batches, 5)
  assert int(metrics["skipped"]) == 1 and int(states[-1].step) == 4
  assert same(states[2].params, states[3].params)
  assert same(states[2].batch_stats, states[3].batch_stats)
  assert finite(states[-1].opt_state) and not same(states[3].params, states[4].params)


@pytest.mark.slow
def test_pruning_waits_for_a_step_that_counts(recipe_of, batches):
  """The masks that a lost step chose are chosen by the next."""
  optimizer = prune.magnitude(optax.sgd(at(0, np.nan)), sparsity=0.5)
  states, metrics = trained(recipe_of(optimizer=optimizer), batches, 3)
  assert int(metrics["skipped"]) == 1
  assert float(sparsity_of(states[1].opt_state)) == 0
  assert float(metrics["sparsity"]) == pytest.approx(0.5, abs=0.02)


def ruins(place):
  """An optimizer whose state or update is spoilt in one step."""

  def init(params):
    return {"count": jnp.zeros((), jnp.int32), "velocity": jax.tree.map(jnp.zeros_like, params)}

  def update(updates, state, params=None):
    bad = jnp.where(state["count"] == 1, jnp.inf, 0.0)
    kernel = updates["student"]["classifier"]["kernel"]
    steps = jax.tree.map(lambda g: -0.1 * g, updates)
    velocity = updates
    if place == "update":
      steps["student"]["classifier"]["kernel"] = -0.1 * kernel.at[0, 0].add(bad)
    else:
      velocity = {**updates, "student": {**updates["student"], "classifier": {
        **updates["student"]["classifier"], "kernel": kernel.at[-1, -1].add(bad)
      }}}  # fmt: skip
    return steps, {"count": state["count"] + 1, "velocity": velocity}

  return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("place", ["update", "state"])
def test_one_number_of_an_update_or_of_the_optimizers_state_is_enough(recipe_of, batches, place):
  states, metrics = trained(recipe_of(optimizer=ruins(place)), batches, 3)
  assert int(metrics["skipped"]) == 1 and finite(states[-1].params)
  assert finite(states[-1].opt_state) and same(states[1].params, states[2].params)


def test_statistics_that_overflow_are_taken_back(recipe_of, batches):
  """Values whose squares overflow give an infinite variance, and a loss that looks well."""
  bad = {**batches(0), "image": np.full((16, 8, 8, 3), 1e25, np.float32)}
  bad["image"][::2] = -1e25
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  before = jax.device_get(state.batch_stats)
  state, metrics = train_step(state, bad)
  assert np.isfinite(metrics["loss"]) and int(metrics["skipped"]) == 1
  assert same(before, state.batch_stats)


@pytest.mark.slow
def test_a_state_of_the_loss_or_of_a_quantizer_that_breaks_is_taken_back(recipe_of, batches):
  def update(params, state, student, teachers, batch, **extras):
    loss, _, metrics = distill.cross_entropy().update((), (), student, (), batch)
    return loss, jnp.where(extras["step"] == 1, jnp.nan, state + 1), metrics

  broken = LossTransform(lambda *args: ((), jnp.zeros(3)), update)
  states, metrics = trained(recipe_of(loss=broken), batches, 3)
  assert int(metrics["skipped"]) == 2 and states[-1].loss_state.tolist() == [1.0, 1.0, 1.0]

  honest = quantize.ema_range(8)

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    y, after = honest.apply(params, state, x, train=train, nonnegative=nonnegative)
    return y, after._replace(high=jnp.where(after.count == 2, jnp.inf, after.high))

  plan = dataclasses.replace(quantize.int8(), activations=honest._replace(apply=apply))
  states, metrics = trained(recipe_of(quantize=plan), batches, 3)
  assert int(metrics["skipped"]) == 2 and finite(states[-1].quantizer.state)


@pytest.mark.slow
def test_a_state_that_starts_infinite_may_stay_so(recipe_of, batches):
  """As the least of what has not been seen yet."""

  def update(params, state, student, teachers, batch, **extras):
    loss, _, metrics = distill.cross_entropy().update((), (), student, (), batch)
    least = jnp.where(extras["step"] >= 2, jnp.minimum(state["least"], loss), state["least"])
    return loss, {"least": least}, metrics

  start = {"least": jnp.array([jnp.inf, jnp.inf])}
  waiting = LossTransform(lambda *args: ((), start), update)
  states, metrics = trained(recipe_of(loss=waiting), batches, 3)
  assert int(metrics["skipped"]) == 0 and finite(states[-1].loss_state)
  assert not finite(states[2].loss_state)


def test_a_run_whose_updates_all_fail_says_what_to_look_at(recipe_of, batches):
  recipe = recipe_of(optimizer=optax.sgd(lambda count: jnp.nan * count))
  state = init_state(recipe, jax.random.key(0), batches(0))
  with pytest.raises(DivergedError, match=r"the last 3 steps were skipped.*schedules are finite"):
    fit(state, batches, steps=3, console=Console(quiet=True))


NUMBERS = st.floats(width=32, min_value=-(2.0**99), max_value=2.0**99, allow_subnormal=False)
SHAPES = st.sampled_from([(), (1,), (7,), (64, 65)])  # the last one is large


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(SHAPES, NUMBERS, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2**16))
def test_one_number_anywhere_is_seen_and_none_is_imagined(shape, number, bad, place):
  good = {"a": jnp.full(shape, number / 2**13), "n": jnp.int32(3)}
  flat = jnp.ravel(good["a"]).at[place % good["a"].size].set(bad)
  spoilt = {**good, "a": flat.reshape(shape)}
  assert bool(stays_finite({**good, "a": jnp.zeros(shape)}, good))
  assert not bool(stays_finite(good, spoilt))
  assert bool(is_sound(jnp.float32(0), good)) and not bool(is_sound(jnp.float32(0), spoilt))
  assert not bool(is_sound(jnp.float32(bad), good))


def test_only_whole_numbers_that_stand_alone_run_on():
  kept = {"count": jnp.int32(1), "many": jnp.zeros(2, jnp.int32), "rate": jnp.float32(0)}
  latest = {"count": jnp.int32(2), "many": jnp.ones(2, jnp.int32), "rate": jnp.float32(1)}
  got = run_on(kept, latest, jnp.bool_(True))
  assert (int(got["count"]), got["many"].tolist(), float(got["rate"])) == (2, [0, 0], 0.0)
  assert int(run_on(kept, latest, jnp.bool_(False))["count"]) == 1
