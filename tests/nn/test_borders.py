"""Cells that are cut off maps, and cells around them: values, gradients, fusing, and whole networks."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export, models, nn, prune, quantize
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize.sites import find_sites
from jaxcompress.training import Recipe, init_state, train_step


class Bordered(linen.Module):
  """Keras' padding before strided convolutions and pools, a cropped branch, and a border of ones."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.Pad(((0, 1), (0, 1)), name="first")(x)
    x = nn.ConvNorm(8, kernel=3, stride=2, padding="VALID", act="relu", name="stem")(x, train=train)
    y = nn.Pad(((1, 1), (1, 1)), name="around")(x)
    y = nn.MaxPool(3, 2, padding="VALID", name="pool")(y)
    z = nn.Slice(0, None, 2, name="every")(nn.ConvNorm(8, kernel=3, name="side")(x, train=train))
    x = nn.Add(name="add")(y, z)
    x = nn.Pad(((1, 1), (1, 1)), value=1.0, name="ones")(x)
    x = nn.ConvNorm(8, kernel=3, padding="VALID", name="last")(x, train=train)
    x = nn.Slice(1, -1, name="crop")(nn.Pad(((1, 1), (1, 1)), mode="reflect", name="mirror")(x))
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="mean")(x))


def images(count=32, seed=0):
  return np.random.default_rng(seed).normal(size=(count, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
  model = Bordered()
  variables = nn.init_variables(model, jax.random.key(0), (16, 16, 3))
  rng = np.random.default_rng(0)
  noisy = lambda a: a + rng.uniform(0, 0.3, a.shape).astype(np.float32)  # noqa: E731
  return model, jax.tree.map(noisy, variables)


SIDES = st.integers(0, 3)
MIRRORED = st.integers(0, 2)
PLACES = st.one_of(st.none(), st.integers(-7, 7))


@pytest.mark.slow
@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.floats(-9, 9, width=32))
def test_a_pad_surrounds_and_passes_the_gradient_of_the_map(rows, columns, value):
  x = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
  apply = lambda x: nn.Pad((rows, columns), value).apply({}, x)  # noqa: E731
  expected = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=np.float32(value))
  np.testing.assert_array_equal(apply(x), expected)
  weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
  slope = jax.grad(lambda x: jnp.sum(apply(x) * weights))(x)
  inner = tuple(
    slice(a, size - b) for (a, b), size in zip((rows, columns), weights.shape[1:3], strict=True)
  )
  np.testing.assert_array_equal(slope, weights[:, inner[0], inner[1]])


@pytest.mark.slow
@settings(deadline=None)
@given(
  st.tuples(MIRRORED, MIRRORED), st.tuples(MIRRORED, MIRRORED), st.sampled_from(["reflect", "edge"])
)
def test_a_pad_of_the_maps_own_cells_is_numpys_and_gives_them_their_gradients(rows, columns, mode):
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
  apply = lambda x: nn.Pad((rows, columns), mode=mode).apply({}, x)  # noqa: E731
  pads = ((0, 0), rows, columns, (0, 0))
  np.testing.assert_array_equal(apply(x), np.pad(x, pads, mode))
  slope = jax.grad(lambda x: jnp.sum(apply(x)))(x)
  cells = np.pad(np.arange(x.size).reshape(x.shape), pads, mode)
  np.testing.assert_allclose(slope.ravel(), np.bincount(cells.ravel(), minlength=x.size))


@settings(deadline=None)
@given(
  st.tuples(st.integers(-7, 7), st.integers(-7, 7)),
  st.tuples(PLACES, PLACES),
  st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_a_slice_is_pythons(begin, end, step):
  x = np.random.default_rng(0).normal(size=(2, 6, 5, 2)).astype(np.float32)
  rows, columns = (slice(*part) for part in zip(begin, end, step, strict=True))
  expected = x[:, rows, columns]
  layer = nn.Slice(begin, end, step)
  if 0 in expected.shape:
    with pytest.raises(ValueError, match="begin, end: nothing of a map of 6 x 5 is left"):
      layer.apply({}, x)
  else:
    np.testing.assert_array_equal(layer.apply({}, x), expected)


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (nn.Slice(step=0), "step must be whole numbers of 1 or more"),
    (nn.Slice(step=-1), "step must be whole numbers of 1 or more"),
    (nn.Slice(begin=None), "begin must be whole numbers"),
    (nn.Slice(begin=(0, 1, 2)), "begin must be whole numbers, .height, width."),
    (nn.Slice(end=1.5), "end must be whole numbers"),
    (nn.Pad(1), "pads must be whole numbers"),
    (nn.Pad(((0, -1), (0, 0))), "got .*; cells are cut off by a Slice"),
    (nn.Pad(((1, 1), (1, 1)), value=-np.inf), "a MaxPool's own padding"),
    (nn.Pad(((1, 1), (1, 1)), value="reflect"), "is no finite number"),
    (nn.Pad(((1, 1), (1, 1)), mode="symmetric"), "it is one of constant, reflect, edge"),
    (nn.Pad(((1, 1), (1, 1)), 2.0, mode="edge"), "value: 2.0 is of mode='constant'"),
    (nn.Pad(((1, 4), (1, 1)), mode="reflect"), "must be less than the 4 x 4 cells to mirror"),
  ],
)
def test_what_is_no_border_is_refused(layer, message):
  with pytest.raises(ValueError, match=message):
    layer.apply({}, jnp.ones((1, 4, 4, 1)))


