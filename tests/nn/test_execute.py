"""A graph on folded layers computes what the model does, and shows every tensor on the way."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.nn import (
  INPUT,
  Activation,
  AvgPool,
  BatchNorm,
  ConvNorm,
  Dense,
  fold,
  fuse_activations,
  init_variables,
  trace,
)
from jaxcompress.nn.execute import execute, folded_layers

pytestmark = pytest.mark.usefixtures("programs_forgotten")

NETWORKS = {
  "mobilenet_v3_small": partial(models.mobilenet_v3_small, width=0.35),
  "mobilenet_v2": partial(models.mobilenet_v2, width=0.25),
  "shufflenet_v2": partial(models.shufflenet_v2, width=0.5),
  "ghostnet": partial(models.ghostnet, width=0.5),
  "wrn_16_1": models.wrn_16_1,
  "resnet8": models.resnet8,
}


class Pooled(nn.Module):
  """An average that counts padding, a dense layer that flattens, ops with no norm or no bias."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, kernel=3, norm=None, padding=((1, 0), (0, 1)), name="conv")(x, train=train)
    x = AvgPool(3, 2, "SYMMETRIC", count_padding=True, name="pool")(x)
    x = BatchNorm(name="norm", act="relu6")(x, train=train)
    x = Activation("hard_swish", name="act")(x)
    return Dense(5, use_bias=False, name="dense")(x)


def lively(variables, seed=0):
  """Variables as after training: statistics and gammas that differ from channel to channel."""
  rng = np.random.default_rng(seed)

  def change(path, array):
    name = path[-1].key
    if name == "var":
      return jnp.asarray(rng.uniform(0.5, 2.0, array.shape), jnp.float32)
    if name == "scale":
      return jnp.asarray(rng.uniform(0.5, 1.5, array.shape), jnp.float32)
    if name in ("mean", "bias", "conv_bias"):
      return jnp.asarray(rng.normal(0, 0.2, array.shape), jnp.float32)
    return array

  return jax.tree_util.tree_map_with_path(change, variables)


def built(model, size=32):
  variables = lively(init_variables(model, jax.random.key(0), (size, size, 3)))
  x = jax.random.normal(jax.random.key(1), (3, size, size, 3))
  return variables, x, trace(model, variables, x[:1])


def logits_of(model, variables, x):
  output = model.apply(variables, x, train=False)
  return getattr(output, "logits", output)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_model(name):
  model = NETWORKS[name](num_classes=7)
  variables, x, graph = built(model)
  layers = folded_layers(fold(graph, variables))
  expected = jax.jit(partial(logits_of, model))(variables, x)
  y = jax.jit(execute, static_argnums=0)(fuse_activations(graph), layers, x)
  scale = float(jnp.abs(expected).max())
  np.testing.assert_allclose(y / scale, expected / scale, atol=2e-5)


@pytest.mark.parametrize("fuse", [lambda graph: graph, fuse_activations])
def test_ops_that_no_architecture_combines_are_those_of_the_model(fuse):
  variables, x, graph = built(Pooled(), 9)
  y = execute(fuse(graph), folded_layers(fold(graph, variables)), x)
  np.testing.assert_allclose(y, logits_of(Pooled(), variables, x), rtol=1e-4, atol=1e-5)


def test_the_visitor_sees_every_tensor_in_its_shape():
  variables, x, graph = built(models.shufflenet_v2(num_classes=7, width=0.5))
  graph = fuse_activations(graph)
  shapes = {}

  def record(tensor, array):
    shapes[tensor] = array.shape
    return array

  jax.eval_shape(partial(execute, graph, visit=record), folded_layers(fold(graph, variables)), x)
  assert shapes == {
    tensor: (3, *graph.shape(tensor)[1:])
    for tensor in (INPUT, *(name for node in graph.nodes for name in node.outputs))
  }


@pytest.mark.slow
def test_what_the_visitor_returns_is_what_later_nodes_read():
  variables, x, graph = built(models.resnet8(num_classes=7))
  layers = folded_layers(fold(graph, variables))
  cleared = execute(graph, layers, x, lambda tensor, array: array * (tensor != "pool"))
  np.testing.assert_allclose(cleared, jnp.tile(layers["classifier"][1].reshape(1, -1), (3, 1)))


@pytest.mark.slow
def test_a_missing_layer_is_named():
  variables, x, graph = built(models.resnet8(num_classes=7))
  layers = folded_layers(fold(graph, variables))
  del layers["classifier"]
  with pytest.raises(ValueError, match="'classifier' has no weights"):
    execute(graph, layers, x)
