"""Multiplication and addition of constants: as a layer of its own, and as part of the weights before it."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxcompress import export, models, nn, prune, quantize
from jaxcompress.nn.execute import execute, folded_layers, with_followers
from jaxcompress.nn.operations import FOLLOWERS
from jaxcompress.nn.select import layers_of, select
from jaxcompress.nn.tracing import trace_endpoints
from jaxcompress.quantize.ptq.moments import moments_of
from jaxcompress.training import Recipe, init_state, train_step


class Scaled(linen.Module):
  """Input scaling, a residual branch with a layer scale, a dense layer with BatchNorm, a temperature."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.Affine(1 / 127.5, -1.0, name="pixels")(x)
    x = nn.ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, name="branch")(x, train=train)
    y = nn.Affine("trained", name="gamma")(y)
    x = nn.Add(name="add")(x, y)
    x = nn.Affine("fixed", "fixed", act="relu", name="after")(x)
    x = nn.ConvNorm(8, norm=None, name="last")(x, train=train)
    x = nn.Affine("scalar", name="alpha")(x)
    x = nn.GlobalAvgPool(name="pool")(x)
    x = nn.BatchNorm(name="before")(x, train=train)
    x = nn.Dense(12, name="hidden")(x)
    x = nn.BatchNorm(act="relu", name="norm")(x, train=train)
    x = nn.Dense(5, name="classifier")(x)
    return nn.Affine(0.5, name="temperature")(x)


def variables_of(model, shape, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda leaf: rng.uniform(0.3, 1.5, leaf.shape).astype(np.float32)  # noqa: E731
  return jax.tree.map(draw, nn.init_variables(model, jax.random.key(seed), shape))


def pixels(count=64, seed=0):
  return np.random.default_rng(seed).uniform(0, 255, (count, 8, 8, 3)).astype(np.float32)


CONSTANTS = st.one_of(
  st.sampled_from(["trained", "scalar", "fixed"]), st.floats(-3, 3, allow_nan=False, width=32)
)


@settings(deadline=None)
@given(CONSTANTS, CONSTANTS, st.sampled_from([None, "relu", "relu6"]), st.integers(0, 99))
def test_an_affine_is_a_product_and_a_sum(scale, bias, act, seed):
  layer = nn.Affine(scale, bias, act)
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(2, 3, 1, 4)).astype(np.float32)
  kinds = {"trained": ("params", (4,)), "scalar": ("params", ()), "fixed": ("batch_stats", (4,))}
  variables, numbers = {}, {}
  for name, value in (("scale", scale), ("bias", bias)):
    numbers[name] = value
    if value in kinds:
      kind, shape = kinds[value]
      numbers[name] = np.float32(rng.normal(size=shape))
      variables.setdefault(kind, {})[name] = numbers[name]
  first = layer.init(jax.random.key(0), jnp.asarray(x))
  assert jax.tree.map(jnp.shape, dict(first)) == jax.tree.map(jnp.shape, variables)
  y = x * numbers["scale"] + numbers["bias"]
  y = {None: y, "relu": np.maximum(y, 0), "relu6": np.clip(y, 0, 6)}[act]
  np.testing.assert_allclose(layer.apply(variables, jnp.asarray(x)), y, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_a_product_and_a_sum():
  layer = nn.Affine("trained", "scalar")
  x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
  params = {"scale": np.float32([1.0, -2.0, 0.5, 3.0]), "bias": np.float32(0.25)}
  apply = lambda params, x: layer.apply({"params": params}, x)  # noqa: E731
  check_grads(apply, (params, x), order=2, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("field", ["scale", "bias"])
@pytest.mark.parametrize("value", [None, "learned", float("nan"), float("inf"), True, (1.0, 2.0)])
def test_what_is_no_constant_is_refused(field, value):
  message = rf"{field}: .* is no constant; it must be a finite number or 'trained'"
  with pytest.raises(ValueError, match=message):
    nn.Affine(**{field: value}).apply({}, jnp.ones((1, 2)))


def test_constants_become_part_of_the_weights_before_them():
  model = Scaled()
  variables = variables_of(model, (8, 8, 3))
  graph, _ = trace_endpoints(model, variables, pixels(1))
  fused = nn.fuse_activations(graph)
  joined = {
    node.name: [after.name for after in node.attrs[FOLLOWERS]]
    for node in fused.nodes
    if FOLLOWERS in node.attrs
  }
  assert joined == {
    "branch": ["gamma"],
    "last": ["alpha"],
    "hidden": ["norm"],
    "classifier": ["temperature"],
  }
  expected = model.apply(variables, pixels(4), train=False)
  for one in (graph, fused):
    layers = folded_layers(nn.fold(one, variables))
    np.testing.assert_allclose(execute(one, layers, pixels(4)), expected, rtol=2e-4, atol=1e-4)
  together, apart = nn.fold(fused, variables), with_followers(fused, nn.fold(graph, variables))
  assert together.keys() == apart.keys()
  for name in together:
    for one, other in zip(together[name], apart[name], strict=True):
      np.testing.assert_array_equal(one, other)


def test_constants_stay_where_something_else_reads_the_layer():
  class Both(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.ConvNorm(3, name="conv")(x, train=train)
      return nn.Add(name="add")(x, nn.Affine(2.0, name="twice")(x))

  variables = variables_of(Both(), (8, 8, 3))
  fused = nn.fuse_activations(nn.trace(Both(), variables, pixels(1)))
  assert [node.name for node in fused.nodes] == ["conv", "twice", "add"]


def test_moments_are_those_after_the_constants():
  model = Scaled()
  variables = variables_of(model, (8, 8, 3))
  graph = nn.fuse_activations(nn.trace(model, variables, pixels(1)))
  params = variables["params"]
  gamma, branch = params["gamma"]["scale"], params["branch"]
  found = moments_of(graph, variables)["branch"]
  np.testing.assert_allclose(found.mean, branch["bias"] * gamma, rtol=1e-6)
  np.testing.assert_allclose(found.deviation, branch["scale"] * gamma, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "bias_correction", "data_free", "adaround"])
def test_a_network_with_constants_is_calibrated_and_exported(method, tmp_path):
  model, images = Scaled(), pixels()
  variables = variables_of(model, (8, 8, 3))
  quantized = quantize.post_training(model, variables, images, method=method)
  expected = model.apply(variables, pixels(8, 1), train=False)
  error = np.abs(quantized(pixels(8, 1)) - expected).max()
  assert error < 0.08 * np.ptp(expected)
  before = ["pixels", "stem", "branch", "add", "after", "last", "pool", "before"]
  assert [node.name for node in quantized.graph.nodes] == [*before, "hidden", "classifier"]
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, pixels(8, 2)).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "model.jcz"))
  np.testing.assert_array_equal(loaded.integers(images[:4]), quantized.integers(images[:4]))


