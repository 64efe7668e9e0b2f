"""A small vision transformer of leaf ops goes the whole way: quantized, distilled, pruned, exported."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, nn, prune, quantize
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.training import Recipe, distill_step, init_state, train_step

pytestmark = pytest.mark.usefixtures("optimized")
SHAPE = (8, 8, 3)
HEADS = 2


class Block(linen.Module):
  """Attention and a multilayer perceptron, each behind a LayerNorm and beside a shortcut."""

  @linen.compact
  def __call__(self, x, *, train):
    height, width, channels = x.shape[1:]
    depth, tokens = channels // HEADS, (height * width, channels)
    y = nn.LayerNorm(name="norm")(x)
    heads = {}
    for name in ("query", "key", "value"):
      made = nn.ConvNorm(channels, norm=None, name=name)(y, train=train)
      if name == "query":
        made = nn.Affine(depth**-0.5, name="scaled")(made)
      parts = nn.Reshape(tokens, name=f"{name}_tokens")(made)
      heads[name] = nn.Split((depth,) * HEADS, name=f"{name}_heads")(parts)
    mixed = []
    for i, (query, key, value) in enumerate(zip(*heads.values(), strict=True)):
      scores = nn.MatMul(transpose_second=True, name=f"scores{i}")(query, key)
      mixed.append(nn.MatMul(name=f"mix{i}")(nn.Softmax(name=f"softmax{i}")(scores), value))
    y = nn.Reshape((height, width, channels), name="map")(nn.Concat(name="heads")(*mixed))
    x = nn.Add(name="attended")(x, nn.ConvNorm(channels, norm=None, name="out")(y, train=train))
    y = nn.LayerNorm(name="other_norm")(x)
    y = nn.ConvNorm(4 * channels, norm=None, name="expand")(y, train=train)
    y = nn.Activation("gelu", name="gelu")(y)
    return nn.Add(name="add")(x, nn.ConvNorm(channels, norm=None, name="project")(y, train=train))


class Net(linen.Module):
  """Patches, two blocks, and the mean of the tokens."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=2, stride=2, norm=None, name="patches")(x, train=train)
    for i in range(2):
      x = Block(name=f"block{i}")(x, train=train)
    x = nn.LayerNorm(name="norm")(nn.GlobalAvgPool(name="pool")(x))
    return nn.Endpoints(nn.Dense(4, name="classifier")(x))


@pytest.fixture(scope="module")
def batch():
  rng, label = np.random.default_rng(0), np.arange(16) % 4
  image = rng.normal(size=(4, *SHAPE))[label] + 0.3 * rng.normal(size=(16, *SHAPE))
  return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}


@pytest.fixture(scope="module")
def variables():
  return nn.init_variables(Net(), jax.random.key(0), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "equalize"])
def test_attention_is_quantized_after_training_and_is_bit_equal(
  method, batch, variables, check, tmp_path
):
  images = np.asarray(batch["image"])
  quantized = quantize.post_training(Net(), variables, images, method=method, progress=False)
  expected = np.asarray(Net().apply(variables, images, train=False).logits)
  noise = np.square(expected - quantized(images)).sum() / np.square(expected).sum()
  assert 10 * np.log10(noise) < -18
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0
  loaded = export.load_packed(export.packed(quantized, tmp_path / "a.jcz"))
  np.testing.assert_array_equal(loaded.integers(images), quantized.integers(images))
  run = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "a.stablehlo"))
  np.testing.assert_array_equal(run(quantized.quantize_input(images)), quantized.integers(images))


@pytest.mark.slow
def test_attention_is_distilled_to_integers_that_are_bit_equal(batch, check):
  recipe = Recipe(
    student=Net(),
    teachers=(Net(),),
    loss=distill.chain(distill.cross_entropy(), distill.kd()),
    quantize=quantize.int8(start_step=4),
    optimizer=optax.adam(3e-3),
  )
  teacher = nn.init_variables(Net(), jax.random.key(1), SHAPE)
  state = init_state(recipe, jax.random.key(0), batch, teacher_variables=(teacher,))
  losses = []
  for _ in range(12):
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
  quantized, images = state.quantized(), np.asarray(batch["image"])
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
def test_attention_trains_in_the_arithmetic_of_a_device(batch):
  recipe = Recipe(
    student=Net(),
    optimizer=optax.sgd(0.01),
    quantize=quantize.int8(freeze_norm_step=1, exact_step=2, kernels="tflm"),
  )
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(3):
    state, metrics = train_step(state, batch)
  assert np.isfinite(metrics["loss"]) and state.skipped == 0


@pytest.mark.slow
def test_float_files_compute_what_it_does(batch, variables, tmp_path):
  images = np.asarray(batch["image"])[:4]
  expected = np.asarray(Net().apply(variables, images, train=False).logits)
  graph = nn.fuse_activations(nn.trace(Net(), variables, jax.ShapeDtypeStruct((1, *SHAPE), "f4")))
  folded = nn.fold(graph, variables)
  for path in (
    export.tflite_float(graph, folded, tmp_path / "a.tflite"),
    export.onnx_float(graph, folded, tmp_path / "a.onnx"),
  ):
    runtime = export.Runtime(path)
    found = np.concatenate([runtime(image[None]) for image in images])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_16_bits_are_refused_with_the_way_out(batch):
  class Scores(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.Reshape((64, 3), name="tokens")(x)
      return nn.Reshape((64 * 64,))(nn.MatMul(transpose_second=True, name="scores")(x, x))

  with pytest.raises(ValueError, match=r"layer 'scores'.*8-bit integers only; give the layer 8"):
    quantize.post_training(
      Scores(), {}, batch["image"], method="minmax", activation_bits=16, progress=False
    )


@pytest.mark.slow
def test_channels_that_matrices_have_stay_and_others_go(variables, tmp_path):
  x = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
  found = prune.channel_importance(Net(), variables, x)
  keep = prune.choose_channels(found, 0.7, divisor=2)
  smaller, few = prune.remove_channels(Net(), variables, keep)
  widths = {layer.name: layer.fields.get("features") for layer in smaller.layers}
  assert {widths[f"block0/{name}"] for name in ("query", "key", "value")} == {8}
  assert widths["block0/expand"] < 32
  loaded, same = models.load(models.save(tmp_path / "a.safetensors", smaller, few))
  images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
  logits = [
    np.asarray(m.apply(v, images, train=False).logits) for m, v in ((smaller, few), (loaded, same))
  ]
  np.testing.assert_array_equal(*logits)
