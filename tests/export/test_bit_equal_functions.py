"""Every runtime and exact evaluation give the same integers for all codes of a function."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.export.contents import read_operators
from jaxcompress.nn import (
  Activation,
  BatchNorm,
  ChannelMean,
  ConvTranspose,
  GlobalAvgPool,
  Graph,
  Node,
  Reshape,
  Resize,
  RmsNorm,
)
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.functions import FIXED, FUNCTIONS
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS_16
from jaxcompress.quantize.integer.stored import is_clear
from jaxcompress.quantize.limits import widen_grids

pytestmark = pytest.mark.usefixtures("optimized")


@pytest.mark.parametrize("scale", [2e-4, 0.01, 0.2, 6.0])
@pytest.mark.parametrize("zero_point", [-128, 127, 5])
def test_gates_of_all_codes_are_bit_equal(scale, zero_point, kernels, networks, check):
  shape = (1, 16, 16, 1)
  ends = ("input",), ("act",), (shape,), (shape,)
  codes = np.arange(-128, 128).reshape(shape)
  for act, output in (
    ("hard_sigmoid", FUNCTIONS["hard_sigmoid"].grids[8]),
    ("hard_swish", Grid(np.float32(0.05), 7)),
  ):
    graph = Graph((Node("act", "Activation", {"act": act}, *ends),), shape, "act")
    source = Grid(np.float32(scale), zero_point)
    quantized = QuantizedModel(graph, {"input": source, "act": output}, {})
    images = ((codes - zero_point) * source.scale).astype(np.float32)
    result = check(quantized, kernels=kernels, images=images)
    assert (result.bit_equal, result.max_steps) == (1.0, 0)


@pytest.mark.parametrize("scale", [1e-8, 0.003, 0.02, 0.05, 0.11, 5.0, 70.0])
@pytest.mark.parametrize("zero_point", [-128, 127, 5])
@pytest.mark.parametrize("act", ["sigmoid", "tanh", "gelu", "elu"])
def test_a_function_of_all_codes_is_bit_equal(act, scale, zero_point, kernels, check):
  shape = (1, 16, 16, 1)
  node = Node("act", "Activation", {"act": act}, ("input",), ("act",), (shape,), (shape,))
  output = Grid(np.float32(1.7 * scale), zero_point // 2)
  grids = {"input": Grid(np.float32(scale), zero_point), "act": FUNCTIONS[act].grids.get(8, output)}
  quantized = QuantizedModel(Graph((node,), shape, "act"), grids, {})
  codes = np.arange(-128, 128).reshape(shape)
  images = ((codes - zero_point) * grids["input"].scale).astype(np.float32)
  result = check(quantized, images, kernels=kernels)
  assert (result.bit_equal, result.max_steps) == (1.0, 0)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "elu"])
def test_operators_of_litert_have_the_codes_of_tables(act, tmp_path, networks):
  shape, written = (1, 16, 16, 1), set()
  for seed in range(12):
    rng = np.random.default_rng(seed)
    scale, zero_point = 10 ** rng.uniform(-3, 0), int(rng.integers(-128, 128))
    output = Grid(np.float32(scale * rng.uniform(0.2, 2)), int(rng.integers(-128, 128)))
    node = Node("act", "Activation", {"act": act}, ("input",), ("act",), (shape,), (shape,))
    grids = {"input": Grid(np.float32(scale), zero_point), "act": output}
    quantized = QuantizedModel(Graph((node,), shape, "act"), grids, {})
    path = export.tflite(quantized, tmp_path / "net.tflite", target="xnnpack")
    names = [operator.name for operator in read_operators(path)]
    assert (names == ["CAST", "ADD", "GATHER"]) != is_clear(act, *grids.values())
    written.add(tuple(names))
    codes = np.arange(-128, 128).reshape(shape)
    images = ((codes - zero_point) * grids["input"].scale).astype(np.float32)
    assert export.verify(path, quantized, images).bit_equal == 1.0
  assert ({"gelu_tanh": "GELU"}.get(act, act.upper()),) in written


@pytest.mark.parametrize("slope", [0.001, 0.01, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("ratio", [2**-8, 0.3, 1.0, 5.7, 2**7])
def test_a_leaky_rectifier_of_all_codes_is_bit_equal(slope, ratio, kernels, check):
  for zero_point in (-128, 3, 127):
    quantized = leaky(slope, Grid(np.float32(0.11), zero_point), Grid(np.float32(0.11 / ratio), 5))
    codes = np.arange(-128, 128).reshape(quantized.graph.input_shape)
    images = ((codes - zero_point) * quantized.grids["input"].scale).astype(np.float32)
    result = check(quantized, images, kernels=kernels)
    assert (result.bit_equal, result.max_steps) == (1.0, 0)


@pytest.mark.parametrize("ratio", [2**-8, 0.077, 1.7, 2**7])
def test_a_leaky_rectifier_of_all_16_bit_codes_is_bit_equal(ratio, check):
  grids = (Grid(np.float32(scale), 0, 16) for scale in (0.0123, 0.0123 / ratio))
  quantized = leaky(0.0823, *grids)
  codes = np.arange(-(2**15), 2**15).reshape(quantized.graph.input_shape)
  images = (codes * quantized.grids["input"].scale).astype(np.float32)
  for kernels in KERNELS_16:
    result = check(quantized, images, kernels=kernels)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


def leaky(slope, source, output):
  shape = (1, 2 ** (source.bits // 2), 2 ** (source.bits // 2), 1)
  node = Node("op", "LeakyRelu", {"slope": slope}, ("input",), ("op",), (shape,), (shape,))
  return QuantizedModel(Graph((node,), shape, "op"), {"input": source, "op": output}, {})


def test_a_leaky_rectifier_whose_scales_are_far_apart_is_refused_or_widened():
  source = Grid(np.float32(1), 0)
  with pytest.raises(ValueError, match="layer 'op': scales: the input's is 200 times the output's"):
    leaky(0.1, source, Grid(np.float32(1 / 200), 0))
  graph = leaky(0.1, source, source).graph
  for scale in (1e-6, 1e6):
    grids = widen_grids(graph, {"input": source, "op": Grid(np.float32(scale), 0)}, {})
    assert QuantizedModel(graph, grids, {}).grids == grids


def softmax(channels, source):
  shape = (1, 16, 16, channels)
  node = Node("op", "Softmax", {}, ("input",), ("op",), (shape,), (shape,))
  grids = {"input": source, "op": FIXED["Softmax"][source.bits]}
  return QuantizedModel(Graph((node,), shape, "op"), grids, {})


def rows_of(quantized, seed=0):
  """Images whose rows are peaked or flat, near the ends of the grid or between them."""
  rng, grid = np.random.default_rng(seed), quantized.grids["input"]
  shape, reach = quantized.graph.input_shape, 2.0 ** (grid.bits - 1)
  means = rng.uniform(-reach, reach, (*shape[:-1], 1))
  spreads = reach * 10 ** rng.uniform(-2, 0, (*shape[:-1], 1))
  codes = np.clip(np.rint(rng.normal(means, spreads, shape)), -reach, reach - 1)
  return ((codes - grid.zero_point) * grid.scale).astype(np.float32)


@pytest.mark.parametrize("channels", [2, 21, 511])
@pytest.mark.parametrize("scale", [1e-7, 0.004, 0.05, 0.4, 30.0])
def test_a_softmax_is_bit_equal(channels, scale, kernels, check):
  quantized = softmax(channels, Grid(np.float32(scale), -7))
  result = check(quantized, rows_of(quantized), kernels=kernels)
  assert (result.bit_equal, result.max_steps) == (1.0, 0)


@pytest.mark.parametrize(
  ("scale", "row"),
  [
    (0.024191936, [41, 23, -126]),
    (0.016538603, [-13, -3, 19, -23, -1]),
    (0.0055299453, [10, -4, 10, -12, -11, 5, 10]),
    (0.0007035545, [-46, -23, -10, 49, 11]),
  ],
)
def test_quotients_that_float32_would_round_to_a_half_are_bit_equal(scale, row, kernels, check):
  quantized = softmax(len(row), Grid(np.float32(scale), 0))
  images = np.broadcast_to(np.array(row) * np.float32(scale), quantized.graph.input_shape)
  result = check(quantized, images.astype(np.float32), kernels=kernels)
  assert (result.bit_equal, result.max_steps) == (1.0, 0)


@pytest.mark.parametrize("channels", [2, 21, 1000])
@pytest.mark.parametrize("scale", [1e-7, 2e-4, 0.05, 1.0])
def test_a_softmax_of_16_bits_is_bit_equal(channels, scale, check):
  quantized = softmax(channels, Grid(np.float32(scale), 0, 16))
  for kernels in KERNELS_16:
    result = check(quantized, rows_of(quantized), kernels=kernels)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_a_softmax_of_1000_channels_is_bit_equal_where_it_does_not_abort(scale, kernels, check):
  quantized = softmax(1000, Grid(np.float32(scale), 5))
  if kernels in ("xnnpack", "onnxruntime"):
    assert check(quantized, rows_of(quantized), kernels=kernels).bit_equal == 1.0
  else:
    with pytest.raises(ValueError, match="layer 'op': channels: 1000 exponentials may add up to"):
      quantized.with_kernels(kernels)


@pytest.mark.parametrize("act", ["sigmoid", "tanh"])
@pytest.mark.parametrize("scale", [1e-8, 2e-4, 2**-13, 0.003, 0.1, 5.0])
def test_a_function_of_all_16_bit_codes_is_bit_equal(act, scale, check):
  shape = (1, 256, 256, 1)
  node = Node("act", "Activation", {"act": act}, ("input",), ("act",), (shape,), (shape,))
  grids = {"input": Grid(np.float32(scale), 0, 16), "act": FUNCTIONS[act].grids[16]}
  quantized = QuantizedModel(Graph((node,), shape, "act"), grids, {})
  images = (np.arange(-(2**15), 2**15).reshape(shape) * grids["input"].scale).astype(np.float32)
  for kernels in KERNELS_16:
    result = check(quantized, images, kernels=kernels)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


class TablesOf(nn.Module):
  """Lookup tables on tensors whose shape or order in an ONNX file is not that of the rounding."""

  kind: str

  @nn.compact
  def __call__(self, x, *, train):
    if self.kind == "transposed":
      return Activation("gelu", name="op")(ConvTranspose(4, 3, 2, name="up")(x, train=train))
    if self.kind == "bilinear":
      return Activation("gelu", name="op")(Resize((6, 8), "bilinear", name="up")(x))
    if self.kind == "reshape":
      return Activation("elu", name="op")(Reshape((36,), name="flat")(x))
    vector = GlobalAvgPool(name="pool")(x)
    if self.kind == "mean":
      return Activation("elu", name="op")(ChannelMean(name="mean")(vector))
    return RmsNorm(name="op")(BatchNorm(name="norm")(vector, train=train))


@pytest.mark.parametrize("kind", ["transposed", "bilinear", "reshape", "mean", "normalization"])
def test_tables_read_the_codes_of_what_was_moved(kind, kernels, networks, check):
  quantized = networks.random_quantized(TablesOf(kind), (3, 4, 3))
  assert check(quantized, kernels=kernels).bit_equal == 1.0
