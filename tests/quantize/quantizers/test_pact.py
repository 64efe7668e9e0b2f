"""PACT against its golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.clipped import pact, pact_clip


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_values_and_gradients_are_the_golden_ones(golden, cases, pull, agree, bits):
  case = cases(golden("quantize/pact"))[f"{bits}"]
  y, (dx, d_clip) = pull(
    lambda x, a: pact_clip(x, a, 2**bits - 1), case["g"], case["x"], case["alpha"]
  )
  agree(y, case["y"], "value")
  agree(dx, case["dx"], "gradient")
  agree(d_clip, case["dalpha"], "sum")


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_quantizer_is_the_formula_for_rectified_values(golden, cases, agree, bits):
  case = cases(golden("quantize/pact"))[f"{bits}"]
  quantizer = pact(bits, clip=2.0)
  x = case["x"]
  params, state = quantizer.init(x)
  _, state = quantizer.apply(params, state, x, train=True, nonnegative=True)
  params = params._replace(delta=case["alpha"] - np.float32(2.0))
  total = lambda p: jnp.sum(quantizer.apply(p, state, x, train=False)[0] * case["g"])  # noqa: E731
  agree(quantizer.apply(params, state, x, train=False)[0], case["y"], "value")
  agree(jax.grad(total)(params).delta, case["dalpha"], "sum")


def test_edges_keep_their_whole_gradient(pull):
  x = jnp.array([-1.0, 0.0, 1.0, 3.0, 4.0])
  _, (dx, d_clip) = pull(lambda x, a: pact_clip(x, a, 3), jnp.ones(5), x, jnp.float32(3.0))
  np.testing.assert_array_equal(dx, [0, 1, 1, 1, 0])
  assert d_clip == 2


def test_values_of_both_signs_are_clipped_on_both_sides(pull):
  quantizer = pact(4)
  x = jnp.array([[-2.0, 0.6, 1.0, 1.9]])
  params, state = quantizer.init(x)
  _, state = quantizer.apply(params, state, x, train=True)
  assert state.base == 2.0
  y, _ = quantizer.apply(params, state, 2 * x, train=False)
  np.testing.assert_allclose(y, [[-2.0, 2 * 4 / 7, 2.0, 2.0]], rtol=1e-6)
  _, (d_params,) = pull(
    lambda p: quantizer.apply(p, state, 2 * x, train=False)[0],
    jnp.array([[1.0, 10.0, 100.0, 1000.0]]),
    params,
  )
  assert d_params.delta == 1100 - 1


def test_a_clip_that_is_not_positive_is_an_error():
  with pytest.raises(ValueError, match=r"clip: 0\.0 must be positive"):
    pact(8, clip=0.0)
