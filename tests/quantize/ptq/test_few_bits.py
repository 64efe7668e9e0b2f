"""Activations of few bits in files of 8-bit integers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.nn import (
  Activation,
  Add,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  fold,
  init_variables,
  trace,
)
from jaxcompress.nn.execute import Folded, execute, folded_layers
from jaxcompress.quantize import Rule, ema_range
from jaxcompress.quantize.ptq import algorithms
from jaxcompress.quantize.ptq.algorithms import Algorithm
from jaxcompress.quantize.ptq.few_bits import (
  few_grid,
  few_grids,
  made_up,
  make_up,
  readers_of,
  shift,
  shiftable,
)
from jaxcompress.quantize.ptq.learn_block import Settings
from jaxcompress.quantize.ptq.moments import moments_of
from jaxcompress.quantize.ptq.post_training import decibels, post_training
from jaxcompress.quantize.sites import find_sites, fused_sites


class Bottlenecks(nn.Module):
  """Two linear bottlenecks with a sum, between a stem and a head."""

  @nn.compact
  def __call__(self, x, *, train):
    conv = lambda *args, **fields: ConvNorm(*args, **fields)  # noqa: E731
    x = conv(6, kernel=3, act="relu6", name="stem")(x, train=train)
    x = conv(4, name="first")(x, train=train)
    y = conv(8, act="relu6", name="expand")(x, train=train)
    y = conv(8, kernel=3, groups="depthwise", act="relu6", name="depthwise")(y, train=train)
    x = Add(name="add")(x, conv(4, name="project")(y, train=train))
    x = conv(8, act="relu", name="head")(x, train=train)
    return Dense(5, name="dense")(GlobalAvgPool(name="pool")(x))


@pytest.fixture(scope="module")
def network():
  """``(variables, images, graph)``, with means and biases as of a trained network."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(24, 8, 8, 3)).astype(np.float32)
  variables = jax.device_get(init_variables(Bottlenecks(), jax.random.key(0), images.shape[1:]))

  def change(path, array):
    drawn = path[-1].key in ("mean", "bias")
    return rng.normal(0, 0.3, array.shape).astype(np.float32) if drawn else array

  variables = jax.tree_util.tree_map_with_path(change, variables)
  return variables, images, trace(Bottlenecks(), variables, images[:1])


def test_ends_of_bottlenecks_are_shifted_and_residual_branches_are_not(network):
  assert shiftable(find_sites(network[2])) == ("first", "add")


def test_a_shifted_network_computes_what_it_did(network):
  variables, images, graph = network
  sites = find_sites(graph)
  folded = {
    name: Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
    for name, layer in fold(sites.graph, variables).items()
  }
  moments = moments_of(sites.graph, variables)
  found = shift(sites.graph, folded, moments, {"first": -50.0, "add": -70.0})
  assert found.clipped == {"first", "add"}
  assert {node.attrs.get("act") for node in found.graph.nodes if node.name in found.clipped} == {
    "relu"
  }
  tensors = {}

  def record(tensor, array):
    tensors[tensor] = array
    return array

  x = jnp.asarray(images)
  wanted = execute(sites.graph, folded_layers(folded), x)
  logits = execute(found.graph, folded_layers(found.folded), x, record)
  np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
  assert tensors["first"].min() > 0 and tensors["add"].min() > 0
  for name, up in (("first", 50), ("add", 70)):
    np.testing.assert_array_equal(found.moves[name].shift, np.full(4, -up))
  np.testing.assert_allclose(found.moments["first"].mean, moments["first"].mean + 50)
  few = few_grids(fused_sites(found.graph), dict.fromkeys(tensors | {"input": 0}, 5))
  assert few == dict.fromkeys(
    ("stem", "first", "expand", "depthwise", "add"), 5
  )  # the last layer's input is not


def test_biases_make_up_for_shifts_with_the_rounded_weights(network):
  variables, images, graph = network
  sites, x = find_sites(graph), jnp.asarray(images)
  folded = {
    name: Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
    for name, layer in fold(sites.graph, variables).items()
  }

  def rounded(layers):
    kernels = {name: np.rint(4 * layer.kernel) / 4 for name, layer in folded.items()}
    return {name: layer._replace(kernel=kernels[name]) for name, layer in layers.items()}

  found = shift(sites.graph, folded, {}, {"first": -50.0, "add": -70.0})
  below = readers_of(found.graph, {name: -move.shift for name, move in found.moves.items()})
  assert below.keys() == {"expand", "head"}
  kernels = {name: layer.kernel for name, layer in rounded(folded).items()}
  shifted = rounded(make_up(found.folded, kernels, below))
  wanted = execute(sites.graph, folded_layers(rounded(folded)), x)
  logits = execute(found.graph, folded_layers(shifted), x)
  np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
  without = execute(found.graph, folded_layers(rounded(found.folded)), x)
  assert np.abs(without - wanted).max() > 1  # every weight's error, times the shift


