"""LSQ and LSQ+ against their golden values and the papers' rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.quantizers.lsq import lsq, lsq_activations, lsq_plus, lsq_plus_activations
from jaxcompress.quantize.quantizers.steps import round_to_step

BITS = (8, 4, 3, 2)


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize("bits", BITS)
def test_values_and_gradients_are_the_golden_ones(golden, cases, pull, agree, kind, bits):
  case = cases(golden("quantize/lsq"))[f"{kind}{bits}"]
  low, high = int(case["Qn"]), int(case["Qp"])
  for factor, key in ((1.0, "ds_raw"), (case["grad_scale"], "ds")):
    y, (dx, ds) = pull(
      lambda x, s, factor=factor: round_to_step(x, s, low, high, float(factor)),
      case["g"],
      case["x"],
      case["s"],
    )
    agree(y, case["y"], "value")
    agree(dx, case["dx"], "gradient")
    agree(ds, case[key], "sum")


def test_per_channel_values_and_gradients_are_the_golden_ones(golden, cases, pull, agree):
  case = cases(golden("quantize/lsq"))["chan4"]
  w, step = case["w"], case["s"].reshape(1, 1, 1, -1)
  factor = float(case["grad_scale"])
  assert factor == pytest.approx((w.size / w.shape[-1] * 7) ** -0.5)
  y, (dw, ds) = pull(lambda w, s: round_to_step(w, s, -8, 7, factor), case["g"], w, step)
  agree(y, case["y"], "value")
  agree(dw, case["dw"], "gradient")
  agree(ds.reshape(-1), case["ds"], "sum")


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_lsq_plus_values_and_gradients_are_the_golden_ones(golden, cases, pull, agree, bits):
  case = cases(golden("quantize/lsqplus"))[f"u{bits}"]
  low, high = int(case["n"]), int(case["p"])
  y, (dx, ds, db) = pull(
    lambda x, s, b: round_to_step(x, s, low, high, offset=b),
    case["g"],
    case["x"],
    case["s"],
    case["beta"],
  )
  agree(y, case["y"], "value")
  agree(dx, case["dx"], "gradient")
  agree(ds, case["ds_raw"], "sum")
  agree(db, case["dbeta_raw"], "sum")


def test_the_quantizers_gradients_are_those_of_the_formula(golden, cases, agree):
  case = cases(golden("quantize/lsq"))["chan4"]
  quantizer = lsq(4, narrow=False)
  params, state = quantizer.init(case["w"])
  state = state._replace(base=0.7 * case["s"].reshape(1, 1, 1, -1), count=jnp.int32(3))
  params = params._replace(delta=0.3 * case["s"].reshape(1, 1, 1, -1))

  def total(params, w):
    return jnp.sum(quantizer.apply(params, state, w, train=True)[0] * case["g"])

  d_params, dw = jax.grad(total, (0, 1))(params, case["w"])
  agree(dw, case["dw"], "gradient")
  agree(d_params.delta.reshape(-1), case["ds"], "sum")


@pytest.mark.parametrize("bits", BITS)
def test_the_step_starts_where_the_paper_says(golden, cases, bits):
  case = cases(golden("quantize/lsq"))
  signed, unsigned = case[f"s{bits}"], case[f"u{bits}"]
  weights = lsq(bits, per_channel=False, narrow=bits == 8)
  _, state = weights.init(signed["x"])
  np.testing.assert_allclose(state.base, signed["s_init_2meanabs_over_sqrtQp"], rtol=1e-5)
  quantizer = lsq_activations(bits)
  for arrays, nonnegative in ((signed, False), (unsigned, True)):
    x = np.abs(arrays["x"]) if nonnegative else arrays["x"]
    _, state = quantizer.apply(*quantizer.init(x), x, train=True, nonnegative=nonnegative)
    np.testing.assert_allclose(state.base, 2 * np.abs(x).mean() / arrays["Qp"] ** 0.5, rtol=1e-5)
    _, zero = quantizer.grid(quantizer.init(x)[0], state, None)
    assert zero == (-(2 ** (bits - 1)) if nonnegative else 0)


def test_lsq_plus_weights_start_at_three_deviations():
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 8)) + 0.5
  _, state = lsq_plus(4).init(w)
  mean, deviation = np.mean(w, (0, 1, 2)), np.std(w, (0, 1, 2))
  expected = np.maximum(abs(mean - 3 * deviation), abs(mean + 3 * deviation)) / 8
  np.testing.assert_allclose(state.base.reshape(-1), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [lsq, lsq_plus])
def test_a_late_start_measures_the_kernel_as_it_then_is(make):
  quantizer = make(4)
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
  params, state = quantizer.init(w)
  _, first = quantizer.apply(params, state, 100 * w, train=jnp.bool_(True))
  np.testing.assert_allclose(first.base, 100 * state.base, rtol=1e-5)
  _, second = quantizer.apply(params, first, w, train=jnp.bool_(True))
  np.testing.assert_array_equal(second.base, first.base)
  assert second.count == 2


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_an_outlier_is_clipped_where_that_costs_less(bits):
  x = jnp.append(jax.random.normal(jax.random.key(0), (4000,)), 30.0).reshape(1, -1)
  errors = []
  for least_error in (True, False):
    quantizer = lsq_plus_activations(bits, least_error=least_error)
    y, _ = quantizer.apply(*quantizer.init(x), x, train=True)
    errors.append(float(jnp.mean((y - x) ** 2)))
  assert errors[0] <= errors[1]
  if bits == 2:
    assert errors[0] < 0.95 * errors[1]


def test_zero_is_a_level_of_deployable_lsq_plus_whatever_its_offset():
  quantizer = lsq_plus_activations(4)
  x = jnp.array([[-0.613, 0.0, 1.777]])
  params, state = quantizer.init(x)
  _, state = quantizer.apply(params, state, x, train=True)
  for offset in (-0.3, 0.0137, 5.0, -50.0):
    shifted = params._replace(offset=jnp.float32(offset))
    y, _ = quantizer.apply(shifted, state, x, train=False)
    assert y[0, 1] == 0.0
    assert quantizer.levels.low <= quantizer.grid(shifted, state, x)[1] <= quantizer.levels.high


def test_sixteen_bits_lie_around_zero_and_lose_next_to_nothing():
  quantizer = lsq_activations(16)
  x = jnp.abs(jax.random.normal(jax.random.key(0), (4, 100)))
  params, state = quantizer.init(x)
  y, state = quantizer.apply(params, state, x, train=True, nonnegative=True)
  scale, zero = quantizer.grid(params, state)
  assert (zero, quantizer.levels.low, quantizer.levels.high) == (0.0, -(2**15), 2**15 - 1)
  assert jnp.max(jnp.abs(y - x)) <= 0.501 * scale < 0.01


@pytest.mark.slow
def test_a_lost_step_still_learns():
  quantizer = lsq(8)
  w = jnp.array([[1.0], [-2.0]])
  params, state = quantizer.init(w)
  lost = params._replace(delta=-2 * state.base)
  total = lambda p: jnp.sum((quantizer.apply(p, state, w, train=True)[0] - w) ** 2)  # noqa: E731
  assert jax.grad(total)(lost).delta[0, 0] < 0


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: lsq(1), "bits: 1 with narrow=True"),
    (lambda: lsq(8, narrow=False), "bits: 8 with narrow=False"),
    (lambda: lsq_activations(17), "bits: 17 is out of range; it must be 2 to 16"),
    (lambda: lsq_plus_activations(1), "bits: 1 is out of range"),
    (lambda: lsq_plus_activations(16), "2 to 8 here; ema_range, .* have up to 16"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
