"""Normalization by the channels of each cell: as Flax has it, and in integers that every runtime computes."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import distill, export, models, nn, prune, quantize
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.normalizing import (
  CODES,
  DIGITS,
  digit_weights,
  digits,
  levels,
)
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.training import Recipe, distill_step, init_state, train_step

pytestmark = pytest.mark.usefixtures("optimized")
SHAPE = (8, 8, 3)


class Block(linen.Module):
  """A block of ConvNeXt."""

  @linen.compact
  def __call__(self, x, *, train):
    channels, options = x.shape[-1], {"norm": None}
    y = nn.ConvNorm(channels, kernel=7, groups="depthwise", name="depthwise", **options)(
      x, train=train
    )
    y = nn.LayerNorm(name="norm")(y)
    y = nn.ConvNorm(4 * channels, name="expand", **options)(y, train=train)
    y = nn.Activation("gelu", name="gelu")(y)
    y = nn.ConvNorm(channels, name="project", **options)(y, train=train)
    return nn.Add(name="add")(x, nn.Affine("trained", name="scale")(y))


class Net(linen.Module):
  """A small ConvNeXt."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(12, kernel=2, stride=2, norm=None, name="stem")(x, train=train)
    x = nn.LayerNorm(name="stem_norm")(x)
    for i in range(2):
      x = Block(name=f"block{i}")(x, train=train)
    x = nn.LayerNorm(name="norm")(nn.GlobalAvgPool(name="pool")(x))
    return nn.Endpoints(nn.Dense(4, name="classifier")(x))


@pytest.fixture(scope="module")
def batch():
  rng, label = np.random.default_rng(0), np.arange(16) % 4
  image = rng.normal(size=(4, *SHAPE))[label] + 0.3 * rng.normal(size=(16, *SHAPE))
  return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5, 4, 16), (6, 24), (2, 7, 10)])
@pytest.mark.parametrize(("scale", "bias"), [(True, True), (False, True), (True, False)])
def test_a_layer_norm_is_flaxs_with_its_gradients(shape, scale, bias):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(2.0, 3.0, shape), jnp.float32)
  theirs = linen.LayerNorm(epsilon=1e-3, use_scale=scale, use_bias=bias)
  ours = nn.LayerNorm(epsilon=1e-3, use_scale=scale, use_bias=bias)
  draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
  params = jax.tree.map(draw, theirs.init(jax.random.key(0), x)["params"])
  cost = lambda made: lambda params, x: jnp.sum(jnp.sin(made.apply({"params": params}, x)))  # noqa: E731
  found = jax.grad(cost(ours), (0, 1))({"affine": params}, x)
  expected = jax.grad(cost(theirs), (0, 1))(params, x)
  np.testing.assert_allclose(
    ours.apply({"params": {"affine": params}}, x),
    theirs.apply({"params": params}, x),
    rtol=1e-5,
    atol=1e-5,
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
  jax.tree.map(close, (found[0]["affine"], found[1]), expected)


def test_a_root_mean_square_is_flaxs():
  x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (3, 4, 16)), jnp.float32)
  expected = linen.RMSNorm(epsilon=1e-2, use_scale=False).apply({}, x)
  np.testing.assert_allclose(nn.RmsNorm(1e-2).apply({}, x), expected, rtol=1e-6)
  for epsilon in (-1.0, np.inf, "1"):
    with pytest.raises(ValueError, match="epsilon must be a finite number of zero or more"):
      nn.RmsNorm(epsilon).apply({}, x)


def test_narrow_floats_are_squared_in_float32():
  x = jnp.full((1, 4), 300.0, jnp.float16)  # whose squares are beyond float16
  y = nn.RmsNorm().apply({}, x)
  assert y.dtype == jnp.float16 and y.tolist() == [[1.0] * 4]


LENGTH = 2**14


