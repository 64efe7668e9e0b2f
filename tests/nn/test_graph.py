"""Tracing, fusing, and counting."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models, nn
from jaxcompress.nn.operations import macs


class Branches(linen.Module):
  """One of every structural op."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    left, right = nn.Split((4, 4), name="split")(x)
    right = nn.ConvNorm(4, kernel=3, groups="depthwise", name="depthwise")(right, train=train)
    x = nn.Concat(name="concat")(left, right)
    x = nn.ChannelShuffle(2, name="shuffle")(x)
    nn.ConvNorm(4, name="unused")(x, train=train)
    x = nn.MaxPool(2, 2, name="pool")(x)
    pooled = nn.GlobalAvgPool(name="mean")(x)
    return nn.Endpoints(nn.Dense(3, name="classifier")(pooled), pooled)


def trace_of(model, size=8):
  x = jnp.zeros((2, size, size, 3))
  return nn.trace(model, jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False)), x)


def test_the_graph_lists_what_the_logits_depend_on_in_order():
  graph = trace_of(Branches())
  assert [node.name for node in graph.nodes] == [
    "stem", "split", "depthwise", "concat", "shuffle", "pool", "mean", "classifier",
  ]  # fmt: skip
  assert graph.producer("split:1").name == "split"
  assert graph.nodes[2].inputs == ("split:1",)
  assert graph.nodes[3].inputs == ("split", "depthwise")
  assert graph.shape("pool") == (2, 4, 4, 8)
  assert graph.output == "classifier"
  assert hash(graph) == hash(trace_of(Branches()))


def test_a_model_that_returns_bare_logits_traces():
  class Bare(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      return nn.Dense(3, name="classifier")(nn.GlobalAvgPool(name="pool")(x))

  assert trace_of(Bare()).output == "classifier"


def test_computing_outside_leaf_ops_is_an_error_that_names_the_reader():
  class Outside(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      return nn.Dense(3, name="classifier")(nn.GlobalAvgPool(name="pool")(x * 2))

  with pytest.raises(ValueError, match=r"'pool' \(GlobalAvgPool\) reads an array that no leaf"):
    trace_of(Outside())


def test_calling_a_leaf_op_twice_is_an_error():
  class Twice(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      layer = nn.ConvNorm(3, name="shared")
      return nn.GlobalAvgPool(name="pool")(layer(layer(x, train=train), train=train))

  with pytest.raises(
    ValueError, match=r"'shared' \(ConvNorm\) is called twice; .*models\.from_linen\("
  ):
    trace_of(Twice())


def test_an_unknown_activation_is_an_error_where_only_shapes_are_computed():
  class Network(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      return nn.GlobalAvgPool(name="pool")(nn.ConvNorm(3, act="swish", name="conv")(x, train=train))

  with pytest.raises(ValueError, match="act: 'swish' is no activation function"):
    trace_of(Network())


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("input", "stem"), "'input' writes tensor 'input', as something else"),
    (("stem", "split:1"), "'split' writes tensor 'split:1', as something else"),
    (("a/b", "c"), "'a/b' has a slash in its name"),
  ],
)
def test_names_that_the_graph_could_not_tell_apart_are_refused(names, message):
  class Network(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      for name in names:
        x = nn.Activation("relu", name=name)(x)
      left, _ = nn.Split((1, 2), name="split")(x)
      return nn.Dense(3, name="classifier")(nn.GlobalAvgPool(name="pool")(left))

  with pytest.raises(ValueError, match=message):
    trace_of(Network())


def test_normalized_vectors_are_counted_and_become_part_of_the_dense_layer():
  class Network(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.Dense(4, name="hidden")(nn.GlobalAvgPool(name="pool")(x))
      return nn.Dense(3, name="classifier")(nn.BatchNorm(name="norm")(x, train=train))

  graph = trace_of(Network())
  assert sum(macs(node) for node in graph.nodes) >= 3 * 4 + 4 * 3
  assert [node.name for node in nn.fuse_activations(graph).nodes] == [
    "pool",
    "hidden",
    "classifier",
  ]


def test_sizes_of_parts_may_be_an_array():
  class Network(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      left, _ = nn.Split(np.array([1, 2]), name="split")(x)
      return nn.Dense(3, name="classifier")(nn.GlobalAvgPool(name="pool")(left))

  assert hash(trace_of(Network())) is not None
  assert trace_of(Network()).nodes[0].attrs["sizes"] == (1, 2)


def test_multiply_adds_are_counted_by_the_definition():
  graph = trace_of(Branches())
  expected = 8 * 8 * (9 * 3 * 8) + 8 * 8 * (9 * 4) + 8 * 3
  assert nn.count_macs(graph) == expected


def test_fusing_moves_rectifiers_into_adds_and_keeps_the_tensor_names():
  graph = models.summarize(models.resnet8(10), 32).graph
  fused = nn.fuse_activations(graph)
  assert not any(node.op == "Activation" for node in fused.nodes)
  adds = [node for node in fused.nodes if node.op == "Add"]
  assert [(node.attrs["act"], node.output) for node in adds] == [
    ("relu", f"stage{i}_block0/relu") for i in range(3)
  ]
  assert fused.output == graph.output


def test_a_rectifier_whose_input_is_read_elsewhere_stays():
  class Shared(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.ConvNorm(3, name="conv")(x, train=train)
      x = nn.Add(name="add")(x, nn.Activation("relu", name="relu")(x))
      return nn.GlobalAvgPool(name="pool")(x)

  assert "Activation" in [node.op for node in nn.fuse_activations(trace_of(Shared())).nodes]
