"""Other shapes of the same values, and channels made of all: alone, pruned, and in whole networks."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export, models, nn, prune, quantize
from jaxcompress.nn.graph import Node
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.training import Recipe, init_state, train_step


class Decoder(linen.Module):
  """An encoder to a vector, a map of it again, spatial attention (CBAM), and a map with another width."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    first, _, last = nn.Split((3, 1, 4), name="split")(x)
    x = nn.Concat(name="join")(last, first)
    code = nn.Dense(24, name="code")(nn.GlobalAvgPool(name="pool")(x))
    code = nn.BatchNorm(act="relu", name="norm")(code, train=train)
    y = nn.Reshape((2, 2, 6), name="map")(code)
    y = nn.ConvNorm(6, kernel=3, act="relu", name="conv")(y, train=train)
    mean, most = nn.ChannelMean(name="mean")(y), nn.ChannelMax(name="most")(y)
    mask = nn.ConvNorm(1, kernel=3, act="hard_sigmoid", norm=None, name="mask")(
      nn.Concat(name="both")(mean, most), train=train
    )
    y = nn.Multiply(name="attend")(y, mask)
    peak = nn.MaxPool((2, 2), 1, padding="VALID", name="peak")(y)
    return nn.Dense(5, name="classifier")(nn.Reshape((6,), name="flat")(peak))


def images(count=32, seed=0):
  return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
  model = Decoder()
  variables = nn.init_variables(model, jax.random.key(0), (8, 8, 3))
  rng = np.random.default_rng(0)
  noisy = lambda a: a + rng.uniform(0, 0.3, a.shape).astype(np.float32)  # noqa: E731
  return model, jax.tree.map(noisy, variables)


