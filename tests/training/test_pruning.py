"""Pruning, quantization and an average in one step: zeros stay zero down to the integers."""

import jax
import numpy as np
import optax
import pytest

from jaxcompress import prune, quantize
from jaxcompress.training import init_state, train_step


def test_two_of_four_holds_in_the_weights_their_average_and_the_integers(recipe_of, batches):
  optimizer = prune.n_m(optax.sgd(0.1, momentum=0.9), "2:4")
  recipe = recipe_of(optimizer=optimizer, quantize=quantize.int8(), ema=0.9)
  state = init_state(recipe, jax.random.key(0), batches(0))
  for position in range(4):
    state, metrics = train_step(state, batches(position))
  assert float(metrics["sparsity"]) == 0.5
  for name in ("expand", "project"):
    for params in (state.params, state.ema["params"]):
      assert np.all(
        np.asarray(params[name]["kernel"])[~np.asarray(state.opt_state.masks[name])] == 0
      )
    codes = state.quantized().layers[name].weights[0, 0]
    assert (codes.reshape(-1, 4, codes.shape[-1]) != 0).sum(axis=1).max() == 2
  assert "depthwise" not in state.opt_state.masks


def test_a_quantizer_without_a_zero_is_refused(recipe_of, batches):
  recipe = recipe_of(
    optimizer=prune.magnitude(optax.sgd(0.1), sparsity=0.5), quantize=quantize.binary()
  )
  with pytest.raises(ValueError, match="pruned weights would not stay zero"):
    init_state(recipe, jax.random.key(0), batches(0))
