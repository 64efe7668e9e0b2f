"""Layers that a kernel rule accepts are computed without overflow, by the runtime and by us alike.

The runtimes' arithmetic is written here a second time, by definition, in Python's integers; every
intermediate result is checked to be an int32 where the runtime's is one.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.quantize.integer.convolve import split_exactly
from jaxcompress.quantize.integer.grid import INT32, STEPS, Grid, check_below, reach_of
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.integer.swish import hard_swish_table
from jaxcompress.quantize.integer.wide import LARGEST_SUM, Bytes, accumulate_wide, wide

pytestmark = pytest.mark.usefixtures("optimized")

KINDS = [(name, 8) for name in ("xnnpack", "reference", "tflm", "onnxruntime")]
KINDS += [(name, 16) for name in ("reference", "tflm")]
GEMMLOWP = [kind for kind in KINDS if kind[0] in ("reference", "tflm")]
few = settings(max_examples=60, deadline=None, derandomize=True)
exponents = st.floats(-34, 21)
run = jax.jit(lambda rule, *inputs: rule(*inputs))


def int32(value: int) -> int:
  assert -INT32 <= value < INT32
  return int(value)


def half_away(numerator: int, power: int) -> int:
  """``numerator / 2**power``, halves away from zero."""
  half = (1 << power) >> 1
  return int(math.copysign(1, numerator)) * ((abs(numerator) + half) >> power)


def fixed_point(real: float) -> tuple[int, int]:
  """The 31-bit factor and the exponent of TFLite's ``QuantizeMultiplier``."""
  mantissa, exponent = math.frexp(real)
  q31 = math.floor(mantissa * 2**31 + 0.5)
  if q31 == 2**31:
    q31, exponent = q31 // 2, exponent + 1
  return (q31, exponent) if exponent >= -31 else (0, 0)


def scaled(value: int, q31: int, exponent: int) -> int:
  """gemmlowp's two roundings."""
  shifted = int32(value << max(exponent, 0))
  return int32(half_away(int32((shifted * q31 + 2**30) >> 31), max(-exponent, 0)))


def scaled_16(value: int, q31: int, exponent: int) -> int:
  """TFLite's one rounding of int64 accumulators."""
  q15 = (q31 + 2**15) >> 16 if q31 < 0x7FFF0000 else 0x7FFF
  shift = 15 - exponent
  product = value * q15 + (1 << (shift - 1))
  assert abs(value) < 2**47 and abs(product) < 2**63
  return int32(product >> shift)


def in_float32(value: int, multiplier: float) -> int:
  """XNNPACK's: a float32 product, half to even, which must be an int32 beside a zero point."""
  return int32(int(np.rint(np.float32(value) * np.float32(multiplier))))


def grid(exponent: float, zero_point: int, bits: int) -> Grid:
  return Grid(np.float32(2.0**exponent), zero_point if bits == 8 else 0, bits)


