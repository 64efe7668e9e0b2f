"""Grids and fake quantization against PyTorch's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcompress.quantize import fake_quant, levels
from jaxcompress.quantize.fake_quant import Levels, affine

FORMATS = {
  "sym_full": {"symmetric": True},
  "sym_narrow": {"symmetric": True, "narrow": True},
  "asym_u": {"symmetric": False, "signed": False},
  "asym_s": {"symmetric": False},
}


def _cases(arrays, suffix):
  return sorted({key.removesuffix(suffix) for key in arrays if key.endswith(suffix)})


@pytest.fixture(scope="module")
def tensor_golden(golden):
  return golden("quantize/fakequant_tensor")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_per_tensor_values_and_gradients_are_those_of_pytorch(tensor_golden, kind, bits):
  case = {
    key.split("/")[1]: value
    for key, value in tensor_golden.items()
    if key.startswith(f"{kind}_{bits}/")
  }
  to = levels(bits, **FORMATS[kind])
  assert (to.low, to.high) == (case["qmin"], case["qmax"])
  zero = jnp.float32(case["zp"])
  y, pull = jax.jit(lambda x: jax.vjp(lambda x: fake_quant(x, case["scale"], zero, to), x))(
    case["x"]
  )
  np.testing.assert_array_equal(jnp.round(y / case["scale"]) + zero, case["q"])
  np.testing.assert_allclose(y, case["y"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(pull(case["g"])[0], case["dx_codemask"], rtol=1e-4, atol=1e-5)


def test_per_channel_values_and_gradients_are_those_of_pytorch(golden):
  arrays = golden("quantize/fakequant_channel")
  cases = _cases(arrays, "/w")
  assert len(cases) >= 27
  for case in cases:
    kind, bits = case.split("/")[1].rsplit("_", 1)
    to = levels(int(bits), **FORMATS[kind])
    w, g = arrays[f"{case}/w"], arrays[f"{case}/g"]
    shape = (1,) * (w.ndim - 1) + (-1,)
    scale = arrays[f"{case}/scale"].reshape(shape)
    zero = arrays[f"{case}/zp"].astype(np.float32).reshape(shape)
    y, pull = jax.vjp(lambda w, s=scale, z=zero, to=to: fake_quant(w, s, z, to), w)
    np.testing.assert_array_equal(jnp.round(y / scale) + zero, arrays[f"{case}/q"])
    np.testing.assert_allclose(y, arrays[f"{case}/y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(g)[0], arrays[f"{case}/dw_codemask"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_scales_and_zero_points_are_the_golden_ones(golden, kind, bits):
  arrays = golden("quantize/qparams")
  low, high = arrays["ranges"].T
  scale, zero = jax.jit(lambda a, b: affine(a, b, levels(bits, **FORMATS[kind])))(low, high)
  np.testing.assert_allclose(scale, arrays[f"{kind}_{bits}/scale"], rtol=1e-6)
  np.testing.assert_array_equal(zero, arrays[f"{kind}_{bits}/zp"])


def test_ties_go_to_even_before_the_zero_point_is_added(tensor_golden):
  cases = _cases(tensor_golden, "/y_even_then_zp")
  assert len(cases) == 5
  for case in cases:
    names = ("x", "scale", "zp", "qmin", "qmax", "y_even_then_zp", "dx_codemask")
    x, scale, zero, low, high, expected, slope = (tensor_golden[f"{case}/{n}"] for n in names)
    to = Levels(int(low), int(high), symmetric=False)
    zero = zero.astype(np.float32)
    y, pull = jax.vjp(lambda x, s=scale, z=zero, to=to: fake_quant(x, s, z, to), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], slope)


def test_a_value_on_the_edge_keeps_its_whole_gradient(tensor_golden):
  x, scale = tensor_golden["edge_narrow8/x"], tensor_golden["edge_narrow8/scale"]
  to = levels(8, symmetric=True, narrow=True)
  edge = np.isclose(np.abs(x / scale), 127)
  assert edge.any()
  grad = jax.grad(lambda x: fake_quant(x, scale, 0.0, to).sum())(x)
  np.testing.assert_array_equal(np.asarray(grad)[edge], 1.0)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
  hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)),
  st.integers(2, 8),
  st.booleans(),
)
def test_rounding_twice_changes_nothing(x, bits, symmetric):
  to = levels(bits, symmetric=symmetric)
  scale, zero = affine(x.min(), x.max(), to)
  once = fake_quant(x, scale, zero, to)
  np.testing.assert_array_equal(once, fake_quant(once, scale, zero, to))
  assert jnp.all(jnp.isfinite(once))
  assert jnp.max(jnp.abs(once - x)) <= scale * (0.5 if not symmetric else 1.01) * (1 + 1e-5)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e4, 1e4, width=32), st.floats(0, 1e4, width=32), st.integers(2, 8))
def test_zero_is_always_on_the_grid(low, width, bits):
  to = levels(bits, symmetric=False)
  scale, zero = affine(jnp.float32(low), jnp.float32(low + width), to)
  assert float(fake_quant(jnp.float32(0.0), scale, zero, to)) == 0.0
  assert to.low <= float(zero) <= to.high
  assert np.isfinite(scale)
  assert scale > 0


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_an_error(bits):
  with pytest.raises(ValueError, match=f"bits: {bits}"):
    levels(bits, symmetric=True)
