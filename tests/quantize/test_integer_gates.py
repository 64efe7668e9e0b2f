"""Hard-sigmoids and hard-swishes on integers: what becomes of them, and how far from float."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import (
  INPUT,
  Activation,
  Concat,
  ConvNorm,
  Folded,
  GlobalAvgPool,
  MaxPool,
  Multiply,
  trace,
)
from jaxcompress.nn.activations import activate
from jaxcompress.quantize import QuantizedModel, assemble
from jaxcompress.quantize.integer.functions import FIXED, FUNCTIONS, GATES, activation_table
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.program import run
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16
from jaxcompress.quantize.integer.tanh import suits_tanh
from jaxcompress.quantize.sites import find_sites

pytestmark = pytest.mark.usefixtures("optimized")

CODES = np.arange(-128, 128).astype(np.int8)
IMAGE = CODES.reshape(1, 16, 16, 1)


class Alone(nn.Module):
  act: str

  @nn.compact
  def __call__(self, x, *, train):
    return Activation(self.act, name="act")(x)


class Excited(nn.Module):
  """A gate from a mean, and the product with it."""

  @nn.compact
  def __call__(self, x, *, train):
    y = GlobalAvgPool(keepdims=True, name="pool")(x)
    y = ConvNorm(x.shape[-1], act="hard_sigmoid", norm=None, name="gate")(y, train=train)
    return Multiply(name="scale")(x, y)


def graph_of(module, shape):
  x = jnp.ones(shape)
  return find_sites(trace(module, module.init(jax.random.key(0), x, train=False), x)).graph


def quantized_alone(act, scale, zero_point, **options):
  """An activation function of all codes, its output's grid fitted to its range."""
  graph = graph_of(Alone(act), IMAGE.shape)
  source = Grid(np.float32(scale), zero_point)
  real = reals(CODES, source)
  low, high = (float(f(activate(act, real))) for f in (np.min, np.max))
  step = max(high - min(low, 0), 1e-3) / 255
  output = Grid(np.float32(step), int(np.rint(-128 - min(low, 0) / step)))
  return assemble(graph, {}, {}, {INPUT: source, "act": output}, **options)


def reals(codes, grid):
  return (codes.astype(np.float32) - grid.zero_point) * grid.scale


def errors_in_steps(quantized, act):
  """Difference of all outputs from those in float, where they are on the grid."""
  grid = quantized.grids["act"]
  y = quantized.run(IMAGE).astype(np.float64).ravel() - grid.zero_point
  exact = np.asarray(activate(act, reals(CODES, quantized.grids[INPUT])), np.float64) / grid.scale
  return np.abs(y - np.clip(exact, grid.low, grid.high))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, 0), (0.02, -60), (0.1, 77), (0.004, 3)])
def test_gates_are_within_a_step_and_a_half_of_float(kernels, scale, zero_point):
  sigmoid = quantized_alone("hard_sigmoid", scale, zero_point, kernels=kernels)
  assert sigmoid.grids["act"] == GATES[8].output
  assert errors_in_steps(sigmoid, "hard_sigmoid").max() < 0.52
  logistic = quantized_alone("sigmoid", scale, zero_point, kernels=kernels)
  assert logistic.grids["act"] == FUNCTIONS["sigmoid"].grids[8]
  assert errors_in_steps(logistic, "sigmoid").max() < 0.52
  swish = quantized_alone("hard_swish", scale, zero_point, kernels=kernels)
  assert [node.name for node in swish.graph.nodes] == ["act/gate", "act"]
  assert errors_in_steps(swish, "hard_swish").max() < 1.5


@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, 0), (0.02, -60), (0.1, 77), (0.004, 3)])
def test_the_operator_is_one_node_within_six_tenths_of_a_step_and_alike_in_tflite(
  scale, zero_point
):
  swish = quantized_alone("hard_swish", scale, zero_point, hard_swish="operator")
  assert [(node.op, node.name) for node in swish.graph.nodes] == [("Activation", "act")]
  assert errors_in_steps(swish, "hard_swish").max() < 0.6
  for kernels in ("reference", "tflm"):
    np.testing.assert_array_equal(swish.with_kernels(kernels).run(IMAGE), swish.run(IMAGE))
  assert errors_in_steps(swish.with_kernels("onnxruntime"), "hard_swish").max() < 0.501


@pytest.mark.parametrize("act", ["hard_swish", "hard_sigmoid", "sigmoid"])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 5.0])
def test_extreme_inputs_are_brought_into_the_range_of_the_device(act, scale):
  for options in ({}, {"hard_swish": "operator"}):
    quantized = quantized_alone(act, scale, 0, **options)
    assert np.isfinite(quantized(np.zeros(IMAGE.shape, np.float32))).all()