def edges(reach: int) -> list[int]:
  """Sixteen values of either sign, the farthest ones among them."""
  steps = (0, 1, reach // 7, reach // 3, reach // 2, reach - 1, reach, min(reach, 2**24 + 1))
  return [int(sign * step) for step in steps for sign in (-1, 1)]


def accepted(prepare, *args):
  """A rule, or None where it is refused."""
  try:
    return prepare(*args)
  except ValueError:
    return None


zero_points = st.integers(-128, 127)


@pytest.mark.parametrize("layer", ["convolution", "dense"])
@pytest.mark.parametrize(("name", "bits"), KINDS)
@given(
  reach=st.sampled_from([1, 255, 2**20 + 3, 2**30, 2**31 - 300, 2**31 - 1, 2**40, 2**45 - 1]),
  share=st.sampled_from([0.25, 0.4999, 0.999999, 1.0, 1.01]),
  down=st.floats(0, 40),
  scale=st.floats(-20, 20),
)
@few
def test_sums_of_layers_never_run_out_of_bits(name, bits, layer, reach, share, down, scale):
  reach = min(reach, LARGEST_SUM - 1 if bits == 16 else INT32 - 1)
  source, output = grid(scale, 3, bits), grid(2.0, 127, bits)
  ratio = 2.0**31 / reach * share * 2.0**-down
  scales = np.float32([[ratio * float(output.scale) / float(source.scale)]])
  rule = accepted(
    getattr(find_kernels(name, bits), layer), source, scales, output, np.array([[reach]])
  )
  if rule is None:
    return
  values = edges(reach)
  column = np.array(values, np.int64)[:, None]
  got = run(rule, wide(column) if bits == 16 else jnp.asarray(column, jnp.int32))
  real = float(source.scale) * float(scales[0, 0]) / float(output.scale)
  if bits == 16:
    expected = [scaled_16(v, *fixed_point(real)) for v in values]
  elif name in ("xnnpack", "onnxruntime"):
    multiplier = source.scale * scales[0, 0] / output.scale
    expected = [in_float32(v, multiplier) for v in values]
  elif name == "reference" and layer == "dense":
    exact = [v * Fraction(real) for v in values]
    expected = [int(math.copysign(math.floor(abs(v) + Fraction(1, 2)), v)) for v in exact]
  else:
    expected = [scaled(v, *fixed_point(real)) for v in values]
  for value in expected:
    int32(value + output.zero_point)
  clip = lambda steps: np.clip(steps, output.low, output.high)  # noqa: E731
  np.testing.assert_array_equal(clip(np.asarray(got)[:, 0]), clip(expected))


@pytest.mark.parametrize(("name", "bits"), KINDS)
@given(left=st.floats(-20, 20), right=st.floats(-20, 20), ratio=exponents, zero=zero_points)
@few
def test_products_never_run_out_of_bits(name, bits, left, right, ratio, zero):
  one, other = grid(left, -128, bits), grid(right, zero, bits)
  output = grid(left + right - ratio, 127, bits)
  rule = accepted(find_kernels(name, bits).product, one, other, output)
  if rule is None:
    return
  reach = reach_of(one) * reach_of(other)
  values = edges(int32(reach))
  got = np.asarray(run(rule, jnp.asarray(values, jnp.int32)))
  narrow = one.scale * other.scale / output.scale
  if name == "onnxruntime":
    zero_point = np.float32(-output.low)
    expected = [
      int(np.rint(np.float32(np.float32(v) * narrow) + zero_point) - zero_point) for v in values
    ]
  elif name == "xnnpack":
    expected = [in_float32(v, narrow) for v in values]
  else:
    real = float(one.scale) * float(other.scale) / float(output.scale)
    factor = fixed_point(float(narrow) if name == "reference" else real)
    expected = [scaled(v, *factor) for v in values]
  assert [int32(v + output.zero_point) for v in got.astype(int).tolist()] == [
    v + output.zero_point for v in expected
  ]


@pytest.mark.parametrize(("name", "bits"), KINDS)
@given(ratio=exponents, other=st.floats(-25, 0), zero=zero_points, swap=st.booleans())
@few
def test_additions_never_run_out_of_bits(name, bits, ratio, other, zero, swap):
  pair = grid(ratio, -128, bits), grid(ratio + other, zero, bits)
  one, two = pair[::-1] if swap else pair
  output = grid(0.0, 127, bits)
  rule = accepted(find_kernels(name, bits).addition, one, two, output)
  if rule is None:
    return
  ends = lambda g: [g.low, g.high, 0, g.low // 3]  # noqa: E731
  pairs = [(x, y) for x in ends(one) for y in ends(two)]
  x, y = (jnp.asarray(column, jnp.float32) for column in zip(*pairs, strict=True))
  got = np.clip(np.asarray(run(rule, x, y)), output.low, output.high).tolist()
  if name == "onnxruntime":
    a, b = float(one.scale / output.scale), float(two.scale / output.scale)
    np.testing.assert_allclose(
      got, [np.clip(a * x + b * y, output.low, output.high) for x, y in pairs], atol=0.51
    )
    return
  expected = []
  for x, y in pairs:
    if name == "xnnpack":
      ratios = [float(one.scale / output.scale), float(two.scale / output.scale)]
      shift = 21 - math.frexp(max(ratios))[1]
      a, b = (int32(int(np.rint(r * 2.0**shift))) for r in ratios)
      total = int32(int32(int32(x * a) + int32(y * b)) + (1 << (shift - 1))) >> shift
    else:
      twice, shift = 2 * max(float(one.scale), float(two.scale)), {8: 20, 16: 15}[bits]
      parts = [
        scaled(int32(v << shift), *fixed_point(float(g.scale) / twice))
        for v, g in ((x, one), (y, two))
      ]
      factor = fixed_point(twice / (2.0**shift * float(output.scale)))
      assert factor[1] <= 0  # the runtime aborts otherwise
      total = scaled(int32(sum(parts)), *factor)
    int32(total + output.zero_point)
    expected.append(int(np.clip(total, output.low, output.high)))
  assert got == expected


@pytest.mark.parametrize("name", ["reference", "tflm"])
@pytest.mark.parametrize(("before", "after"), [(16, 8), (8, 16)])
@given(ratio=st.floats(-34, 25), zero=zero_points)
@few
def test_changes_of_width_never_run_out_of_bits(name, before, after, ratio, zero):
  source, output = grid(ratio, zero, before), grid(0.0, 127, after)
  rule = accepted(find_kernels(name, after).requantization, source, output)
  if rule is None:
    assert ratio > 14
    return
  values = edges(reach_of(source))
  real = float(source.scale) / float(output.scale)
  expected = [scaled(v, *fixed_point(real)) for v in values]
  for value in expected:
    int32(value + output.zero_point)
  assert run(rule, jnp.asarray(values, jnp.int32)).tolist() == expected


@pytest.mark.parametrize(("name", "bits"), KINDS)
@given(
  ratio=exponents,
  zero=zero_points,
  count=st.sampled_from([1, 2, 49, 4096, 65_534, 65_535, 65_536, 8_388_606, 8_421_504, 2**24]),
)
@few
def test_sums_of_means_never_run_out_of_bits(name, bits, ratio, zero, count):
  source, output = grid(ratio, zero, bits), grid(0.0, 127, bits)
  rule = accepted(find_kernels(name, bits).mean, source, output, count)
  if rule is None:
    return
  totals = [int32(count * value) for value in (source.low, source.high, source.high - 1)]
  for total in totals:
    int32(total + count * source.zero_point)  # the sum of codes, which XNNPACK has
  if name in ("xnnpack", "onnxruntime"):
    for total in totals:
      assert abs(total * float(source.scale) / float(output.scale) / count) < STEPS
    return
  q31, exponent = fixed_point(float(source.scale) / float(output.scale))
  shift = min(count.bit_length() - 1, 31 + exponent, 32)
  expected = [scaled(int32(v), (q31 << shift) // count, exponent - shift) for v in totals]
  got = run(rule.factor, jnp.asarray(totals, jnp.int32)).tolist()
  assert got == expected
  for value in got:
    int32(value + output.zero_point)


@pytest.mark.parametrize(("name", "bits"), KINDS)
@given(exponent=st.floats(-120, 120), zero=zero_points, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_averages_are_those_by_definition(name, bits, exponent, zero, seed):
  source, counts = grid(exponent, zero, bits), np.array([4, 2, 3]).reshape(1, 1, 3, 1)
  rule = accepted(find_kernels(name, bits).average, source, counts)
  if rule is None:
    assert name == "onnxruntime" and exponent > 115
    return
  rng = np.random.default_rng(seed)
  codes = rng.choice([source.low, source.high, 0, 1, -1], (4, 1, 1, 3, 1)).astype(np.int64)
  for i, count in enumerate((4, 2, 3)):
    codes[count:, ..., i, :] = 0
  got = np.asarray(run(rule, [jnp.asarray(cell, jnp.float32) for cell in codes])).ravel()
  totals = codes.sum(0).ravel()
  if name == "onnxruntime":  # in float32, which rounds otherwise
    np.testing.assert_allclose(got, totals / [4, 2, 3], atol=0.51)
    return
  expected = []
  for total, count in zip(totals, (4, 2, 3), strict=True):
    of_codes = int32(int(total) + count * source.zero_point)
    whole = int32(abs(of_codes) + count // 2) // count
    expected.append(int(math.copysign(whole, of_codes)) - source.zero_point)
  assert got.astype(int).tolist() == expected


@pytest.mark.parametrize(("name", "bits"), KINDS)
@pytest.mark.parametrize("what", ["mean", "average"])
def test_too_many_cells_are_refused_with_the_most_that_fit(name, bits, what):
  source = grid(0.0, 0, bits)
  most = {8: (2**31 - 1) // 129, 16: 65_534}[bits]

  def prepare(cells):
    if what == "mean":
      return find_kernels(name, bits).mean(source, source, cells)
    return find_kernels(name, bits).average(source, np.full((1, 1, 1, 1), cells))

  if (name, what) == ("onnxruntime", "average"):
    return  # it adds up in float32
  prepare(most)
  with pytest.raises(ValueError, match=f"use at most {most} cells with {bits} bits"):
    prepare(most + 1)


@pytest.mark.parametrize("first", [False, True])
def test_bounds_are_told_from_what_is_just_below(first):
  for limit in (INT32, LARGEST_SUM, STEPS):
    check_below(limit, [limit - 1, 1 - limit], "sums", "stop")
    with pytest.raises(ValueError, match=rf"sums reach {limit}, .* below {limit} only; stop\."):
      check_below(limit, [0, -limit if first else limit], "sums", "stop")
  with pytest.raises(ValueError, match="sums reach nan"):
    check_below(INT32, np.nan, "sums", "stop")


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_of_bytes_are_exact_however_many_parts_there_are(sign):
  rng = np.random.default_rng(0)
  w = (sign * rng.integers(100, 128, (300, 2))).astype(np.int8)
  x = rng.choice([-(2**15), 2**15 - 1, -1, 255, 256], (3, 300))
  parts = tuple((i, i + 1) for i in range(300))  # more than are added up at once
  total = jax.jit(lambda x, w: accumulate_wide(x, w, parts))(jnp.asarray(x, jnp.float32), w)
  got = np.asarray(total.high, np.int64) * 2**15 + np.asarray(total.low, np.int64)
  np.testing.assert_array_equal(got, x @ w.astype(np.int64))


def test_low_bytes_beyond_int32_are_summed_exactly():
  count = 66_400
  w = np.stack([np.full(count, 127, np.int8), np.full(count, -127, np.int8)], 1)
  parts = split_exactly(w, Bytes())
  assert 127 * 255 * count > INT32 and len(parts) > 127
  x = np.stack([np.full(count, 255), np.full(count, -1), np.full(count, 32767)])
  total = jax.jit(lambda x, w: accumulate_wide(x, w, parts))(jnp.asarray(x, jnp.float32), w)
  got = np.asarray(total.high, np.int64) * 2**15 + np.asarray(total.low, np.int64)
  np.testing.assert_array_equal(got, x @ w.astype(np.int64))


def test_a_gate_whose_slope_the_kernels_cannot_shift_is_refused():
  fits, too_large = (Grid(np.float32(scale), 0) for scale in (3 * 2**23 - 2, 3 * 2**23))
  assert hard_swish_table(fits, fits).tolist() == [0.0] * 129 + list(range(1, 128))
  with pytest.raises(
    ValueError, match=r"scale is 2\.52e\+07, which HARD_SWISH runs below 2\.52e\+07"
  ):
    hard_swish_table(too_large, too_large)
