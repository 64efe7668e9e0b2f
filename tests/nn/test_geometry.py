"""Networks whose kernels differ in height and width, or are dilated: trained, pruned, saved, exported."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, nn, prune, quantize
from jaxcompress.nn.operations import macs
from jaxcompress.prune.removal import plan_removal
from jaxcompress.report.layers import describe_op
from jaxcompress.training import Recipe, distill_step, init_state
from tests.prune import reference

SHAPE = (9, 12, 3)


class Net(linen.Module):
  """Every kind of convolution and pool, none of them square."""

  @linen.compact
  def __call__(self, x, *, train):
    conv = lambda x, name, **fields: nn.ConvNorm(8, **fields, act="relu", name=name)(x, train=train)  # noqa: E731
    x = conv(x, "stem", kernel=(3, 5), stride=(1, 2))
    wide = conv(conv(x, "wide", kernel=(1, 7)), "tall", kernel=(7, 1))
    rate = conv(x, "rate", kernel=3, dilation=2)
    each = conv(x, "each", kernel=(3, 2), dilation=(2, 1), groups="depthwise")
    pairs = conv(x, "pairs", kernel=(1, 3), groups=2)
    y = nn.Concat(name="cat")(wide, rate, each, pairs)
    y = nn.AvgPool(3, 2, "SYMMETRIC", name="mean")(nn.MaxPool((1, 2), 1, name="most")(y))
    y = nn.GlobalAvgPool(name="pool")(y)
    return nn.Endpoints(nn.Dense(4, name="classifier")(y), y)


@pytest.fixture(scope="module")
def batch():
  rng, label = np.random.default_rng(0), np.arange(16) % 4
  image = rng.normal(size=(4, *SHAPE))[label] + 0.3 * rng.normal(size=(16, *SHAPE))
  return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}


@pytest.mark.slow
def test_it_is_distilled_to_integers_whose_files_are_bit_equal(batch, tmp_path):
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
  for _ in range(10):
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
  quantized, images = state.quantized(), np.asarray(batch["image"])
  path = export.tflite(quantized, tmp_path / "net.tflite")
  for kernels in ("xnnpack", "reference", "tflm"):
    assert export.verify(path, quantized.with_kernels(kernels), images).bit_equal == 1.0
  path = export.onnx(quantized, tmp_path / "net.onnx")
  assert export.verify(path, quantized.with_kernels("onnxruntime"), images).bit_equal == 1.0


def test_float_files_compute_what_it_does(batch, tmp_path):
  variables = nn.init_variables(Net(), jax.random.key(2), SHAPE)
  images = np.asarray(batch["image"])
  expected = np.asarray(Net().apply(variables, images, train=False).logits)
  graph = nn.trace(Net(), variables, jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  graph = nn.fuse_activations(graph)
  folded = nn.fold(graph, variables)
  for path in (
    export.tflite_float(graph, folded, tmp_path / "a.tflite"),
    export.onnx_float(graph, folded, tmp_path / "a.onnx"),
  ):
    runtime = export.Runtime(path)
    found = np.concatenate([runtime(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_channels_are_removed_and_what_is_left_is_saved(tmp_path):
  variables = nn.init_variables(Net(), jax.random.key(3), SHAPE)
  found = prune.channel_importance(Net(), variables, jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  keep = prune.choose_channels(found, 0.6, divisor=2)
  smaller, few = prune.remove_channels(Net(), variables, keep)
  x = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
  masked = reference.mask_channels(found.graph, variables, keep)
  expected = reference.logits(found.graph, masked, np.float64(x))
  logits = smaller.apply(few, x, train=False).logits
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  planned = plan_removal(found.graph, keep.masks).graph
  assert nn.count_macs(planned) < nn.count_macs(found.graph)
  loaded, same = models.load(models.save(tmp_path / "a.safetensors", smaller, few))
  assert loaded == smaller
  np.testing.assert_array_equal(loaded.apply(same, x, train=False).logits, logits)


def test_multiply_adds_and_tables_count_every_side():
  variables = nn.init_variables(Net(), jax.random.key(0), SHAPE)
  graph = nn.trace(Net(), variables, jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  nodes = {node.name: node for node in graph.nodes}
  assert nodes["stem"].output_shapes == ((1, 9, 6, 8),)
  assert macs(nodes["stem"]) == 9 * 6 * 3 * 5 * 3 * 8
  assert macs(nodes["each"]) == 9 * 6 * 3 * 2 * 8
  described = [describe_op(nodes[name]) for name in ("stem", "wide", "rate", "each")]
  assert described == [
    "conv 3x5, stride 1x2, relu",
    "conv 1x7, relu",
    "conv 3x3, dilation 2, relu",
    "depthwise 3x2, dilation 2x1, relu",
  ]