def excited(bias=0.0, scale=0.05):
  graph = graph_of(Excited(), (1, 4, 4, 8))
  rng = np.random.default_rng(0)
  kernel = rng.normal(0, 1.0, (1, 1, 8, 8)).astype(np.float32)
  folded = {"gate": Folded(kernel, rng.choice([-1.0, 1.0], 8), np.full(8, bias))}
  scales = {"gate": (np.abs(kernel).max((0, 1, 2)) / 127).astype(np.float32)}
  grids = dict.fromkeys((INPUT, "pool", "scale"), Grid(np.float32(scale), 0))
  return graph, folded, scales, grids


@pytest.mark.slow
def test_a_layers_hard_sigmoid_is_in_its_weights_bias_and_grid():
  graph, folded, scales, grids = excited(bias=0.7)
  quantized = assemble(graph, folded, scales, grids)
  layer, gate = quantized.layers["gate"], folded["gate"]
  assert quantized.grids["gate"] == GATES[8].output
  real = layer.weights * layer.scales
  np.testing.assert_allclose(real * 6, gate.weights, atol=0.51 * scales["gate"].max())
  np.testing.assert_allclose(layer.bias * 0.05 * layer.scales, 3.7 / 6, rtol=1e-3)
  codes = np.random.default_rng(1).integers(-128, 128, (40, 4, 4, 8)).astype(np.int8)
  x = codes * np.float32(0.05)
  gates = activate("hard_sigmoid", x.mean((1, 2)) @ gate.weights[0, 0] + 0.7)
  expected = x * np.asarray(gates)[:, None, None]
  assert (gates == 0).any() and (gates == 1).any()
  actual = quantized.run(codes) * 0.05
  errors = np.abs(actual - expected)
  assert errors.mean() < 0.03 and errors.max() < 0.2  # most is from rounding the mean


def test_given_grids_of_gates_do_not_matter():
  graph, folded, scales, grids = excited()
  other = {**grids, "gate": Grid(np.float32(1.0), 5)}
  assert (
    assemble(graph, folded, scales, other).grids == assemble(graph, folded, scales, grids).grids
  )


class Joined(nn.Module):
  """A gate and its copy, joined, or the gate and something else."""

  other: str | None

  @nn.compact
  def __call__(self, x, *, train):
    gate = Activation("hard_sigmoid", name="gate")(x)
    other = MaxPool(2, 1, name="copy")(gate) if self.other == "gate" else x
    other = Activation("sigmoid", name="copy")(x) if self.other == "sigmoid" else other
    return Concat(name="concat")(gate, other)


def test_gates_share_their_grid_with_gates_only():
  graph = graph_of(Joined("gate"), IMAGE.shape)
  quantized = assemble(graph, {}, {}, {INPUT: Grid(np.float32(0.05), 0)})
  assert quantized.grids["copy"] == quantized.grids["concat"] == GATES[8].output
  graph = graph_of(Joined(None), IMAGE.shape)
  grids = dict.fromkeys((INPUT, "concat"), Grid(np.float32(0.05), 0))
  quantized = assemble(graph, {}, {}, grids)
  assert (quantized.grids["gate"], quantized.grids["concat"]) == (GATES[8].output, grids[INPUT])
  with pytest.raises(ValueError, match="grids: tensor 'concat' has no grid"):
    assemble(graph, {}, {}, {INPUT: grids[INPUT]})


def test_gates_of_two_kinds_have_a_grid_each():
  graph = graph_of(Joined("sigmoid"), IMAGE.shape)
  grids = dict.fromkeys((INPUT, "concat"), Grid(np.float32(0.05), 0))
  quantized = assemble(graph, {}, {}, grids)
  found = [quantized.grids[tensor] for tensor in ("gate", "copy", "concat")]
  fixed = [FUNCTIONS[act].grids[8] for act in ("hard_sigmoid", "sigmoid")]
  assert found == [*fixed, grids["concat"]]


def test_a_layer_does_not_end_in_a_sigmoid():
  with pytest.raises(ValueError, match=r"act of 'layers_0': 'sigmoid' .* Activation\('sigmoid'\)"):
    graph_of(nn.Sequential([ConvNorm(3, act="sigmoid", norm=None, name="conv")]), IMAGE.shape)


def test_gates_of_absurd_weights_are_refused_by_name():
  graph, folded, scales, grids = excited(scale=100.0)
  scales = {"gate": np.full(8, 10.0, np.float32)}
  with pytest.raises(ValueError, match=r"layer 'gate' needs steps of .* train with a lower"):
    assemble(
      graph, {"gate": folded["gate"]._replace(kernel=folded["gate"].kernel * 999)}, scales, grids
    )