def test_a_shift_of_groups_is_made_up_for_group_by_group():
  rng = np.random.default_rng(0)
  below, error = rng.normal(size=6), rng.normal(size=(1, 1, 3, 4))  # two groups of three
  wanted = np.concatenate([below[:3] @ error[0, 0, :, :2], below[3:] @ error[0, 0, :, 2:]])
  np.testing.assert_allclose(made_up(below, error), wanted, rtol=1e-5)


class Flattened(nn.Module):
  """A classifier that reads the cells of a linear map that a wider one was projected to."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    x = ConvNorm(4, name="project")(x, train=train)
    x = Activation("relu", name="relu")(Dense(7, name="dense")(x))
    return Dense(5, name="last")(x)


@pytest.mark.slow
def test_a_linear_layer_that_flattens_a_map_is_learned_like_others(network, monkeypatch):
  images, model = network[1], Flattened()
  short = Algorithm("mse", weights="mse", reconstruct=Settings(kept=0.5, steps=20))
  monkeypatch.setitem(algorithms.ALGORITHMS, "qdrop", short)
  variables = init_variables(model, jax.random.key(0), images.shape[1:])
  wanted = np.asarray(model.apply(variables, images, train=False))
  for method in ("mse", "qdrop"):
    options = {"method": method, "bits": 6, "activation_bits": 6, "progress": False}
    made = post_training(model, variables, images, **options)
    assert decibels(wanted, made(images)) > 20
  up = np.array([2.0, 3.0])
  error = np.random.default_rng(0).normal(size=(8, 3))  # four cells of two channels
  np.testing.assert_allclose(made_up(up, error), np.tile(up, 4) @ error, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_codes_of_few_bits_end_where_int8_does(bits):
  grid = few_grid((0.0, 3.0), bits)
  assert (grid.zero_point + grid.high, grid.high) == (127, 2**bits - 1)
  np.testing.assert_allclose(grid.high * grid.scale, 3.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mse", "equalize", "qdrop"])
def test_files_are_bit_equal_and_more_bits_are_nearer_to_float(
  network, method, monkeypatch, tmp_path
):
  variables, images, _ = network
  short = Algorithm("mse", weights="mse", reconstruct=Settings(kept=0.5, steps=20))
  monkeypatch.setitem(algorithms.ALGORITHMS, "qdrop", short)
  model = Bottlenecks()
  wanted = np.asarray(model.apply(variables, images, train=False))
  found = []
  for bits in (3, 6):
    made = post_training(model, variables, images, method=method, activation_bits=bits)
    assert made.grids["add"].zero_point == made.grids["depthwise"].zero_point == 128 - 2**bits
    export.tflite(made, tmp_path / "model.tflite")
    assert export.verify(tmp_path / "model.tflite", made, images).bit_equal == 1.0
    found.append(decibels(wanted, made(images)))
  assert found[1] > found[0] + 6


@pytest.mark.slow
def test_rules_give_activations_other_bits(network, tmp_path):
  variables, images, _ = network
  model = Bottlenecks()
  wanted = np.asarray(model.apply(variables, images, train=False))

  def made(bits, *rules):
    rules = tuple(Rule(match=match, activations=ema_range(asked)) for match, asked in rules)
    return post_training(model, variables, images, method="mse", activation_bits=bits, rules=rules)

  def lowest(quantized):
    return {name: grid.zero_point for name, grid in quantized.grids.items()}

  wide = made(4, ("^first$|Add", 8), ("stem", 5))
  few = {"stem": 128 - 2**5, "expand": 128 - 2**4, "depthwise": 128 - 2**4}
  assert lowest(wide) == lowest(wide) | few
  assert -100 < lowest(wide)["first"] < 100 and -100 < lowest(wide)["add"] < 100  # not shifted
  export.tflite(wide, tmp_path / "model.tflite")
  assert export.verify(tmp_path / "model.tflite", wide, images).bit_equal == 1.0
  assert decibels(wanted, wide(images)) > decibels(wanted, made(4)(images)) + 1
  narrow = made(8, ("expand", 3))
  assert lowest(narrow) == lowest(narrow) | {"expand": 128 - 2**3, "depthwise": -128}
  one = made(8, ("expand", 8))
  np.testing.assert_array_equal(one(images), made(8)(images))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"activation_bits": 1}, "activation_bits: 1 is out of range; it must be 2 to 8, or 16."),
    ({"activation_bits": 4, "symmetric": True}, "symmetric: activations of 4 bits have a zero"),
  ],
)
def test_widths_that_no_file_holds_are_refused(network, options, message):
  with pytest.raises(ValueError, match=message):
    post_training(Bottlenecks(), *network[:2], **options)
