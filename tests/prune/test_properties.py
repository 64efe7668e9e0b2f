"""Properties of masks for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import prune
from jaxcompress.prune.dynamic import move
from jaxcompress.prune.masked import Pruner, masked


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.booleans())
def test_a_move_keeps_the_number_of_weights_and_drops_only_its_share(seed, share, ties):
  rng = np.random.default_rng(seed)
  mask = rng.random((6, 5)) < 0.5
  weights = np.where(mask, rng.integers(-2, 3, mask.shape) if ties else rng.normal(size=(6, 5)), 0)
  moved = np.asarray(move(jnp.asarray(mask), jnp.float32(weights), jnp.zeros((6, 5)), share))
  assert moved.sum() == mask.sum()
  assert (mask & ~moved).sum() <= share * mask.sum() + 1e-3


def by_part(params):
  """Labels of :func:`optax.multi_transform`, which reads the tree."""
  return {"a": {"kernel": "weights", "bias": "others" if params["a"]["bias"].ndim else "weights"}}


@pytest.mark.parametrize(
  "inner",
  [
    optax.sgd(0.1, momentum=0.9),
    optax.adamw(0.1),
    optax.chain(optax.clip_by_global_norm(1.0), optax.MultiSteps(optax.adam(0.1), 2)),
    optax.masked(optax.adam(0.1), {"a": {"kernel": True, "bias": False}}),
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    optax.multi_transform({"weights": optax.adam(0.1), "others": optax.sgd(0.1)}, by_part),
  ],
)
def test_pruned_weights_and_their_momenta_stay_exactly_zero(inner):
  optimizer = prune.magnitude(inner, sparsity=0.75, schedule=prune.agp(1, 5, every=2))
  rng = np.random.default_rng(0)
  params = {"a": {"kernel": jnp.float32(rng.normal(size=(8, 8))), "bias": jnp.ones(8)}}
  state, before = optimizer.init(params), np.ones((8, 8), bool)
  update = jax.jit(optimizer.update)
  for _ in range(9):
    gradients = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    mask = np.asarray(state.masks["a"])
    assert not np.any(mask & ~before)
    assert np.all(np.asarray(params["a"]["kernel"])[~mask] == 0)
    kernels = [leaf for leaf in jax.tree.leaves(state.inner) if jnp.shape(leaf) == (8, 8)]
    assert kernels and all(np.all(np.asarray(leaf)[~mask] == 0) for leaf in kernels)
    before = mask
  assert mask.sum() == 16


@pytest.mark.parametrize("distribution", ["erk", "uniform", "global", "lamp"])
def test_half_precision_weights_are_pruned_to_exact_zeros(distribution):
  rng = np.random.default_rng(3)
  params = {name: {"kernel": jnp.bfloat16(rng.normal(size=(12, 10)))} for name in "ab"}
  optimizer = prune.magnitude(optax.sgd(0.1, momentum=0.9), sparsity=0.7, distribution=distribution)
  state = optimizer.init(params)
  for _ in range(3):
    gradients = jax.tree.map(lambda p: jnp.bfloat16(rng.normal(size=p.shape)), params)
    updates, state = jax.jit(optimizer.update)(gradients, state, params)
    params = optax.apply_updates(params, updates)
  for name, mask in state.masks.items():
    kernel = params[name]["kernel"]
    assert kernel.dtype == jnp.bfloat16 and not np.any(np.asarray(kernel != 0) & ~np.asarray(mask))
  assert sum(int((~np.asarray(m)).sum()) for m in state.masks.values()) == 168


@pytest.mark.parametrize(
  "mask", [np.ones((4, 4), np.float32), np.ones((4, 1), bool), np.ones((4, 4), np.int8)]
)
def test_a_method_s_mask_of_another_dtype_or_shape_is_refused(mask):
  pruner = Pruner(lambda kernels: {"a": jnp.asarray(mask)}, lambda count: count < 0, None)
  with pytest.raises(ValueError, match=r"the mask of 'a' is .* it must be bool \(4, 4\)"):
    masked(optax.sgd(0.1), pruner).init({"a": {"kernel": jnp.ones((4, 4))}})


def test_a_penalty_without_scales_is_refused():
  with pytest.raises(ValueError, match="no BatchNorm scale"):
    prune.slimming(1e-3).init({"a": {"kernel": jnp.ones((4, 4))}})
