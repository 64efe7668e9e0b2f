"""A tensor keeps a grid of its own where it is joined with others that are unlike it, and only there."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export
from jaxcompress.nn import (
  Activation,
  Affine,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Maximum,
  MaxPool,
  Split,
  init_variables,
  trace,
)
from jaxcompress.quantize import grids_apart, post_training
from jaxcompress.quantize.ptq.apart import choose_apart
from jaxcompress.quantize.sites import find_sites

SHAPE = (8, 8, 4)


class Lambda(nn.Module):
  function: object

  @nn.compact
  def __call__(self, x, *, train):
    return self.function(x)


def conv(name, x, features=4, act="relu"):
  return ConvNorm(features, act=act, norm=None, name=name)(x, train=False)


def sites_of(function):
  x = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
  module = Lambda(function)
  init = lambda: module.init(jax.random.key(0), jax.numpy.zeros(x.shape), train=False)  # noqa: E731
  return find_sites(trace(module, jax.eval_shape(init), x))


def joined(between=lambda x: x, other_reader=True):
  """A small tensor, what comes between it and a concatenation with a big one, and another reader."""

  def function(x):
    small, big = conv("small", x), conv("big", x)
    cat = Concat(name="cat")(big, between(small))
    y = conv("after", cat)
    return Concat(name="ends")(y, conv("other", small)) if other_reader else y

  return function


def ranges(sites, **highs):
  """Ranges from zero up; 1 where nothing is said, but what joins tensors holds them all."""
  found = {tensor: highs.get(tensor, 1.0) for tensor, _ in sites.keys}
  for node in sites.graph.nodes:
    if node.op in ("Concat", "Maximum"):
      found[node.output] = max(found[tensor] for tensor in node.inputs)
  return {tensor: (0.0, high) for tensor, high in found.items()}


@pytest.mark.parametrize(
  ("ratio", "expected"), [(1.0, set()), (1.9, set()), (2.1, {("cat", "small")})]
)
def test_a_tensor_with_another_reader_is_apart_from_what_is_more_than_twice_as_coarse(
  ratio, expected
):
  sites = sites_of(joined())
  assert (
    choose_apart(sites, ranges(sites, small=0.1, big=0.1 * ratio, after=1, other=1)) == expected
  )
  parted = find_sites(sites.graph, expected)
  key = parted.key_of
  assert (key["small"] == key["cat"]) == (not expected)
  assert key["big"] == key["cat"]
  assert ("cat" in parted.rounded) == bool(expected)


@pytest.mark.parametrize(("ratio", "expected"), [(1.9, set()), (2.1, {("larger", "small")})])
def test_the_larger_of_two_is_joined_as_a_concatenation_is(ratio, expected):
  def function(x):
    small, big = conv("small", x), conv("big", x)
    y = conv("after", Maximum(name="larger")(big, small))
    return Concat(name="ends")(y, conv("other", small))

  sites = sites_of(function)
  found = choose_apart(sites, ranges(sites, small=0.1, big=0.1 * ratio, after=1, other=1))
  assert found == expected


@pytest.mark.parametrize("seed", range(3))
def test_unlike_tensors_of_which_the_larger_is_taken_keep_their_levels(seed, tmp_path):
  """Post-training sees that the one needs finer steps elsewhere, and the file is exact all the same."""

  def function(x):
    small, big = conv("small", x), conv("big", x)
    small = Affine(0.01, name="less")(small)
    y = Maximum(name="larger")(Affine(30.0, -5.0, name="more")(big), small)
    pooled = GlobalAvgPool(name="pool")(Concat(name="ends")(y, conv("other", small)))
    return Dense(3, name="head")(pooled)

  model = Lambda(function)
  variables = init_variables(model, jax.random.key(seed), SHAPE)
  images = np.random.default_rng(seed).normal(size=(8, *SHAPE)).astype(np.float32)
  assert ("larger", "less") in grids_apart(model, variables, images)
  quantized = post_training(model, variables, images, method="minmax")
  assert "Requantize" in {node.op for node in quantized.graph.nodes}
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, images).bit_equal == 1.0


def test_a_tensor_that_is_always_zero_needs_no_grid_of_its_own():
  sites = sites_of(joined())
  assert not choose_apart(sites, ranges(sites, small=0.0, big=1000.0))


@pytest.mark.parametrize("ratio", [3.0, 1000.0])
def test_what_a_concatenation_alone_reads_is_written_on_its_grid(ratio):
  sites = sites_of(joined(other_reader=False))
  assert not choose_apart(sites, ranges(sites, small=1.0, big=ratio))


@pytest.mark.parametrize(
  ("between", "tensor"),
  [
    (lambda x: MaxPool(3, 1, name="pool")(x), "pool"),
    (lambda x: AvgPool(3, 1, name="pool")(x), "pool"),  # leaves its padding out of account
    (lambda x: Split((1, 3), name="split")(x)[1], "split:1"),
    (lambda x: ChannelShuffle(2, name="shuffle")(x), "shuffle"),
  ],
)
def test_what_only_moves_stays_on_the_tensors_grid_and_is_requantized_behind(between, tensor):
  sites = sites_of(joined(between))
  wide = ranges(sites, small=0.1, big=5.0) | {tensor: (0.0, 0.1)}
  assert choose_apart(sites, wide) == {("cat", tensor)}
  key = find_sites(sites.graph, {("cat", tensor)}).key_of
  assert key[tensor] == key["small"] != key["cat"] == key["big"]


@pytest.mark.parametrize("count", [False, True])
def test_an_average_pool_requantizes_itself(count):
  between = lambda x: AvgPool(3 if count else 1, 1, count_padding=count, name="pool")(x)  # noqa: E731
  sites = sites_of(joined(between))
  wide = ranges(sites, small=0.1, big=5.0, pool=0.1)
  assert choose_apart(sites, wide) == {("pool", "small")}
  key = find_sites(sites.graph, {("pool", "small")}).key_of
  assert key["small"] != key["pool"] == key["cat"]


def test_an_average_that_is_much_smaller_than_its_input_has_finer_steps():
  sites = sites_of(lambda x: conv("after", AvgPool(4, 4, "VALID", name="pool")(conv("wide", x))))
  assert choose_apart(sites, ranges(sites, wide=1.0, pool=0.7)) == {("pool", "wide")}
  assert not choose_apart(sites, ranges(sites, wide=1.0, pool=0.9))


def test_steps_do_not_drift_along_a_chain_of_concatenations():
  def chain(x):
    x = conv("x0", x)
    for i in range(1, 6):
      x = Concat(name=f"cat{i}")(x, conv(f"x{i}", x))
    return x

  sites = sites_of(chain)
  highs = {f"x{i}": 1.5**i for i in range(6)}
  apart = choose_apart(sites, ranges(sites, **highs))
  assert apart
  key = find_sites(sites.graph, apart).key_of
  for tensor in highs:
    coarse = max(high for other, high in highs.items() if key[other] == key[tensor])
    if tensor != "x5":  # which nothing but a concatenation reads
      read = [key[f"cat{i}"] for i in range(1, 5) if f"cat{i}" in key]
      assert coarse <= 2 * 1.5 ** max(int(tensor[1]), 1) or key[tensor] in read
  groups = {}
  for i in range(1, 5):
    groups.setdefault(key[f"cat{i}"], []).append(1.5**i)
  assert all(max(highs) <= 2 * min(highs) for highs in groups.values())


@pytest.mark.parametrize(("ratio", "apart"), [(100.0, False), (1000.0, True)])
def test_with_16_bits_only_what_would_keep_few_levels_is_apart(ratio, apart):
  sites = sites_of(joined())
  bits = {tensor: 16 for tensor, _ in sites.keys}
  found = choose_apart(sites, ranges(sites, small=1.0, big=ratio, other=1, after=1), bits)
  assert found == ({("cat", "small")} if apart else set())


def test_gates_are_apart_from_what_is_none():
  sites = sites_of(joined(lambda x: Activation("hard_sigmoid", name="gate")(x)))
  assert sites.apart == {("cat", "gate")}
  assert set(sites.gates) == {"gate"}
  assert choose_apart(sites, ranges(sites)) == {("cat", "gate")}


def test_pairs_that_are_none_are_refused():
  graph = sites_of(joined()).graph
  for pair in (("cat", "other"), ("after", "cat"), ("dog", "small")):
    with pytest.raises(ValueError, match="is no pair of a pool, split, shuffle or concatenation"):
      find_sites(graph, {pair})


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_tensor_with_several_readers_gets_steps_more_than_twice_its_own(data):
  """And whatever is tied without harm stays tied: nothing is requantized to nearly equal steps."""
  choices = data.draw(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6))

  def network(x):
    tensors = [conv("x0", x)]
    for i, (which, plain) in enumerate(choices):
      left = tensors[which % len(tensors)]
      right = conv(f"x{i + 1}", left)
      tensors.append(right if plain else Concat(name=f"cat{i + 1}")(left, right))
    return Concat(name="end")(*tensors)

  sites = sites_of(network)
  highs = {
    tensor: 10 ** data.draw(st.floats(-3, 3)) for tensor, _ in sites.keys if tensor[0] == "x"
  }
  seen = ranges(sites, **highs)
  apart = choose_apart(sites, seen)
  parted = find_sites(sites.graph, apart)
  key, found = parted.key_of, {}
  for tensor, name in parted.keys:
    found[name] = max(found.get(name, 0), seen[tensor][1])
  readers = {t: [n for n in sites.graph.nodes if t in n.inputs] for t in key}
  for tensor, nodes in readers.items():
    if any(node.op == "ConvNorm" for node in nodes):
      assert found[key[tensor]] <= 2.001 * seen[tensor][1]
  for name, tensor in apart:
    node = next(node for node in sites.graph.nodes if node.name == name)
    assert key[tensor] != key[node.output]


def scaled(seed, ratio):
  module = Lambda(lambda x: Dense(5, name="head")(GlobalAvgPool(name="mean")(joined()(x))))
  variables = jax.tree.map(np.array, init_variables(module, jax.random.key(seed), SHAPE))
  params = variables["params"]
  params["big"]["kernel"] *= np.float32(ratio)
  params["after"]["kernel"][:, :, :4] /= np.float32(ratio)
  images = np.random.default_rng(seed).normal(size=(12, *SHAPE)).astype(np.float32)
  return module, variables, images


@pytest.mark.parametrize("method", ["minmax", "ema", "mse", "equalize", "bias_correction"])
def test_a_tensor_keeps_its_steps_at_every_ratio(method):
  scales = {}
  for ratio in (1.0, 50.0):
    module, variables, images = scaled(0, ratio)
    quantized = post_training(module, variables, images, method=method, progress=False)
    scales[ratio] = [quantized.grids[name].scale for name in ("small", "other")]
    inserted = [node.name for node in quantized.graph.nodes if node.op == "Requantize"]
    assert inserted == (["small/on/big"] if ratio > 1 else [])
  assert np.all(np.array(scales[50.0]) <= np.array(scales[1.0]) * 1.01)
  assert quantized.grids["small"] != quantized.grids["cat"] == quantized.grids["big"]


def test_pairs_for_fine_tuning_are_those_of_post_training():
  module, variables, images = scaled(1, 20.0)
  assert grids_apart(module, variables, images, batch_size=5) == (("cat", "small"),)
  assert grids_apart(*scaled(1, 1.0)) == ()


def of_average(x):
  return Activation("relu", name="act")(AvgPool(3, 2, count_padding=True, name="pool")(x))


def of_hard_swish(x):
  return Activation("relu6", name="act")(Activation("hard_swish", name="swish")(x))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("function", [of_average, of_hard_swish])
def test_a_rectifier_behind_what_devices_compute_otherwise_stays_an_operation(function, bits):
  """The product or convolution that is put in its place takes none in: its tensor has a grid."""
  model = Lambda(lambda x: Dense(3, name="head")(function(conv("conv", x, act=None))))
  images = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  quantized = post_training(
    model, variables, images, method="minmax", activation_bits=bits, progress=False
  )
  assert quantized.graph.producer("act").op == "Activation"
  floats = np.asarray(model.apply(variables, images, train=False))
  assert np.abs(quantized(images) - floats).max() < 0.05 * np.abs(floats).max()
