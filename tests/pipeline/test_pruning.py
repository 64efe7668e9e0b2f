"""How a run shares out the zeros that it is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import models, nn, prune
from jaxcompress.nn.select import on_network
from jaxcompress.pipeline import CompressOptions
from jaxcompress.pipeline.phases import pruned


def densities(options, steps=8):
  """By layer the share of the weights that stay, after all steps."""
  model = models.mobilenet_v2(10, 0.25)
  graph = models.summarize(model, 32).graph
  params = nn.init_variables(model, jax.random.key(0), (32, 32, 3))["params"]
  optimizer = pruned(optax.sgd(0.0), options, steps, trained=False)
  with on_network(lambda: graph):
    state = optimizer.init(params)
  update, zero = jax.jit(optimizer.update), jax.tree.map(jnp.zeros_like, params)
  for _ in range(steps):
    updates, state = update(zero, state, params)
    params = optax.apply_updates(params, updates)
  return {name: np.asarray(mask) for name, mask in prune.masks_of(state).items()}


@pytest.mark.slow
@pytest.mark.parametrize("distribution", [None, "erk", "global", "lamp"])
def test_zeros_are_shared_out_as_asked_and_no_layer_vanishes(distribution):
  masks = densities(CompressOptions(sparsity=0.9, sparsity_distribution=distribution))
  assert not any(name in masks for name in ("stem", "classifier", "stage1_block0/depthwise"))
  total = sum(mask.size for mask in masks.values())
  assert sum(mask.sum() for mask in masks.values()) == pytest.approx(0.1 * total, rel=0.03)
  assert all(mask.any(tuple(range(mask.ndim - 1))).all() for mask in masks.values())
  small, large = masks["stage1_block0/project"].mean(), masks["head"].mean()
  if distribution in (None, "erk"):
    assert small > 3 * large


@pytest.mark.slow
def test_a_pattern_has_its_own_share():
  masks = densities(CompressOptions(sparsity_pattern="2:4"))
  assert {float(mask.mean()) for mask in masks.values()} == {0.5}
