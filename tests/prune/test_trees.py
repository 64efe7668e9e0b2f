"""Trees of parameters with names and containers unlike those of our networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

from jaxcompress import prune
from jaxcompress.prune.masked import sparsity_of


def weights(*shape):
  return {"kernel": jnp.float32(np.random.default_rng(sum(shape)).normal(size=shape))}


def trained(optimizer, params, steps=3):
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for _ in range(steps):
    updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize(
  ("params", "names"),
  [
    ({"block/conv": weights(8, 8)}, ["block/conv"]),
    ([weights(8, 8), weights(8, 4)], ["0", "1"]),
    ({"layers": (weights(8, 8), {"deep": [weights(4, 8)]})}, ["layers/0", "layers/1/deep/0"]),
    (FrozenDict({"a": weights(8, 8)}), ["a"]),
    ({0: weights(8, 8), 1: weights(8, 4)}, ["0", "1"]),
  ],
  ids=["slash", "list", "nested", "frozen", "numbers"],
)
def test_any_container_of_kernels_is_pruned(params, names):
  optimizer = prune.magnitude(optax.sgd(0.1, momentum=0.9), sparsity=0.5, distribution="uniform")
  after, state = trained(optimizer, params)
  assert sorted(prune.masks_of(state)) == names
  assert jax.tree.structure(after) == jax.tree.structure(params)
  assert [float((leaf == 0).mean()) for leaf in jax.tree.leaves(after)] == [0.5] * len(names)
  assert float(sparsity_of(state, after)) == 0.5
  again = jax.tree.leaves(prune.apply_masks(state, params))
  for one, other in zip(again, jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(one == 0, other == 0)


@pytest.mark.parametrize("kept", ["^conv$", "^block/conv$", None])
@pytest.mark.parametrize("parts", [False, True])
def test_momenta_go_by_the_whole_path_of_their_parameter(kept, parts):
  """The path of one layer ends that of another, whose kernel has the same shape."""
  params = {"conv": weights(8, 8), "block": {"conv": weights(8, 8)}}
  inner = optax.sgd(0.01, momentum=0.9)
  if parts:
    labels = {"conv": {"kernel": "some"}, "block": {"conv": {"kernel": "block"}}}
    inner = optax.multi_transform({"some": inner, "block": inner}, labels)
  rules = () if kept is None else (prune.Rule(match=kept, keep=True),)
  _, state = trained(prune.magnitude(inner, sparsity=0.75, rules=rules), params)
  masks, seen = prune.masks_of(state), 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(state.inner):
    if jnp.shape(leaf) == (8, 8):
      name = "block/conv" if "['block']['conv']" in jax.tree_util.keystr(path) else "conv"
      alive = masks.get(name, np.ones((8, 8), bool))
      np.testing.assert_array_equal(np.asarray(leaf) != 0, alive, err_msg=name)
      seen += 1
  assert seen == 2


def test_two_layers_of_one_name_are_refused():
  params = {"a/b": weights(4, 4), "a": {"b": weights(4, 4)}}
  with pytest.raises(ValueError, match="params: two layers are called 'a/b'"):
    prune.magnitude(optax.sgd(0.1), sparsity=0.5).init(params)


def test_a_kernel_of_other_axes_is_pruned_by_no_means_and_says_so():
  params = {"query": weights(4, 2, 8), "dense": weights(8, 8)}
  with pytest.raises(ValueError, match=r"the kernel of 'query' is \(4, 2, 8\).* keep=True"):
    prune.magnitude(optax.sgd(0.1), sparsity=0.5).init(params)
  rules = (prune.Rule(match="^query$", keep=True),)
  state = prune.magnitude(optax.sgd(0.1), sparsity=0.5, rules=rules).init(params)
  assert list(prune.masks_of(state)) == ["dense"]


def test_masks_of_another_network_are_refused():
  state = prune.magnitude(optax.sgd(0.1), sparsity=0.5).init({"a": weights(4, 4)})
  with pytest.raises(ValueError, match="params: they have no kernel of 'a', which is pruned"):
    prune.apply_masks(state, {"b": weights(4, 4)})


@pytest.mark.parametrize("schedule", [100, optax.linear_schedule(0.0, 1.0, 10), prune.agp])
def test_what_is_no_schedule_is_refused_when_built(schedule):
  for make in (
    lambda: prune.magnitude(optax.sgd(0.1), sparsity=0.5, schedule=schedule),
    lambda: prune.n_m(optax.sgd(0.1), schedule=schedule),
  ):
    with pytest.raises(ValueError, match=r"^schedule must be one such as prune\.agp"):
      make()


@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("begin", lambda: prune.agp(33.3, 50)),
    ("end", lambda: prune.agp(33, 50.1)),
    ("every", lambda: prune.agp(0, 50, every=2.5)),
    ("power", lambda: prune.agp(0, 50, power=float("nan"))),
    ("every", lambda: prune.rigl(optax.sgd(0.1), sparsity=0.5, stop=9, every=2.5)),
    ("stop", lambda: prune.sparse_evolution(optax.sgd(0.1), sparsity=0.5, stop="9")),
    ("strength", lambda: prune.slimming(float("nan"))),
  ],
)
def test_numbers_of_updates_are_whole(name, make):
  """Fractions would never equal a step, and masks be chosen late or never."""
  with pytest.raises(ValueError, match=f"^{name}: "):
    make()