def test_float_files_compute_what_the_model_does(tmp_path):
  model = Scaled()
  variables = variables_of(model, (8, 8, 3))
  graph = nn.trace(model, variables, pixels(1))
  expected = model.apply(variables, pixels(4), train=False)
  writers = {"a.tflite": export.tflite_float, "a.onnx": export.onnx_float}
  for name, write in writers.items():
    for one in (graph, nn.fuse_activations(graph)):
      path = write(one, nn.fold(one, variables), tmp_path / name)
      runtime = export.Runtime(path)
      found = np.concatenate([runtime(pixels(4)[i : i + 1]) for i in range(4)])
      np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_trained_constants_train_and_fixed_ones_stay(tmp_path):
  batch = {"image": pixels(16), "label": np.arange(16) % 5}
  recipe = Recipe(
    student=Scaled(), optimizer=optax.sgd(0.05), quantize=quantize.int8(freeze_norm_step=3)
  )
  state = init_state(recipe, jax.random.key(0), batch)
  step = jax.jit(train_step)
  first = state
  for _ in range(4):
    state, _ = step(state, batch)
  for name in ("gamma", "alpha"):
    assert np.any(first.params[name]["scale"] != state.params[name]["scale"])
  for name in ("scale", "bias"):
    np.testing.assert_array_equal(
      first.batch_stats["after"][name], state.batch_stats["after"][name]
    )
  quantized = state.quantized()
  for kernels, suffix in (("xnnpack", "tflite"), ("onnxruntime", "onnx")):
    one = quantized.with_kernels(kernels)
    path = getattr(export, suffix)(one, tmp_path / f"model.{suffix}")
    assert export.verify(path, one, pixels(8)).bit_equal == 1.0


def test_channels_are_removed_with_their_constants(tmp_path):
  model = Scaled()
  variables = variables_of(model, (8, 8, 3))
  keep = {"stem": np.arange(8) % 3 != 0, "hidden": np.arange(12) % 2 == 0}
  keep["last"] = np.arange(8) < 5
  smaller, few = prune.remove_channels(model, variables, prune.Keep(keep, (8, 8, 3)))
  shapes = jax.tree.map(jnp.shape, few)
  assert shapes["params"]["gamma"]["scale"] == (5,)
  assert shapes["batch_stats"]["after"] == {"scale": (5,), "bias": (5,)}
  assert shapes["params"]["alpha"]["scale"] == ()
  assert shapes["params"]["norm"]["scale"] == (6,)
  muted = jax.tree.map(np.array, variables)
  for name, after, mask in (("stem", ("after",), keep["stem"]),):
    gone = ~mask
    for tree in muted.values():
      for layer in (name, "branch", "gamma", *after):
        for leaf, array in tree.get(layer, {}).items():
          if leaf in ("scale", "bias"):
            array[gone] = 0
  muted["params"]["last"]["kernel"][..., ~keep["last"]] = 0
  muted["params"]["last"]["bias"][~keep["last"]] = 0
  for leaf in ("scale", "bias"):
    muted["params"]["before"][leaf][~keep["last"]] = 0
    muted["params"]["norm"][leaf][~keep["hidden"]] = 0
  expected = model.apply(muted, pixels(4), train=False)
  found = smaller.apply(few, pixels(4), train=False).logits
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  models.save(tmp_path / "model", smaller, few)
  again, same = models.load(tmp_path / "model")
  np.testing.assert_array_equal(again.apply(same, pixels(4), train=False).logits, found)


