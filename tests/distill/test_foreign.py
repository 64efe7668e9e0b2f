"""Networks of others give Endpoints, with their own variables."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.distill import adapter
from jaxcompress.nn import Endpoints

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, deterministic):
    x = nn.Conv(4, (1, 1), name="conv")(x)
    x = nn.BatchNorm(use_running_average=deterministic, name="norm")(x)
    return nn.relu(nn.Dropout(0.5, deterministic=deterministic, name="drop")(x))


class Foreign(nn.Module):
  many: bool = False

  @nn.compact
  def __call__(self, x, deterministic=True):
    x = Block(name="first")(x, deterministic)
    y = Block(name="second")(x, deterministic)
    logits = nn.Dense(5, name="head")(y.mean((1, 2)))
    return {"logits": logits} if self.many else logits


@pytest.fixture(scope="module")
def variables():
  return Foreign().init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("many", [False, True])
def test_layers_are_captured_by_path(variables, many):
  _, stored = Foreign().apply(variables, IMAGES, capture_intermediates=True)
  stored = stored["intermediates"]
  model = adapter(
    Foreign(many),
    pooled="second",
    maps=["first", "second"],
    preact=("first/norm", "second/norm"),
    logits="head" if many else None,
  )
  found = model.apply(variables, IMAGES, train=False)
  maps = [stored[name]["__call__"][0] for name in ("first", "second")]
  preact = [stored[name]["norm"]["__call__"][0] for name in ("first", "second")]
  expected = Endpoints(
    stored["head"]["__call__"][0], maps[1].mean((1, 2)), tuple(maps), tuple(preact)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_it_has_the_variables_of_the_model_and_trains_them(variables):
  model = adapter(Foreign(), maps=["first"])
  own = model.init(jax.random.key(0), IMAGES, train=False)
  jax.tree.map(np.testing.assert_array_equal, own, variables)
  _, updated = model.apply(
    variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)}
  )
  before, after = variables["batch_stats"], updated["batch_stats"]
  assert jax.tree.structure(before) == jax.tree.structure(after)
  assert not np.array_equal(before["first"]["norm"]["mean"], after["first"]["norm"]["mean"])


@pytest.mark.parametrize(
  ("paths", "message"),
  [
    ({"pooled": "pool"}, "pooled: 'pool' is no layer of the model; its layers are first/conv, "),
    ({"maps": ["first", "third"]}, "maps: 'third' is no layer"),
    ({"logits": "first"}, "logits: the model's output is .2, 4, 4, 4.; it must be"),
    ({"maps": "first"}, r"maps: 'first' must be a list of paths; write \['first'\]"),
  ],
)
def test_paths_that_are_not_there_are_told_with_those_that_are(variables, paths, message):
  with pytest.raises(ValueError, match=message):
    adapter(Foreign(), **paths).apply(variables, IMAGES, train=False)


def test_inside_jit_nothing_that_is_not_asked_for_is_kept(variables):
  model = adapter(Foreign(), pooled="first")
  found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, jnp.asarray(IMAGES))
  assert found.pooled.shape == (2, 4)
  assert found.maps == ()