def test_zeros_become_the_padding_of_convolutions_alone(network):
  model, variables = network
  graph = nn.trace(model, variables, images(2))
  fused = nn.fuse_activations(graph)
  assert {node.name for node in graph.nodes} - {node.name for node in fused.nodes} == {"first"}
  stem = fused.nodes[0]
  assert (stem.inputs, stem.attrs["padding"]) == (("input",), ((0, 1), (0, 1)))
  assert nn.fuse_activations(fused) == fused
  expected = model.apply(variables, images(2), train=False)
  for one in (graph, fused):
    found = execute(one, folded_layers(nn.fold(one, variables)), images(2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
  st.tuples(SIDES, SIDES),
  st.tuples(SIDES, SIDES),
  st.sampled_from(["VALID", "SAME", "SYMMETRIC", ((1, 0), (0, 2))]),
  st.integers(1, 3),
  st.sampled_from([(3, 3), (1, 2), (4, 3)]),
)
def test_a_convolution_pads_as_the_pad_before_it_did(rows, columns, padding, stride, kernel):
  class Padded(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.Pad((rows, columns), name="pad")(x)
      fields = {"kernel": kernel, "stride": stride, "padding": padding, "norm": None}
      return nn.ConvNorm(2, name="conv", **fields)(x, train=train)

  x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
  variables = Padded().init(jax.random.key(0), x, train=False)
  fused = nn.fuse_activations(nn.trace(Padded(), variables, x))
  assert [node.name for node in fused.nodes] == ["conv"]
  found = execute(fused, folded_layers(nn.fold(fused, variables)), x)
  expected = Padded().apply(variables, x, train=False)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_pads_of_pads_are_all_within_the_convolution():
  class Padded(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.Pad(((1, 1), (0, 1)), name="second")(nn.Pad(((0, 2), (1, 0)), name="first")(x))
      return nn.ConvNorm(2, kernel=3, padding="VALID", name="conv")(x, train=train)

  x = images(8)
  variables = Padded().init(jax.random.key(0), x, train=False)
  fused = nn.fuse_activations(nn.trace(Padded(), variables, x[:1]))
  assert [node.name for node in fused.nodes] == ["conv"]
  assert fused.nodes[0].attrs["padding"] == ((1, 3), (1, 1))
  assert nn.fuse_activations(fused) == fused
  quantized = quantize.post_training(Padded(), variables, x, method="minmax", progress=False)
  expected = np.asarray(Padded().apply(variables, x, train=False))
  assert np.abs(quantized(x) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
def test_a_network_with_borders_trains_in_the_devices_arithmetic(tmp_path):
  batch = {"image": images(16), "label": np.arange(16) % 5}
  plan = quantize.int8(freeze_norm_step=1, exact_step=2)
  recipe = Recipe(student=Bordered(), optimizer=optax.sgd(0.05), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  step = jax.jit(train_step)
  for _ in range(4):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  assert quantized.grids["ones"].high * quantized.grids["ones"].scale > 0.95  # holds the border
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, images(8)).bit_equal == 1.0


def test_grids_hold_what_surrounds_a_map(network):
  sites = find_sites(nn.trace(*network, images(1)))
  key = sites.key_of
  assert key["around"] == key["stem"] and "around" not in sites.rounded
  assert key["ones"] == key["add"] and "ones" in sites.rounded
  assert "around" in sites.nonnegative


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "equalize", "data_free"])
@pytest.mark.parametrize("kernels", ["xnnpack", "onnxruntime"])
def test_a_network_with_borders_is_calibrated_and_exported(network, method, kernels, tmp_path):
  model, variables = network
  quantized = quantize.post_training(model, variables, images(), method=method, kernels=kernels)
  expected = model.apply(variables, images(8, 1), train=False)
  assert np.abs(quantized(images(8, 1)) - expected).max() < 0.1 * np.ptp(expected)
  write, suffix = (export.onnx, "onnx") if kernels == "onnxruntime" else (export.tflite, "tflite")
  path = write(quantized, tmp_path / f"model.{suffix}")
  assert export.verify(path, quantized, images(8, 2)).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "model.jcz"))
  np.testing.assert_array_equal(loaded.integers(images(4)), quantized.integers(images(4)))


def test_float_files_compute_what_the_model_does(network, tmp_path):
  model, variables = network
  graph = nn.trace(model, variables, images(1))
  expected = model.apply(variables, images(2), train=False)
  for write, suffix in ((export.tflite_float, "tflite"), (export.onnx_float, "onnx")):
    path = write(graph, nn.fold(graph, variables), tmp_path / f"model.{suffix}")
    runtime = export.Runtime(path)
    found = np.concatenate([runtime(images(2)[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_channels_are_removed_through_borders(network, tmp_path):
  model, variables = network
  keep = prune.Keep({"stem": np.arange(8) < 6, "last": np.arange(8) % 2 == 0}, (16, 16, 3))
  with pytest.raises(ValueError, match="side"):
    prune.remove_channels(
      model, variables, keep._replace(masks={**keep.masks, "side": np.arange(8) < 5})
    )
  smaller, few = prune.remove_channels(model, variables, keep)
  assert few["params"]["side"]["kernel"].shape == (3, 3, 6, 6)
  muted = jax.tree.map(np.array, variables)
  for name, mask in (
    ("stem", keep.masks["stem"]),
    ("side", keep.masks["stem"]),
    ("last", keep.masks["last"]),
  ):
    for leaf in ("scale", "bias"):
      muted["params"][name][leaf][~mask] = 0
  muted["params"]["last"]["kernel"][:, :, 6:] = 0  # around removed channels are ones
  expected = model.apply(muted, images(2), train=False)
  found = smaller.apply(few, images(2), train=False).logits
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  models.save(tmp_path / "model", smaller, few)
  again, same = models.load(tmp_path / "model")
  np.testing.assert_array_equal(again.apply(same, images(2), train=False).logits, found)
