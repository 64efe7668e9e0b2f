"""Learning rates of layers, against optimizers that are put together by hand."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import prune
from jaxcompress.training import init_state, layer_rates, train_step

LAYERS = ("stem", "expand", "depthwise", "project", "classifier")
NAMED = {
  "first": {"stem"},
  "last": {"classifier"},
  "depthwise": {"depthwise"},
  "e": {"stem", "expand", "depthwise", "project", "classifier"},
  "^e|ject": {"expand", "project"},
  ("pointwise", "!project"): {"expand"},
}
FACTORS = st.sampled_from([0.0, 0.125, 1.0, 10.0])


def at_rates(optimizer_of, factor_of):
  """One optimizer for each layer."""
  parts = {name: optimizer_of(factor_of(name)) for name in LAYERS}
  label = lambda path, _: path[1].key if path[0].key == "student" else "stem"  # noqa: E731
  return optax.multi_transform(parts, lambda tree: jax.tree_util.tree_map_with_path(label, tree))


def ran(recipe_of, batches, optimizer, **parts):
  state = init_state(recipe_of(optimizer=optimizer, **parts), jax.random.key(0), batches(0))
  for position in range(3):
    state, _ = train_step(state, batches(position))
  return jax.device_get(state.params)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
  st.dictionaries(st.sampled_from(sorted(NAMED, key=str)), FACTORS, min_size=1, max_size=3),
  st.booleans(),
)
def test_a_factor_is_one_of_the_learning_rate_and_the_first_that_names_a_layer_counts(
  recipe_of, batches, rates, adam
):
  optimizer_of = lambda factor: (  # noqa: E731
    optax.adamw(0.01 * factor, weight_decay=0.1) if adam else optax.sgd(0.1 * factor, momentum=0.9)
  )
  factor = lambda name: next((f for s, f in rates.items() if name in NAMED[s]), 1.0)  # noqa: E731
  ours = ran(recipe_of, batches, layer_rates(optimizer_of(1.0), rates))
  theirs = ran(recipe_of, batches, at_rates(optimizer_of, factor))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), ours, theirs)


@pytest.mark.slow
def test_a_rate_of_zero_keeps_every_bit_and_a_schedule_counts_steps(recipe_of, batches):
  start = init_state(recipe_of(), jax.random.key(0), batches(0)).params
  still = ran(recipe_of, batches, layer_rates(optax.sgd(0.1), {"last": 0.0}))
  jax.tree.map(np.testing.assert_array_equal, still["classifier"], start["classifier"])
  rising = layer_rates(optax.sgd(0.1), {"last": lambda count: count.astype(jnp.float32)})
  params = {"last": {"kernel": jnp.ones((2, 2))}}
  late = layer_rates(optax.sgd(1.0), {"^last$": lambda count: 2.0 * count})
  state, seen = late.init(params), []
  for _ in range(3):
    updates, state = late.update(params, state, params)
    seen.append(float(updates["last"]["kernel"][0, 0]))
  assert seen == [0.0, -2.0, -4.0]
  assert np.any(
    ran(recipe_of, batches, rising)["classifier"]["kernel"] != start["classifier"]["kernel"]
  )


def test_what_losses_and_quantizers_train_keeps_its_rate():
  tree = {"student": {"a": {"kernel": jnp.ones(2)}}, "quantizer": {"a": jnp.ones(2)}, "loss": {}}
  optimizer = layer_rates(optax.sgd(1.0), {"a": 0.25})
  updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
  assert updates["student"]["a"]["kernel"].tolist() == [-0.25, -0.25]
  assert updates["quantizer"]["a"].tolist() == [-1.0, -1.0]


@pytest.mark.slow
def test_pruning_goes_around_it(recipe_of, batches):
  optimizer = prune.magnitude(layer_rates(optax.sgd(0.1), {"last": 10.0}), sparsity=0.5)
  params = ran(recipe_of, batches, optimizer)
  assert np.mean(params["expand"]["kernel"] == 0) == 0.5


@pytest.mark.parametrize(
  ("rates", "message"),
  [
    ({"last": "fast"}, "rates: 'fast' for 'last' must be a number of at least 0"),
    ({"last": True}, "rates: True for 'last' must be a number"),
    ([("last", 1.0)], "rates must be a dict of factors"),
    ({"last": -1.0}, "rates: -1.0 for 'last' must be a number of at least 0"),
    ({"(": 1.0}, r"rates: '\(' is no regular expression"),
    ({"Add": 1.0}, "rates: 'Add' matches no layer; the paths are .*; the kinds .*depthwise"),
    ({"hed": 1.0}, "rates: 'hed' matches no layer; the paths are "),
  ],
)
def test_mistakes_are_named(recipe_of, batches, rates, message):
  with pytest.raises(ValueError, match=message):
    ran(recipe_of, batches, layer_rates(optax.sgd(0.1), rates))


@pytest.mark.parametrize("wrong", ["sgd", optax.sgd])
def test_what_is_wrapped_must_be_an_optimizer(wrong):
  with pytest.raises(ValueError, match="optimizer must be an optax transformation"):
    layer_rates(wrong, {"last": 1.0})


def test_a_graph_must_be_one(tiny):
  with pytest.raises(ValueError, match=r"graph must be one such as models.summarize"):
    layer_rates(optax.sgd(0.1), {"last": 1.0}, graph=tiny())


class Foreign(linen.Module):
  """A network without a graph."""

  @linen.compact
  def __call__(self, x, *, train):
    return linen.Dense(5, name="head")(linen.Dense(4, name="body")(x.mean((1, 2))))


@pytest.mark.slow
def test_a_network_without_a_graph_has_paths(recipe_of, batches):
  params = ran(recipe_of, batches, layer_rates(optax.sgd(0.1), {"body": 0.0}), student=Foreign())
  start = init_state(recipe_of(student=Foreign()), jax.random.key(0), batches(0)).params
  assert np.array_equal(params["body"]["kernel"], start["body"]["kernel"])
  assert not np.array_equal(params["head"]["kernel"], start["head"]["kernel"])


def test_kinds_need_a_graph_and_paths_do_not():
  params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
  layer_rates(optax.sgd(0.1), {"^a$": 2.0}).init(params)
  with pytest.raises(ValueError, match="graph: rates name kinds of layers"):
    layer_rates(optax.sgd(0.1), {"last": 2.0}).init(params)
