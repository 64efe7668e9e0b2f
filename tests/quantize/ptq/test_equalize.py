"""Moving scales between layers leaves the network what it was."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.nn import (
  Activation,
  Add,
  BatchNorm,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  LeakyRelu,
  MaxPool,
  fold,
  fuse_activations,
  init_variables,
  trace,
)
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize.ptq.equalize import by_input, equalize, find_chains
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.moments import Moments, clipped_mean, moments_of, tensor_means
from jaxcompress.quantize.ptq.observe import channel_peaks

pytestmark = pytest.mark.usefixtures("programs_forgotten")


class Mixed(nn.Module):
  """Grouped, depthwise, pooled, flattened, residual."""

  act: str = "relu"

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act=self.act, name="stem")(x, train=train)
    x = ConvNorm(8, kernel=3, groups="depthwise", act=self.act, name="depthwise")(x, train=train)
    x = ConvNorm(12, groups=2, name="grouped")(x, train=train)
    x = BatchNorm(act=self.act, name="norm")(x, train=train)
    x = MaxPool(2, 2, name="pool")(x)
    x = ConvNorm(6, kernel=3, groups=2, padding="VALID", act="relu", name="valid")(x, train=train)
    y = ConvNorm(6, name="branch")(x, train=train)
    x = Add(name="add")(x, y)
    x = ConvNorm(5, act="relu", name="last")(x, train=train)
    return Dense(4, name="dense")(x)


def uneven(variables, seed=0):
  """Variables whose channels have very different ranges, and some of which stay high above zero."""
  rng = np.random.default_rng(seed)

  def change(path, array):
    name, shape = path[-1].key, array.shape
    if name == "scale":
      scales = np.exp(rng.normal(0, 1.5, shape)) * rng.choice([-1, 1], shape)
      return scales.astype(np.float32)
    if name == "var":
      return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if name in ("mean", "bias"):
      return rng.normal(0, 1, shape).astype(np.float32)
    return array

  return jax.tree_util.tree_map_with_path(change, variables)


def built(model, size=12):
  variables = uneven(init_variables(model, jax.random.key(0), (size, size, 3)))
  x = jax.random.normal(jax.random.key(1), (4, size, size, 3))
  graph = fuse_activations(trace(model, variables, x[:1]))
  return graph, fold(graph, variables), moments_of(graph, variables), x


def ranges(kernel):
  return np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)


def test_chains_end_at_what_several_nodes_read():
  graph = built(Mixed())[0]
  assert [chain.layers for chain in find_chains(graph)] == [
    ("stem", "depthwise", "grouped"),
    ("grouped", "norm", "valid"),
    ("last", "dense"),
  ]


class Leaky(nn.Module):
  """Rectifiers with a slope below zero, which scales pass through, and a function that they do not."""

  @nn.compact
  def __call__(self, x, *, train):
    x = LeakyRelu(0.2, name="leaky")(ConvNorm(8, kernel=3, name="stem")(x, train=train))
    x = LeakyRelu(0.1, name="other")(ConvNorm(8, name="conv")(x, train=train))
    x = Activation("silu", name="act")(ConvNorm(6, name="last")(x, train=train))
    return Dense(4, name="dense")(GlobalAvgPool(name="mean")(x))


def test_chains_go_through_leaky_rectifiers():
  graph = built(Leaky())[0]
  assert [chain.layers for chain in find_chains(graph)] == [("stem", "conv"), ("conv", "last")]


@pytest.mark.slow
@pytest.mark.parametrize(
  "make",
  [
    Mixed,
    Leaky,
    partial(models.mobilenet_v3_small, width=0.35),
    partial(models.shufflenet_v2, width=0.5),
    models.wrn_16_1,
  ],
)
def test_logits_stay_the_same_where_activations_commute_with_scales(make):
  graph, folded, _, x = built(make(), 12 if make in (Mixed, Leaky) else 32)
  new = equalize(graph, folded, {}, {})  # without moments nothing is absorbed
  before = execute(graph, folded_layers(folded), x)
  after = execute(graph, folded_layers(new.folded), x)
  scale = float(jnp.abs(before).max())
  np.testing.assert_allclose(after / scale, before / scale, atol=1e-4)
  moved = [
    name for name in folded if not np.allclose(folded[name].weights, new.folded[name].weights)
  ]
  assert moved


def test_ranges_of_a_chain_become_alike():
  graph, folded, moments, _ = built(Mixed())
  new = equalize(graph, folded, moments, {}).folded
  nodes = {node.name: node for node in graph.nodes}
  out = ranges(new["last"].kernel)
  read = by_input(nodes["dense"], new["dense"].kernel)
  np.testing.assert_allclose(out, read, rtol=0.05)


def test_moments_follow_their_channels():
  graph, folded, moments, _ = built(Mixed())
  new = equalize(graph, folded, moments, {})
  scale = ranges(folded["stem"].weights) / ranges(new.folded["stem"].weights)
  np.testing.assert_allclose(
    new.moments["stem"].deviation, moments["stem"].deviation / scale, rtol=1e-5
  )
  assert np.all(new.moments["last"].mean <= 3 * new.moments["last"].deviation + 1e-9)


def test_channels_that_relu6_clips_keep_their_scale_and_the_others_stay_below_it():
  graph, folded, _, x = built(Mixed("relu6"))
  peaks = channel_peaks(graph, folded_layers(folded), Batches(np.asarray(x), None, 2))
  before = execute(graph, folded_layers(folded), x)
  new = equalize(graph, folded, {}, peaks).folded
  scale = float(jnp.abs(before).max())
  after = execute(graph, folded_layers(new), x)
  np.testing.assert_allclose(after / scale, before / scale, atol=1e-4)
  ratio = ranges(folded["stem"].weights) / ranges(new["stem"].kernel)
  clipped = peaks["stem"] >= 6
  assert clipped.any() and not clipped.all()
  np.testing.assert_allclose(ratio[clipped], 1, rtol=1e-6)
  assert not np.allclose(ratio[~clipped], 1)


def test_relu6_of_unknown_height_is_left_alone():
  graph, folded, moments, _ = built(Mixed("relu6"))
  new = equalize(graph, folded, moments, {}).folded
  np.testing.assert_array_equal(new["stem"].kernel, folded["stem"].weights)


def test_absorbing_a_high_bias_changes_nothing_where_the_rectifier_never_cuts():
  graph, folded, moments, x = built(Mixed())
  high = np.full(5, 1e4)
  folded["last"] = folded["last"]._replace(bias=folded["last"].bias + high)
  moments = {"last": Moments(high, np.full(5, 2000.0))}
  new = equalize(graph, folded, moments, {})
  assert np.all(new.folded["last"].bias < folded["last"].bias - 10)
  before, after = {}, {}
  execute(graph, folded_layers(folded), x, partial(keep, before))
  execute(graph, folded_layers(new.folded), x, partial(keep, after))
  np.testing.assert_allclose(after["dense"], before["dense"], rtol=1e-3, atol=1e-2)
  assert {"stem", "norm", "pool", "last"} <= set(new.moves) and "dense" not in new.moves
  assert np.all(new.moves["last"].shift > 0)
  for tensor in before:  # and all in between are what is said of their channels
    move = new.moves.get(tensor, (1.0, 0.0))
    expected = np.asarray(before[tensor]) / move[0] - move[1]
    np.testing.assert_allclose(after[tensor], expected, rtol=1e-3, atol=1e-2, err_msg=tensor)


def keep(tensors, name, array):
  tensors[name] = array
  return array


@pytest.mark.parametrize("zeros", ["first", "last", "both"])
def test_channels_of_zeros_keep_their_scale(zeros):
  graph, folded, moments, _ = built(Mixed())
  kernels = {name: folded[name].kernel.copy() for name in ("stem", "grouped")}
  if zeros != "last":
    kernels["stem"][..., 2] = 0
  if zeros != "first":
    kernels["grouped"][:, :, 2, :6] = 0
  folded |= {name: folded[name]._replace(kernel=kernel) for name, kernel in kernels.items()}
  new = equalize(graph, folded, moments, {}).folded
  for layer in new.values():
    assert np.isfinite(layer.kernel).all() and np.isfinite(layer.bias).all()
  stem = folded["stem"].weights[..., 2], new["stem"].kernel[..., 2]
  np.testing.assert_array_equal(*stem)


@pytest.mark.parametrize("high", [np.inf, 6.0, 1.0])
def test_means_of_clipped_normals_are_those_of_samples(high):
  rng = np.random.default_rng(0)
  moments = Moments(np.array([-2.0, 0.0, 1.0, 7.0]), np.array([1.0, 2.0, 0.0, 3.0]))
  samples = moments.mean + moments.deviation * rng.normal(size=(400_000, 4))
  np.testing.assert_allclose(
    clipped_mean(moments, high), np.clip(samples, 0, high).mean(axis=0), atol=0.02
  )


def test_means_pass_through_ops_that_only_move_channels():
  graph, _, moments, _ = built(models.shufflenet_v2(num_classes=7, width=0.5), 32)
  means = tensor_means(graph, moments)
  left, right = (means[f"stage0_block0/{name}"] for name in ("left_conv", "right_conv2"))
  np.testing.assert_array_equal(means["stage0_block0/shuffle"][::2], left)
  np.testing.assert_array_equal(means["stage0_block0/shuffle"][1::2], right)
  half = means["stage0_block0/shuffle"].size // 2
  np.testing.assert_array_equal(
    means["stage0_block1/split:1"], means["stage0_block0/shuffle"][half:]
  )
  np.testing.assert_array_equal(means["pool"], means["head"])


@pytest.mark.slow
def test_a_global_pool_is_no_obstacle():
  class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = ConvNorm(4, act="relu", name="conv")(x, train=train)
      return Dense(3, name="dense")(GlobalAvgPool(name="pool")(x))

  assert [chain.layers for chain in find_chains(built(Pooled())[0])] == [("conv", "dense")]
