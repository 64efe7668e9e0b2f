"""From folded layers to integers: what training saw is what the device gets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import INPUT, Add, ConvNorm, Dense, Folded, GlobalAvgPool, Graph, Node, trace
from jaxcompress.quantize import QuantizedModel, absmax, assemble
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.quantize.limits import widen_grids
from jaxcompress.quantize.sites import find_sites

pytestmark = [pytest.mark.usefixtures("optimized"), pytest.mark.slow]


class Residual(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    y = ConvNorm(8, kernel=3, name="branch")(x, train=train)
    x = Add(name="add")(x, y)
    return Dense(4, name="dense")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def graph():
  x = jnp.ones((1, 6, 6, 3))
  variables = Residual().init(jax.random.key(0), x, train=False)
  return find_sites(trace(Residual(), variables, x)).graph


def grids_of(graph, scale=0.05, **others):
  tensors = (INPUT, *(node.output for node in graph.nodes))
  return {name: Grid(np.float32(others.get(name, scale)), -3) for name in tensors}


def layers_of(seed=0, **changes):
  """Folded layers with negative factors; ``changes`` replaces fields of layers by name."""
  rng = np.random.default_rng(seed)
  shapes = {"stem": (3, 3, 3, 8), "branch": (3, 3, 8, 8), "dense": (8, 4)}
  layers = {}
  for name, shape in shapes.items():
    factor = rng.choice([-1, 1], shape[-1]) * rng.uniform(0.5, 2.0, shape[-1])
    layers[name] = Folded(
      rng.normal(0, 0.1, shape).astype(np.float32), factor, rng.normal(0, 0.3, shape[-1])
    )._replace(**changes.get(name, {}))
  return layers


def scales_of(layers):
  return {
    name: np.asarray(absmax(8).grid((), (), jnp.asarray(layer.kernel))[0]).reshape(-1)
    for name, layer in layers.items()
  }


def test_integers_are_those_that_fake_quantization_saw_up_to_the_sign_of_gamma(graph):
  layers = layers_of()
  scales = scales_of(layers)
  quantized = assemble(graph, layers, scales, grids_of(graph))
  for name, layer in layers.items():
    rounded, _ = absmax(8).apply((), (), jnp.asarray(layer.kernel), train=False)
    integers = quantized.layers[name]
    real = integers.weights * integers.scales.astype(np.float64)
    np.testing.assert_allclose(real, np.float64(rounded) * layer.factor, rtol=1e-6, atol=1e-12)
    signed = np.rint(layer.kernel / scales[name]) * np.sign(layer.factor)
    np.testing.assert_array_equal(integers.weights, signed)


def test_given_codes_replace_rounding(graph):
  layers = layers_of()
  scales = scales_of(layers)
  codes = {"branch": np.trunc(layers["branch"].kernel / scales["branch"]).astype(np.int8)}
  rounded = assemble(graph, layers, scales, grids_of(graph))
  quantized = assemble(graph, layers, scales, grids_of(graph), codes=codes, kernels="reference")
  signed = codes["branch"] * np.sign(layers["branch"].factor)
  np.testing.assert_array_equal(quantized.layers["branch"].weights, signed)
  assert (quantized.layers["branch"].weights != rounded.layers["branch"].weights).any()
  np.testing.assert_array_equal(quantized.layers["stem"].weights, rounded.layers["stem"].weights)
  assert (quantized.kernels, rounded.kernels) == ("reference", "xnnpack")


def test_given_codes_that_dwarf_in_their_bias_are_coarsened_as_they_are(graph):
  layers = layers_of()
  layers["branch"] = layers["branch"]._replace(factor=np.full(8, 1e-9), bias=np.full(8, 2.5))
  codes = {"branch": np.full((3, 3, 8, 8), 100, np.int8)}
  quantized = assemble(graph, layers, scales_of(layers), grids_of(graph), codes=codes)
  layer, scales = quantized.layers["branch"], scales_of(layers)["branch"]
  real = layer.weights * layer.scales.astype(np.float64)
  np.testing.assert_allclose(real, np.broadcast_to(100e-9 * scales, real.shape), atol=1e-6)


@pytest.mark.parametrize(
  ("codes", "message"),
  [
    (
      np.zeros((3, 3, 8, 8), np.int32),
      r"codes: 'branch' has int32 \(3, 3, 8, 8\); it must be int8",
    ),
    (np.zeros((3, 3, 8, 7), np.int8), r"'branch' has int8 \(3, 3, 8, 7\); .* int8 \(3, 3, 8, 8\)"),
    (np.full((3, 3, 8, 8), 8, np.int8), "'branch' has 8 to 8; it must be within -7 to 7"),
  ],
)
def test_codes_that_do_not_fit_are_refused(graph, codes, message):
  layers, to = layers_of(), Levels(-7, 7, True)
  with pytest.raises(ValueError, match=message):
    assemble(graph, layers, scales_of(layers), grids_of(graph), codes={"branch": codes}, levels=to)


def test_a_bias_stands_for_products_of_steps(graph):
  layers = layers_of()
  quantized = assemble(graph, layers, scales_of(layers), grids_of(graph))
  for name, source in (("stem", "input"), ("branch", "stem"), ("dense", "pool")):
    integers = quantized.layers[name]
    step = float(quantized.grids[source].scale) * integers.scales.astype(np.float64)
    np.testing.assert_allclose(integers.bias * step, layers[name].bias, atol=0.5 * step.max())


@pytest.mark.parametrize("zeros", ["factor", "kernel"])
def test_channels_without_weights_still_give_their_bias_precisely(graph, zeros):
  layers = layers_of()
  changed = layers["stem"]._replace(**{zeros: getattr(layers["stem"], zeros) * 0})
  layers["stem"] = changed._replace(bias=np.linspace(-3.0, 3.0, 8))
  quantized = assemble(graph, layers, scales_of(layers), grids_of(graph))
  integers = quantized.layers["stem"]
  assert not integers.weights.any()
  assert np.all(np.isfinite(integers.scales)) and np.all(integers.scales > 0)
  step = 0.05 * integers.scales.astype(np.float64)
  np.testing.assert_allclose(integers.bias * step, layers["stem"].bias, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gamma", [1e-3, 1e-6, 1e-9, 1e-20, 1e-38])
def test_a_bias_that_dwarfs_its_weights_keeps_its_value(graph, gamma):
  layers = layers_of()
  layers["branch"] = layers["branch"]._replace(factor=np.full(8, gamma), bias=np.full(8, 2.5))
  quantized = assemble(graph, layers, scales_of(layers), grids_of(graph))
  integers = quantized.layers["branch"]
  step = float(quantized.grids["stem"].scale) * integers.scales.astype(np.float64)
  np.testing.assert_allclose(integers.bias * step, 2.5, rtol=1e-5)
  real = integers.weights * integers.scales.astype(np.float64)
  coarse = 1e-2 * float(quantized.grids["branch"].scale)  # invisible on the output's grid
  np.testing.assert_allclose(real, layers["branch"].kernel * gamma, atol=coarse)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_fewer_bits_give_fewer_integers(graph, bits):
  high = 2 ** (bits - 1) - 1
  layers = layers_of()
  scales = {
    name: np.asarray(absmax(bits).grid((), (), jnp.asarray(layer.kernel))[0]).reshape(-1)
    for name, layer in layers.items()
  }
  to = Levels(-high, high, True)
  quantized = assemble(graph, layers, scales, grids_of(graph), levels=to)
  for integers in quantized.layers.values():
    assert integers.weights.min() >= -high and integers.weights.max() == high


def test_grids_that_fit_are_left_alone(graph):
  layers, grids = layers_of(), grids_of(graph)
  assert assemble(graph, layers, scales_of(layers), grids).grids == grids


def test_a_branch_that_hardly_moves_gets_a_wider_grid(graph):
  layers = layers_of()
  grids = grids_of(graph, branch=1e-12)
  widened = assemble(graph, layers, scales_of(layers), grids).grids
  ratio = float(widened["branch"].scale) / float(widened["add"].scale)
  assert 2**-10 <= ratio < 2**-9
  assert widened["branch"].zero_point == grids["branch"].zero_point
  assert {k: v for k, v in widened.items() if k != "branch"} == {
    k: v for k, v in grids.items() if k != "branch"
  }


@pytest.mark.parametrize(("finer", "apart"), [(1.5, False), (3.0, True), (40.0, True)])
def test_a_summand_with_another_reader_is_requantized_instead_if_that_is_more_than_twice(
  graph, finer, apart
):
  layers, ratio = layers_of(), 2.0**-10 / finer
  grids = grids_of(graph, stem=0.05 * ratio, branch=0.05)
  quantized = assemble(graph, layers, scales_of(layers), grids)
  steps = [node for node in quantized.graph.nodes if node.op == "Requantize"]
  assert [(node.name, node.inputs) for node in steps] == (
    [("stem/for/add", ("stem",))] if apart else []
  )
  growth = quantized.grids["stem"].scale / grids["stem"].scale
  assert growth == pytest.approx(1.0 if apart else finer, rel=0.01)
  for kernels in KERNELS:
    quantized.with_kernels(kernels)
  tied = assemble(graph, layers, scales_of(layers), grids, split_reads=False)
  assert tied.grids["stem"].scale == pytest.approx(0.05 * 2.0**-10, rel=0.01)
  assert [node.name for node in tied.graph.nodes] == [node.name for node in graph.nodes]


def test_an_output_that_is_too_fine_for_its_accumulator_gets_a_wider_grid(graph):
  layers = layers_of()
  widened = assemble(graph, layers, scales_of(layers), grids_of(graph, dense=1e-9)).grids
  assert widened["dense"].scale > 1e-7


@pytest.mark.parametrize("seed", range(8))
def test_any_scales_are_brought_into_the_range_of_the_device(graph, seed):
  rng = np.random.default_rng(seed)
  tensors = (INPUT, *(node.output for node in graph.nodes))
  grids = {
    name: Grid(np.float32(10 ** rng.uniform(-12, 3)), int(rng.integers(-128, 127)))
    for name in tensors
  }
  layers = layers_of(seed)
  quantized = assemble(graph, layers, scales_of(layers), grids)  # raises what XNNPACK would refuse
  for kernels in KERNELS:
    quantized.with_kernels(kernels)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_of_activations_that_are_not_positive_are_refused(graph, scale):
  with pytest.raises(ValueError, match="'stem' has scale"):
    widen_grids(graph, grids_of(graph, stem=scale), {})


@pytest.mark.parametrize("bits", [8, 16])
def test_a_relu6_whose_steps_tflite_cannot_count_gets_larger_ones(bits):
  """It holds 6 / scale in an int32."""
  attrs = {"kernel": 1, "stride": 1, "groups": 1, "padding": "VALID", "act": "relu6", "features": 2}
  shape = (1, 2, 2, 2)
  node = Node("conv", "ConvNorm", attrs, (INPUT,), ("conv",), (shape,), (shape,))
  graph = Graph((node,), shape, "conv")
  grids = {INPUT: Grid(np.float32(1e-9), 0, bits), "conv": Grid(np.float32(1e-11), 0, bits)}
  assert widen_grids(graph, grids, {})["conv"].scale == 2.0**-28
  quiet = node._replace(attrs={**attrs, "act": "relu"})
  assert widen_grids(graph._replace(nodes=(quiet,)), grids, {})["conv"] == grids["conv"]
  layer = Integers(np.ones((1, 1, 2, 2), np.int8), np.ones(2, np.float32), np.zeros(2, np.int32))
  narrow = {name: Grid(grid.scale, 0) for name, grid in grids.items()}
  model = QuantizedModel(graph, narrow, {"conv": layer})
  with pytest.raises(ValueError, match="scale 1e-11 is too fine for an activation function"):
    model.with_kernels("reference")


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_of_weights_that_are_not_positive_are_refused(graph, scale):
  layers = layers_of()
  scales = scales_of(layers)
  scales["branch"] = np.full(8, scale, np.float32)
  with pytest.raises(ValueError, match="'branch' has scales that are not positive"):
    assemble(graph, layers, scales, grids_of(graph))


def test_levels_beyond_int8_are_refused(graph):
  layers = layers_of()
  with pytest.raises(ValueError, match="must be within -127 to 127"):
    assemble(graph, layers, scales_of(layers), grids_of(graph), levels=Levels(-128, 127, True))
  with pytest.raises(ValueError, match=r"levels: layer '.*' has no levels; give every layer some"):
    assemble(graph, layers, scales_of(layers), grids_of(graph), levels={})


def one_dense(inputs, outputs=2):
  ends = ("input",), ("dense",), ((1, inputs),), ((1, outputs),)
  return Graph((Node("dense", "Dense", {"features": outputs}, *ends),), (1, inputs), "dense")


@pytest.mark.parametrize(
  ("inputs", "bias", "zero_point"), [(70_000, 0.4, -128), (200_001, -0.3, 5), (100_000, 0.0, 127)]
)
def test_sums_that_int32_does_not_hold_get_larger_steps(inputs, bias, zero_point):
  rng = np.random.default_rng(0)
  kernel = rng.uniform(0.5, 1.0, (inputs, 2)) / inputs
  kernel[:, 1] = -1 / inputs  # a whole number of steps, whichever they are
  layer = Folded(kernel.astype(np.float32), np.array([2.0, -1.0]), np.full(2, bias))
  scales = {"dense": np.abs(layer.kernel).max(0) / np.float32(127)}
  source, output = Grid(np.float32(1 / 255), zero_point), Grid(np.float32(1 / 64), 0)
  grids = {"input": source, "dense": output}
  quantized = assemble(one_dense(inputs), {"dense": layer}, scales, grids)
  for kernels in KERNELS:
    quantized.with_kernels(kernels)
  integers = quantized.layers["dense"]
  steps = source.scale * integers.scales.astype(np.float64)
  farthest = max(-source.low, source.high)
  reach = np.abs(integers.weights.astype(np.int64)).sum(0) * farthest + np.abs(integers.bias)
  top = np.abs(integers.weights).max(0)[1]
  assert reach.max() < 2**31 and top < 127
  assert reach[1] * (top + 1) / top > 2**31 - 2**8  # no more is lost than must be
  real, expected = integers.weights * steps / source.scale, layer.kernel * layer.factor
  assert np.all(np.abs(real - expected) <= integers.scales * 1.001)  # rounded twice
  np.testing.assert_allclose(real[:, 1], expected[:, 1], rtol=1e-6)
  np.testing.assert_allclose(integers.bias * steps, bias, atol=1e-5)


def test_channels_whose_sums_fit_stay_as_they_are():
  layer = Folded(np.full((80_000, 2), 1e-5, np.float32), np.ones(2), np.zeros(2))
  scales = {"dense": np.float32([1e-5 / 127, 1e-5 / 3])}
  grids = {"input": Grid(np.float32(1 / 255), -128), "dense": Grid(np.float32(0.01), 0)}
  integers = assemble(one_dense(80_000), {"dense": layer}, scales, grids).layers["dense"]
  assert np.unique(integers.weights[:, 1]).tolist() == [3]
  assert np.unique(integers.weights[:, 0]).tolist() == [2**31 // (80_000 * 255)]
  assert integers.scales[1] == scales["dense"][1]


def test_layers_whose_sums_fit_with_no_weights_are_refused_with_the_way_out():
  inputs = 8_430_000
  layer = Folded(np.ones((inputs, 1), np.float32), np.ones(1), np.zeros(1))
  grids = {"input": Grid(np.float32(1e-6), -128), "dense": Grid(np.float32(1.0), 0)}
  with pytest.raises(ValueError, match=r"'dense' has 8430000 inputs .* give it fewer inputs"):
    assemble(one_dense(inputs, 1), {"dense": layer}, {"dense": np.ones(1, np.float32)}, grids)