@given(
  zero_point=st.integers(-128, 127),
  channels=st.sampled_from([1, 2, 3, 8, 40, 96, 700]),
  epsilon=st.sampled_from([0.0, 1e-6, 1.0]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
@pytest.mark.parametrize("kernels", KERNELS)
def test_each_sum_of_squares_belongs_to_one_level(kernels, zero_point, channels, epsilon):
  """Whatever the runtime's rounding, one of the factors is not zero, and it is the reciprocal root."""
  grid = Grid(np.float32(0.03), zero_point)
  found = levels(grid, channels, epsilon)
  largest = int((digits(grid).astype(np.int64) @ [127, 1]).max()) * channels
  edges = [
    int(edge * level.sums.scale) for level in found for edge in (0, 1, 14, 15.5, 16, 223.5, 248)
  ]
  near = np.unique(np.clip([e + i for e in edges for i in range(-40, 41)], 0, largest))
  spread = np.unique(np.geomspace(1, largest, 4000).astype(np.int64))
  sums = np.union1d(near, spread).astype(np.int32)
  sums = np.pad(sums, (0, LENGTH - len(sums)), "edge")  # of one length, which is compiled once
  total = np.zeros(len(sums))
  count = np.zeros(len(sums), int)
  for level in found:
    rule = KERNELS[kernels].convolution(
      DIGITS, np.ones(1, np.float32), level.sums, np.array([largest - level.bias])
    )
    codes = np.clip(np.asarray(rule(jnp.asarray(sums + level.bias))), 0, CODES).astype(int)
    factor = level.table[codes] * np.float64(level.factors.scale)
    total, count = total + factor, count + (factor > 0)
  assert (count == 1).all()
  unit = 1 if max(-grid.low, grid.high) <= 180 else 2
  exact = 1 / np.sqrt(sums * unit / channels * np.float64(grid.scale) ** 2 + max(epsilon, 1e-30))
  fine = sums > 16 * found[-1].sums.scale
  assert (np.abs(total / exact - 1) < 0.06)[fine].all()


def test_squares_of_all_codes_have_two_digits():
  for zero_point in range(-128, 128):
    grid = Grid(np.float32(1), zero_point)
    codes = np.arange(grid.low, grid.high + 1)
    squares = digits(grid).astype(np.int64) @ digit_weights(1).ravel()
    unit = 1 if np.abs(codes).max() <= 180 else 2
    np.testing.assert_array_equal(squares, (codes**2 + unit // 2) // unit)


def decibels(signal, found):
  return 10 * np.log10(np.square(signal).sum() / np.square(signal - found).sum())


@pytest.mark.parametrize("width", [16, 96])
def test_integers_are_near_the_floats(width, networks):
  """Beside float normalization of the same 8-bit input, whose output is rounded to 8 bits."""
  rng = np.random.default_rng(0)
  spread = np.exp(0.5 * rng.normal(size=(32, 4, 4, 1)))
  images = (rng.normal(0.5, 1, (32, 4, 4, width)) * spread).astype(np.float32)
  module = One()
  quantized = quantize.post_training(module, {}, images, method="minmax", progress=False)
  grid = quantized.grids["input"]
  read = np.float64(grid.scale) * np.clip(np.rint(images / grid.scale), grid.low, grid.high)
  expected, ideal = (
    np.asarray(module.apply({}, x, train=False)) for x in (images, np.float32(read))
  )
  step = np.ptp(ideal) / 255
  limit = decibels(expected, np.rint(ideal / step) * step)
  assert decibels(expected, quantized(images)) > limit - 4.5


class One(linen.Module):
  """A LayerNorm alone."""

  @linen.compact
  def __call__(self, x, *, train):
    return nn.LayerNorm(use_scale=False, use_bias=False, name="norm")(x)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "adaround", "equalize"])
def test_a_convnext_is_quantized_after_training_and_is_bit_equal(method, batch, check, tmp_path):
  variables = nn.init_variables(Net(), jax.random.key(0), SHAPE)
  images = np.asarray(batch["image"])
  quantized = quantize.post_training(Net(), variables, images, method=method, progress=False)
  expected = np.asarray(Net().apply(variables, images, train=False).logits)
  assert decibels(expected, quantized(images)) > 20
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "a.jcz"))
  np.testing.assert_array_equal(loaded.integers(images), quantized.integers(images))
  run = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "a.stablehlo"))
  np.testing.assert_array_equal(run(quantized.quantize_input(images)), quantized.integers(images))


@pytest.mark.slow
def test_a_convnext_is_distilled_to_integers_that_are_bit_equal(batch, check):
  recipe = Recipe(
    student=Net(),
    teachers=(Net(),),
    loss=distill.chain(distill.cross_entropy(), distill.kd()),
    quantize=quantize.int8(start_step=6),
    optimizer=optax.adam(3e-3),
  )
  teacher = nn.init_variables(Net(), jax.random.key(1), SHAPE)
  state = init_state(recipe, jax.random.key(0), batch, teacher_variables=(teacher,))
  losses = []
  for _ in range(16):
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
  quantized, images = state.quantized(), np.asarray(batch["image"])
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["xnnpack", "onnxruntime"])
def test_a_convnext_trains_in_the_arithmetic_of_a_device(kernels, batch):
  plan = quantize.int8(freeze_norm_step=1, exact_step=2, kernels=kernels)
  recipe = Recipe(student=Net(), optimizer=optax.sgd(0.01), quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(3):
    state, metrics = train_step(state, batch)
  assert np.isfinite(metrics["loss"]) and state.skipped == 0


@pytest.mark.slow
def test_float_files_compute_what_it_does(batch, tmp_path):
  variables = nn.init_variables(Net(), jax.random.key(2), SHAPE)
  images = np.asarray(batch["image"])
  expected = np.asarray(Net().apply(variables, images, train=False).logits)
  x = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
  graph = nn.fuse_activations(nn.trace(Net(), variables, x))
  folded = nn.fold(graph, variables)
  for path in (
    export.tflite_float(graph, folded, tmp_path / "a.tflite"),
    export.onnx_float(graph, folded, tmp_path / "a.onnx"),
  ):
    runtime = export.Runtime(path)
    found = np.concatenate([runtime(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


class OneNorm(linen.Module):
  """No other operation that has 8 bits alone."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.LayerNorm(name="stem_norm")(nn.ConvNorm(4, name="stem")(x, train=train))
    return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
def test_16_bits_are_refused_with_the_way_out(batch):
  model = OneNorm()
  variables = nn.init_variables(model, jax.random.key(0), SHAPE)
  with pytest.raises(
    ValueError, match=r"layer 'stem_norm/rms'.*8-bit integers only; give the layer 8"
  ):
    quantize.post_training(
      model, variables, batch["image"], method="minmax", activation_bits=16, progress=False
    )


@pytest.mark.slow
def test_channels_that_are_normalized_together_stay_and_others_go(tmp_path):
  variables = nn.init_variables(Net(), jax.random.key(3), SHAPE)
  x = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
  found = prune.channel_importance(Net(), variables, x)
  keep = prune.choose_channels(found, 0.6, divisor=2)
  smaller, few = prune.remove_channels(Net(), variables, keep)
  widths = {layer.name: layer.fields.get("features") for layer in smaller.layers}
  assert widths["stem"] == widths["block0/project"] == 12
  assert widths["block0/expand"] < 48
  loaded, same = models.load(models.save(tmp_path / "a.safetensors", smaller, few))
  images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
  logits = loaded.apply(same, images, train=False).logits
  assert np.isfinite(logits).all()
