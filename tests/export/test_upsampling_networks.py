"""A network that shrinks maps and enlarges them again goes through everything: training to files."""

import flax.linen as linen
import jax
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.export.interpreters import open_file
from jaxcompress.nn import (
  Concat,
  ConvNorm,
  ConvTranspose,
  Dense,
  DepthToSpace,
  Endpoints,
  GlobalAvgPool,
  Resize,
  SpaceToDepth,
  fold,
  init_variables,
  trace,
)
from jaxcompress.quantize.integer.runtimes import KERNELS

SHAPE = (12, 12, 3)

pytestmark = pytest.mark.usefixtures("optimized")


class UNet(linen.Module):
  """Two levels down and up, by a transposed convolution and by resizing; a map and logits."""

  features: int = 8
  num_classes: int = 5
  method: str = "bilinear"
  pixels: bool = False

  @linen.compact
  def __call__(self, x, *, train):
    wide = self.features
    if self.pixels:
      x = DepthToSpace(2, name="grow")(SpaceToDepth(2, name="fold")(x))
    first = ConvNorm(wide, kernel=3, act="relu", name="first")(x, train=train)
    second = ConvNorm(wide, kernel=3, stride=2, act="relu", name="second")(first, train=train)
    third = ConvNorm(2 * wide, kernel=3, stride=2, act="relu", name="third")(second, train=train)
    if self.pixels:
      up = ConvNorm(4 * wide, kernel=3, act="relu", name="up")(third, train=train)
      up = DepthToSpace(2, name="cells")(up)
    else:
      up = ConvTranspose(wide, kernel=3, stride=2, act="relu", name="up")(third, train=train)
    y = Concat(name="join")(up, second)
    y = ConvNorm(wide, kernel=3, act="relu", name="mix")(y, train=train)
    y = Resize(SHAPE[:2], method=self.method, name="resize")(y)
    y = ConvNorm(wide, kernel=3, act="relu", name="last")(
      Concat(name="wide")(y, first), train=train
    )
    classes = ConvNorm(self.num_classes, norm=None, name="classes")(y, train=train)
    pooled = GlobalAvgPool(name="pool")(y)
    logits = Dense(self.num_classes, name="head")(pooled)
    return Endpoints(logits, pooled, outputs={"classes": classes})


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def calibrated(images):
  model = UNet()
  variables = init_variables(model, jax.random.key(0), SHAPE)
  return model, variables, jc.quantize.post_training(model, variables, images, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_forty_steps_of_distillation_end_in_files_that_are_bit_equal(method, images, check):
  student, teacher = UNet(method=method), UNet(features=12)
  recipe = jc.Recipe(
    student=student,
    teachers=(teacher,),
    loss=jc.distill.kd(),
    optimizer=optax.sgd(0.05, momentum=0.9),
    quantize=jc.quantize.int8(freeze_norm_step=20, exact_step=38),
  )
  batch = {"image": images, "label": np.arange(16) % 5}
  teacher_variables = (init_variables(teacher, jax.random.key(1), SHAPE),)
  state = jc.init_state(recipe, jax.random.key(0), batch, teacher_variables=teacher_variables)
  losses = []
  for _ in range(40):
    state, metrics = jc.distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-5:]) < np.mean(losses[:5])
  quantized = state.quantized()
  for kernels in KERNELS:
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("method", jc.quantize.ALGORITHMS)
def test_every_calibration_is_bit_equal_and_near_to_float(
  method, images, calibrated, check, monkeypatch
):
  model, variables, _ = calibrated
  algorithms = jc.quantize.ALGORITHMS
  if (settings := algorithms[method].reconstruct) is not None:
    short = algorithms[method]._replace(reconstruct=settings._replace(steps=4))
    monkeypatch.setitem(algorithms, method, short)
  quantized = jc.quantize.post_training(model, variables, images, method=method, progress=False)
  expected = model.apply(variables, images, train=False)
  expected = {"logits": expected.logits, **expected.outputs}
  for kernels in KERNELS:
    found = quantized.with_kernels(kernels)(images)
    for name, wanted in expected.items():
      error = np.asarray(found[name]) - np.asarray(wanted)
      assert np.square(error).mean() < 0.01 * np.var(wanted)
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


