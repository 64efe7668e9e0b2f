"""Leaf ops against plain definitions."""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcompress import nn
from jaxcompress.nn.activations import ACTIVATIONS, activate


def apply(module, *xs, **kwargs):
  return module.init_with_output(jax.random.key(0), *xs, **kwargs)[0]


@pytest.fixture(scope="module")
def x():
  return jax.random.normal(jax.random.key(1), (2, 6, 6, 8))


JAX_FUNCTIONS = {
  "silu": jax.nn.silu,
  "tanh": jnp.tanh,
  "gelu": partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": partial(jax.nn.gelu, approximate=True),
  "elu": jax.nn.elu,
  "selu": jax.nn.selu,
  "softplus": jax.nn.softplus,
  "squareplus": jax.nn.squareplus,
  "mish": jax.nn.mish,
  "log_sigmoid": jax.nn.log_sigmoid,
  "soft_sign": jax.nn.soft_sign,
  "hard_tanh": jax.nn.hard_tanh,
}


@pytest.mark.parametrize("act", JAX_FUNCTIONS)
def test_values_and_gradients_of_activations_are_those_of_jax(act):
  x = jnp.concatenate([jnp.linspace(-12, 12, 49), jnp.array([1e-3, -1e-3, 100.0, -100.0])])
  run = partial(activate, act)
  np.testing.assert_array_equal(run(x), JAX_FUNCTIONS[act](x))
  grads = (jax.vmap(jax.grad(f))(x) for f in (run, JAX_FUNCTIONS[act]))
  np.testing.assert_array_equal(*grads)
  assert np.isfinite(jax.grad(lambda x: run(x).sum())(x.astype(jnp.bfloat16))).all()
  entry = ACTIVATIONS[act]
  values = np.asarray(run(jnp.linspace(-20, 20, 100001)))
  assert entry.low <= values.min() and values.max() <= entry.high
  assert (np.diff(values) >= -1e-6).all() == entry.monotone


@pytest.mark.parametrize("slope", [0.01, 0.3, 1])
def test_a_leaky_rectifier_is_that_of_jax(slope):
  x = jnp.linspace(-3, 3, 13)
  run, expected = nn.LeakyRelu(slope), partial(jax.nn.leaky_relu, negative_slope=slope)
  np.testing.assert_array_equal(apply(run, x), expected(x))
  grads = (jax.vmap(jax.grad(f))(x) for f in (lambda x: run.apply({}, x), expected))
  np.testing.assert_array_equal(*grads)


@pytest.mark.parametrize("shared", [False, True])
def test_a_rectifier_with_trained_slopes_follows_its_definition(shared):
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  model = nn.PRelu(shared=shared)
  variables = model.init(jax.random.key(0), x)
  np.testing.assert_allclose(model.apply(variables, x), jnp.where(x > 0, x, 0.25 * x), rtol=1e-6)
  slopes = jnp.array(0.1) if shared else jnp.array([0.1, 0.5, 0.0, 1.0])
  assert variables["params"]["slope"]["scale"].shape == slopes.shape
  by_op = lambda s, x: model.apply({"params": {"slope": {"scale": s}}}, x)  # noqa: E731
  plain = lambda s, x: jnp.where(x > 0, x, s.reshape((1, 1, 1, -1)) * x)  # noqa: E731
  np.testing.assert_allclose(by_op(slopes, x), plain(slopes, x), rtol=1e-6)
  for argument in (0, 1):
    grads = (
      jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), argument)(slopes, x) for f in (by_op, plain)
    )
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("slope", [0, -0.1, 1.5, float("nan"), "0.1"])
def test_slopes_of_leaky_rectifiers_are_between_0_and_1(slope):
  with pytest.raises(ValueError, match=r"slope: .* must be above 0 and at most 1; for 0 use"):
    apply(nn.LeakyRelu(slope), jnp.ones(3))


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


def _mean_of_cells(x, kernel, stride, pads, counted):
  """Averages in plain loops."""
  (top, bottom), (left, right) = pads
  padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
  inside = np.pad(np.ones(x.shape[1:3]), ((top, bottom), (left, right)))
  rows = range(0, padded.shape[1] - kernel[0] + 1, stride[0])
  columns = range(0, padded.shape[2] - kernel[1] + 1, stride[1])
  window = lambda a, i, j: a[i : i + kernel[0], j : j + kernel[1]]  # noqa: E731
  count = lambda i, j: np.prod(kernel) if counted else window(inside, i, j).sum()  # noqa: E731
  cells = [
    [window(padded.transpose(1, 2, 0, 3), i, j).sum((0, 1)) / count(i, j) for j in columns]
    for i in rows
  ]
  return np.array(cells).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
  ("kernel", "stride", "pads"),
  [
    ((2, 3), (1, 2), ((1, 0), (2, 1))),
    ((1, 4), (3, 1), ((0, 0), (1, 2))),
    (3, 2, ((2, 1), (0, 2))),
  ],
)
def test_windows_of_any_sides_average_their_cells(x, kernel, stride, pads, counted):
  y = apply(nn.AvgPool(kernel, stride, pads, count_padding=counted), x)
  sides = (kernel, stride) if isinstance(kernel, tuple) else ((kernel,) * 2, (stride,) * 2)
  np.testing.assert_allclose(y, _mean_of_cells(x, *sides, pads, counted), rtol=1e-5, atol=1e-6)
  z = apply(nn.MaxPool(kernel, stride, pads), x)
  assert z.shape == y.shape


def test_a_convolution_of_any_geometry_is_flaxs(x):
  fields = {"kernel": (2, 3), "stride": (2, 1), "dilation": (1, 2), "groups": 2}
  layer = nn.ConvNorm(6, **fields, norm=None)
  theirs = linen.Conv(
    6, (2, 3), strides=(2, 1), kernel_dilation=(1, 2), feature_group_count=2, padding="SAME"
  )
  y, variables = theirs.init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(layer.apply(variables, x, train=False), y, rtol=1e-5, atol=1e-6)
  loss = lambda made, **extras: lambda v: jnp.sum(jnp.sin(made.apply(v, x, **extras)))  # noqa: E731
  found, expected = jax.grad(loss(layer, train=False))(variables), jax.grad(loss(theirs))(variables)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)
  assert layer.init(jax.random.key(0), x, train=False)["params"]["kernel"].shape == (2, 3, 4, 6)


def test_pairs_of_equal_numbers_are_one_number(x):
  layer = nn.ConvNorm(8, kernel=(3, 3), stride=[2, 2], dilation=(np.int64(1), 1))
  assert layer == nn.ConvNorm(8, kernel=3, stride=2)
  assert nn.MaxPool((2, 2), (1, 2)) == nn.MaxPool(2, (1, 2))
  assert nn.AvgPool([3, 1], 1).kernel == (3, 1)
  assert nn.ConvTranspose(8, (4, 4), (2, 1)) == nn.ConvTranspose(8, 4, [2, 1])


def test_graphs_leave_a_dilation_of_one_out(x):
  def attrs(**fields):
    class Net(linen.Module):
      @linen.compact
      def __call__(self, x, *, train):
        return nn.ConvNorm(4, kernel=3, name="conv", **fields)(x, train=train)

    variables = Net().init(jax.random.key(0), x, train=False)
    return nn.trace(Net(), variables, x).nodes[0].attrs

  assert "dilation" not in attrs() and attrs() == attrs(dilation=(1, 1))
  assert attrs(dilation=(2, 2))["dilation"] == 2 and attrs(dilation=(1, 3))["dilation"] == (1, 3)


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
    (nn.Activation("swish"), "act: 'swish'"),
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