@st.composite
def shapes(draw):
  """Shapes of images with the same number of values."""
  count, made, cells = (draw(st.integers(1, 6)) for _ in range(3))
  total = int(np.lcm(count, made)) * cells
  shape = lambda channels: draw(  # noqa: E731
    st.sampled_from(
      [(total // channels, channels), (1, total // channels, channels)]
      + [(total,)] * (channels == total)
    )
  )
  return shape(count), shape(made)


@settings(deadline=None)
@given(shapes())
def test_a_reshape_is_numpys_and_its_channels_go_where_its_values_go(pair):
  before, after = pair
  total = int(np.prod(before))
  x = np.arange(2.0 * total, dtype=np.float32).reshape(2, *before)
  np.testing.assert_array_equal(nn.Reshape(after).apply({}, x), x.reshape(2, *after))
  node = Node("op", "Reshape", {"shape": after}, ("x",), ("op",), ((1, *before),), ((1, *after),))
  (sources,) = OPERATIONS["Reshape"].route(node, np.arange(before[-1]))
  origins = np.arange(total).reshape(before) % before[-1]
  origins = origins.reshape(-1, after[-1])
  for channel in range(after[-1]):
    assert set(origins[:, channel]) <= {int(source[channel]) for source in sources}


@pytest.mark.slow
@given(st.data())
@settings(deadline=None, max_examples=40)
def test_channels_are_removed_through_any_reshape(data):
  before, after = data.draw(shapes())
  divisor = int(np.gcd(before[-1], after[-1]))
  kept = data.draw(st.lists(st.integers(0, divisor - 1), min_size=1, max_size=divisor, unique=True))
  ins, outs = (len(kept) * n // divisor for n in (before[-1], after[-1]))
  node = Node("op", "Reshape", {"shape": after}, ("x",), ("op",), ((1, *before),), ((1, *after),))
  fields = OPERATIONS["Reshape"].resized(node, [ins], [outs])
  x = np.arange(float(np.prod(before))).reshape(1, *before)
  rows = np.isin(np.arange(before[-1]) % divisor, kept)
  columns = np.isin(np.arange(after[-1]) % divisor, kept)
  found = nn.Reshape(**fields).apply({}, jnp.asarray(x[..., rows], jnp.float32))
  np.testing.assert_array_equal(found, x.reshape(1, *after)[..., columns])


@pytest.mark.parametrize(
  ("layer", "shape", "message"),
  [
    (
      nn.Reshape((2, 3)),
      (1, 5),
      r"shape: \(2, 3\) has 6 values, and an image of shape \(5,\) has 5",
    ),
    (nn.Reshape((-1, 3)), (1, 6), "shape must be whole numbers of 1 or more without the batch"),
    (nn.Reshape(6), (1, 6), "shape must be whole numbers"),
    (nn.Reshape(()), (1, 1), "shape must be whole numbers"),
    (nn.ChannelMean(), (6,), r"must be \(batch, \.\.\., channels\)"),
    (nn.ChannelMean(0), (1, 2, 2, 6), "count must be"),
    (nn.ChannelMax(), (1, 6), "must be .batch, height, width, channels"),
  ],
)
def test_what_does_not_fit_is_refused(layer, shape, message):
  with pytest.raises(ValueError, match=message):
    layer.apply({}, jnp.ones(shape))


def test_channels_of_all_are_numpys_with_their_gradients():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  np.testing.assert_allclose(nn.ChannelMean().apply({}, x), x.mean(-1, keepdims=True), rtol=1e-5)
  np.testing.assert_allclose(
    nn.ChannelMean(10).apply({}, x), x.sum(-1, keepdims=True) / 10, rtol=1e-5
  )
  np.testing.assert_array_equal(nn.ChannelMax().apply({}, x), x.max(-1, keepdims=True))
  slope = jax.grad(lambda x: jnp.sum(nn.ChannelMax().apply({}, x)))(x)
  np.testing.assert_array_equal(slope, (x == x.max(-1, keepdims=True)).astype(np.float32))
  slope = jax.grad(lambda x: jnp.sum(nn.ChannelMean().apply({}, x)))(x)
  np.testing.assert_allclose(slope, np.full(x.shape, 0.2), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kernels", "method", "bits"),
  [
    ("xnnpack", "equalize", 8),
    ("reference", "adaround", 8),
    ("tflm", "data_free", 8),
    ("xnnpack", "minmax", 16),
    ("onnxruntime", "bias_correction", 8),
  ],
)
def test_a_decoder_is_calibrated_and_exported(network, kernels, method, bits, tmp_path):
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
def test_a_decoder_trains_in_the_devices_arithmetic(tmp_path):
  batch = {"image": images(16), "label": np.arange(16) % 5}
  plan = quantize.int8(freeze_norm_step=1, exact_step=2)
  recipe = Recipe(student=Decoder(), optimizer=optax.sgd(0.05), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  step = jax.jit(train_step)
  for _ in range(4):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, images(8)).bit_equal == 1.0


@pytest.mark.slow
def test_float_files_compute_what_the_model_does(network, tmp_path):
  model, variables = network
  graph = nn.trace(model, variables, images(1))
  expected = model.apply(variables, images(2), train=False)
  for write, suffix in ((export.tflite_float, "tflite"), (export.onnx_float, "onnx")):
    runtime = export.Runtime(write(graph, nn.fold(graph, variables), tmp_path / f"model.{suffix}"))
    found = np.concatenate([runtime(images(2)[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_channels_of_a_decoder_are_removed(network, tmp_path):
  model, variables = network
  code = np.arange(24) % 6 < 4
  keep = {"stem": np.array([1, 1, 0, 1, 1, 0, 1, 1], bool), "code": code, "conv": np.arange(6) < 4}
  smaller, few = prune.remove_channels(model, variables, prune.Keep(keep, (8, 8, 3)))
  layers = {layer.name: layer.fields for layer in smaller.layers}
  assert layers["split"]["sizes"] == (2, 1, 3)
  assert layers["map"]["shape"] == (2, 2, 4)
  assert layers["mean"]["count"] == 6
  muted = jax.tree.map(np.array, variables)
  for name, mask in (("stem", keep["stem"]), ("norm", code), ("conv", keep["conv"])):
    for leaf in ("scale", "bias"):
      muted["params"][name][leaf][~mask] = 0
  expected = model.apply(muted, images(2), train=False)
  found = smaller.apply(few, images(2), train=False).logits
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  models.save(tmp_path / "model", smaller, few)
  again, same = models.load(tmp_path / "model")
  np.testing.assert_array_equal(again.apply(same, images(2), train=False).logits, found)
  importance = prune.channel_importance(model, variables, images(8), method="l1")
  routes, scores = importance.routes, importance.scores
  assert np.isinf(scores[routes.ids["mean"]]).all() and np.isinf(scores[routes.ids["most"]]).all()
