"""Every runtime and exact evaluation give the same integers, op by op."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.export import emit, onnx_emit
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  BatchNorm,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Graph,
  MaxPool,
  Multiply,
  Node,
  Split,
)
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.execute import run_node
from jaxcompress.nn.operations import by_groups, kernel_shape
from jaxcompress.nn.structure import OPERATIONS, REQUANTIZE
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.functions import FUNCTIONS
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16
from jaxcompress.quantize.limits import widen_grids

pytestmark = pytest.mark.usefixtures("optimized")


class Lambda(nn.Module):
  """A function of (images, train) as a module."""

  function: object

  @nn.compact
  def __call__(self, x, *, train):
    return self.function(x, train)


def conv(**attributes):
  return lambda x, train: ConvNorm(name="conv", **attributes)(x, train=train)


def beside_conv(op):
  """An op on the images and a convolution of them."""
  return lambda x, train: op(name="op")(x, ConvNorm(x.shape[-1], name="conv")(x, train=train))


def rectified(op, act):
  return lambda x, train: Activation(act, name="act")(op(x, train))


def gate(act):
  def op(x, train):
    pooled = GlobalAvgPool(keepdims=True, name="pool")(x)
    conv = ConvNorm(x.shape[-1], act=act, norm=None, name="conv")
    return Multiply(name="gate")(x, conv(pooled, train=train))

  return op


def sigmoid_gate(x, train):
  y = ConvNorm(x.shape[-1], name="conv")(GlobalAvgPool(keepdims=True, name="pool")(x), train=train)
  return Multiply(name="gate")(x, Activation("sigmoid", name="act")(y))


def swap(sizes):
  return lambda x, train: Concat(name="cat")(*reversed(Split(sizes, name="split")(x)))


def plain(module):
  return lambda x, train: module.copy(name="op")(x)


OPS = {
  "pointwise": (conv(features=16), (8, 8, 12)),
  "pointwise, stride 2": (conv(features=16, stride=2), (7, 8, 12)),
  "3x3, relu6": (conv(features=16, kernel=3, stride=2, act="relu6"), (9, 8, 12)),
  "3x3, symmetric": (conv(features=16, kernel=3, stride=2, padding="SYMMETRIC"), (8, 8, 3)),
  "3x3, valid, relu": (conv(features=5, kernel=3, act="relu", padding="VALID"), (9, 8, 12)),
  "2x3 pads": (conv(features=5, kernel=3, padding=((2, 0), (0, 3))), (6, 8, 4)),
  "grouped": (conv(features=24, kernel=3, groups=4, act="relu"), (9, 8, 12)),
  "depthwise": (
    conv(features=12, kernel=3, stride=2, groups="depthwise", act="relu6"),
    (9, 8, 12),
  ),
  "depthwise 5x5": (conv(features=12, kernel=5, groups="depthwise"), (9, 8, 12)),
  "depthwise, two each": (conv(features=24, kernel=3, groups="depthwise"), (9, 8, 12)),
  "depthwise, symmetric": (
    conv(features=12, kernel=3, stride=2, groups="depthwise", padding="SYMMETRIC"),
    (8, 8, 12),
  ),
  "dense": (lambda x, _: Dense(33, name="dense")(GlobalAvgPool(name="pool")(x)), (3, 3, 40)),
  "add": (beside_conv(Add), (8, 8, 12)),
  "add, relu": (rectified(beside_conv(Add), "relu"), (8, 8, 12)),
  "add, relu6": (rectified(beside_conv(Add), "relu6"), (8, 8, 12)),
  "multiply": (beside_conv(Multiply), (8, 8, 12)),
  "multiply, relu6": (rectified(beside_conv(Multiply), "relu6"), (8, 8, 12)),
  "squeeze-excite": (gate(None), (8, 8, 12)),
  "squeeze-excite, hard": (gate("hard_sigmoid"), (8, 8, 12)),
  "normalization": (lambda x, train: BatchNorm(act="relu", name="op")(x, train=train), (4, 4, 9)),
  "mean": (plain(GlobalAvgPool()), (7, 7, 64)),
  "mean, kept axes": (plain(GlobalAvgPool(keepdims=True)), (5, 3, 64)),
  "relu": (plain(Activation("relu")), (5, 3, 64)),
  "relu6": (plain(Activation("relu6")), (5, 3, 64)),
  "hard-sigmoid": (rectified(conv(features=16, kernel=3), "hard_sigmoid"), (5, 3, 8)),
  "hard-swish": (rectified(conv(features=16, kernel=3), "hard_swish"), (5, 3, 8)),
  "hard-swish of a vector": (rectified(plain(GlobalAvgPool()), "hard_swish"), (5, 3, 64)),
  "sigmoid": (rectified(conv(features=16, kernel=3), "sigmoid"), (5, 3, 8)),
  "sigmoid of a vector": (rectified(plain(GlobalAvgPool()), "sigmoid"), (5, 3, 64)),
  "squeeze-excite, sigmoid": (sigmoid_gate, (8, 8, 12)),
  "max pool": (plain(MaxPool(2, 2)), (9, 8, 8)),
  "max pool, symmetric": (plain(MaxPool(3, 2, padding="SYMMETRIC")), (8, 8, 8)),
  "average pool": (plain(AvgPool(3, 2)), (8, 9, 8)),
  "average pool that counts": (
    plain(AvgPool(3, 2, padding="SYMMETRIC", count_padding=True)),
    (8, 8, 8),
  ),
  "halves": (swap((6, 6)), (4, 4, 12)),
  "parts": (swap((3, 8, 1)), (4, 4, 12)),
  "six parts": (swap((2,) * 6), (4, 4, 12)),
  "shuffle": (plain(ChannelShuffle(3)), (4, 4, 12)),
}
LEFT_OUT = {
  "xnnpack": {
    "max pool, symmetric": {"PADV2"},
    "average pool": {"AVERAGE_POOL_2D"},
    "six parts": {"CONCATENATION"},
  },
  "onnxruntime": {
    "relu": {"Relu"},
    "relu6": {"Clip"},
    "hard-sigmoid": {"HardSigmoid"},
    "hard-swish": {"HardSigmoid"},
    "hard-swish of a vector": {"HardSigmoid"},
  },
}

MIXED = {  # seeds of the widths of ops that are not all 16 bits in the test of these
  "add, relu": 0,
  "multiply": 1,
  "squeeze-excite, hard": 2,
  "squeeze-excite, sigmoid": 6,
  "mean": 4,
  "hard-swish": 3,
  "average pool that counts": 5,
}


@pytest.fixture(scope="module")
def nodes(networks):
  """Every node of the ops' graphs."""
  graphs = [networks.graph_of(Lambda(function), shape)[0] for function, shape in OPS.values()]
  return [node for graph in graphs for node in graph.nodes]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != REQUANTIZE])
