"""Leaf ops against plain definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcompress import nn
from jaxcompress.nn.activations import activate


def apply(module, *xs, **kwargs):
  return module.init_with_output(jax.random.key(0), *xs, **kwargs)[0]


@pytest.fixture(scope="module")
def x():
  return jax.random.normal(jax.random.key(1), (2, 6, 6, 8))


def test_channel_shuffle_transposes_the_groups(x):
  y = apply(nn.ChannelShuffle(2), x)
  np.testing.assert_array_equal(y, x[..., [0, 4, 1, 5, 2, 6, 3, 7]])


def test_split_and_concat_are_inverse(x):
  parts = apply(nn.Split((2, 6)), x)
  assert [part.shape[-1] for part in parts] == [2, 6]
  np.testing.assert_array_equal(apply(nn.Concat(), *parts), x)


def test_average_pooling_counts_only_cells_inside_unless_told(x):
  ones = jnp.ones_like(x)
  np.testing.assert_allclose(apply(nn.AvgPool(3, 1), ones), 1.0, rtol=1e-6)
  counted = apply(nn.AvgPool(3, 2, padding="SYMMETRIC", count_padding=True), ones)
  assert counted[0, 0, 0, 0] == pytest.approx(4 / 9)


def test_max_pooling_never_picks_padding(x):
  y = apply(nn.MaxPool(3, 2, padding="SYMMETRIC"), -jnp.abs(x) - 1)
  assert y.shape == (2, 3, 3, 8)
  assert jnp.all(y < 0)
  assert jnp.all(jnp.isfinite(y))


@pytest.mark.parametrize("name", ["relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid"])
def test_activations_follow_their_definitions(name):
  x = jnp.array([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 7.0])
  gate = np.clip(np.asarray(x) + 3, 0, 6) / 6
  expected = {
    "relu": np.maximum(x, 0),
    "relu6": np.clip(x, 0, 6),
    "hard_sigmoid": gate,
    "hard_swish": x * gate,
    "sigmoid": 1 / (1 + np.exp(-np.asarray(x))),
  }[name]
  np.testing.assert_allclose(activate(name, x), expected, rtol=1e-6)
  grad = jax.vmap(jax.grad(lambda x: activate(name, x)))(x)
  assert not np.isin(np.asarray(grad), 0.5).any() or name == "hard_swish"


def test_the_gradient_of_a_sigmoid_is_that_of_its_definition():
  check_grads(lambda x: activate("sigmoid", x), (jnp.linspace(-5, 5, 11),), order=1)


def test_the_compute_dtype_follows_the_input(x):
  layer = nn.ConvNorm(4, kernel=3, act="relu6")
  variables = layer.init(jax.random.key(0), x, train=False)
  y = layer.apply(variables, x.astype(jnp.bfloat16), train=False)
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_batch_statistics_are_used_where_train_is_true_at_run_time(x):
  layer = nn.ConvNorm(4)
  variables = layer.init(jax.random.key(0), x, train=False)
  run = jax.jit(lambda t: layer.apply(variables, x, train=t, mutable=["batch_stats"]))
  for live in (True, False):
    y, updated = run(live)
    expected, stats = layer.apply(variables, x, train=live, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    if live:
      assert jnp.any(updated["batch_stats"]["mean"] != 0)
      jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), updated, stats)
    else:
      np.testing.assert_array_equal(updated["batch_stats"]["mean"], 0)
      np.testing.assert_array_equal(updated["batch_stats"]["var"], 1)


@pytest.mark.parametrize(
  ("module", "message"),
  [
    (nn.Split((3, 3)), "sizes"),
    (nn.ChannelShuffle(3), "groups: 3"),
    (nn.ConvNorm(9, groups=2), "groups: 2"),
    (nn.Activation("gelu"), "act: 'gelu'"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(module, message, x):
  kwargs = {"train": False} if isinstance(module, nn.ConvNorm) else {}
  with pytest.raises(ValueError, match=message):
    apply(module, x, **kwargs)


def test_a_normalization_on_its_own_is_that_of_a_convolution_by_one(x):
  statistics = {
    "mean": jnp.linspace(-1, 1, 8),
    "var": jnp.linspace(0.5, 2, 8),
  }
  params = {"scale": jnp.linspace(-2, 2, 8), "bias": jnp.arange(8.0)}
  variables = {"params": params, "batch_stats": statistics}
  spread = lambda v: np.asarray(v, np.float64).reshape(1, 1, 1, -1)  # noqa: E731
  expected = (np.asarray(x) - spread(statistics["mean"])) / np.sqrt(
    spread(statistics["var"]) + 1e-5
  )
  expected = np.maximum(expected * spread(params["scale"]) + spread(params["bias"]), 0)
  layer = nn.BatchNorm(act="relu")
  np.testing.assert_allclose(layer.apply(variables, x, train=False), expected, atol=1e-5)
  y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(
    updated["batch_stats"]["mean"], 0.9 * statistics["mean"] + 0.1 * x.mean((0, 1, 2)), atol=1e-6
  )
  assert float(y.min()) == 0


def test_a_convolution_can_have_a_bias_beside_its_normalization(x):
  layer = nn.ConvNorm(4, use_bias=True)
  variables = layer.init(jax.random.key(0), x, train=False)
  assert variables["params"]["conv_bias"].shape == (4,)
  assert "conv_bias" not in nn.ConvNorm(4).init(jax.random.key(0), x, train=False)["params"]
  shifted = jax.tree.map(lambda a: a, variables)
  shifted["params"]["conv_bias"] = jnp.arange(4.0)
  moved = jax.tree.map(lambda a: a, variables)
  moved["batch_stats"]["mean"] = -jnp.arange(4.0)
  np.testing.assert_allclose(
    layer.apply(shifted, x, train=False), layer.apply(moved, x, train=False), atol=1e-5
  )


def test_a_bare_convolution_has_a_kernel_only(x):
  layer = nn.ConvNorm(4, norm=None, use_bias=False)
  assert list(layer.init(jax.random.key(0), x, train=False)["params"]) == ["kernel"]


def test_a_linear_layer_flattens_its_input(x):
  layer = nn.Dense(3)
  variables = layer.init(jax.random.key(0), x)
  assert variables["params"]["kernel"].shape == (6 * 6 * 8, 3)
  np.testing.assert_array_equal(layer.apply(variables, x), layer.apply(variables, x.reshape(2, -1)))


@pytest.mark.parametrize("pool", [nn.MaxPool, nn.AvgPool])
def test_windows_that_would_lie_in_the_padding_alone_are_refused(pool, x):
  with pytest.raises(ValueError, match="leaves windows of 2 without a cell of the image"):
    apply(pool(2, 1, padding=((0, 2), (0, 0))), x)
