"""No layer, and no output of one, loses all its weights, unless that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import prune
from jaxcompress.prune.dynamic import move
from jaxcompress.prune.scores import keep_largest, keep_largest_of_all

SHAPES = {"tiny": (2, 3), "deep": (3, 3, 1, 20), "point": (1, 1, 6, 30), "wide": (40, 24)}
RULES = (prune.Rule(match="."),)


def kernels(seed=0, small=()):
  rng = np.random.default_rng(seed)
  return {
    name: {"kernel": jnp.float32(rng.normal(size=shape) * (1e-3 if name in small else 1))}
    for name, shape in SHAPES.items()
  }


def run(optimizer, params, steps=8, seed=0):
  """The weights after some updates by noise."""
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  rng = np.random.default_rng(seed)
  for _ in range(steps):
    gradients = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def left(masks):
  """The fewest weights of an output, by layer."""
  return {name: np.asarray(m).reshape(-1, m.shape[-1]).sum(0).min() for name, m in masks.items()}


SGD = optax.sgd(0.01)
STEPS = prune.agp(1, 6, every=2)
WAYS = {
  "at once": lambda **k: prune.magnitude(SGD, sparsity=0.93, **k),
  "gradually": lambda **k: prune.magnitude(SGD, sparsity=0.93, schedule=STEPS, **k),
  "alike": lambda **k: prune.magnitude(SGD, sparsity=0.5, distribution="uniform", **k),
  "one threshold": lambda **k: prune.magnitude(SGD, sparsity=0.93, distribution="global", **k),
  "one threshold, gradually": lambda **k: prune.magnitude(
    SGD, sparsity=0.9, distribution="global", schedule=STEPS, **k
  ),
  "LAMP": lambda **k: prune.magnitude(SGD, sparsity=0.93, distribution="lamp", **k),
  "LAMP, gradually": lambda **k: prune.magnitude(
    SGD, sparsity=0.9, distribution="lamp", schedule=STEPS, **k
  ),
  "RigL": lambda **k: prune.rigl(SGD, sparsity=0.5, stop=9, every=2, distribution="uniform", **k),
  "SET": lambda **k: prune.sparse_evolution(SGD, sparsity=0.93, stop=9, every=2, fraction=1.0, **k),
  "3:8": lambda rules, floor=1: prune.n_m(SGD, "3:8", rules=rules),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_output_keeps_a_weight(way):
  params, state = run(WAYS[way](rules=RULES), kernels(small=("point", "tiny")))
  assert all(count >= 1 for count in left(state.masks).values()), left(state.masks)
  for name, mask in state.masks.items():
    assert not np.asarray(params[name]["kernel"])[~np.asarray(mask)].any()


@pytest.mark.slow
def test_more_may_be_asked_to_stay_and_none():
  three = run(prune.magnitude(SGD, sparsity=0.8, floor=3, rules=RULES), kernels())[1].masks
  assert all(count >= 3 for name, count in left(three).items() if name != "tiny")
  assert left(three)["tiny"] == 2  # it has two for each
  alike = prune.magnitude(SGD, sparsity=0.97, distribution="uniform", floor=0, rules=RULES)
  none = run(alike, kernels())[1].masks
  assert not none["tiny"].any()
  with pytest.raises(ValueError, match="floor: -1 must be a whole number, at least 0"):
    prune.magnitude(SGD, sparsity=0.9, floor=-1)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
  seed=st.integers(0, 999),
  sparsity=st.floats(0, 0.999),
  floor=st.integers(0, 3),
  shape=st.sampled_from([(5, 4), (3, 3, 1, 6), (1, 1, 7, 3), (2, 9)]),
)
def test_a_mask_has_the_zeros_asked_for_as_far_as_the_floor_allows(seed, sparsity, floor, shape):
  weights = jnp.float32(np.random.default_rng(seed).integers(-3, 4, shape))
  mask = np.asarray(keep_largest(weights, sparsity, floor=floor))
  size, outputs = mask.size, shape[-1]
  rows = size // outputs
  most = size - outputs * min(floor, rows)
  wanted = int(np.round(np.float32(sparsity) * np.float32(size)))
  assert (~mask).sum() == min(wanted, most)
  assert mask.reshape(rows, outputs).sum(0).min() >= min(floor, rows)
  again = keep_largest(weights, sparsity, jnp.asarray(mask), floor=floor)
  np.testing.assert_array_equal(again, mask)  # what is chosen once is chosen again


@pytest.mark.slow
def test_one_threshold_takes_elsewhere_what_small_layers_must_keep():
  rng = np.random.default_rng(0)
  weights = {"small": jnp.float32(rng.normal(size=(8, 8)) / 1000), "b": rng.normal(size=(16, 16))}
  ones = {name: jnp.ones(w.shape, bool) for name, w in weights.items()}
  free = keep_largest_of_all(weights, 0.5, ones)
  held = keep_largest_of_all(weights, 0.5, ones, floor=1)
  assert not free["small"].any() and held["small"].sum() == 8
  assert sum(int(m.sum()) for m in free.values()) == sum(int(m.sum()) for m in held.values())


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.sampled_from([0.3, 0.7, 1.0]), st.integers(0, 2))
def test_a_move_keeps_the_number_of_weights_and_the_floor(seed, share, floor):
  rng = np.random.default_rng(seed)
  mask = rng.random((7, 5)) < 0.4
  mask[:2] = True
  weights = np.where(mask, rng.normal(size=(7, 5)), 0)
  moved = np.asarray(
    move(
      jnp.asarray(mask), jnp.float32(weights), jnp.float32(rng.random((7, 5))), share, floor=floor
    )
  )
  assert moved.sum() == mask.sum()
  assert (moved & mask).sum(0).min() >= floor


def test_a_pattern_that_prunes_nothing_is_refused():
  optimizer = prune.n_m(
    SGD, "2:4", rules=(prune.Rule(match="deep"), prune.Rule(match=".", keep=True))
  )
  with pytest.raises(ValueError, match="pattern: 2:4 prunes nothing of deep"):
    optimizer.init(kernels())