def test_every_operation_is_complete(name, nodes):
  """What an operation needs beside its layer; test_bit_equal_grids has the case of a Requantize."""
  tables = {
    "quantize.integer.arithmetic.ARITHMETIC": ARITHMETIC,
    "export.emit.EMITTERS": emit.EMITTERS,
    "export.onnx_emit.EMITTERS": onnx_emit.EMITTERS,
    "OPS of this test": {node.op for node in nodes},
  }
  missing = [place for place, table in tables.items() if name not in table]
  assert not missing, f"{name} is missing in {', '.join(missing)}"
  operation, float32 = OPERATIONS[name], jnp.float32
  for node in (node for node in nodes if node.op == name):
    channels = [np.arange(shape[-1]) for shape in node.input_shapes]
    for sources, shape in zip(operation.route(node, *channels), node.output_shapes, strict=True):
      assert {len(source) for source in sources} <= {shape[-1]}, f"{name}: operation.route"
    kernel = kernel_shape(node)
    layer = kernel and tuple(jax.ShapeDtypeStruct(s, float32) for s in (kernel, kernel[-1:]))
    inputs = [jax.ShapeDtypeStruct(shape, float32) for shape in node.input_shapes]
    made = jax.eval_shape(lambda layer, *xs, node=node: run_node(node, layer, *xs), layer, *inputs)
    shapes = tuple(y.shape for y in made)
    assert shapes == node.output_shapes, f"{name}: operation.evaluate or the module's call"
    counts = [shape[-1] for shape in node.input_shapes], [s[-1] for s in node.output_shapes]
    fields = operation.resized(node, *counts)
    assert {**node.attrs, **fields} == dict(node.attrs), f"{name}: operation.resized"
    assert by_groups(node, np.zeros(kernel)).size if kernel else operation.macs(node) >= 0, (
      f"{name}: operation.groups or operation.macs"
    )


