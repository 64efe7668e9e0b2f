"""DoReFa and WRPN against their golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.clipped import (
  dorefa,
  dorefa_activations,
  dorefa_gradient,
  dorefa_weights,
  quantize_gradient,
  wrpn,
)

BITS = (8, 4, 2)


@pytest.mark.parametrize(
  ("through_max", "key"), [(True, "dw_through_max"), (False, "dw_max_const")]
)
@pytest.mark.parametrize("bits", BITS)
def test_weights_are_the_golden_ones(golden, cases, pull, agree, bits, through_max, key):
  case = cases(golden("quantize/dorefa_wrpn"))[f"w{bits}"]
  y, (dw,) = pull(lambda w: dorefa_weights(w, bits, through_max=through_max), case["g"], case["w"])
  agree(y, case["y"], "value")
  agree(dw, case[key], "gradient")


def test_one_bit_weights_are_the_golden_ones(golden, cases, pull, agree):
  case = cases(golden("quantize/dorefa_wrpn"))["w1"]
  w = case["w"]
  y, (dw,) = pull(lambda w: dorefa_weights(w, 1), jnp.ones(w.shape), w)
  agree(y, case["y"], "value")
  agree(dw, case["dw_identity_of_ones"], "gradient")


@pytest.mark.parametrize("bits", BITS)
def test_activations_are_the_golden_ones(golden, cases, pull, agree, bits):
  case = cases(golden("quantize/dorefa_wrpn"))[f"a{bits}"]
  quantizer = dorefa_activations(bits)
  params, state = quantizer.init(case["x"])
  _, state = quantizer.apply(params, state, case["x"], train=True, nonnegative=True)
  rounded = lambda x: quantizer.apply(params, state, x, train=False)[0]  # noqa: E731
  y, (dx,) = pull(rounded, case["g"], case["x"])
  agree(y, case["y"], "value")
  agree(dx, case["dx"], "gradient")


@pytest.mark.parametrize("bits", BITS)
def test_gradients_are_rounded_as_the_golden_ones(golden, cases, agree, bits):
  case = cases(golden("quantize/dorefa_wrpn"))[f"g{bits}"]
  rounded = jax.jit(quantize_gradient, static_argnums=2)(case["dr"], case["noise_sigma"], bits)
  agree(rounded, case["dr_q"], "value")


@pytest.mark.parametrize("bits", BITS)
def test_wrpn_weights_are_the_golden_ones(golden, cases, pull, agree, bits):
  case = cases(golden("quantize/dorefa_wrpn"))[f"wrpn{bits}"]
  y, (dw,) = pull(lambda w: wrpn(bits).apply((), (), w, train=True)[0], case["g"], case["w"])
  agree(y, case["y"], "value")
  agree(dw, case["dw"], "gradient")
  assert jnp.max(jnp.abs(y)) <= 1


def test_noise_keeps_the_mean_of_the_gradient():
  x = jnp.zeros((1, 64))
  g = jnp.linspace(-1.0, 1.0, 64).reshape(1, -1)

  def rounded(rng):
    return jax.vjp(lambda x: dorefa_gradient(x, rng, 2), x)[1](g)[0]

  drawn = jax.jit(jax.vmap(rounded))(jax.random.split(jax.random.key(0), 4000))
  assert jnp.unique(drawn.round(4)).size == 4
  np.testing.assert_allclose(jnp.mean(drawn, 0), g, atol=0.04)


@pytest.mark.slow
def test_a_quantizer_rounds_gradients_with_the_key_it_is_given():
  quantizer = dorefa_activations(8, gradient_bits=2)
  x = jax.random.uniform(jax.random.key(1), (4, 32))
  params, state = quantizer.init(x)

  def slopes(rng):
    total = lambda x: jnp.sum(quantizer.apply(params, state, x, train=True, rng=rng)[0] ** 2)  # noqa: E731
    return jax.grad(total)(x)

  one, other, none = (slopes(key) for key in (jax.random.key(0), jax.random.key(1), None))
  assert jnp.any(one != other)
  for found in (one, other, none):
    assert all(np.unique(np.round(row, 5)).size <= 4 for row in np.asarray(found))


def test_eight_bit_weights_fit_int8_and_follow_the_paper_within_a_step():
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
  y, _ = dorefa(8).apply((), (), w, train=True)
  codes = np.asarray(y) * 127
  np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
  assert np.abs(y - dorefa_weights(w, 8)).max() <= 0.5 / 127 + 0.5 / 127.5 + 1e-6


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: dorefa(9), "bits: 9 is out of range"),
    (lambda: wrpn(1), "bits: 1 is out of range"),
    (lambda: dorefa_activations(0), "bits: 0 is out of range"),
    (lambda: dorefa_activations(bound=-1.0), "bound: -1.0 must be positive"),
    (lambda: dorefa_activations(gradient_bits=0), "gradient_bits: 0 is out of range"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
