"""The moving average: its numbers, what reads it, and that it costs nothing when off."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxcompress import quantize
from jaxcompress.training import (
  eval_step,
  init_state,
  predict,
  reestimate_norm,
  train_step,
)

DECAY, STEPS = 0.4, 12  # the warm-up's decay passes 0.4 at step 5
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def recipe(recipe_of):
  return recipe_of(ema=DECAY, quantize=quantize.int8(start_step=3))


@pytest.fixture(scope="module")
def fresh(recipe, batches):
  return lambda: init_state(recipe, jax.random.key(0), batches(0))


@pytest.fixture(scope="module")
def run(fresh, batches):
  """Every state's variables, and the last state."""
  state, seen = fresh(), []
  for position in range(STEPS):
    seen.append(jax.device_get(state.variables))
    state, _ = train_step(state, batches(position))
  return [*seen, jax.device_get(state.variables)], state


def test_the_average_is_that_of_float64(run):
  seen, state = run
  expected = jax.tree.map(lambda x: x.astype(np.float64), seen[0])
  for step, latest in enumerate(seen[1:]):
    d = min(DECAY, (1 + step) / (10 + step))
    expected = jax.tree.map(lambda a, x, d=d: d * a + (1 - d) * x, expected, latest)
  chex.assert_trees_all_close(jax.device_get(state.ema), expected, rtol=2e-6, atol=1e-6)
  assert set(state.ema) == {"params", "batch_stats"}


@pytest.mark.slow
def test_evaluation_and_deployment_read_the_average(run, batches):
  _, state = run
  latest = state.replace(ema=jax.tree.map(jnp.copy, state.variables))
  batch = batches(3)
  of_average, of_latest = (np.asarray(predict(s, batch["image"])) for s in (state, latest))
  assert np.max(np.abs(of_average - of_latest)) > 1e-3
  hits = float(eval_step(state, batch)["correct"])
  assert hits == np.sum(of_average.argmax(-1) == batch["label"])
  model = state.quantized()
  deployed = np.asarray(model(batch["image"]))
  step = model.grids["classifier"].scale
  assert np.mean(np.abs(deployed - of_average)) < 0.5 * step
  kernel = state.averaged.params["classifier"]["kernel"]
  assert kernel is state.ema["params"]["classifier"]["kernel"]


def test_statistics_taken_anew_are_those_of_the_average(run, batches):
  _, state = run
  settled = reestimate_norm(state, [batches(5)])
  chex.assert_trees_all_equal(settled.variables, state.variables)
  chex.assert_trees_all_equal(settled.ema["params"], state.ema["params"])
  old, new = (np.asarray(predict(s, batches(5)["image"])) for s in (state, settled))
  assert np.any(old != new)


def test_without_it_the_state_carries_nothing_more(recipe_of, batches):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  assert state.ema == () and state.averaged is state


@pytest.mark.parametrize("ema", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_an_error(recipe_of, ema):
  with pytest.raises(ValueError, match=r"ema: .* must be in \[0, 1\)"):
    recipe_of(ema=ema)
