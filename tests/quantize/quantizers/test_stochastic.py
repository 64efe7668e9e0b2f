"""Stochastic rounding: unbiased, reproducible, and exact on the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.quantize import levels
from jaxcompress.quantize.quantizers.around import round_stochastically, stochastic
from jaxcompress.quantize.quantizers.lsq import lsq
from jaxcompress.quantize.quantizers.uniform import absmax, ema_range, fixed_range

SIGNED = levels(4, symmetric=True, narrow=True)


def test_the_mean_over_keys_is_the_value():
  x = jnp.linspace(-2.0, 2.0, 41)
  rounded = lambda key: round_stochastically(x, 1.0, 0.0, key, SIGNED)  # noqa: E731
  drawn = jax.vmap(rounded)(jax.random.split(jax.random.key(0), 5000))
  assert jnp.all(jnp.abs(drawn - x[None]) < 1)
  np.testing.assert_allclose(jnp.mean(drawn, 0), x, atol=0.035)


def test_its_gradient_is_masked_as_to_nearest():
  x, key = jnp.array([-9.0, -7.0, -0.4, 7.0, 7.4, 7.6]), jax.random.key(0)
  quantizer = stochastic(fixed_range(-8.0, 7.0, 4))  # steps of one
  total = lambda x: quantizer.apply((), (), x, train=True, rng=key)[0].sum()  # noqa: E731
  np.testing.assert_array_equal(jax.grad(total)(x), [0, 1, 1, 1, 1, 0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(-8, 7))
def test_levels_stay_where_they_are(seed, zero):
  to = levels(4, symmetric=False)
  scale = jnp.float32(0.37)
  x = (jnp.arange(to.low, to.high + 1.0) - zero) * scale
  y = round_stochastically(x, scale, jnp.float32(zero), jax.random.key(seed), to)
  np.testing.assert_allclose(y, x, atol=1e-6)


@pytest.mark.parametrize("make", [absmax, ema_range])
def test_a_wrapped_quantizer_keeps_its_grid_and_mean(make):
  plain = make(2)
  quantizer = stochastic(plain)
  x = jnp.append(jax.random.uniform(jax.random.key(1), (20, 1)), jnp.ones((1, 1)), 0)
  params, state = quantizer.init(x)

  def run(key, train=True):
    return quantizer.apply(params, state, x, train=train, rng=key)

  keys = jax.random.split(jax.random.key(0), 4000)
  drawn, states = jax.jit(jax.vmap(run))(keys)
  np.testing.assert_allclose(jnp.mean(drawn, 0), x, atol=0.04)
  nearest, after = plain.apply(params, state, x, train=True)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), states, after)
  np.testing.assert_array_equal(run(None)[0], nearest)
  assert jnp.any(run(keys[0])[0] != run(keys[1])[0])
  np.testing.assert_array_equal(run(keys[0])[0], run(keys[0])[0])


@pytest.mark.parametrize("train", [False, jnp.bool_(False)])
def test_outside_training_it_rounds_to_nearest(train):
  x = jax.random.normal(jax.random.key(1), (20, 3))
  y, _ = stochastic(absmax(4)).apply((), (), x, train=train, rng=jax.random.key(0))
  np.testing.assert_array_equal(y, absmax(4).apply((), (), x, train=False)[0])


def test_a_trained_grid_is_refused():
  with pytest.raises(ValueError, match="quantizer: stochastic rounding needs a grid"):
    stochastic(lsq(4)).init(jnp.ones((3, 2)))
