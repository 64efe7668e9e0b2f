"""Sums, differences, products and the larger or smaller of two arrays whose shapes meet."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export, nn, prune, quantize
from jaxcompress.quantize.ptq.moments import Moments, tensor_means
from jaxcompress.quantize.sites import find_sites
from jaxcompress.training import Recipe, init_state, train_step

PAIRS = {
  nn.Add: np.add,
  nn.Subtract: np.subtract,
  nn.Multiply: np.multiply,
  nn.Maximum: np.maximum,
  nn.Minimum: np.minimum,
}


class Attended(linen.Module):
  """Spatial attention, differences of branches, the larger of two, and a sum with means."""

  @linen.compact
  def __call__(self, x, *, train):
    conv = lambda name, features=8, **more: nn.ConvNorm(features, name=name, **more)  # noqa: E731
    x = conv("stem", kernel=3, act="relu")(x, train=train)
    mask = conv("mask", 1, kernel=3, act="hard_sigmoid", norm=None)(x, train=train)
    x = nn.Multiply(name="attend")(mask, x)
    y = nn.Subtract(name="change")(conv("left", kernel=3)(x, train=train), x)
    y = nn.Activation("relu", name="act")(y)
    z = nn.Maximum(name="larger")(x, conv("right", kernel=3)(x, train=train))
    x = nn.Minimum(name="smaller")(y, z)
    means = nn.GlobalAvgPool(keepdims=True, name="means")(x)
    x = nn.Activation("relu", name="above")(nn.Subtract(name="centred")(x, means))
    x = nn.Add(name="lifted")(x, conv("lift", 1)(x, train=train))
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


def images(count=32, seed=0):
  return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
  model = Attended()
  variables = nn.init_variables(model, jax.random.key(0), (8, 8, 3))
  rng = np.random.default_rng(0)
  noisy = lambda a: a + rng.uniform(0, 0.3, a.shape).astype(np.float32)  # noqa: E731
  return model, jax.tree.map(noisy, variables)


def shapes_that_meet(draw):
  rank = draw(st.integers(2, 4))
  whole = [draw(st.integers(1, 4)) for _ in range(rank)]
  ones = [[draw(st.booleans()) for _ in range(rank - 1)] for _ in range(2)]
  thin = lambda flags: [1 if one else n for one, n in zip(flags, whole[1:], strict=True)]  # noqa: E731
  return tuple((whole[0], *thin(flags)) for flags in ones)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(list(PAIRS)))
def test_values_and_gradients_are_numpys_where_shapes_meet(data, op):
  rng = np.random.default_rng(0)
  x, y = (rng.normal(size=s).astype(np.float32) for s in shapes_that_meet(data.draw))
  expected = PAIRS[op](x, y)
  np.testing.assert_array_equal(op().apply({}, x, y), expected)
  weights = rng.normal(size=expected.shape).astype(np.float32)
  slopes = jax.grad(lambda *xs: jnp.sum(op().apply({}, *xs) * weights), argnums=(0, 1))(x, y)
  step = np.float32(2.0**-8)
  for i, slope in enumerate(slopes):
    moved = [(x + step * (i == 0), y + step * (i == 1)), (x - step * (i == 0), y - step * (i == 1))]
    up, down = (np.sum(np.float64(PAIRS[op](*pair)) * weights) for pair in moved)
    if op not in (nn.Maximum, nn.Minimum):
      np.testing.assert_allclose(slope.sum(), (up - down) / (2 * step), rtol=1e-2, atol=1e-2)
    assert slope.shape == (x, y)[i].shape


@pytest.mark.slow
def test_one_channel_that_meets_all_belongs_to_none(network):
  model, variables = network
  graph = nn.trace(model, variables, images(1))
  routes = prune.routes.find_routes(graph)
  assert not np.isin(routes.ids["mask"], routes.ids["stem"]).any()
  np.testing.assert_array_equal(routes.ids["attend"], routes.ids["stem"])
  np.testing.assert_array_equal(routes.ids["means"], routes.ids["centred"])
  keep = {name: np.arange(8) % 4 != 0 for name in ("stem", "left", "right")}
  smaller, few = prune.remove_channels(model, variables, prune.Keep(keep, (8, 8, 3)))
  assert few["params"]["mask"]["kernel"].shape == (3, 3, 6, 1)
  muted = jax.tree.map(np.array, variables)
  for name, mask in keep.items():
    for leaf in ("scale", "bias"):
      muted["params"][name][leaf][~mask] = 0
  bias = muted["params"]["classifier"]["kernel"]
  bias[~keep["stem"]] = 0  # one channel is added to all, removed ones too
  expected = model.apply(muted, images(2), train=False)
  found = smaller.apply(few, images(2), train=False).logits
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_copies_integers_shares_their_grid(network):
  key = find_sites(nn.trace(*network, images(1))).key_of
  assert key["larger"] == key["right"] == key["attend"] == key["act"] == key["smaller"]
  assert key["above"] != key["smaller"]


def test_means_of_sums_are_known_where_all_channels_are_added():
  shape, one, wide = (1, 4, 4, 2), (1, 4, 4, 1), ((1, 4, 4, 2),)
  sums = {"both": ("x", "y"), "one": ("x", "z")}
  shapes = {"x": shape, "y": shape, "z": one}
  node = lambda name, inputs: nn.Node(  # noqa: E731
    name, "Add", {}, inputs, (name,), tuple(shapes[n] for n in inputs), wide
  )
  makers = [
    nn.Node(name, "ConvNorm", {"act": None}, ("input",), (name,), (shape,), (shapes[name],))
    for name in shapes
  ]
  graph = nn.Graph((*makers, *(node(*item) for item in sums.items())), shape, "one")
  moments = {name: Moments(np.full(shapes[name][-1], 2.0), np.ones(1)) for name in shapes}
  means = tensor_means(graph, moments)
  assert means["both"].tolist() == [4.0, 4.0] and "one" not in means


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kernels", "method", "bits"),
  [
    ("xnnpack", "minmax", 8),
    ("reference", "data_free", 8),
    ("tflm", "minmax", 16),
    ("xnnpack", "minmax", 16),
    ("onnxruntime", "equalize", 8),
  ],
)
def test_a_network_of_pairs_is_calibrated_and_exported(network, kernels, method, bits, tmp_path):
  model, variables = network
  quantized = quantize.post_training(
    model, variables, images(), method=method, kernels=kernels, activation_bits=bits
  )
  expected = model.apply(variables, images(8, 1), train=False)
  assert np.abs(quantized(images(8, 1)) - expected).mean() < 0.05 * np.ptp(expected)
  write, suffix = (export.onnx, "onnx") if kernels == "onnxruntime" else (export.tflite, "tflite")
  path = write(quantized, tmp_path / f"model.{suffix}")
  assert export.verify(path, quantized, images(8, 2)).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "model.jcz"))
  np.testing.assert_array_equal(loaded.integers(images(4)), quantized.integers(images(4)))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["xnnpack", "tflm", "onnxruntime"])
def test_what_is_compared_may_keep_a_grid_of_its_own(network, kernels, tmp_path):
  model, variables = network
  batch = {"image": images(16), "label": np.arange(16) % 5}
  plan = quantize.int8(apart=(("larger", "right"), ("smaller", "act")), kernels=kernels)
  recipe = Recipe(student=model, optimizer=optax.sgd(0.01), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch, student_variables=variables)
  state, _ = jax.jit(train_step)(state, batch)
  quantized = state.quantized()
  assert quantized.grids["right"] != quantized.grids["larger"]
  copies = [node.name for node in quantized.graph.nodes if node.op == "Requantize"]
  assert len(copies) == 2
  write, suffix = (export.onnx, "onnx") if kernels == "onnxruntime" else (export.tflite, "tflite")
  path = write(quantized, tmp_path / f"model.{suffix}")
  assert export.verify(path, quantized, images(8)).bit_equal == 1.0


@pytest.mark.slow
def test_a_network_of_pairs_trains_in_the_devices_arithmetic(tmp_path):
  batch = {"image": images(16), "label": np.arange(16) % 5}
  plan = quantize.int8(freeze_norm_step=1, exact_step=2)
  recipe = Recipe(student=Attended(), optimizer=optax.sgd(0.05), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  step = jax.jit(train_step)
  for _ in range(4):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, images(8)).bit_equal == 1.0


def test_float_files_compute_what_the_model_does(network, tmp_path):
  model, variables = network
  graph = nn.trace(model, variables, images(1))
  expected = model.apply(variables, images(2), train=False)
  for write, suffix in ((export.tflite_float, "tflite"), (export.onnx_float, "onnx")):
    runtime = export.Runtime(write(graph, nn.fold(graph, variables), tmp_path / f"model.{suffix}"))
    found = np.concatenate([runtime(images(2)[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
