"""The analysis of a quantized network against numbers that are computed outside of it."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  fold,
  init_variables,
  trace,
)
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize import (
  Rule,
  analyze,
  assemble,
  ema_range,
  post_training,
  suggest,
)
from jaxcompress.quantize.analysis import switched
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.model import Move
from jaxcompress.quantize.ptq.observe import rounding_visitor
from jaxcompress.quantize.ptq.post_training import decibels
from jaxcompress.quantize.sites import find_sites


@pytest.fixture(scope="module")
def quantized(case):
  return post_training(case.model, case.variables, case.images, method="minmax", bits=4)


@pytest.fixture(scope="module")
def analysis(case, quantized):
  return analyze(quantized, case.model, case.variables, case.images, batch_size=10)


def studied(case, quantized, images=None, variables=None):
  images = case.images if images is None else images
  return analyze(quantized, case.model, variables or case.variables, images, batch_size=10)


def divergence(real, other):
  """KL of class probabilities, in float64."""
  log_p, log_q = (
    a - np.log(np.exp(a).sum(-1, keepdims=True)) for a in (np.float64(real), np.float64(other))
  )
  return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))


def test_rows_are_the_models_own_layers_in_order(analysis):
  names = ["input", "stem", "depthwise", "branch", "add", "pool", "dense"]  # the max pool moves
  assert [layer.name for layer in analysis.layers] == names
  assert [layer.bits for layer in analysis.layers] == [None, 4, 4, 4, None, None, 4]
  assert analysis["depthwise"].op == "depthwise" and analysis["branch"].op == "pointwise"
  assert analysis.images == 24
  with pytest.raises(KeyError):
    analysis["max"]


@pytest.mark.slow
def test_one_layer_rounded_by_hand_gives_its_isolated_error(case, quantized, analysis):
  graph = case.sites.graph
  folded = folded_layers(fold(graph, case.variables))
  run = jax.jit(
    lambda layers, on: execute(graph, layers, jnp.asarray(case.images), chosen(on)),
    static_argnums=1,
  )

  def chosen(tensors):
    return rounding_visitor(quantized.grids, frozenset(tensors))

  real = run(folded, ())
  for node in graph.nodes:
    if node.name not in folded:
      continue
    integers = quantized.layers[node.name]
    step = quantized.grids[node.inputs[0]].scale * integers.scales
    weights = jnp.asarray(integers.weights * integers.scales), jnp.asarray(integers.bias * step)
    row, layers = analysis[node.name], {**folded, node.name: weights}
    both, only = run(layers, node.outputs), run(layers, ())
    assert row.isolated_sqnr == pytest.approx(decibels(real, both), abs=0.02)
    assert row.isolated_kl == pytest.approx(divergence(real, both), rel=0.01)
    assert row.weights_kl == pytest.approx(divergence(real, only), rel=0.01)
  add = run(folded, ("add",))
  assert analysis["add"].isolated_sqnr == pytest.approx(decibels(real, add), abs=0.02)
  assert analysis["input"].isolated_sqnr == pytest.approx(
    decibels(real, run(folded, ("input",))), abs=0.02
  )


def test_the_whole_is_exact_evaluation_and_ends_the_cumulative_errors(case, quantized, analysis):
  real = np.asarray(case.model.apply(case.variables, case.images, train=False))
  exact = quantized(case.images)
  assert analysis.sqnr == pytest.approx(decibels(real, exact), abs=0.02)
  assert analysis.kl == pytest.approx(divergence(real, exact), rel=0.01)
  assert analysis.agreement == np.mean(real.argmax(-1) == exact.argmax(-1))
  assert analysis.layers[-1].sqnr == analysis.sqnr
  assert analysis.layers[-1].cumulative_sqnr == pytest.approx(analysis.sqnr, abs=1.0)
  first = analysis.layers[0]
  assert first.cumulative_sqnr == first.isolated_sqnr
  assert first.cumulative_kl == first.isolated_kl


def test_codes_of_the_output_are_counted(case, quantized, analysis):
  codes = quantized.integers(case.images).astype(int)
  assert analysis["dense"].codes_used == (codes.max() - codes.min() + 1) / 256
  weights = quantized.layers["branch"].weights.astype(int)
  used = (weights.max() - weights.min() + 1) / 255
  assert analysis["branch"].weight_codes_used == pytest.approx(used)


@pytest.mark.slow
def test_layers_of_sixteen_bits_are_nearer_to_float(case, analysis):
  rules = (Rule(match="add|dense", activations=ema_range(16)),)
  mixed = post_training(
    case.model, case.variables, case.images, method="minmax", bits=4, rules=rules
  )
  found = studied(case, mixed)
  assert found["add"].isolated_sqnr > analysis["add"].isolated_sqnr + 20
  assert found["stem"].isolated_sqnr == pytest.approx(analysis["stem"].isolated_sqnr, abs=0.5)


@pytest.mark.slow
def test_batches_of_any_size_give_the_same(case, quantized, analysis):
  whole = analyze(quantized, case.model, case.variables, case.images, batch_size=24)
  for ours, theirs in zip(analysis.layers, whole.layers, strict=True):
    assert ours.dead == theirs.dead and ours.codes_used == theirs.codes_used
    assert ours.isolated_kl == pytest.approx(theirs.isolated_kl, rel=1e-3, abs=1e-7)
    assert ours.sqnr == pytest.approx(theirs.sqnr, abs=0.01)


def test_a_damaged_layer_ranks_first_and_is_named_in_words(case, quantized):
  layers = dict(quantized.layers)
  layers["branch"] = layers["branch"]._replace(weights=np.sign(layers["branch"].weights))
  found = studied(case, dataclasses.replace(quantized, layers=layers))
  assert found.ranked[0].name == "branch"
  assert found["branch"].bits == 1
  first = suggest(found)[0]
  assert first.reason.startswith("branch: ") and "1-bit weights; give them 8 bits" in first.reason
  assert first.rule.weights.levels.high == 127


def test_one_program_serves_all_layers_and_all_models_of_an_architecture(case, quantized, analysis):
  before = switched.run_passes._cache_size(), switched.look._cache_size()
  again = dataclasses.replace(
    quantized, grids={**quantized.grids, "dense": Grid(np.float32(0.1), 3)}
  )
  studied(case, again)
  assert (switched.run_passes._cache_size(), switched.look._cache_size()) == before


def test_channels_without_weights_or_without_change_are_dead(case):
  params = {name: dict(part) for name, part in case.variables["params"].items()}
  params["branch"]["kernel"] = np.array(params["branch"]["kernel"])
  params["branch"]["kernel"][..., 2] = 0
  params["stem"]["bias"] = np.array(params["stem"]["bias"])
  params["stem"]["bias"][5] = -50  # below the rectifier on every image
  variables = {**case.variables, "params": params}
  model = post_training(case.model, variables, case.images, method="minmax")
  found = studied(case, model, variables=variables)
  assert found["branch"].dead == (2,)
  assert 5 in found["stem"].dead and 5 in found["depthwise"].dead
  assert found["add"].dead == ()


def test_what_the_grid_clips_is_saturation_and_what_relu6_clips_is_not(case, quantized):
  params = {name: dict(part) for name, part in case.variables["params"].items()}
  params["depthwise"]["bias"] = np.array(params["depthwise"]["bias"]) + 6
  variables = {**case.variables, "params": params}
  model = post_training(case.model, variables, case.images, method="minmax")
  images = np.where(np.arange(24).reshape(-1, 1, 1, 1) % 2, 0.25, 4.0) * np.ones((24, 8, 8, 3))
  grids = {**model.grids, "input": Grid(np.float32(1 / 127), 0)}
  images = images.astype(np.float32)
  found = studied(case, dataclasses.replace(model, grids=grids), images, variables)
  assert found["input"].saturation == 0.5
  assert found["depthwise"].saturation == 0
  grids["max"] = grids["depthwise"] = Grid(np.float32(3 / 255), -128)  # half of what ReLU6 leaves
  narrow = studied(case, dataclasses.replace(model, grids=grids), images, variables)
  assert narrow["depthwise"].saturation > 0.5


@pytest.mark.slow
def test_channels_that_equalization_moved_are_compared_as_the_float_network_has_them(case):
  model = post_training(case.model, case.variables, case.images, method="equalize")
  assert np.ptp(np.log(model.moves["stem"].scale)) > 0.1
  found = studied(case, model)
  assert all(layer.sqnr > 20 and layer.isolated_sqnr > 20 for layer in found.layers)
  forgotten = studied(
    case, dataclasses.replace(model, moves={"stem": Move(np.ones(8), np.zeros(8))})
  )
  assert forgotten["stem"].sqnr < 12


class Swish(nn.Module):
  """A hard-swish, which devices compute as a gate and a product, and a fused gate."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, kernel=1, name="conv")(x, train=train)
    x = Activation("hard_swish", name="conv_act")(x)
    x = ConvNorm(4, kernel=1, act="hard_sigmoid", name="gate")(x, train=train)
    return Dense(3, name="dense")(GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
@pytest.mark.parametrize("hard_swish", ["gate", "operator"])
def test_a_hard_swish_is_one_layer_however_the_device_computes_it(hard_swish):
  images = np.random.default_rng(1).normal(0, 2, (8, 4, 4, 3)).astype(np.float32)
  variables = jax.device_get(init_variables(Swish(), jax.random.key(0), (4, 4, 3)))
  variables["params"]["conv"]["scale"] = np.float32([-1, 1, -0.5, 2])  # integers change their sign
  calibrated = post_training(Swish(), variables, images, method="minmax")
  graph = find_sites(trace(Swish(), variables, images[:1])).graph
  folded = fold(graph, variables)
  scales = {
    name: np.abs(layer.kernel).reshape(-1, layer.kernel.shape[-1]).max(0) / np.float32(127)
    for name, layer in folded.items()
  }
  model = assemble(graph, folded, scales, calibrated.grids, hard_swish=hard_swish)
  found = analyze(model, Swish(), variables, images)
  names = ["input", "conv", "conv_act", "gate", "pool", "dense"]
  assert [layer.name for layer in found.layers] == names
  assert all(30 < layer.isolated_sqnr < 90 for layer in found.layers)
  assert all(layer.sqnr > 30 for layer in found.layers)
  assert found["gate"].saturation == 0


class Unlike(nn.Module):
  """A small map that is averaged, joined with a large one, and read by another layer."""

  @nn.compact
  def __call__(self, x, *, train):
    small = ConvNorm(4, act="relu", norm=None, name="small")(x, train=train)
    big = ConvNorm(4, act="relu", norm=None, name="big")(x, train=train)
    y = AvgPool(2, 2, "VALID", name="average")(Concat(name="cat")(small, big))
    y = ConvNorm(4, norm=None, name="after")(y, train=train)
    pooled = GlobalAvgPool(name="pool")(ConvNorm(4, norm=None, name="other")(small, train=train))
    return Dense(3, name="dense")(Add(name="add")(GlobalAvgPool(name="mean")(y), pooled))


@pytest.mark.slow
def test_what_joins_tensors_of_other_grids_has_a_row_and_an_average_is_no_layer_with_weights():
  images = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype(np.float32)
  variables = jax.tree.map(np.array, init_variables(Unlike(), jax.random.key(0), (8, 8, 3)))
  variables["params"]["big"]["kernel"] *= np.float32(30)
  model = post_training(Unlike(), variables, images, method="minmax", progress=False)
  assert [n.name for n in model.graph.nodes if n.op == "Requantize"] == ["small/on/big"]
  assert "average" in model.layers
  found = analyze(model, Unlike(), variables, images)
  names = [
    "input",
    "small",
    "big",
    "cat",
    "average",
    "after",
    "other",
    "pool",
    "mean",
    "add",
    "dense",
  ]
  assert sorted(layer.name for layer in found.layers) == sorted(names)
  assert (found["average"].op, found["average"].bits, found["average"].weights_kl) == (
    "AvgPool",
    None,
    None,
  )
  assert found["small"].sqnr > 35  # 30 dB less on the grid of 'big'
  assert all(20 < layer.isolated_sqnr < 90 for layer in found.layers)
  assert math.isfinite(found.sqnr)


def test_another_model_is_refused(case, quantized):
  images = case.images[:, :4, :4]
  with pytest.raises(ValueError, match="quantized: it is of another model"):
    studied(case, quantized, images)
  variables = init_variables(Swish(), jax.random.key(0), (8, 8, 3))
  with pytest.raises(ValueError, match=r"another model \(it has no layer 'conv'\)"):
    analyze(quantized, Swish(), variables, case.images)


def test_a_network_on_its_grids_has_no_error(case, quantized):
  """Images on the input's grid are not rounded."""
  grid = quantized.grids["input"]
  codes = np.random.default_rng(0).integers(grid.low, grid.high + 1, (8, 8, 8, 3))
  found = studied(case, quantized, (codes * grid.scale).astype(np.float32))
  assert found["input"].sqnr > 120 and found["input"].isolated_kl == pytest.approx(0, abs=1e-9)
  assert math.isfinite(found.sqnr)


@pytest.mark.parametrize(
  ("layers", "names"),
  [
    ("first|last", ["stem", "dense"]),
    (("ConvNorm", "!depthwise"), ["stem", "branch"]),
    ("input|^add$", ["input", "add"]),
  ],
)
def test_of_chosen_layers_the_rows_are_those_of_all(case, quantized, analysis, layers, names):
  found = analyze(quantized, case.model, case.variables, case.images, layers=layers, batch_size=10)
  assert [layer.name for layer in found.layers] == names
  assert found.sqnr == analysis.sqnr
  for layer in found.layers:
    whole = analysis[layer.name]
    assert layer.kinds == whole.kinds and layer.saturation == whole.saturation
    assert layer.isolated_kl == pytest.approx(whole.isolated_kl, rel=1e-4)
    assert layer.cumulative_sqnr == pytest.approx(whole.cumulative_sqnr, abs=0.01)
    assert (layer.weights_kl or 0) == pytest.approx(whole.weights_kl or 0, rel=1e-4)
  everything = suggest(analysis, share=1.0, least=0.0)
  about = {suggestion.rule.match for suggestion in everything} & {f"^(?:{n})$" for n in names}
  kept = suggest(analysis, layers=layers, share=1.0, least=0.0)
  assert {suggestion.rule.match for suggestion in kept} == about


def test_layers_that_are_not_there_are_refused(case, quantized, analysis):
  for call in (
    lambda: analyze(quantized, case.model, case.variables, case.images, layers="stage1"),
    lambda: suggest(analysis, layers="stage1"),
  ):
    with pytest.raises(ValueError, match="layers: 'stage1' matches no layer; the paths are stem"):
      call()
