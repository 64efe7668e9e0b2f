"""TWN and TTQ against their golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.ternary import ttq, ttq_weights, twn, twn_weights


@pytest.mark.parametrize("kind", ["tensor", "channel"])
def test_ternary_weights_are_the_golden_ones(golden, cases, pull, agree, kind):
  case = cases(golden("quantize/ternary"))[f"twn_{kind}"]
  per_channel = kind == "channel"
  y, (dw,) = pull(lambda w: twn_weights(w, per_channel), case["g"], case["w"])
  agree(y, case["y"], "value")
  agree(dw, case["dw_ste_identity"], "gradient")
  scale, _ = twn(per_channel=per_channel).grid((), (), case["w"])
  agree(scale.reshape(-1), np.broadcast_to(case["alpha"], 8), "value")
  np.testing.assert_array_equal(np.round(y / scale), case["t"])


@pytest.mark.parametrize(("gradient", "key"), [("chain", "dWn_chain"), ("paper", "dWn_paper_eq7")])
def test_trained_levels_are_the_golden_ones(golden, cases, pull, agree, gradient, key):
  case = cases(golden("quantize/ternary"))["ttq"]
  y, (dw, d_above, d_below) = pull(
    lambda w, above, below: ttq_weights(w, above, below, float(case["t"]), gradient),
    case["g"],
    case["w"],
    case["Wp"],
    case["Wn"],
  )
  agree(y, case["y"], "value")
  agree(dw, case["dw_eq8"], "gradient")
  agree(d_above, case["dWp"], "sum")
  agree(d_below, case[key], "sum")


def test_the_quantizer_rounds_the_smaller_level_to_int8_and_trains_both(golden, cases, agree):
  case = cases(golden("quantize/ternary"))["ttq"]
  w, quantizer = case["w"], ttq()
  params, state = quantizer.init(w)
  state = state._replace(above=case["Wp"], below=case["Wn"], count=jnp.int32(1))

  def total(params):
    return jnp.sum(quantizer.apply(params, state, w, train=True)[0] * case["g"])

  y, _ = quantizer.apply(params, state, w, train=False)
  np.testing.assert_allclose(np.unique(y), [-0.9 * 85 / 127, 0, 0.9], rtol=1e-5)
  slopes = jax.grad(total)(params)
  agree(slopes.above, case["dWp"], "sum")
  agree(slopes.below, case["dWn_chain"], "sum")


def test_levels_start_at_the_mean_magnitudes_of_the_first_kernel_in_training():
  w = jnp.array([[-1.0, 0.01], [1.0, 2.0]])
  quantizer = ttq()
  params, state = quantizer.init(w)
  _, state = quantizer.apply(params, state, 3 * w, train=jnp.bool_(True))
  assert (state.above, state.below, state.count) == (4.5, 3.0, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_kernel_of_one_sign_is_rounded_to_its_own_mean(sign):
  w = sign * jnp.array([[1e-3], [3e-3]])
  quantizer = ttq()
  y, _ = quantizer.apply(*quantizer.init(w), w, train=True)
  np.testing.assert_allclose(y, sign * np.full((2, 1), 2e-3), rtol=1e-5)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: ttq(threshold=1.0), "threshold: 1.0 is out of range"),
    (lambda: ttq(gradient="none"), "gradient: 'none' is unknown"),
    (lambda: ttq_weights(jnp.ones(2), 1.0, 1.0, 0.05, "none"), "gradient: 'none' is unknown"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
