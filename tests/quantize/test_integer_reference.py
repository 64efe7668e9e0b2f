"""TFLite's reference arithmetic against Python integers, float64 and golden vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.integer.functions import GATES
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.reference import (
  Factor,
  addition,
  convolution,
  dense_in_float64,
  divide_by_power,
  doubling_high_product,
  mean,
  quantize_multiplier,
)
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16, find_kernels

pytestmark = pytest.mark.usefixtures("optimized")

ONE = Grid(np.float32(1), 0)
LARGEST = 2**31 - 1


def half_away(numerator: int, shift: int) -> int:
  """``numerator / 2**shift`` in Python integers."""
  half = (1 << shift) >> 1
  size = (abs(numerator) + half) >> shift
  return size if numerator >= 0 else -size


def test_factors_and_their_products_are_those_of_the_golden_vectors(golden):
  g = {k.split("/")[1]: v for k, v in golden("quantize/integer").items() if k.startswith("mult/")}
  factor = quantize_multiplier(g["real"])
  np.testing.assert_array_equal(factor.q31, g["q31"])
  np.testing.assert_array_equal(factor.left - factor.right, g["shift"])
  multiply = jax.jit(lambda factor, v: factor(v))
  spread = Factor(*(part[:, None] for part in factor))
  np.testing.assert_array_equal(multiply(spread, jnp.int32(g["acc"])[None]), g["out_double"])
  assert (g["out_double"] != g["out_single"]).any()


def test_high_products_are_exact_without_64_bits():
  rng = np.random.default_rng(0)
  edges = [0, 1, -1, 2**15, -(2**15), 2**16, 2**30, -(2**30), LARGEST, -LARGEST, -(2**31)]
  a = np.concatenate([edges, rng.integers(-(2**31), 2**31, 3000)])
  b = np.concatenate([[0, 1, 2**15, 2**30, LARGEST], rng.integers(2**30, 2**31, 12)])
  y = jax.jit(doubling_high_product)(jnp.int32(a)[:, None], jnp.int32(b)[None])
  expected = (a.astype(object)[:, None] * b.astype(object) + 2**30) >> 31
  np.testing.assert_array_equal(y, expected.astype(np.int64))
  assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("shift", [0, 1, 5, 30, 31])
def test_shifts_round_halves_away_from_zero(shift):
  half = 2**shift >> 1
  values = [0, 1, -1, half, -half, half - 1, 1 - half, 3 * half, -3 * half, LARGEST, -LARGEST]
  values = [v for v in values if abs(v) <= LARGEST]
  y = divide_by_power(jnp.int32(values), jnp.int32([shift]))
  assert y.tolist() == [half_away(v, shift) for v in values]


def test_factors_that_are_too_small_are_zero():
  assert quantize_multiplier(2.0**-33).q31 == 0
  assert quantize_multiplier(2.0**-32)(jnp.int32([LARGEST])).tolist() == [1]


@pytest.mark.parametrize("factor", [0.5, 0.3, 0.0123, 1.0, 7.7, 2.0**-20])
def test_linear_layers_round_a_float64_product(factor):
  output = Grid(np.float32(0.25), -20)
  scales = np.float32([[factor * 0.25, 0.001]])
  rule = dense_in_float64(ONE, scales, output, np.zeros((1, 2)))
  reach = int(min(300 / factor, 2**30))
  v = np.unique(np.linspace(-reach, reach, 4001).astype(np.int64))
  v = np.stack([v, np.linspace(-80_000, 80_000, len(v)).astype(np.int64)], -1)
  product = v * (np.float64(scales) / 0.25)
  expected = np.sign(product) * np.floor(np.abs(product) + 0.5)
  y = jax.jit(lambda rule, v: rule(v))(rule, jnp.int32(v))
  np.testing.assert_array_equal(y, np.clip(expected, output.low, output.high))
  assert set(np.unique(y)) >= {output.low, 0, output.high}


@pytest.mark.parametrize("side", [1, 4, 7, 9])
def test_means_are_the_integer_arithmetic_by_definition(side):
  rng = np.random.default_rng(side)
  source, output = Grid(np.float32(0.07), 9), Grid(np.float32(0.041), -31)
  codes = rng.integers(-128, 128, (4, side, side, 6)) - source.zero_point
  count = side**2
  whole = quantize_multiplier(np.float64(source.scale) / np.float64(output.scale))
  shift = count.bit_length() - 1
  q31 = (int(whole.q31) << shift) // count
  exponent = int(whole.left) - shift
  rule = mean(source, output, count)

  def by_definition(total):
    u = (int(total) * 2 ** max(exponent, 0) * q31 + 2**30) >> 31
    return half_away(u, max(-exponent, 0))

  y = jax.jit(lambda rule, x: rule(x))(rule, jnp.asarray(codes, jnp.float32))
  expected = np.vectorize(by_definition)(codes.sum((1, 2), keepdims=True))
  np.testing.assert_array_equal(y, expected)
  assert np.abs(y - codes.mean((1, 2), keepdims=True) * 0.07 / 0.041).max() < 0.75  # rounded twice


@pytest.mark.parametrize(
  ("source", "output", "side", "total", "expected"),
  [  # as the runtimes compute it; the quotient in float32 gives 2, 3 and -77
    (0.0560000017285347, 0.04480000212788582, 2, 4, 1),
    (0.07800000160932541, 0.01733333431184292, 4, 8, 2),
    (0.024000000208616257, 0.0023225806653499603, 4, -120, -78),
  ],
)
def test_the_scales_of_a_mean_are_divided_in_float64(source, output, side, total, expected):
  codes = np.full(side**2, total // side**2)
  codes[: total % side**2] += 1
  rule = mean(Grid(np.float32(source), 0), Grid(np.float32(output), 0), side**2)
  assert rule(jnp.asarray(codes.reshape(1, side, side, 1), jnp.float32)).item() == expected


@pytest.mark.parametrize("bits", GATES)
def test_a_sixth_of_six_is_one_in_every_runtime(bits):
  gate = GATES[bits]
  codes = jnp.arange(gate.relu6.high + 1)
  for name in KERNELS if bits == 8 else KERNELS_16:
    sixth = find_kernels(name, bits).product(gate.relu6, gate.sixth, gate.output)
    np.testing.assert_array_equal(sixth(codes * gate.sixth.high), codes)


def test_what_would_overflow_is_refused():
  with pytest.raises(ValueError, match=r"the inputs' are up to 5\.24e\+05 times the output's"):
    addition(Grid(np.float32(2**19), 0), ONE, ONE)
  with pytest.raises(ValueError, match="sums after their shift reach 2147483648, which"):
    convolution(ONE, np.float32([2.0]), ONE, np.array([2**29]))
  assert convolution(ONE, np.float32([2.0]), ONE, np.array([2**29 - 65])).left == 2