@pytest.mark.parametrize("act", [act for act in ACTIVATIONS if act is not None])
def test_every_activation_function_is_complete(act, nodes):
  tables = {
    "quantize.integer.functions.FUNCTIONS": FUNCTIONS,
    "export.emit.FUSED or ALONE": {**emit.FUSED, **emit.ALONE},
    "export.onnx_emit.FUSED or ALONE": (*onnx_emit.FUSED, *onnx_emit.ALONE),
    "OPS of this test": {node.attrs.get("act") for node in nodes},
  }
  missing = [place for place, table in tables.items() if act not in table]
  missing += [
    f"the tables of {kernels.tables}"
    for kernels in KERNELS.values()
    if act in FUNCTIONS and not FUNCTIONS[act].clips and kernels.tables not in FUNCTIONS[act].tables
  ]
  assert not missing, f"{act} is missing in {', '.join(missing)}"


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_bit_equal(name, kernels, networks, check):
  function, shape = OPS[name]
  left_out = set()
  for seed in range(4):
    quantized = networks.random_quantized(Lambda(function), shape, seed)
    result = check(quantized, images=8, seed=seed, kernels=kernels)
    assert (result.bit_equal, result.max_steps, result.images) == (1.0, 0, 8)
    left_out |= set(result.left_out)
  assert left_out == LEFT_OUT.get(kernels, {}).get(name, set())


@pytest.mark.parametrize("name", OPS)
def test_an_op_with_16_bit_activations_is_bit_equal(name, networks, check):
  function, shape = OPS[name]
  narrow = networks.random_quantized(Lambda(function), shape)
  bits = dict.fromkeys(narrow.grids, 16)
  if name in MIXED:
    drawn = np.random.default_rng(MIXED[name]).choice([8, 16], len(bits))
    bits = dict(zip(bits, drawn, strict=True))
  quantized = networks.with_widths(narrow, bits.get)
  images = networks.images_for(quantized, 4)
  for kernels in KERNELS_16:
    result = check(quantized, images, kernels=kernels)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


def test_the_hard_swish_operator_is_bit_equal(kernels, networks, check):
  function, shape = OPS["hard-swish"]
  for seed in range(4):
    quantized = networks.random_quantized(Lambda(function), shape, seed, lower=False)
    result = check(quantized, images=8, seed=seed, kernels=kernels)
    assert result.bit_equal == 1.0
    operators = {"xnnpack": ("HARD_SWISH",), "onnxruntime": ("HardSigmoid", "Mul")}
    assert result.left_out == operators.get(kernels, ())


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
def test_a_sigmoid_of_all_codes_is_bit_equal(scale, zero_point, kernels, check):
  shape = (1, 16, 16, 1)
  node = Node("act", "Activation", {"act": "sigmoid"}, ("input",), ("act",), (shape,), (shape,))
  grids = {"input": Grid(np.float32(scale), zero_point), "act": FUNCTIONS["sigmoid"].grids[8]}
  quantized = QuantizedModel(Graph((node,), shape, "act"), grids, {})
  codes = np.arange(-128, 128).reshape(shape)
  images = ((codes - zero_point) * grids["input"].scale).astype(np.float32)
  result = check(quantized, images, kernels=kernels)
  assert (result.bit_equal, result.max_steps, result.left_out) == (1.0, 0, ())


@pytest.mark.parametrize("scale", [1e-8, 2e-4, 2**-11, 0.003, 0.1, 5.0])
def test_a_sigmoid_of_all_16_bit_codes_is_bit_equal(scale, check):
  shape = (1, 256, 256, 1)
  node = Node("act", "Activation", {"act": "sigmoid"}, ("input",), ("act",), (shape,), (shape,))
  grids = {"input": Grid(np.float32(scale), 0, 16), "act": FUNCTIONS["sigmoid"].grids[16]}
  quantized = QuantizedModel(Graph((node,), shape, "act"), grids, {})
  images = (np.arange(-(2**15), 2**15).reshape(shape) * grids["input"].scale).astype(np.float32)
  for kernels in KERNELS_16:
    result = check(quantized, images, kernels=kernels)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


def test_runtimes_round_differently(networks):
  """So that the tests above tell their arithmetics apart."""
  differing = {("xnnpack", "reference"): 0, ("reference", "tflm"): 0}
  for seed in range(20):
    quantized = networks.random_quantized(Lambda(OPS["dense"][0]), (3, 3, 40), seed)
    images = networks.images_for(quantized, 200, seed)
    for pair in differing:
      one, other = (quantized.with_kernels(name).integers(images) for name in pair)
      differing[pair] += int((one != other).sum())
  assert all(differing.values())


def two_inputs(op, left, right, output):
  """An op on the images and on their copy on another grid, both exact."""
  shape = (1, 4, 4, 8)
  conv = {"features": 8, "kernel": 1, "stride": 1, "groups": 1, "padding": "SAME", "act": None}
  graph = Graph(
    (
      Node("conv", "ConvNorm", conv, ("input",), ("conv",), (shape,), (shape,)),
      Node("op", op, {}, ("input", "conv"), ("op",), (shape, shape), (shape,)),
    ),
    shape,
    "op",
  )
  grids = {
    "input": Grid(np.float32(left), 3),
    "conv": Grid(np.float32(right), -7),
    "op": Grid(np.float32(output), 11),
  }
  return graph, grids