def test_a_tanh_whose_codes_lie_on_an_edge_is_refused_or_moved():
  edge = np.float32(np.arctanh(10.5 / 128) / 3)
  graph = graph_of(Alone("tanh"), IMAGE.shape)
  fixed = {"act": FUNCTIONS["tanh"].grids[8]}
  for kernels in ("xnnpack", "reference", "onnxruntime"):
    with pytest.raises(
      ValueError, match=r"layer 'act': scales: that of the input of a tanh is .* alike"
    ):
      QuantizedModel(graph, {INPUT: Grid(edge, 5), **fixed}, {}, kernels=kernels)
  quantized = quantized_alone("tanh", edge, 5)
  assert edge < quantized.grids[INPUT].scale < edge * 1.01
  assert errors_in_steps(quantized, "tanh").max() < 0.501


def test_grids_of_gates_suit_a_tanh():
  for bits in (8, 16):
    assert all(suits_tanh(float(grids[bits].scale), bits) for grids in FIXED.values())


@pytest.mark.parametrize("act", ["tanh", "gelu", "gelu_tanh", "elu", "mish", "softplus", "selu"])
@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, 0), (0.02, -60), (0.004, 3)])
def test_tables_hold_the_nearest_codes(act, scale, zero_point):
  quantized = quantized_alone(act, scale, zero_point)
  for kernels in ("xnnpack", "reference", "onnxruntime"):
    errors = errors_in_steps(quantized.with_kernels(kernels), act)
    assert errors.max() < 0.501
  assert errors_in_steps(quantized.with_kernels("tflm"), act).max() < 0.52


def test_unknown_ways_to_write_a_hard_swish_are_refused():
  with pytest.raises(ValueError, match="hard_swish: 'table' is unknown; it must be 'gate' or"):
    quantized_alone("hard_swish", 0.05, 0, hard_swish="table")


@pytest.mark.parametrize("hard_swish", ["gate", "operator"])
def test_a_hard_swish_of_16_bits_is_a_gate_and_near_to_float(hard_swish):
  codes = np.arange(-(2**15), 2**15, 37, dtype=np.int16)
  codes = codes[: codes.size // 4 * 4].reshape(1, -1, 4, 1)
  source, output = (Grid(np.float32(top / 2**15), 0, 16) for top in (8.0, 8.5))
  grids = {INPUT: source, "act": output}
  graph = graph_of(Alone("hard_swish"), codes.shape)
  quantized = assemble(graph, {}, {}, grids, hard_swish=hard_swish)
  assert [node.name for node in quantized.graph.nodes] == ["act/gate", "act"]
  expected = activate("hard_swish", codes * source.scale) / output.scale
  for kernels in KERNELS_16:
    got = run(quantized.with_kernels(kernels).program, codes)
    assert np.abs(got - expected).max() < 2.5
  with pytest.raises(ValueError, match=r"'act': act: 'hard_swish' runs on 8-bit integers only"):
    QuantizedModel(graph, grids, {})


@pytest.mark.parametrize(
  ("bits", "scale", "message"),
  [
    (16, 2.0**-12, r"layer 'act': scales: that of the input of a sigmoid is 0.000244140625"),
    (16, 6.0, r"layer 'act': scales: products of a sigmoid's codes reach .* far too large"),
    (8, 2.0**36, r"layer 'act': scales: those of the input of a sigmoid reach .* far too large"),
  ],
)
def test_sigmoids_that_runtimes_compute_differently_are_refused_by_name(bits, scale, message):
  graph = graph_of(Alone("sigmoid"), IMAGE.shape)
  grids = {INPUT: Grid(np.float32(scale), 0, bits), "act": FUNCTIONS["sigmoid"].grids[bits]}
  with pytest.raises(ValueError, match=message):
    QuantizedModel(graph, grids, {}, kernels="tflm").program  # noqa: B018


def test_a_function_that_a_runtime_has_no_table_of_is_refused_with_that_runtimes_name(monkeypatch):
  monkeypatch.setitem(FUNCTIONS, "sigmoid", FUNCTIONS["sigmoid"]._replace(tables={}))
  grid = Grid(np.float32(0.1), 0)
  with pytest.raises(ValueError, match="act: 'sigmoid' has no table of tflm's"):
    activation_table("tflm", "sigmoid", grid, grid)
  with pytest.raises(ValueError, match="act: 'sigmoid' runs on 8-bit integers only"):
    activation_table(
      "int16", "sigmoid", Grid(np.float32(0.1), 0, 16), FUNCTIONS["sigmoid"].grids[16]
    )
