"""Folding BatchNorm against the layers that it stands for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import (
  Activation,
  BatchNorm,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Norm,
  fold,
  fuse_activations,
  kernel_shape,
  trace,
)
from jaxcompress.nn.operations import macs
from jaxcompress.ops import conv


class Small(nn.Module):
  norm: Norm | None = Norm(epsilon=1e-3)

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, stride=2, norm=self.norm, name="conv")(x, train=train)
    return Dense(4, name="dense")(GlobalAvgPool(name="pool")(x))


def variables_of(model, x, seed=0):
  rng = np.random.default_rng(seed)
  variables = model.init(jax.random.key(seed), x, train=False)
  noisy = lambda a: np.asarray(rng.normal(0.5, 1.0, a.shape), np.float32)  # noqa: E731
  variables = jax.tree.map(noisy, variables)
  if "batch_stats" in variables:
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  return variables


@pytest.mark.parametrize("norm", [Norm(epsilon=1e-3), None])
def test_a_folded_layer_computes_what_the_layer_does(norm):
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  model = Small(norm)
  variables = variables_of(model, x)
  layer = fold(trace(model, variables, x), variables)["conv"]
  bound = model.bind(variables)
  expected = ConvNorm(6, kernel=3, stride=2, norm=norm).apply(
    {kind: tree["conv"] for kind, tree in bound.variables.items() if "conv" in tree}, x, train=False
  )
  spread = (1, 1, 1, -1)
  y = conv(x, jnp.asarray(layer.weights), stride=2) + layer.bias.astype(np.float32).reshape(spread)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_the_kernel_is_kept_as_it_was_trained():
  x = jnp.ones((1, 8, 8, 3))
  variables = variables_of(Small(), x)
  layers = fold(trace(Small(), variables, x), variables)
  np.testing.assert_array_equal(layers["conv"].kernel, variables["params"]["conv"]["kernel"])
  np.testing.assert_array_equal(layers["dense"].factor, np.ones(4))
  np.testing.assert_allclose(layers["dense"].bias, variables["params"]["dense"]["bias"])


def test_values_that_are_not_finite_are_refused_by_the_name_of_their_layer():
  x = jnp.ones((1, 8, 8, 3))
  variables = variables_of(Small(), x)
  variables["batch_stats"]["conv"]["mean"][2] = np.nan
  with pytest.raises(ValueError, match="'conv' holds values that are not finite"):
    fold(trace(Small(), variables, x), variables)


class Awkward(nn.Module):
  """A convolution with two biases, a normalization on its own, and a flattening linear layer."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, use_bias=True, name="conv")(x, train=train)
    x = BatchNorm(name="norm")(x, train=train)
    x = Activation("relu", name="relu")(x)
    return Dense(4, name="dense")(GlobalAvgPool(keepdims=True, name="pool")(x))


def test_double_biases_and_bare_normalizations_fold():
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  variables = variables_of(Awkward(), x)
  graph = fuse_activations(trace(Awkward(), variables, x))
  layers = fold(graph, variables)
  y = np.asarray(conv(x, jnp.asarray(layers["conv"].weights))) + layers["conv"].bias
  y = y * layers["norm"].weights.reshape(-1) + layers["norm"].bias
  y = np.maximum(y, 0).mean((1, 2)) @ layers["dense"].weights + layers["dense"].bias
  np.testing.assert_allclose(y, Awkward().apply(variables, x, train=False), rtol=1e-4, atol=1e-4)
  norm = graph.producer("relu")
  assert (norm.op, norm.attrs["act"], norm.attrs["groups"]) == ("BatchNorm", "relu", "depthwise")
  assert kernel_shape(norm) == (1, 1, 1, 6)
  assert macs(norm) == 0


def test_a_network_without_parameters_has_nothing_to_fold():
  class Pool(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return GlobalAvgPool(name="pool")(x)

  graph = trace(Pool(), {}, jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32))
  assert fold(graph, {}) == {}
