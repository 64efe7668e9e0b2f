"""Batches that another thread makes ready: the same ones, in order, and no more than were asked for."""

import threading

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from rich.console import Console

from jaxcompress.training import Ahead, fit, init_state

QUIET = Console(quiet=True)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  positions=st.lists(st.integers(0, 12), max_size=12),
  stop=st.integers(0, 12),
  depth=st.integers(0, 5),
)
def test_whatever_is_asked_for_comes_as_the_function_gives_it(positions, stop, depth):
  with Ahead(lambda position: position**2, stop=stop, depth=depth) as at:
    assert [at(position) for position in positions] == [position**2 for position in positions]


@pytest.mark.parametrize("depth", [1, 3])
def test_so_many_positions_are_made_while_one_is_used_and_none_beyond_the_end(depth):
  made = []
  ready = threading.Semaphore(0)

  def make(position):
    made.append((position, threading.current_thread() is threading.main_thread()))
    ready.release()
    return position

  with Ahead(make, stop=5, depth=depth) as at:
    at(0)
    for _ in range(1 + depth):
      assert ready.acquire(timeout=60)
    assert sorted(made) == [(position, False) for position in range(1 + depth)]
    assert [at(position) for position in range(1, 5)] == [1, 2, 3, 4]
  assert [position for position, _ in made] == [0, 1, 2, 3, 4]


def test_an_error_comes_where_its_position_is_asked_for():
  def make(position):
    if position == 2:
      raise ValueError(f"position {position}")
    return position

  with Ahead(make, stop=9) as at:
    assert (at(0), at(1)) == (0, 1)
    with pytest.raises(ValueError, match="position 2"):
      at(2)
    assert at(3) == 3


@pytest.mark.slow
def test_a_run_reads_the_same_batches_however_many_are_ahead(recipe_of, batches):
  def run(ahead):
    asked = []

    def batch_at(position):
      asked.append(position)
      return batches(position)

    state = init_state(recipe_of(), jax.random.key(0), batches(0))
    state = fit(state, batch_at, steps=5, console=QUIET, ahead=ahead)
    return asked, jax.device_get(state.params)

  (here, alone), *others = (run(ahead) for ahead in (0, 1, 4))
  assert here == [0, 1, 2, 3, 4]
  for asked, params in others:
    assert asked == here
    jax.tree.map(np.testing.assert_array_equal, params, alone)


def test_steps_before_a_batch_that_cannot_be_read_are_taken(recipe_of, batches):
  state, reached = init_state(recipe_of(), jax.random.key(0), batches(0)), []

  def batch_at(position):
    if position == 3:
      raise ValueError("a damaged image")
    return batches(position)

  with pytest.raises(ValueError, match="a damaged image"):
    fit(
      state,
      batch_at,
      steps=9,
      log_every=1,
      on_log=lambda row: reached.append(row["step"]),
      console=QUIET,
    )
  assert reached == [1, 2, 3]


@pytest.mark.parametrize(
  ("options", "message"),
  [({"depth": -1}, "depth: -1 must be a whole number"), ({"stop": -1}, "stop: -1 must be")],
)
def test_mistakes_name_the_argument_and_the_value(options, message):
  with pytest.raises(ValueError, match=message):
    Ahead(lambda position: position, **{"stop": 1, **options})
