"""A network that falls back is told of, once and with what is the cause; ordinary runs are left alone."""

import dataclasses

import hypothesis
import jax
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from rich.console import Console

from jaxcompress import distill, quantize
from jaxcompress.training import Stage, fit, init_state
from jaxcompress.training.watch import Watch


def told(recipe, accuracies, batch_size=32, every=25, name="accuracy"):
  """Positions and words of what a watch says about a run."""
  watch, found = Watch(recipe), []
  for position, value in enumerate(accuracies):
    watch.add(position, {"loss": 1.0, name: value})
    after = position + 1
    if after % every == 0 or after == len(accuracies):
      ends = after == len(accuracies)
      if (words := watch.look(after, batch_size=batch_size, ends=ends)) is not None:
        found.append((after, words))
  return found


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  seed=st.integers(0, 2**32),
  batch_size=st.sampled_from([2, 4, 16, 64, 256]),
  start=st.floats(0.0, 0.5),
  end=st.floats(0.1, 1.0),
  dip=st.floats(0.0, 0.5),
)
def test_noise_and_a_dip_are_no_fall(recipe_of, seed, batch_size, start, end, dip):
  rng, steps = np.random.default_rng(seed), 600
  chance = np.clip(start + (end - start) * (1 - np.exp(-np.arange(steps) / 80)), 0, 1)
  chance[300:303] *= dip
  hypothesis.assume(end > 0.7 * start)
  accuracies = rng.binomial(batch_size, chance) / batch_size
  assert told(recipe_of(), accuracies, batch_size) == []


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  seed=st.integers(0, 2**32),
  batch_size=st.sampled_from([8, 32, 128]),
  before=st.floats(0.5, 1.0),
  at=st.integers(60, 300),
)
def test_a_fall_to_chance_is_told_once(recipe_of, seed, batch_size, before, at):
  rng, steps = np.random.default_rng(seed), 600
  chance = np.where(np.arange(steps) < at, before, 0.1)
  accuracies = rng.binomial(batch_size, chance) / batch_size
  ((position, words),) = told(recipe_of(), accuracies, batch_size)
  assert at < position <= at + 3 * max(8, 256 // batch_size) + 50
  assert words.startswith("training accuracy fell from")


def test_without_labels_the_losses_count_and_all_of_them(recipe_of):
  losses = [0.1] * 100 + [2.0] * 100
  ((_, words),) = told(recipe_of(), losses, name="kd")
  assert words == "the loss rose from 0.1 to 2"
  watch = Watch(recipe_of())
  for position, value in enumerate(losses):
    watch.add(position, {"loss": value, "teacher/kd": value, "fitnet": 0.3, "weight/a": value})
  assert watch.look(200, batch_size=32, ends=True) is None
  assert told(recipe_of(), np.linspace(5.0, 0.1, 200).tolist() + [0.4] * 100, name="kd") == []


def test_a_new_stage_and_the_first_integers_begin_anew(recipe_of):
  labels = distill.named_chain(labels=distill.cross_entropy())
  recipe = recipe_of(loss=labels, stages=(Stage(labels, ("student",), 100),))
  accuracies = [0.9] * 100 + [0.1] * 100
  assert told(recipe, accuracies) == []
  assert told(dataclasses.replace(recipe, stages=()), accuracies)
  assert told(recipe_of(quantize=quantize.int4(start_step=100)), accuracies) == []
  assert told(recipe_of(quantize=quantize.int4(start_step=20)), accuracies)


def run(recipe, batches, steps, size=32, **options):
  """Runs training; returns the state and the text of the console."""
  console = Console(record=True, width=400, force_terminal=False)
  state = init_state(recipe, jax.random.key(0), batches(0, size), **options)
  state = fit(
    state, lambda position: batches(position, size), steps=steps, console=console, log_every=10
  )
  return state, console.export_text()


@pytest.mark.slow
@pytest.mark.parametrize(
  "parts",
  [
    {},
    {"optimizer": optax.adam(3e-3)},
    {"quantize": quantize.int4(start_step=40, freeze_norm_step=60)},
    {"freeze_norm_step": 30},
  ],
  ids=["sgd", "adam", "int4", "frozen"],
)
def test_ordinary_runs_are_left_alone(recipe_of, batches, parts):
  state, text = run(recipe_of(**parts), batches, 100)
  assert int(state.step) == 100 and "fell" not in text and "rose" not in text


@pytest.mark.slow
def test_a_run_that_falls_names_the_freeze_and_the_rate(recipe_of, batches):
  rate = lambda step: jax.numpy.where(step < 40, 0.05, 50.0)  # noqa: E731
  clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate))
  _, text = run(recipe_of(optimizer=clipped, freeze_norm_step=40, frozen_rate=1.0), batches, 100)
  assert text.count("training accuracy fell from") == 1
  assert "the statistics of 4 normalizations are frozen, the first from step 40 on" in text
  assert "has 1 of the optimizer's learning rate; lower frozen_rate" in text
  _, text = run(recipe_of(optimizer=clipped), batches, 100)
  assert "frozen" not in text