BELOW_256 = float(np.nextafter(np.float32(256), np.float32(0)))


@pytest.mark.parametrize("left", [2**-10, 0.3, BELOW_256])
@pytest.mark.parametrize("right", [2**-10, 1.0, BELOW_256])
def test_additions_at_the_limits_of_their_ratios_are_bit_equal(
  left, right, kernels, networks, check
):
  graph, grids = two_inputs("Add", left * 0.0625, right * 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), left, right)
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("ratio", [2**-16, 1 / 300, 1.0, BELOW_256])
def test_products_at_the_limits_of_their_ratios_are_bit_equal(ratio, kernels, networks, check):
  graph, grids = two_inputs("Multiply", 0.125, ratio * 0.5, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 0.125, ratio * 0.5)
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("ratio", [1e-15, 1e15])
def test_means_whose_grids_are_far_apart_are_bit_equal_once_they_are_widened(
  ratio, side, kernels, networks, check
):
  graph, _ = networks.graph_of(Lambda(OPS["mean"][0]), (side, side, 8))
  grids = {"input": Grid(np.float32(ratio), -100), "op": Grid(np.float32(1), 27)}
  widened = widen_grids(graph, grids, {})
  between = float(widened["input"].scale) / float(widened["op"].scale) / side**2
  assert 2.0**-32 <= between < 2.0**-31 or 2.0**7 < between < 2.0**8
  assert check(QuantizedModel(graph, widened, {}), kernels=kernels).bit_equal == 1.0


@pytest.mark.parametrize("scale", [1e-10, 3e-6, 2e7])
@pytest.mark.parametrize("ratio", [100.0, 1e-3, 1e-7])
def test_the_hard_swish_operator_is_bit_equal_where_its_shifts_leave_16_bits(
  scale, ratio, kernels, networks, check
):
  shape = (1, 16, 16, 1)
  node = Node("act", "Activation", {"act": "hard_swish"}, ("input",), ("act",), (shape,), (shape,))
  source, output = Grid(np.float32(scale), 123), Grid(np.float32(scale / ratio), 47)
  quantized = QuantizedModel(Graph((node,), shape, "act"), {"input": source, "act": output}, {})
  images = ((np.arange(-128, 128).reshape(shape) - 123) * source.scale).astype(np.float32)
  assert check(quantized, kernels=kernels, images=images).bit_equal == 1.0


@pytest.mark.parametrize("multiplier", [2**-32, 2**-24, 1.0, BELOW_256])
def test_convolutions_at_the_limits_of_their_factors_are_bit_equal(
  multiplier, kernels, networks, check
):
  graph, grids = two_inputs("Add", 0.0625, 0.0625, 0.0625)
  layer = networks.random_integers(np.random.default_rng(0), (1, 1, 8, 8), 1.0, 1.0)
  rng = np.random.default_rng(0)
  high = min(int(100 / multiplier) + 1, 2**30)
  layer = layer._replace(
    scales=np.full(8, multiplier, np.float32),
    bias=rng.integers(-high, high, 8).astype(np.int32),
    weights=np.minimum(layer.weights, 3) if multiplier > 1 else layer.weights,
  )
  result = check(QuantizedModel(graph, grids, {"conv": layer}), kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


@pytest.mark.parametrize("zero_point", [-128, -127, -64])
def test_a_ceiling_that_falls_between_two_codes_is_bit_equal(zero_point, kernels, networks, check):
  quantized = networks.random_quantized(Lambda(OPS["3x3, relu6"][0]), (9, 8, 12))
  scale = np.float32(6 / 100.5)
  assert np.float32(6) / scale == 100.5
  layer = quantized.layers["conv"]
  ratio = scale / quantized.grids["conv"].scale
  layer = layer._replace(scales=layer.scales * ratio, bias=layer.bias + np.int32(20_000))
  grids = {**quantized.grids, "conv": Grid(scale, zero_point)}
  quantized = QuantizedModel(quantized.graph, grids, {"conv": layer})
  even = np.rint(np.float32(100.5) + zero_point)
  quantized = quantized.with_kernels(kernels)
  highest = quantized.integers(networks.images_for(quantized, 8)).max()
  assert highest == (even if kernels in ("xnnpack", "onnxruntime") else 101 + zero_point)
  assert check(quantized, kernels=kernels).bit_equal == 1.0
