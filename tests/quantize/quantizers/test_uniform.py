"""Ranges that are kept in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.uniform import mean_range, minmax_range


@pytest.mark.parametrize(
  ("make", "key"), [(mean_range, "mean_of_minmax"), (minmax_range, "global_minmax")]
)
def test_ranges_over_all_batches_are_the_golden_ones(golden, make, key):
  arrays = golden("quantize/ema")
  quantizer = make()
  params, state = quantizer.init(arrays["x"][0])
  step = jax.jit(lambda state, x: quantizer.apply(params, state, x, train=True)[1])
  for x in arrays["x"]:
    state = step(state, x)
  np.testing.assert_allclose([state.low, state.high], arrays[key], rtol=1e-5)
  assert state.count == len(arrays["x"])


@pytest.mark.parametrize("make", [mean_range, minmax_range])
def test_the_first_batch_alone_gives_the_first_range(make):
  quantizer = make()
  params, state = quantizer.init(jnp.zeros(2))
  _, state = quantizer.apply(params, state, jnp.array([1.0, 3.0]), train=True)
  assert (state.low, state.high) == (1.0, 3.0)
  scale, zero = quantizer.grid(params, state)
  assert (float(zero), round(float(scale * 255), 5)) == (-128, 3.0)
