"""From Flax, NNX and plain functions to leaf ops, and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import models, prune
from jaxcompress.nn import ConvNorm

IMAGES = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)


def drawn(tree, seed=0):
  """Statistics, scales and biases away from 0 and 1, so that mistakes show."""
  draw = np.random.default_rng(seed)

  def one(path, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    name = jax.tree_util.keystr(path)
    low, high = (0.5, 1.5) if "var" in name or "scale" in name else (-0.4, 0.4)
    return jnp.asarray(draw.uniform(low, high, leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(one, tree)


class Block(nn.Module):
  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x, train):
    def norm(name):
      return nn.BatchNorm(use_running_average=not train, momentum=0.8, epsilon=1e-4, name=name)

    y = nn.Conv(self.features, (3, 3), self.stride, use_bias=False, name="conv1")(x)
    y = nn.relu(norm("norm1")(y))
    y = norm("norm2")(nn.Conv(self.features, (3, 3), name="conv2")(y))
    if x.shape != y.shape:
      x = norm("norm_skip")(nn.Conv(self.features, (1, 1), self.stride, name="skip")(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Conv(4, (3, 3), use_bias=True, name="stem")(x))
    for i, (features, stride) in enumerate(((4, 1), (8, 2))):
      x = Block(features, stride, name=f"block{i}")(x, train)
    x = nn.Dropout(0.5, deterministic=True)(x.mean((1, 2)))
    return nn.Dense(5, name="head")(x)


@pytest.fixture(scope="module")
def resnet():
  model = ResNet()
  variables = drawn(model.init(jax.random.key(0), jnp.zeros(IMAGES.shape)))
  return model, variables, models.from_linen(model, variables, IMAGES)


def batch(size=6):
  return np.random.default_rng(1).normal(size=(size, *IMAGES.shape[1:])).astype(np.float32)


def near(found, wanted, most=1e-5):
  scale = max(float(np.max(np.abs(wanted))), 1e-6)
  assert float(np.max(np.abs(np.asarray(found) - np.asarray(wanted)))) <= most * scale


def test_a_linen_network_has_the_same_logits_and_names_of_its_own(resnet):
  model, variables, imported = resnet
  x = batch()
  logits = imported.model.apply(imported.variables, x, train=False).logits
  near(logits, model.apply(variables, x))
  assert imported.difference < 1e-5 and imported.unused == ()
  layers = {layer.name: layer for layer in imported.model.layers}
  assert list(layers) == [
    *("stem", "block0/conv1", "block0/conv2", "block0/add", "block0/add_relu"),
    *("block1/conv1", "block1/conv2", "block1/skip", "block1/add", "block1/add_relu"),
    *("pool", "head"),
  ]
  assert layers["block0/conv1"].fields["norm"] == (1e-4, 0.8, False)
  assert layers["block1/skip"].fields["use_bias"]  # whose gradient is zero, and is kept


@pytest.mark.slow
def test_training_is_that_of_the_original(resnet):
  model, variables, imported = resnet
  x, labels = batch(), np.arange(6) % 5
  stats = variables["batch_stats"]

  def own(params):
    logits, new = model.apply(
      {"params": params, "batch_stats": stats},
      x,
      train=True,
      mutable=["batch_stats"],
    )
    return loss(logits), new

  def ours(params):
    ends, new = imported.model.apply(
      {**imported.variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return loss(ends.logits), new

  def loss(logits):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels])

  (wanted, new), gradients = jax.value_and_grad(own, has_aux=True)(variables["params"])
  (found, made), ours_gradients = jax.value_and_grad(ours, has_aux=True)(
    imported.variables["params"]
  )
  near(found, wanted)
  moved = {
    "params": jax.tree.map(lambda p, g: p - g, imported.variables["params"], ours_gradients),
    **made,
  }
  wanted = {"params": jax.tree.map(lambda p, g: p - g, variables["params"], gradients), **new}
  back = imported.restore(moved)
  assert jax.tree.structure(back) == jax.tree.structure(variables)
  jax.tree.map(lambda a, b: near(a, b), back, wanted)


def test_what_was_not_trained_comes_back_to_the_bit(resnet):
  _, variables, imported = resnet
  back = imported.restore(imported.variables)
  jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.slow
def test_a_pruned_network_does_not_go_back(resnet):
  _, _, imported = resnet
  scores = prune.channel_importance(imported.model, imported.variables, batch(2), method="l1")
  keep = prune.choose_channels(scores, 0.7, divisor=1)
  small, variables = prune.remove_channels(imported.model, imported.variables, keep)
  assert small.apply(variables, batch(2), train=False).logits.shape == (2, 5)
  with pytest.raises(ValueError, match="channels were removed does not fit"):
    imported.restore(variables)


def test_an_imported_network_is_saved_and_loaded(resnet, tmp_path):
  _, _, imported = resnet
  path = models.save(tmp_path / "net.safetensors", imported.model, imported.variables)
  model, variables = models.load(path)
  x = batch(2)
  np.testing.assert_array_equal(
    model.apply(variables, x, train=False).logits,
    imported.model.apply(imported.variables, x, train=False).logits,
  )


class Mobile(nnx.Module):
  def __init__(self, rngs):
    self.stem = nnx.Conv(3, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(4, momentum=0.7, rngs=rngs)
    self.depthwise = nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(4, 5, rngs=rngs)

  def __call__(self, x):
    x = jax.nn.relu6(self.norm(self.stem(x)))
    x = x + self.depthwise(x)
    return self.head(self.drop(x.mean((1, 2))))


def test_an_nnx_module_stays_as_it_is_and_takes_trained_variables():
  module = Mobile(nnx.Rngs(0))
  nnx.update(module, drawn(nnx.state(module)))
  before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
  counts = int(module.drop.rngs.count[...])
  imported = models.from_nnx(module, IMAGES)
  after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert not module.drop.deterministic and not module.norm.use_running_average
  assert int(module.drop.rngs.count[...]) == counts
  assert imported.model.layers[0].fields["norm"].momentum == pytest.approx(0.7)
  assert imported.unused == ("drop/rngs/count/value", "drop/rngs/key/value")
  trained = jax.tree.map(lambda x: x * 1.01 + 0.01, imported.variables)
  nnx.update(module, imported.restore(trained))
  module.eval()
  near(module(batch(2)), imported.model.apply(trained, batch(2), train=False).logits)


def test_a_plain_function_of_other_layouts():
  draw = np.random.default_rng(0)
  variables = {
    "k1": jnp.asarray(draw.normal(0, 0.3, (3, 3, 3, 4)), jnp.float32),
    "b1": jnp.zeros(4),
    "k2": jnp.asarray(draw.normal(0, 0.3, (6, 4, 3, 3)), jnp.bfloat16),
    "w": jnp.asarray(draw.normal(0, 0.3, (6 * 36, 5)), jnp.float32),
    "unused": jnp.ones(2),
  }

  def apply(v, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, v["k1"], (1, 1), "SAME", dimension_numbers=numbers)
    x = jnp.transpose(jax.nn.relu(x + v["b1"]), (0, 3, 1, 2))
    x = jnp.clip(jax.lax.conv(x, v["k2"].astype(jnp.float32), (2, 2), "SAME"), 0, 6)
    return x.reshape(len(x), -1) @ v["w"]

  imported = models.from_jax(apply, variables, IMAGES)
  assert [(layer.name, layer.op) for layer in imported.model.layers] == [
    ("k1", "ConvNorm"),
    ("k2", "ConvNorm"),
    ("w", "Dense"),
  ]
  assert imported.unused == ("unused",)
  trained = jax.tree.map(lambda x: x * 1.5, imported.variables)
  back = imported.restore(trained)
  assert back["k2"].dtype == jnp.bfloat16 and back["k2"].shape == (6, 4, 3, 3)
  near(apply(back, batch(2)), imported.model.apply(trained, batch(2), train=False).logits, 1e-2)


def test_images_may_be_read_as_nchw():
  draw = np.random.default_rng(0)
  variables = {
    "k": jnp.asarray(draw.normal(0, 0.3, (4, 3, 3, 3)), jnp.float32),
    "w": jnp.asarray(draw.normal(0, 0.3, (4, 5)), jnp.float32),
  }

  def apply(v, x):
    return jax.lax.conv(x, v["k"], (1, 1), "SAME").mean((2, 3)) @ v["w"]

  images = jax.ShapeDtypeStruct((1, 3, 8, 10), jnp.float32)
  imported = models.from_jax(apply, variables, images, layout="NCHW")
  x = draw.normal(size=(2, 8, 10, 3)).astype(np.float32)
  near(
    imported.model.apply(imported.variables, x, train=False).logits,
    apply(variables, jnp.transpose(x, (0, 3, 1, 2))),
  )


class Detector(nn.Module):
  @nn.compact
  def __call__(self, x):
    maps = nn.relu(nn.Conv(6, (3, 3), 2, name="stem")(x))
    boxes = nn.Conv(4, (1, 1), name="boxes")(maps)
    return {
      "boxes": boxes.reshape(len(x), -1, 4),
      "first": jnp.transpose(maps, (0, 3, 1, 2)),
      "scores": nn.Dense(5, name="scores")(maps.mean((1, 2))),
    }


def test_several_outputs_have_their_names():
  model = Detector()
  variables = drawn(model.init(jax.random.key(0), jnp.zeros(IMAGES.shape)))
  imported = models.from_linen(model, variables, IMAGES, maps=["stem"])
  ends = imported.model.apply(imported.variables, batch(2), train=False)
  wanted = model.apply(variables, batch(2))
  assert list(ends.outputs) == ["boxes", "first", "scores"]
  near(ends.outputs["boxes"].reshape(2, -1, 4), wanted["boxes"])
  near(jnp.transpose(ends.outputs["first"], (0, 3, 1, 2)), wanted["first"])
  near(ends.logits, wanted["scores"])
  assert ends.maps[0].shape == (2, 6, 6, 6) and ends.pooled.shape == (2, 6)


def test_a_state_that_is_handed_through_is_no_output():
  variables = {"w": jnp.ones((3, 5)), "state": jnp.zeros(2)}
  imported = models.from_jax(lambda v, x: (x.mean((1, 2)) @ v["w"], v["state"]), variables, IMAGES)
  assert dict(imported.model.ends.outputs) == {}


def test_maps_are_named_by_layers_or_modules_and_unknown_ones_are_told(resnet):
  model, variables, _ = resnet
  imported = models.from_linen(model, variables, IMAGES, maps=["stem", "block1"])
  assert imported.model.ends.maps == ("stem", "block1/add_relu")
  with pytest.raises(ValueError, match=r"maps: 'stage' is no layer; its layers are stem, block0"):
    models.from_linen(model, variables, IMAGES, maps=["stage"])


def test_a_function_of_one_batch_is_traced_with_it():
  def apply(variables, x):
    x = jax.image.resize(x, (4, 8, 8, 3), "nearest").reshape(4, -1)
    return x @ variables["w"]

  variables = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(192, 5)), jnp.float32)}
  imported = models.from_jax(apply, variables, jnp.zeros((4, 4, 4, 3)))
  assert [layer.op for layer in imported.model.layers] == ["Resize", "Dense"]


def test_what_a_network_has_of_our_layers_is_read_as_convolutions():
  class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
      x = ConvNorm(8, kernel=3, groups="depthwise", name="inner")(x, train=train)
      return nn.Dense(5, name="head")(nn.silu(x).mean((1, 2)))

  model = Mixed()
  variables = drawn(model.init(jax.random.key(0), jnp.ones(IMAGES.shape), train=False))
  imported = models.from_linen(model, variables, IMAGES)
  found = [(layer.name, layer.op) for layer in imported.model.layers]
  assert found[:2] == [("stem", "ConvNorm"), ("inner", "ConvNorm")]
  assert [op for _, op in found[2:]] == ["Activation", "GlobalAvgPool", "Dense"]
