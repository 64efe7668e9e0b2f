"""Element-wise gradient scaling against the paper's formula in float64."""

import numpy as np
import pytest

from jaxcompress.quantize.quantizers.lsq import ewgs, ewgs_activations
from jaxcompress.quantize.quantizers.steps import round_to_step


@pytest.fixture
def drawn():
  rng = np.random.default_rng(0)
  return rng.normal(size=(16, 24)).astype(np.float32), rng.normal(size=(16, 24)).astype(np.float32)


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-7, 7), (-1, 1), (0, 3)])
@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_a_trained_range_has_the_derivative_of_its_formula(drawn, pull, agree, low, high, factor):
  x, g = drawn
  step = np.float32(1.7 / high)
  y, (dx, ds) = pull(lambda x, s: round_to_step(x, s, low, high, 0.1, factor=factor), g, x, step)
  u = x.astype(np.float64) / step
  inside = (u >= low) & (u <= high)
  code = np.round(np.clip(u, low, high))
  through = g * (1 + factor * np.sign(g) * (u - code) / (high - low)) * inside
  agree(y, code * step, "value")
  agree(dx, through, "gradient")
  # y = code(x / s) * s: directly, and through the position
  agree(ds, 0.1 * np.sum(g * code - through * u), "sum")


def test_ranges_start_at_three_root_mean_squares(drawn):
  x, _ = drawn
  _, state = ewgs(4).init(x)
  np.testing.assert_allclose(state.base[0] * 7, 3 * np.sqrt((x**2).mean(0)), rtol=1e-5)
  quantizer = ewgs_activations(4)
  _, state = quantizer.apply(*quantizer.init(x), x, train=True)
  np.testing.assert_allclose(state.base * 7, 3 * np.sqrt((x**2).mean()), rtol=1e-5)


@pytest.mark.parametrize("make", [ewgs, ewgs_activations])
def test_a_negative_factor_is_an_error(make):
  with pytest.raises(ValueError, match=r"factor: -0.1 must not be negative"):
    make(factor=-0.1)
