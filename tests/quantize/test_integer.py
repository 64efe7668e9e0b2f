"""Integer arithmetic against golden vectors and against int64 in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.ops.dispatch import ANYWHERE, traced_for
from jaxcompress.quantize.integer import xnnpack
from jaxcompress.quantize.integer.convolve import EXACT, accumulate, reach, split_exactly
from jaxcompress.quantize.integer.functions import GATES, clip_range
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS

pytestmark = pytest.mark.usefixtures("optimized")

ONE = Grid(np.float32(1), 0)


@pytest.fixture(scope="module")
def integer_golden(golden):
  return golden("quantize/integer")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["conv3x3", "depthwise3x3", "pointwise"])
@pytest.mark.parametrize(
  ("kernels", "expected"),
  [("xnnpack", "y_float_half_even"), ("reference", "y_double"), ("tflm", "y_double")],
)
def test_convolutions_are_those_of_the_golden_vectors(integer_golden, case, kernels, expected):
  g = {k.split("/")[1]: v for k, v in integer_golden.items() if k.startswith(f"{case}/")}
  source = Grid(np.float32(g["sx"]), int(g["zx"]))
  output = Grid(np.float32(g["sy"]), int(g["zy"]))
  total = accumulate(
    jnp.asarray(g["xq"], jnp.float32) - source.zero_point,
    jnp.asarray(g["wq"]),
    split_exactly(g["wq"], source),
    stride=int(g["stride"]),
    groups=int(g["groups"]),
  )
  total = total + g["bq"].reshape(1, 1, 1, -1)
  np.testing.assert_array_equal(total, g["acc"])
  rules = KERNELS[kernels]
  scales, reach = g["sw"].reshape(1, 1, 1, -1), np.abs(g["acc"]).max()
  y = rules.convolution(source, scales, output, reach)(total)
  y = np.clip(y, *clip_range("relu6", output, rules.ceiling)) + output.zero_point
  np.testing.assert_array_equal(y, g[expected])


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
def test_additions_are_those_of_the_golden_vectors(integer_golden, kernels):
  s1, z1, s2, z2, so, zo = integer_golden["add/params_s1_z1_s2_z2_so_zo"]
  left, right, output = (Grid(np.float32(s), int(z)) for s, z in ((s1, z1), (s2, z2), (so, zo)))
  y = KERNELS[kernels].addition(left, right, output)(
    jnp.asarray(integer_golden["add/q1"] - left.zero_point, jnp.float32),
    jnp.asarray(integer_golden["add/q2"] - right.zero_point, jnp.float32),
  )
  y = np.clip(y, output.low, output.high) + output.zero_point
  np.testing.assert_array_equal(y, integer_golden["add/y"])


def direct_conv(x, w, stride, pads, groups):
  """Convolution in int64, by definition."""
  kh, kw, depth, out = w.shape
  x = np.pad(x.astype(np.int64), ((0, 0), *pads, (0, 0)))
  rows = (x.shape[1] - kh) // stride + 1
  columns = (x.shape[2] - kw) // stride + 1
  y = np.zeros((x.shape[0], rows, columns, out), np.int64)
  for o in range(out):
    first = o // (out // groups) * depth
    for i in range(rows):
      for j in range(columns):
        window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
        product = window[..., first : first + depth] * w[..., o].astype(np.int64)
        y[:, i, j, o] = product.sum((1, 2, 3))
  return y


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shape", "groups", "stride"),
  [
    ((3, 3, 1000, 2), 1, 1),
    ((1, 1, 1500, 3), 1, 2),
    ((3, 3, 300, 4), 2, 1),
    ((5, 5, 1, 6), 6, 2),
    ((3, 3, 1, 8), 4, 1),
  ],
)
def test_sums_beyond_two_to_the_24_are_exact(shape, groups, stride):
  grid = Grid(np.float32(1), -128)
  w = np.full(shape, 127, np.int8)
  w[..., -1] *= -1
  x = np.full((1, 4, 4, shape[2] * groups), 255)
  x[:, 1, 2] = 254
  parts = split_exactly(w, grid)
  pads = ((1, 1), (1, 1))
  y = accumulate(
    jnp.asarray(x, jnp.float32), jnp.asarray(w), parts, stride=stride, padding=pads, groups=groups
  )
  expected = direct_conv(x, w, stride, pads, groups)
  np.testing.assert_array_equal(y, expected)
  assert (len(parts) > 1) == (np.abs(expected).max() > EXACT)


def test_a_long_matrix_product_is_exact():
  rng = np.random.default_rng(0)
  w = rng.integers(100, 128, (3000, 5)).astype(np.int8)
  x = rng.integers(200, 256, (2, 3000))
  parts = split_exactly(w, Grid(np.float32(1), -128))
  assert len(parts) > 1
  y = accumulate(jnp.asarray(x, jnp.float32), jnp.asarray(w), parts)
  np.testing.assert_array_equal(y, x @ w.astype(np.int64))


def test_parts_of_very_different_lengths_are_exact():
  rng = np.random.default_rng(0)
  w = (rng.integers(-127, 128, (9000, 3)) * (rng.random((9000, 1)) < 0.3)).astype(np.int8)
  w[:2500], w[2500:5000] = 127, 0
  x = rng.choice([-255, -254, 0], (4, 9000))
  parts = split_exactly(w, Grid(np.float32(1), 127))
  lengths = {stop - start for start, stop in parts}
  assert len(parts) > 4 and max(lengths) > 5 * min(lengths)
  y = jax.jit(lambda x, w: accumulate(x, w, parts))(jnp.asarray(x, jnp.float32), w)
  np.testing.assert_array_equal(y, x @ w.astype(np.int64))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  seed=st.integers(0, 2**32 - 1),
  channels=st.integers(1, 2000),
  kernel=st.sampled_from([1, 3, 5]),
  zero_point=st.integers(-128, 127),
)
def test_parts_cover_all_channels_and_stay_exact(seed, channels, kernel, zero_point):
  rng = np.random.default_rng(seed)
  w = rng.integers(-127, 128, (kernel, kernel, channels, 2)).astype(np.int8)
  grid = Grid(np.float32(1), zero_point)
  parts = split_exactly(w, grid)
  assert [parts[0][0], *(stop for _, stop in parts)] == [
    0,
    *(start for start, _ in parts[1:]),
    channels,
  ]
  for start, stop in parts:
    assert stop - start > 0
    assert reach(w, grid)[:, start:stop].sum(1).max() < EXACT


def test_a_kernel_whose_single_channel_is_too_large_is_refused():
  with pytest.raises(ValueError, match="use a smaller kernel"):
    split_exactly(np.full((25, 25, 1, 1), 127, np.int8), Grid(np.float32(1), -128))


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu", ANYWHERE])
@pytest.mark.parametrize(
  ("shape", "groups", "stride", "padding"),
  [
    ((3, 3, 6, 9), 1, 1, ((1, 1), (1, 1))),
    ((3, 3, 2, 9), 3, 2, ((1, 1), (1, 1))),
    ((5, 5, 1, 12), 6, 2, ((2, 2), (2, 2))),
    ((1, 1, 6, 5), 1, 2, ((0, 0), (0, 0))),
    ((2, 2, 3, 4), 2, 3, ((2, 0), (0, 5))),
  ],
)
def test_sums_are_exact_on_whatever_they_are_traced_for(target, shape, groups, stride, padding):
  rng = np.random.default_rng(0)
  x, w = rng.integers(-255, 256, (2, 7, 8, 6)), rng.integers(-127, 128, shape).astype(np.int8)
  parts = split_exactly(w, ONE)

  def run(x, w):
    return accumulate(x, w, parts, stride=stride, padding=padding, groups=groups)

  with traced_for(target):
    lowered = jax.jit(run).lower(jnp.asarray(x, jnp.float32), w)
  text, y = lowered.as_text(), lowered.compile()(jnp.asarray(x, jnp.float32), w)
  np.testing.assert_array_equal(y, direct_conv(x, w, stride, padding, groups))
  assert "stablehlo.convolution" not in text or target == "cpu"
  products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
  assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_halves_are_rounded_to_even():
  y = xnnpack.Factor(jnp.float32(0.5))(jnp.arange(-5, 6))
  np.testing.assert_array_equal(y, [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2])


def test_xnnpack_alone_rounds_the_ceiling_of_relu6_after_the_zero_point_was_added():
  scale = np.float32(6 / 100.5)
  assert np.float32(6) / scale == 100.5
  for kernels, zero_point, highest in (
    ("xnnpack", -128, 100),  # -27.5 to -28
    ("xnnpack", -127, 101),  # -26.5 to -26
    ("reference", -128, 101),  # 100.5 to 101
    ("tflm", -127, 101),
  ):
    grid = Grid(scale, zero_point)
    assert clip_range("relu6", grid, KERNELS[kernels].ceiling)[1] == highest


# side, input scale, output scale, zero points, sum of codes: one fused rounding gives another mean
FUSED_DIFFERS = [
  (7, 0.08071617782115936, 0.08818676322698593, 7, 27, -4609),
  (7, 0.09224483370780945, 0.029762202873826027, 105, -103, 4979),
  (5, 0.0970085859298706, 0.06921758502721786, -18, -116, 2413),
  (8, 0.09041090309619904, 0.032759178429841995, -122, 23, -6034),
  (8, 0.096549853682518, 0.2622303068637848, 14, 59, 5850),
]


@pytest.mark.parametrize(("side", "s_in", "s_out", "z_in", "z_out", "total"), FUSED_DIFFERS)
def test_a_mean_is_not_contracted_into_a_fused_multiply_add(side, s_in, s_out, z_in, z_out, total):
  source, output = Grid(np.float32(s_in), z_in), Grid(np.float32(s_out), z_out)
  constants = xnnpack.mean(source, output, side**2)
  expected = np.rint(np.float32(total) * constants.multiplier + constants.zero)
  fused = np.float64(total) * np.float64(constants.multiplier) + np.float64(constants.zero)
  assert np.rint(np.float32(fused)) != expected
  q = np.full(side**2, total // side**2)
  q[: total % side**2] += 1
  x = jnp.asarray(q - z_in, jnp.float32).reshape(1, side, side, 1)
  y = jax.jit(lambda rule, x: rule(x))(constants, x)
  assert y.item() + z_out == expected


@pytest.mark.parametrize("ratio", [2.0**-11, 256.0])
def test_additions_that_the_device_refuses_are_refused(ratio):
  with pytest.raises(ValueError, match=r"outside 0\.000977 to 256"):
    xnnpack.addition(Grid(np.float32(ratio), 0), ONE, ONE)


def test_activation_functions_without_arithmetic_are_refused_with_the_way_out():
  with pytest.raises(ValueError, match=r"'cos' has no integer arithmetic; use one of relu, relu6"):
    clip_range("cos", ONE, xnnpack.ceiling)
  with pytest.raises(ValueError, match=r"without act followed by Activation\('hard_swish'\)"):
    clip_range("hard_swish", ONE, xnnpack.ceiling)
  with pytest.raises(ValueError, match=r"hard_sigmoid has Grid.* whose ends are 0 and 1"):
    clip_range("hard_sigmoid", GATES[8].output._replace(zero_point=0), xnnpack.ceiling)
