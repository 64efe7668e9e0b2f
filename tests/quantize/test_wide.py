"""Arithmetic of 16-bit activations against int64 in numpy, and where widths meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.convolve import split_exactly
from jaxcompress.quantize.integer.grid import Grid, Integers, with_bits
from jaxcompress.quantize.integer.lower import lower_grids
from jaxcompress.quantize.integer.wide import (
  Bytes,
  Factor,
  accumulate_wide,
  addition,
  convolution,
  wide,
)
from jaxcompress.quantize.limits import widen_grids

pytestmark = pytest.mark.usefixtures("optimized")

ONE = Grid(np.float32(1), 0, 16)
SHAPE = (1, 4, 4, 2)


def whole(v):
  """The int64 that two halves are."""
  low = np.asarray(v.low, np.int64)
  assert low.min() >= 0 and low.max() < 2**15
  return np.asarray(v.high, np.int64) * 2**15 + low


def direct_conv(x, w, groups):
  """A 3x3 convolution with one cell of zeros around, in int64, by definition."""
  x = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows, columns = x.shape[1] - 2, x.shape[2] - 2
  taps = [(i, j) for i in range(3) for j in range(3)]

  def one(x, w):
    return sum(x[:, i : i + rows, j : j + columns] @ w[i, j] for i, j in taps)

  parts = np.split(x, groups, -1), np.split(w.astype(np.int64), groups, -1)
  return np.concatenate([one(*pair) for pair in zip(*parts, strict=True)], -1)


@pytest.mark.parametrize(("depth", "groups"), [(6, 1), (3, 2), (1, 6), (700, 1)])
def test_convolutions_are_those_in_int64(depth, groups):
  rng = np.random.default_rng(depth)
  x = rng.integers(-(2**15), 2**15, (2, 5, 4, depth * groups))
  w = rng.integers(-127, 128, (3, 3, depth, 2 * groups)).astype(np.int8)
  x[0], w[..., 0] = 2**15 - 1, 127  # the largest sums
  total = jax.jit(lambda x, w: accumulate_wide(x, w, parts, groups=groups))
  parts = split_exactly(w, Bytes())
  expected = direct_conv(x, w, groups)
  np.testing.assert_array_equal(whole(total(jnp.asarray(x, jnp.float32), w)), expected)
  assert (np.abs(expected).max() > 2**31) == (depth == 700)


@pytest.mark.slow
def test_matrix_products_beyond_int32_are_exact():
  rng = np.random.default_rng(0)
  x, w = rng.integers(30000, 2**15, (3, 900)), rng.integers(100, 128, (900, 4)).astype(np.int8)
  x[1] *= -1
  total = accumulate_wide(jnp.asarray(x, jnp.float32), w, split_exactly(w, Bytes()))
  bias = np.int64([[1, -1, 2**40, -(2**40)]])
  expected = x @ w.astype(np.int64)
  assert np.abs(expected).min() > 2**31
  np.testing.assert_array_equal(whole(total + wide(bias)), expected + bias)


def test_factors_round_halves_up_as_in_int64():
  rng = np.random.default_rng(0)
  shift = np.repeat(np.arange(8, 47), 400)
  multiplier = rng.integers(0, 2**15, shift.size)
  multiplier[1::4] = 2**14  # a power of two, so that there are halves
  largest = np.minimum(2.0**45, 2.0 ** (31 + shift) / np.maximum(multiplier, 1))
  v = (rng.uniform(-0.999, 0.999, shift.size) * largest).astype(np.int64)
  v[::4] >>= 20  # small ones, too
  expected = (v * multiplier + (np.int64(1) << (shift - 1))) >> shift
  factor = Factor(multiplier.astype(np.int32), shift.astype(np.int32))
  np.testing.assert_array_equal(jax.jit(lambda f, v: f(v))(factor, wide(v)), expected)


def test_factors_have_fifteen_bits():
  scales = np.float32([0.3, 1.0, 1 - 2**-20, 2.0**-35])
  factor = convolution(ONE, scales, ONE, np.ones(4))
  np.testing.assert_array_equal(factor.multiplier, [round(0.6 * 2**15), 2**14, 2**15 - 1, 0])
  np.testing.assert_array_equal(factor.shift[:3], [16, 14, 15])


@pytest.mark.parametrize(("scale", "reach"), [(128.0, 1), (2.0, 2**30)])
def test_factors_that_the_device_refuses_are_refused(scale, reach):
  with pytest.raises(ValueError, match=r"16-bit kernels run below .* and 128; quantize\.assemble"):
    convolution(ONE, np.float32([scale]), ONE, np.array([reach]))


def test_sums_of_scales_that_runtimes_round_differently_are_refused():
  with pytest.raises(ValueError, match=r"are 0\.75 times each other.* power of two"):
    addition(ONE._replace(scale=np.float32(0.75)), ONE, ONE)


def test_narrowing_keeps_the_range_and_widening_every_step():
  grid = Grid(np.float32(0.01), 0, 16)
  for nonnegative, lowest in ((True, 0), (False, -32767)):
    narrow = with_bits(grid, 8, nonnegative=nonnegative)
    np.testing.assert_allclose(narrow.high * narrow.scale, 327.67, rtol=1e-6)
    assert narrow.low * narrow.scale <= lowest * 0.01 * (1 - 1e-6)
  assert with_bits(Grid(np.float32(0.5), 7), 16, nonnegative=False) == (0.5, 0, 16)


def add_graph():
  ends = (SHAPE, SHAPE), (SHAPE,)
  pool = {"kernel": 1, "stride": 1, "padding": "VALID"}
  return Graph(
    (
      Node("pool", "MaxPool", pool, ("input",), ("pool",), (SHAPE,), (SHAPE,)),
      Node("square", "Multiply", {}, ("input", "pool"), ("square",), *ends),
      Node("add", "Add", {}, ("input", "square"), ("add",), *ends),
      Node("twice", "Add", {}, ("add", "add"), ("twice",), *ends),
    ),
    SHAPE,
    "twice",
  )


def add_grids(**bits):
  scales = {"input": 0.1, "pool": 0.1, "square": 0.03, "add": 0.07, "twice": 0.1}
  grids = {name: Grid(np.float32(s), 0, bits.get(name, 8)) for name, s in scales.items()}
  return {k: g._replace(scale=g.scale / 256) if g.bits == 16 else g for k, g in grids.items()}


def test_widths_meet_in_one_requantization_for_all_readers():
  graph, grids = lower_grids(add_graph(), add_grids(square=16, add=16), (), {})
  inserted = [(n.name, n.inputs) for n in graph.nodes if n.op == "Requantize"]
  assert inserted == [
    ("input/int16", ("input",)),
    ("pool/int16", ("pool",)),
    ("add/int8", ("add",)),
  ]
  assert [n.inputs for n in graph.nodes if n.op == "Add"] == [
    ("input/int16", "square"),
    ("add/int8", "add/int8"),
  ]
  grids = widen_grids(graph, grids, {})
  assert np.frexp(grids["input/int16"].scale / grids["square"].scale)[0] == 0.5
  assert grids["input/int16"].scale == grids["input"].scale
  codes = np.random.default_rng(0).integers(-128, 128, SHAPE).astype(np.int8)
  quantized = QuantizedModel(graph, grids, {})
  real = codes * 0.1
  expected = np.clip(2 * (real + real**2 * (np.abs(real**2) < 3)), -12.8, 12.7)
  inside = np.abs(real) < 1.3
  steps = np.abs(quantized.run(codes) * 0.1 - expected)[inside]
  assert steps.max() < 0.2


def test_summands_of_16_bits_become_a_power_of_two_apart_and_never_finer():
  rng = np.random.default_rng(0)
  for _ in range(20):
    before = {
      name: Grid(np.float32(np.exp(rng.normal(-8, 1.0))), 0, 16)
      for name in ("input", "square", "add", "twice")
    }
    before["pool"] = before["input"]
    after = widen_grids(add_graph(), before, {})
    ratio = np.float64(after["input"].scale) / after["square"].scale
    assert np.frexp(ratio)[0] == 0.5
    assert all(
      1 <= after[name].scale / before[name].scale < 2.01 or name in ("add", "twice")
      for name in before
    )


@pytest.mark.parametrize(
  ("grids", "message"),
  [
    ({"square": Grid(np.float32(1), 3, 16)}, "'square' has 16 bits and zero point 3; it must be 0"),
    ({"square": Grid(np.float32(1), 0, 12)}, "'square' has 12 bits; it must have 8 or 16"),
    ({"square": Grid(np.float32(1), 0, 16)}, "'square' has tensors of several widths"),
  ],
)
def test_grids_that_no_runtime_has_are_refused(grids, message):
  with pytest.raises(ValueError, match=message):
    QuantizedModel(add_graph(), {**add_grids(), **grids}, {})


def test_biases_of_layers_that_read_16_bits_are_int64():
  node = Node(
    "conv",
    "ConvNorm",
    {"features": 2, "kernel": 1, "stride": 1, "groups": 1, "padding": "SAME", "act": None},
    ("input",),
    ("conv",),
    (SHAPE,),
    (SHAPE,),
  )
  layer = Integers(np.ones((1, 1, 2, 2), np.int8), np.ones(2, np.float32), np.zeros(2, np.int32))
  grids = dict.fromkeys(("input", "conv"), ONE)
  with pytest.raises(ValueError, match=r"'conv' has bias int32 .* must be int64"):
    QuantizedModel(Graph((node,), SHAPE, "conv"), grids, {"conv": layer})
  wide_layer = layer._replace(bias=np.int64([2, -3]))
  quantized = QuantizedModel(Graph((node,), SHAPE, "conv"), grids, {"conv": wide_layer})
  codes = np.full(SHAPE, 1000, np.int16)
  assert quantized.run(codes)[0, 0, 0].tolist() == [2002, 1997]
  with pytest.raises(ValueError, match="codes: int8 must be int16"):
    quantized.run(codes.astype(np.int8))