def test_float_files_compute_the_float_network(images, calibrated, tmp_path):
  model, variables, _ = calibrated
  graph = trace(model, variables, images[:1])
  made = model.apply(variables, images[:1], train=False)
  onnx = jc.export.onnx_float(graph, fold(graph, variables), tmp_path / "float.onnx")
  tflite = jc.export.tflite_float(graph, fold(graph, variables), tmp_path / "float.tflite")
  opened = {
    open_file("onnxruntime", str(onnx)): images[:1].transpose(0, 3, 1, 2),
    open_file("xnnpack", str(tflite)): images[:1],
    open_file("reference", str(tflite)): images[:1],
  }
  for interpreter, fed in opened.items():
    interpreter.allocate()
    interpreter.feed(fed)
    interpreter.invoke()
    logits, classes = interpreter.read()
    np.testing.assert_allclose(logits, made.logits, rtol=1e-3, atol=1e-5)
    last = classes if classes.shape[-1] == 5 else classes.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(last, made.outputs["classes"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_packed_stablehlo_and_saved_files_hold_it(images, calibrated, tmp_path):
  quantized = calibrated[-1]
  expected = quantized.integers(images)
  back = jc.export.load_packed(jc.export.packed(quantized, tmp_path / "model.jcz"))
  np.testing.assert_array_equal(back.integers(images)["classes"], expected["classes"])
  program = jc.export.load_stablehlo(jc.export.stablehlo(quantized, tmp_path / "net.stablehlo"))
  made = program(quantized.quantize_input(images))
  np.testing.assert_array_equal(made["classes"], expected["classes"])


@pytest.mark.slow
def test_files_for_tensorrt_have_signed_kernels_of_transposed_convolutions(images, tmp_path):
  model = UNet(method="nearest")
  variables = init_variables(model, jax.random.key(0), SHAPE)
  quantized = jc.quantize.post_training(
    model, variables, images, method="minmax", symmetric=True, progress=False
  )
  path = jc.export.onnx(quantized, tmp_path / "net.onnx", target="tensorrt", batch=1)
  assert jc.export.lint(path, "tensorrt") == ()
  found = jc.export.verify(path, quantized, images)  # onnxruntime sums in float here
  assert found.max_steps <= 1 and found.bit_equal > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [False, True])
def test_channels_are_removed_and_the_smaller_network_is_saved(pixels, images, tmp_path):
  model = UNet(features=16, pixels=pixels)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  found = jc.prune.channel_importance(model, variables, images)
  keep = jc.prune.choose_channels(found, 0.5)
  masked = {
    **variables,
    "params": {
      name: silenced(entry, keep.masks[name]) for name, entry in variables["params"].items()
    },
  }
  smaller, fewer = jc.prune.remove_channels(model, variables, keep)
  sizes = [sum(x.size for x in jax.tree.leaves(tree["params"])) for tree in (fewer, variables)]
  assert sizes[0] < 0.6 * sizes[1]
  wanted = model.apply(masked, images, train=False)
  loaded, kept = jc.models.load(jc.models.save(tmp_path / "smaller", smaller, fewer))
  y = loaded.apply(kept, images, train=False)
  np.testing.assert_allclose(y.logits, wanted.logits, atol=1e-4)
  np.testing.assert_allclose(y.outputs["classes"], wanted.outputs["classes"], atol=1e-4)
  quantized = jc.quantize.post_training(loaded, kept, images, progress=False)
  path = jc.export.tflite(quantized, tmp_path / "smaller.tflite")
  assert jc.export.verify(path, quantized, images).bit_equal == 1.0


def silenced(entry, mask):
  """A layer's parameters whose masked channels are always zero."""
  return {
    name: array * mask.reshape((1,) * (array.ndim - 1) + (-1,)) for name, array in entry.items()
  }
