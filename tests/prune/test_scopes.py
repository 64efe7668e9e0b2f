"""Networks that leave a scope and enter it again become smaller ones like any others."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models, nn, prune, quantize
from tests.prune import reference


def conv(features, **options):
  return nn.ConvNorm(features, kernel=3, act="relu", **options)


class Inner(linen.Module):
  """Three layers, each called from outside when it suits."""

  def setup(self):
    self.a, self.b, self.c = conv(16), conv(16), conv(24)

  def one(self, x, train):
    return self.a(x, train=train)

  def two(self, x, train):
    return self.b(x, train=train)

  def three(self, x, train):
    return self.c(x, train=train)


class Outer(linen.Module):
  """A scope in a scope, with a layer of its own between the entries."""

  def setup(self):
    self.inner, self.own, self.skip = Inner(), conv(16), nn.Add()

  def one(self, x, train):
    return self.inner.one(x, train)

  def two(self, x, train):
    y = self.inner.two(self.own(x, train=train), train)
    return self.inner.three(self.skip(x, y), train)


class Deep(linen.Module):
  """Enters ``outer`` twice and ``outer/inner`` three times."""

  def setup(self):
    self.outer, self.between = Outer(), conv(16)
    self.pool, self.head = nn.GlobalAvgPool(), nn.Dense(5)

  def __call__(self, x, *, train):
    x = self.between(self.outer.one(x, train), train=train)
    return self.head(self.pool(self.outer.two(x, train)))


class Turns(linen.Module):
  """Two scopes by turns, three times each."""

  def setup(self):
    self.left, self.right = Inner(), Inner()
    self.pool, self.head = nn.GlobalAvgPool(), nn.Dense(5)

  def __call__(self, x, *, train):
    for step in ("one", "two", "three"):
      x = getattr(self.right, step)(getattr(self.left, step)(x, train), train)
    return self.head(self.pool(x))


class Named(linen.Module):
  """Layers called as a replay calls its fields."""

  @linen.compact
  def __call__(self, x, *, train):
    for name in ("layers", "ends", "origin", "num_classes"):
      x = conv(16, name=name)(x, train=train)
    return nn.Dense(5, name="image_size")(nn.GlobalAvgPool(name="pool")(x))


class Shared(linen.Module):
  """Calls one scope's layer twice."""

  def setup(self):
    self.stem, self.part = conv(16), Inner()
    self.pool, self.head = nn.GlobalAvgPool(), nn.Dense(5)

  def __call__(self, x, *, train):
    x = self.part.one(self.part.two(self.stem(x, train=train), train), train)
    return self.head(self.pool(self.part.two(x, train)))


def parts(model):
  variables = nn.init_variables(model, jax.random.key(1), (12, 12, 3))
  images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)
  return variables, images


@pytest.mark.slow
@pytest.mark.parametrize(
  "model", [Deep(), Turns(), Named()], ids=lambda model: type(model).__name__
)
def test_a_smaller_network_with_scopes_entered_again_computes_what_the_masked_one_does(
  model, tmp_path
):
  variables, images = parts(model)
  found = prune.channel_importance(model, variables, images)
  keep = prune.choose_channels(found, 0.55)
  smaller, few = prune.remove_channels(model, variables, keep)
  assert sum(map(np.size, jax.tree.leaves(few))) < sum(map(np.size, jax.tree.leaves(variables)))
  masked = reference.mask_channels(found.graph, variables, keep)
  wanted = model.apply(masked, images, train=False)
  np.testing.assert_allclose(smaller.apply(few, images, train=False).logits, wanted, atol=1e-5)
  fresh = nn.init_variables(smaller, jax.random.key(0), (12, 12, 3))
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, few)
  _, updated = smaller.apply(few, images, train=True, mutable=["batch_stats"])
  assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(few["batch_stats"])
  path = tmp_path / "smaller.safetensors"
  models.save(path, smaller, few)
  again, same = models.load(path)
  assert again == smaller
  jax.tree.map(np.testing.assert_array_equal, same, few)
  again, _ = prune.remove_channels(smaller, few, prune.Keep({}, (12, 12, 3)))
  assert again.layers == smaller.layers
  quantized = quantize.post_training(smaller, few, images, method="minmax", progress=False)
  assert quantized(images).shape == (8, 5)


def test_a_layer_that_is_called_twice_is_refused():
  with pytest.raises(ValueError, match=r"leaf op 'part/b' .ConvNorm. is called twice"):
    prune.channel_importance(Shared(), *parts(Shared()))