def test_rules_find_layers_by_the_constants_that_became_part_of_them():
  model = Scaled()
  variables = variables_of(model, (8, 8, 3))
  layers = layers_of(nn.fuse_activations(nn.trace(model, variables, pixels(1))))
  assert layers["branch"].paths == ("branch", "gamma")
  assert select("gamma|norm", layers) == ("branch", "hidden")


@pytest.mark.parametrize("act", [None, "relu", "relu6", "hard_sigmoid"])
def test_vectors_and_their_activation_functions_are_in_float_files(act, tmp_path):
  class Network(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.Affine(0.01, -0.5, act=act, name="vector")(nn.GlobalAvgPool(name="pool")(x))
      x = nn.Affine(2.0, act=act, name="after")(nn.Dense(6, name="dense")(x))
      return nn.Activation("relu", name="last")(nn.Affine(3.0, name="more")(x))

  variables = variables_of(Network(), (8, 8, 3))
  graph = nn.trace(Network(), variables, pixels(1))
  fused = [node.name for node in nn.fuse_activations(graph).nodes]
  alone = {None: [], "hard_sigmoid": ["after", "more"]}.get(act, ["more"])
  assert fused == ["pool", "vector", "dense", *alone]
  expected = Network().apply(variables, pixels(2), train=False)
  for write, suffix in ((export.tflite_float, "tflite"), (export.onnx_float, "onnx")):
    runtime = export.Runtime(write(graph, nn.fold(graph, variables), tmp_path / f"model.{suffix}"))
    found = np.concatenate([runtime(pixels(2)[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class Pixels(linen.Module):
  """Pixels from 0 to 1 for two convolutions that pad, a number before a dense layer, one that stays."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.Affine(1 / 255, name="unit")(x)
    left = nn.ConvNorm(6, kernel=3, name="left")(x, train=train)
    right = nn.ConvNorm(6, kernel=3, norm=None, name="right")(x, train=train)
    x = nn.Affine(-1.5, name="minus")(nn.Add(name="add")(left, right))
    x = nn.ConvNorm(6, name="conv")(nn.Activation("relu6", name="act")(x), train=train)
    x = nn.Affine(2.0, name="half")(nn.GlobalAvgPool(name="pool")(x))
    return nn.Affine(3.0, name="logits")(nn.Dense(5, name="dense")(x))


def test_numbers_become_part_of_the_weights_that_read_them(tmp_path):
  model = Pixels()
  variables = variables_of(model, (8, 8, 3))
  graph = nn.trace(model, variables, pixels(1))
  fused = nn.fuse_activations(graph)
  names = ["left", "right", "add", "minus", "conv", "pool", "dense"]
  assert [node.name for node in fused.nodes] == names
  assert nn.fuse_activations(fused) == fused
  assert layers_of(fused)["left"].paths == ("left", "unit")
  expected = model.apply(variables, pixels(4), train=False)
  together, apart = nn.fold(fused, variables), with_followers(fused, nn.fold(graph, variables))
  assert together.keys() == apart.keys() == {"left", "right", "minus", "conv", "dense"}
  for name in together:
    for one, other in zip(together[name], apart[name], strict=True):
      np.testing.assert_array_equal(one, other)
  found = execute(fused, folded_layers(together), pixels(4))
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4)
  for write, suffix in ((export.tflite_float, "tflite"), (export.onnx_float, "onnx")):
    for one in (graph, fused):
      runtime = export.Runtime(write(one, nn.fold(one, variables), tmp_path / f"m.{suffix}"))
      found = np.concatenate([runtime(pixels(4)[i : i + 1]) for i in range(4)])
      np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "data_free", "adaround"])
def test_a_network_of_pixels_is_calibrated_and_exported(method, tmp_path):
  model = Pixels()
  variables = variables_of(model, (8, 8, 3))
  quantized = quantize.post_training(model, variables, pixels(), method=method)
  expected = model.apply(variables, pixels(8, 1), train=False)
  assert np.abs(quantized(pixels(8, 1)) - expected).mean() < 0.05 * np.ptp(expected)
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, pixels(8, 2)).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "model.jcz"))
  np.testing.assert_array_equal(loaded.integers(pixels(4)), quantized.integers(pixels(4)))


@pytest.mark.slow
def test_a_network_of_pixels_is_deployed_as_it_was_trained(tmp_path):
  model, batch = Pixels(), {"image": pixels(16), "label": np.arange(16) % 5}
  plan = quantize.int8()
  state = init_state(
    Recipe(student=model, optimizer=optax.sgd(0.01), quantize=plan), jax.random.key(0), batch
  )
  step = jax.jit(train_step)
  for _ in range(4):
    state, _ = step(state, batch)
  quantized = state.quantized()
  parts = state.trained["quantizer"], state.quantizer.state, state.variables
  logits, *_ = quantize.transform(model, plan).apply(*parts, pixels(8), train=False)
  assert np.abs(quantized(pixels(8)) - logits).max() <= 3 * quantized.grids["logits"].scale
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, pixels(8)).bit_equal == 1.0
