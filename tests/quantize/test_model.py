"""A quantized model: its arithmetic by definition, its batches, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer import program
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.runtimes import KERNELS

SHAPE = (1, 4, 4, 3)
GRIDS = {
  "input": Grid(np.float32(0.05), 5),
  "conv": Grid(np.float32(0.1), -128),
  "pool": Grid(np.float32(0.08), -100),
  "dense": Grid(np.float32(0.2), 3),
}


def two_layers(act="relu"):
  conv = {"features": 6, "kernel": 3, "stride": 2, "groups": 1, "padding": "SAME", "act": act}
  return Graph(
    (
      Node("conv", "ConvNorm", conv, ("input",), ("conv",), (SHAPE,), ((1, 2, 2, 6),)),
      Node(
        "pool",
        "GlobalAvgPool",
        {"keepdims": False},
        ("conv",),
        ("pool",),
        ((1, 2, 2, 6),),
        ((1, 6),),
      ),
      Node("dense", "Dense", {"features": 5}, ("pool",), ("dense",), ((1, 6),), ((1, 5),)),
    ),
    SHAPE,
    "dense",
  )


def layers(seed=0):
  rng = np.random.default_rng(seed)
  make = lambda *shape: Integers(  # noqa: E731
    rng.integers(-127, 128, shape).astype(np.int8),
    rng.uniform(0.01, 0.02, shape[-1]).astype(np.float32),
    rng.integers(-2000, 2000, shape[-1]).astype(np.int32),
  )
  return {"conv": make(3, 3, 3, 6), "dense": make(6, 5)}


@pytest.fixture(scope="module")
def quantized():
  return QuantizedModel(two_layers(), GRIDS, layers())


@pytest.fixture(scope="module")
def codes():
  return np.random.default_rng(1).integers(-128, 128, (9, 4, 4, 3)).astype(np.int8)


def xnnpack_by_definition(total, source, scales, output):
  f = np.float32
  return np.rint(total.astype(f) * ((f(source.scale) * scales) / f(output.scale)))


def half_away(x):
  return np.sign(x) * np.floor(np.abs(x) + 0.5)


def gemmlowp(total, real):
  """Double rounding, in Python integers."""
  mantissa, exponent = np.frexp(np.float64(real))
  q31, e = int(half_away(mantissa * 2**31)), int(exponent)
  u = (int(total) * 2 ** max(e, 0) * q31 + 2**30) >> 31
  return int(half_away(u / 2 ** max(-e, 0)))  # exact: u is below 2**53


def gemmlowp_by_definition(total, source, scales, output):
  real = np.float64(source.scale) * np.float64(scales) / np.float64(output.scale)
  return np.vectorize(gemmlowp)(total, real)


def mean_by_definition(kernels, codes, source, output):
  """The mean of 2x2 maps."""
  f, sums = np.float32, codes.sum((1, 2))
  if kernels == "xnnpack":
    m = (f(source.scale) / f(output.scale)) * (f(1) / f(4))
    return np.rint(sums.astype(f) * m + (f(output.zero_point) - f(4 * source.zero_point) * m))
  if kernels == "onnxruntime":
    m = f(source.scale) / (f(output.scale) * f(4))
    return np.rint((sums - 4 * source.zero_point).astype(f) * m) + output.zero_point
  real = np.float64(f(source.scale) / f(output.scale)) / 4
  return np.vectorize(gemmlowp)(sums - 4 * source.zero_point, real) + output.zero_point


def by_definition(quantized, codes):
  """The two layers in Python integers and numpy."""
  grids, conv, dense = quantized.grids, quantized.layers["conv"], quantized.layers["dense"]
  if quantized.kernels in ("xnnpack", "onnxruntime"):
    convolution = linear = xnnpack_by_definition
  else:
    convolution = linear = gemmlowp_by_definition
  if quantized.kernels == "reference":
    linear = lambda total, source, scales, output: half_away(  # noqa: E731
      total * (np.float64(source.scale) * np.float64(scales) / np.float64(output.scale))
    )
  x = np.pad(codes.astype(np.int64) - grids["input"].zero_point, ((0, 0), (0, 1), (0, 1), (0, 0)))
  total = np.zeros((len(codes), 2, 2, 6), np.int64) + conv.bias
  for i in range(3):
    for j in range(3):
      total += x[:, i : i + 3 : 2, j : j + 3 : 2] @ conv.weights[i, j].astype(np.int64)
  steps = convolution(total, grids["input"], conv.scales, grids["conv"])
  maps = np.clip(steps, 0, 255) - 128
  pooled = mean_by_definition(quantized.kernels, maps, grids["conv"], grids["pool"])
  pooled = np.clip(pooled, -128, 127)
  total = (pooled.astype(np.int64) + 100) @ dense.weights.astype(np.int64) + dense.bias
  return np.clip(linear(total, grids["pool"], dense.scales, grids["dense"]) + 3, -128, 127)


@pytest.mark.parametrize("kernels", KERNELS)
def test_evaluation_is_the_arithmetic_of_the_device(quantized, codes, kernels):
  quantized = quantized.with_kernels(kernels)
  logits = quantized.run(codes)
  assert logits.dtype == np.int8 and len(np.unique(logits)) > 10
  np.testing.assert_array_equal(logits, by_definition(quantized, codes))


def test_logits_are_the_integers_on_their_grid(quantized, codes):
  images = ((codes - 5.0) * 0.05).astype(np.float32)
  np.testing.assert_array_equal(quantized.quantize_input(images), codes)
  logits = quantized(images)
  assert logits.dtype == np.float32
  np.testing.assert_array_equal(
    logits, (quantized.integers(images) - np.float32(3)) * np.float32(0.2)
  )


def test_input_is_rounded_half_to_even_and_clipped(quantized):
  image = np.zeros(SHAPE, np.float32)
  image[0, 0, 0] = [0.05 * 2.5, 1e9, -1e9]
  assert quantized.quantize_input(image)[0, 0, 0].tolist() == [7, 127, -128]


def test_the_batch_does_not_matter_and_compiles_once(quantized, codes):
  whole = quantized.run(codes)
  np.testing.assert_array_equal(
    whole,
    np.concatenate([quantized.run(codes[:1]), quantized.run(codes[1:3]), quantized.run(codes[3:])]),
  )
  assert quantized.run(codes[:0]).shape == (0, 5)
  small = quantized.program._replace(batch=4)
  evaluate = chex.assert_max_traces(program._evaluate.__wrapped__, n=1)
  original, program._evaluate = program._evaluate, jax.jit(evaluate, static_argnums=(0, 1))
  try:
    np.testing.assert_array_equal(program.run(small, codes), whole)
  finally:
    program._evaluate = original


def test_networks_of_one_architecture_share_their_program(quantized, codes):
  other = QuantizedModel(two_layers(), GRIDS, layers(seed=1))
  quantized.run(codes)
  before = program._evaluate._cache_size()
  assert not np.array_equal(other.run(codes), quantized.run(codes))
  assert program._evaluate._cache_size() == before


def test_preprocessing_comes_before_rounding():
  halve = lambda x: jnp.asarray(x, jnp.float32) / 2  # noqa: E731
  model = QuantizedModel(two_layers(), GRIDS, layers(), preprocess=halve)
  pixels = np.full(SHAPE, 3, np.uint8)
  assert model.quantize_input(pixels)[0, 0, 0, 0] == 35  # 1.5 / 0.05 + 5


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (np.zeros((1, 5, 4, 3), np.float32), r"images: shape \(1, 5, 4, 3\) must be \(N, 4, 4, 3\)"),
    (np.zeros(SHAPE, np.uint8), "uint8 is no float, and the model has no preprocess"),
    (np.full(SHAPE, np.nan, np.float32), "not numbers"),
  ],
)
def test_images_that_do_not_fit_are_refused(quantized, images, message):
  with pytest.raises(ValueError, match=message):
    quantized(images)


def test_codes_of_another_type_are_refused(quantized):
  with pytest.raises(ValueError, match="codes: int32 must be int8"):
    quantized.run(np.zeros(SHAPE, np.int32))


def test_missing_and_wrong_parts_are_refused_by_name():
  good = layers()
  without = {name: grid for name, grid in GRIDS.items() if name != "pool"}
  with pytest.raises(ValueError, match="tensor 'pool' has no grid"):
    QuantizedModel(two_layers(), without, good)
  with pytest.raises(ValueError, match="'dense' has no integers"):
    QuantizedModel(two_layers(), GRIDS, {"conv": good["conv"]})
  wrong = good["conv"]._replace(bias=np.zeros(5, np.int32))
  with pytest.raises(ValueError, match=r"'conv' has bias int32 \(5,\); it must be int32 \(6,\)"):
    QuantizedModel(two_layers(), GRIDS, {**good, "conv": wrong})
  wrong = good["conv"]._replace(weights=np.full((3, 3, 3, 6), -128, np.int8))
  with pytest.raises(ValueError, match="weight -128"):
    QuantizedModel(two_layers(), GRIDS, {**good, "conv": wrong})
  wrong = good["conv"]._replace(bias=np.full(6, 2**31 - 1, np.int32))
  with pytest.raises(ValueError, match="'conv': bias: sums reach"):
    QuantizedModel(two_layers(), GRIDS, {**good, "conv": wrong})


@pytest.mark.parametrize(
  ("act", "message"),
  [
    ("hard_swish", "act: 'hard_swish' has no integer arithmetic inside another layer; write it as"),
    ("hard_sigmoid", "grids: the output of a hard_sigmoid has Grid"),
    ("cos", "act: 'cos' has no integer arithmetic; use one of relu, relu6"),
  ],
)
def test_activation_functions_without_integer_arithmetic_name_their_layer(act, message):
  with pytest.raises(ValueError, match=f"layer 'conv': {message}"):
    QuantizedModel(two_layers(act), GRIDS, layers())


def test_unknown_kernels_are_refused_with_the_choices():
  with pytest.raises(ValueError, match="kernels: 'cmsis' is unknown; it must be one of xnnpack, "):
    QuantizedModel(two_layers(), GRIDS, layers(), kernels="cmsis")


def test_unknown_ops_and_unequal_grids_name_their_layer():
  node = Node("s", "Fold", {}, ("input",), ("s",), (SHAPE,), (SHAPE,))
  grids = {"input": Grid(np.float32(0.1), 0), "s": Grid(np.float32(0.2), 0)}
  with pytest.raises(ValueError, match="layer 's' is a Fold"):
    QuantizedModel(Graph((node,), SHAPE, "s"), grids, {})
  for op, attrs, kind in (("Softmax", {}, "Softmax"), ("Activation", {"act": "tanh"}, "tanh")):
    fixed = node._replace(op=op, attrs=attrs)
    with pytest.raises(ValueError, match=f"layer 's': grids: the output of a {kind} has Grid"):
      QuantizedModel(Graph((fixed,), SHAPE, "s"), grids, {})
  node = node._replace(op="ChannelShuffle", attrs={"groups": 3})
  with pytest.raises(ValueError, match="layer 's': grids: ChannelShuffle copies integers"):
    QuantizedModel(Graph((node,), SHAPE, "s"), grids, {})


def test_large_images_are_evaluated_in_small_batches():
  shape = (1, 512, 512, 64)
  node = Node("p", "GlobalAvgPool", {"keepdims": False}, ("input",), ("p",), (shape,), ((1, 64),))
  grid = Grid(np.float32(0.1), 0)
  model = QuantizedModel(Graph((node,), shape, "p"), {"input": grid, "p": grid}, {})
  assert model.program.batch == 1
