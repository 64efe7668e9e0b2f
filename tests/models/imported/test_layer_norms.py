"""LayerNorm and its kin, in whatever spelling, become leaf ops; other normalizations are refused."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import models

IMAGES = np.random.default_rng(0).normal(1.0, 2.0, (4, 6, 5, 8)).astype(np.float32)
NAMES = ["ChannelMean", "Subtract", "RmsNorm", "Affine"]


def variance(x):
  return jnp.var(x, axis=-1, keepdims=True)


def fast(x, scale, bias):
  mean = x.mean(-1, keepdims=True)
  power = jnp.maximum(0.0, (x * x).mean(-1, keepdims=True) - mean * mean)
  return (x - mean) * (jax.lax.rsqrt(power + 1e-5) * scale) + bias


def divided(x, scale, bias):
  apart = x - jnp.sum(x, -1, keepdims=True) / x.shape[-1]
  return scale * (apart / jnp.sqrt(jnp.mean(apart**2, -1, keepdims=True) + 1e-3)) + bias


def powered(x, scale, bias):
  return bias + (x - jnp.mean(x, -1, keepdims=True)) * (variance(x) + 1e-6) ** -0.5 * scale


def first_channels(x, scale, bias):
  """As a network that keeps channels first."""
  y = x.transpose(0, 3, 1, 2)
  mean = y.mean(1, keepdims=True)
  y = (y - mean) / jnp.sqrt(jnp.square(y - mean).mean(1, keepdims=True) + 1e-6)
  return (y * scale[:, None, None] + bias[:, None, None]).transpose(0, 2, 3, 1)


def root_mean_square(x, scale, bias):
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def without_arrays(x, scale, bias):
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(variance(x) + 1e-2)


SPELLINGS = {
  "fast": (fast, NAMES),
  "divided": (divided, NAMES),
  "powered": (powered, NAMES),
  "channels first": (first_channels, NAMES),
  "root mean square": (root_mean_square, NAMES[2:]),
  "without arrays": (without_arrays, NAMES[:3]),
}


def variables_of(fresh):
  rng = np.random.default_rng(1)
  draw = lambda start: np.full(8, start, "f4") if fresh else rng.normal(size=8).astype("f4")  # noqa: E731
  norm = {"scale": draw(1.0), "bias": draw(0.0)}
  return {"norm": norm, "head": {"kernel": rng.normal(size=(8, 3)).astype("f4")}}


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_layer_norm_is_found_however_it_is_spelled(name, fresh):
  norm, ops = SPELLINGS[name]
  variables = variables_of(fresh)

  def apply(variables, x):
    y = norm(x, variables["norm"]["scale"], variables["norm"]["bias"])
    return jax.nn.gelu(y).mean((1, 2)) @ variables["head"]["kernel"]

  imported = models.from_jax(apply, variables, IMAGES)
  assert [layer.op for layer in imported.model.layers][: len(ops)] == ops
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, apply(variables, IMAGES), rtol=1e-4, atol=1e-5)
  restored = imported.restore(imported.variables)
  jax.tree.map(np.testing.assert_array_equal, restored, variables)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", [linen.LayerNorm, linen.RMSNorm])
def test_those_of_flax_are_found_on_maps_and_vectors(kind, fast):
  class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = kind(use_fast_variance=fast, name="first")(x) if kind is linen.LayerNorm else kind()(x)
      x = linen.relu(linen.Conv(12, (3, 3))(x)).mean((1, 2))
      return linen.Dense(3)(kind(epsilon=1e-4)(x))

  variables = Net().init(jax.random.key(0), IMAGES)
  imported = models.from_linen(Net(), variables, IMAGES)
  assert [layer.op for layer in imported.model.layers].count("RmsNorm") == 2
  found = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, Net().apply(variables, IMAGES), rtol=1e-4, atol=1e-5)


class Tokens(nnx.Module):
  def __init__(self, norm, rngs):
    self.norm, self.head = norm, nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, x):
    return self.head(self.norm(x).mean((1, 2)))


def test_what_is_trained_of_nnx_goes_back():
  module = Tokens(nnx.LayerNorm(8, rngs=nnx.Rngs(0)), nnx.Rngs(0))
  imported = models.from_nnx(module, IMAGES)
  params = jax.tree.map(lambda a: a + 0.5, imported.variables["params"])
  variables = {**imported.variables, "params": params}
  nnx.update(module, imported.restore(variables))
  found = imported.model.apply(variables, IMAGES, train=False).logits
  np.testing.assert_allclose(found, module(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "norm",
  [
    lambda rngs: nnx.GroupNorm(8, num_groups=2, rngs=rngs),
    lambda rngs: lambda x: x / jnp.abs(x).mean(-1, keepdims=True),
    lambda rngs: lambda x: x / (1e-6 + jnp.sqrt(variance(x))),
  ],
)
def test_other_normalizations_are_refused(norm):
  with pytest.raises(ValueError, match="cannot be imported"):
    models.from_nnx(Tokens(norm(nnx.Rngs(0)), nnx.Rngs(0)), IMAGES)
