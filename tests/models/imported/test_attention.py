"""Attention as Flax and others write it becomes leaf ops; other spellings are refused."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import models

IMAGES = np.random.default_rng(0).normal(1.0, 2.0, (4, 8, 6, 3)).astype(np.float32)
CHANNELS = 8


def own(q, k, v):
  """Queries, keys and values (batch, tokens, heads, depth), by einsum, scaled afterwards."""
  scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
  return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores), v)


def heads_first(q, k, v):
  """As PyTorch's are written."""
  q, k, v = (array.transpose(0, 2, 1, 3) for array in (q, k, v))
  scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
  return (jax.nn.softmax(scores, -1) @ v).transpose(0, 2, 1, 3)


FUNCTIONS = {
  "einsum": own,
  "heads first": heads_first,
  "jax": jax.nn.dot_product_attention,
  "linen": linen.dot_product_attention,
}


class Written(linen.Module):
  """Attention of one's own on tokens that one layer makes."""

  function: object
  heads: int

  @linen.compact
  def __call__(self, x):
    images, tokens, channels = x.shape
    made = linen.Dense(3 * channels, name="qkv")(x)
    parts = (p.reshape(images, tokens, self.heads, -1) for p in jnp.split(made, 3, -1))
    y = self.function(*parts).reshape(images, tokens, channels)
    return linen.Dense(channels, name="out")(y)


class Transformer(linen.Module):
  """Patches, a block, and the mean of the tokens."""

  attention: linen.Module

  @linen.compact
  def __call__(self, x):
    x = linen.Conv(CHANNELS, (2, 2), strides=(2, 2), padding="VALID", name="patches")(x)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    x = x + self.attention(linen.LayerNorm(name="norm0")(x))
    y = linen.Dense(16, name="expand")(linen.LayerNorm(name="norm1")(x))
    x = x + linen.Dense(CHANNELS, name="project")(linen.gelu(y, approximate=False))
    return linen.Dense(5, name="head")(x.mean(1))


ATTENTIONS = {
  "SelfAttention": lambda heads: linen.SelfAttention(heads, deterministic=True),
  "MultiHeadDotProductAttention": lambda heads: linen.MultiHeadDotProductAttention(
    heads, deterministic=True
  ),
  **{name: (lambda heads, f=f: Written(f, heads)) for name, f in FUNCTIONS.items()},
}


def ops_of(imported):
  return [layer.op for layer in imported.model.layers]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SelfAttention:DeprecationWarning")
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_found_however_it_is_written(name, heads):
  network = Transformer(ATTENTIONS[name](heads))
  variables = network.init(jax.random.key(0), IMAGES)
  imported = models.from_linen(network, variables, IMAGES)
  assert ops_of(imported).count("MatMul") == 2 * heads
  assert ops_of(imported).count("Softmax") == heads
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, network.apply(variables, IMAGES), rtol=1e-3, atol=1e-4)
  restored = imported.restore(imported.variables)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), restored, variables)


class Positioned(linen.Module):
  """Tokens that a position embedding is added to, and a map that each value of has a factor."""

  @linen.compact
  def __call__(self, x):
    x = linen.Conv(CHANNELS, (2, 2), strides=(2, 2), padding="VALID", name="patches")(x)
    normal = linen.initializers.normal(1.0)
    y = x.reshape(x.shape[0], -1, CHANNELS) + self.param("position", normal, (1, 12, CHANNELS))
    y = y + linen.MultiHeadDotProductAttention(2, deterministic=True, name="attention")(y)
    x = y.reshape(x.shape) * self.param("factor", normal, x.shape[1:])
    return linen.Dense(5, name="head")(x.mean((1, 2)))


@pytest.mark.slow
def test_a_position_embedding_is_a_constant_of_each_value():
  network = Positioned()
  variables = network.init(jax.random.key(0), IMAGES)
  imported = models.from_linen(network, variables, IMAGES)
  assert ops_of(imported)[1:4] == ["Reshape", "Affine", "Reshape"]
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, network.apply(variables, IMAGES), rtol=1e-3, atol=1e-4)
  double = jax.tree.map(lambda leaf: 2 * leaf, imported.variables)
  restored = imported.restore(double)["params"]
  np.testing.assert_allclose(restored["position"], 2 * variables["params"]["position"], rtol=1e-5)
  np.testing.assert_allclose(restored["factor"], 2 * variables["params"]["factor"], rtol=1e-5)


class Classified(linen.Module):
  """A class token before the tokens, and a position embedding; the token alone is classified."""

  first: bool

  @linen.compact
  def __call__(self, x):
    x = linen.Conv(CHANNELS, (2, 2), strides=(2, 2), padding="VALID", name="patches")(x)
    x = x.reshape(x.shape[0], -1, CHANNELS)
    normal = linen.initializers.normal(1.0)
    token = jnp.tile(self.param("token", normal, (1, 1, CHANNELS)), (x.shape[0], 1, 1))
    x = jnp.concatenate([token, x] if self.first else [x, token], axis=1)
    x = x + self.param("position", normal, (1, 13, CHANNELS))
    x = x + linen.MultiHeadDotProductAttention(2, deterministic=True, name="attention")(x)
    return linen.Dense(5, name="head")(linen.LayerNorm(name="norm")(x)[:, 0 if self.first else -1])


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_class_token_is_found(first):
  network = Classified(first)
  variables = network.init(jax.random.key(0), IMAGES)
  imported = models.from_linen(network, variables, IMAGES)
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, network.apply(variables, IMAGES), rtol=1e-3, atol=1e-4)
  double = jax.tree.map(lambda leaf: 2 * leaf, imported.variables)
  restored = imported.restore(double)["params"]
  for name in ("token", "position"):
    np.testing.assert_allclose(restored[name], 2 * variables["params"][name], rtol=1e-5)


class Module(nnx.Module):
  """Attention of NNX."""

  def __init__(self, rngs):
    self.patches = nnx.Conv(3, CHANNELS, (2, 2), strides=2, padding="VALID", rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, CHANNELS, decode=False, rngs=rngs)
    self.head = nnx.Linear(CHANNELS, 5, rngs=rngs)

  def __call__(self, x):
    x = self.patches(x)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return self.head((x + self.attention(x)).mean(1))


def test_attention_of_nnx_is_found():
  module = Module(nnx.Rngs(0))
  imported = models.from_nnx(module, IMAGES)
  assert ops_of(imported).count("MatMul") == 4
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, module(IMAGES), rtol=1e-3, atol=1e-4)


def masked(q, k, v):
  return linen.dot_product_attention(q, k, v, mask=jnp.tril(jnp.ones((1, 1, 12, 12))))


def linear(q, k, v):
  return jnp.einsum("bhnm,bmhd->bnhd", jnp.einsum("bnhd,bmhd->bhnm", q, k), v)


def over_heads(q, k, v):
  return jnp.einsum("bnhg,bngd->bnhd", jnp.einsum("bnhd,bngd->bnhg", q, k), v)


@pytest.mark.parametrize("function", [masked, linear, over_heads])
def test_what_is_no_attention_is_refused_with_the_way_out(function):
  network = Transformer(Written(function, 2))
  variables = network.init(jax.random.key(0), IMAGES)
  with pytest.raises(models.NotImportable, match=r"no attention over all tokens.*as a teacher"):
    models.from_linen(network, variables, IMAGES)
