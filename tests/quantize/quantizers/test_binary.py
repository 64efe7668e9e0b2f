"""Binary weights and activations against their golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.binary import (
  approx_sign,
  binary_activations,
  bwn,
  bwn_weights,
  clip_sign,
  rprelu,
  rsign,
  xnor_activations,
)

GRADIENTS = {
  "identity": "dw_identity",
  "clip": "dw_clip_no_alpha",
  "clip_scaled": "dw_clip_alpha_const",
  "xnor": "dw_xnor_paper_eq",
  "through_scale": "dw_autograd_through_alpha",
}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_weights_are_the_golden_ones(golden, cases, pull, agree, gradient):
  case = cases(golden("quantize/binary"))["bwn"]
  y, (dw,) = pull(lambda w: bwn_weights(w, gradient), case["g"], case["w"])
  agree(y, case["y"], "value")
  agree(dw, case[GRADIENTS[gradient]], "gradient")
  scale, _ = bwn(gradient=gradient).grid((), (), case["w"])
  agree(scale.reshape(-1), case["alpha"], "value")


@pytest.mark.parametrize(
  ("function", "key"), [(approx_sign, "dx_approxsign"), (clip_sign, "dx_clip")]
)
def test_signs_are_the_golden_ones(golden, cases, pull, agree, function, key):
  case = cases(golden("quantize/binary"))["sign"]
  y, (dx,) = pull(function, case["g"], case["x"])
  agree(y, case["y"], "value")
  agree(dx, case[key], "gradient")


def test_signs_about_a_threshold_are_the_golden_ones(golden, cases, pull, agree):
  groups = cases(golden("quantize/binary"))
  sign, case = groups["sign"], groups["rsign"]
  y, (dx, d_threshold) = pull(rsign, sign["g"], sign["x"], case["threshold"])
  agree(y, case["y"], "value")
  agree(dx, case["dx"], "gradient")
  agree(d_threshold, case["dthreshold"], "sum")


def test_the_shifted_rectifier_is_the_golden_one(golden, cases, pull, agree):
  groups = cases(golden("quantize/binary"))
  case = groups["rprelu"]
  g = case.get("g", groups["sign"]["g"])
  y, (dx, *slopes) = pull(rprelu, g, case["x"], case["gamma"], case["beta"], case["zeta"])
  agree(y, case["y"], "value")
  agree(dx, case["dx"], "gradient")
  for slope, name in zip(slopes, ("dgamma", "dbeta", "dzeta"), strict=True):
    agree(slope, case[name], "sum")


@pytest.mark.parametrize("function", [approx_sign, clip_sign, bwn_weights])
def test_zero_is_positive(function):
  assert jnp.all(function(jnp.array([[0.0], [-0.0], [3.0]])) > 0)


def test_scaled_signs_keep_each_positions_magnitude_and_a_clipped_gradient(pull):
  quantizer = xnor_activations()
  x = jnp.array([[[0.5, -0.7, 3.0], [0.1, 0.1, -0.1]]])
  y, (dx,) = pull(lambda x: quantizer.apply((), (), x, train=True)[0], jnp.ones_like(x), x)
  np.testing.assert_allclose(y, [[[1.4, -1.4, 1.4], [0.1, 0.1, -0.1]]], rtol=1e-5)
  np.testing.assert_allclose(dx, [[[1.4, 1.4, 0.0], [0.1, 0.1, 0.1]]], rtol=1e-5)


@pytest.mark.parametrize(
  "make",
  [
    lambda: bwn(gradient="none"),
    lambda: binary_activations(gradient="none"),
    lambda: bwn_weights(jnp.ones((2, 2)), "none"),
    lambda: jax.grad(lambda w: bwn_weights(w, "none").sum())(jnp.ones((2, 2))),
  ],
)
def test_an_unknown_gradient_is_an_error_that_lists_the_known_ones(make):
  with pytest.raises(ValueError, match=r"gradient: 'none' is unknown; it is one of .*clip"):
    make()
