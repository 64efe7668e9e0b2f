"""Networks of several outputs from training to the device: a detection head, a map, an embedding."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, nn, prune, quantize
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.training import (
  Recipe,
  distill_step,
  eval_step,
  init_state,
  predict,
  train_step,
)

pytestmark = pytest.mark.usefixtures("optimized")


class Detector(linen.Module):
  """Boxes and scores at two scales; what the finer head reads is an output, too, and read on."""

  image_size: int = 16

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    neck = nn.ConvNorm(12, kernel=3, name="neck")(x, train=train)
    y = nn.Activation("relu", name="relu")(neck)
    y = nn.ConvNorm(16, kernel=3, stride=2, act="relu", name="down")(y, train=train)
    heads = {}
    for name, z in (("coarse", y), ("fine", neck)):
      scores = nn.ConvNorm(3, norm=None, name=f"{name}_scores")(z, train=train)
      heads[name] = {
        "boxes": nn.ConvNorm(4, norm=None, name=f"{name}_boxes")(z, train=train),
        "scores": nn.Activation("sigmoid", name=f"{name}_sigmoid")(scores),
      }
    return {**heads, "neck": neck}


class Segmenter(linen.Module):
  """A class for each pixel."""

  image_size: int = 16

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, groups="depthwise", act="relu", name="depthwise")(x, train=train)
    return nn.ConvNorm(5, norm=None, name="classes")(nn.Concat(name="concat")(x, y), train=train)


class Embedder(linen.Module):
  """An embedding, and the classes that are read from it."""

  image_size: int = 16

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, name="conv")(x, train=train)
    x = nn.Activation("relu", name="relu")(nn.Add(name="add")(x, y))
    embedding = nn.Dense(6, name="embedding")(nn.GlobalAvgPool(name="pool")(x))
    return {"embedding": embedding, "logits": nn.Dense(4, name="classifier")(embedding)}


NETWORKS = {"detector": Detector(), "segmenter": Segmenter(), "embedder": Embedder()}
NAMES = {
  "detector": ["coarse/boxes", "coarse/scores", "fine/boxes", "fine/scores", "neck"],
  "segmenter": ["logits"],
  "embedder": ["logits", "embedding"],
}
IMAGES = np.random.default_rng(0).normal(size=(24, 16, 16, 3)).astype(np.float32)


def trained(name):
  model = NETWORKS[name]
  return model, nn.init_variables(model, jax.random.key(0), (16, 16, 3))


def by_name(found, name):
  """Returns a quantized model's outputs by name, also if it has only one."""
  return found if isinstance(found, dict) else {NAMES[name][0]: found}


def check_everywhere(quantized, name, folder):
  assert [label for label, _ in quantized.graph.outputs] == NAMES[name]
  files = {
    ".tflite": export.tflite(quantized, folder / "model.tflite"),
    ".onnx": export.onnx(quantized, folder / "model.onnx"),
  }
  for kernels in KERNELS:
    path = files[".onnx" if kernels == "onnxruntime" else ".tflite"]
    result = export.verify(path, quantized.with_kernels(kernels), IMAGES)
    assert (result.bit_equal, result.max_steps, result.top1_agreement) == (1.0, 0, 1.0)
    several = len(NAMES[name]) > 1
    assert result.outputs == (dict.fromkeys(NAMES[name], 1.0) if several else {})
  integers = by_name(quantized.integers(IMAGES), name)
  program = export.load_stablehlo(export.stablehlo(quantized, folder / "model.stablehlo"))
  found = by_name(program(quantized.quantize_input(IMAGES)), name)
  again = export.load_packed(export.packed(quantized, folder / "model.jcz"))
  assert again.graph == quantized.graph
  for label, codes in by_name(again.integers(IMAGES), name).items():
    np.testing.assert_array_equal(codes, integers[label])
    np.testing.assert_array_equal(found[label], integers[label])
  return files


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_quantized_after_training_gives_all_outputs_on_every_device(name, tmp_path):
  model, variables = trained(name)
  trials = []
  quantized = quantize.post_training(model, variables, IMAGES, on_trial=trials.append)
  files = check_everywhere(quantized, name, tmp_path)
  real = nn.outputs.name_outputs(
    nn.outputs.as_endpoints(model.apply(variables, IMAGES, train=False))
  )
  for label, array in by_name(quantized(IMAGES), name).items():
    noise = np.square(array - real[label]).sum() / np.square(real[label]).sum()
    assert array.shape == real[label].shape and noise < 0.01
  assert max(trial.sqnr for trial in trials) > 10  # of what tells images apart
  assert max(trial.score for trial in trials) > 0.95
  assert export.arena(files[".tflite"]) > 1000
  assert export.benchmark(files[".onnx"], repeats=2).median_ms > 0
  assert export.lint(files[".tflite"], "ethos-u") == ()
  runtime = export.Runtime(files[".tflite"])
  assert list(runtime.output_dtypes) == NAMES[name]
  entry = export.read_metadata(files[".tflite"])
  assert list(entry.get("outputs", ["logits"])) == NAMES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trained_with_quantization_gives_all_outputs_on_every_device(name, tmp_path):
  model = NETWORKS[name]
  label = np.random.default_rng(1).integers(4, size=24)
  entries = {"segmenter": {"label": label[:, None, None].repeat(16, 1).repeat(16, 2)}}
  batch = {"image": IMAGES, **entries.get(name, {"label": label} if name == "embedder" else {})}

  def imitate(student, teachers, batch):
    pairs = zip(*(jax.tree.leaves(ends.outputs) for ends in (student, *teachers)), strict=True)
    return sum((jnp.mean(jnp.square(ours - theirs)) for ours, theirs in pairs), jnp.zeros(()))

  loss = distill.stateless("imitate", imitate)
  recipe = Recipe(
    student=model,
    teachers=(model,),
    loss=loss if name == "detector" else distill.chain(distill.cross_entropy(), loss),
    optimizer=optax.adam(1e-2),
    quantize=quantize.int8(),
  )
  _, teacher = trained(name)
  state = init_state(recipe, jax.random.key(1), batch, teacher_variables=(teacher,))
  losses = []
  for _ in range(8):
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0]
  assert ("accuracy" in metrics) == (name != "detector")
  quantized = state.quantized()
  check_everywhere(quantized, name, tmp_path)
  device = by_name(quantized(IMAGES), name)
  for label, array in by_name(predict(state, IMAGES), name).items():
    step = quantized.grids[dict(quantized.graph.outputs)[label]].scale
    assert np.median(np.abs(array - device[label])) <= step
  if name != "detector":
    sums = eval_step(state, batch)
    assert 0 <= float(sums["correct"]) <= float(sums["count"]) == 24


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l1", "taylor"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_keeps_the_channels_of_every_output(name, method, tmp_path):
  model, variables = trained(name)
  importance = prune.channel_importance(model, variables, IMAGES, method=method)
  keep = prune.choose_channels(importance, 0.5, divisor=1)
  small, fewer = prune.remove_channels(model, variables, keep)
  before, after = (models.summarize(one, 16) for one in (model, small))
  assert after.parameters < before.parameters
  shapes = [[(n, one.graph.shape(t)) for n, t in one.graph.outputs] for one in (before, after)]
  assert shapes[0] == shapes[1]
  same, read = models.load(models.save(tmp_path / "small.safetensors", small, fewer))
  quantized = quantize.post_training(same, read, IMAGES, method="minmax")
  path = export.tflite(quantized, tmp_path / "small.tflite")
  assert export.verify(path, quantized, IMAGES).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_blamed_for_what_they_do_to_any_output(name):
  model, variables = trained(name)
  found = quantize.sensitivity(model, variables, IMAGES, bits=(8, 2))
  assert all(row.costs[1] > row.costs[0] >= 0 for row in found.layers)
  quantized = quantize.post_training(model, variables, IMAGES, method="minmax")
  analysis = quantize.analyze(quantized, model, variables, IMAGES)
  assert analysis.sqnr > 25 and analysis.agreement > 0.95
  assert all(row.isolated_kl > 0 for row in analysis.layers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_float_files_have_the_outputs_by_name(kind, tmp_path):
  model, variables = trained("detector")
  graph = models.summarize(model).graph
  write = {"tflite": export.tflite_float, "onnx": export.onnx_float}[kind]
  runtime = export.Runtime(write(graph, nn.fold(graph, variables), tmp_path / f"float.{kind}"))
  found = runtime(IMAGES[:1])
  ends = nn.outputs.as_endpoints(model.apply(variables, IMAGES[:1], train=False))
  assert list(found) == NAMES["detector"]
  for name, array in ends.outputs.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_a_file_of_other_outputs_is_refused(tmp_path):
  model, variables = trained("embedder")
  quantized = quantize.post_training(model, variables, IMAGES, method="minmax")
  path = export.tflite(quantized, tmp_path / "a.tflite")
  outputs = tuple((f"new {name}", tensor) for name, tensor in quantized.graph.outputs)
  other = quantize.QuantizedModel(
    quantized.graph._replace(outputs=outputs), quantized.grids, quantized.layers
  )
  with pytest.raises(ValueError, match=r"has logits \(4,\), embedding \(6,\) and the model new"):
    export.verify(path, other, IMAGES)
  image = quantized.graph._replace(outputs=(("image", quantized.graph.output),))
  other = quantize.QuantizedModel(image, quantized.grids, quantized.layers)
  with pytest.raises(ValueError, match="output 'image' is called as something else in the file"):
    export.onnx(other, tmp_path / "a.onnx")


def test_labels_of_images_are_refused_where_the_logits_are_maps():
  model, variables = trained("segmenter")
  labels = np.zeros(24, int)
  with pytest.raises(ValueError, match=r"labels: they are classes of images.*16, 16, 5"):
    quantize.post_training(model, variables, IMAGES, labels=labels)
  with pytest.raises(ValueError, match="labels: they say the class of an image"):
    prune.channel_importance(model, variables, IMAGES, method="taylor", labels=labels)
  recipe = Recipe(student=model, optimizer=optax.sgd(0.1))
  with pytest.raises(ValueError, match=r"'label' has shape \(24,\); it must be \(24, 16, 16\)"):
    init_state(recipe, jax.random.key(0), {"image": IMAGES, "label": labels})


@pytest.mark.slow
def test_training_in_the_arithmetic_of_the_device_predicts_every_output_of_the_file(tmp_path):
  recipe = Recipe(
    student=Detector(),
    loss=distill.stateless("boxes", lambda s, t, b: jnp.mean(s.outputs["fine/boxes"] ** 2)),
    optimizer=optax.sgd(1e-2),
    quantize=quantize.Quantization(
      weights=quantize.absmax(8),
      activations=quantize.ema_range(8),
      freeze_norm_step=1,
      exact_step=2,
    ),
    accumulate=2,
  )
  batch = {"image": IMAGES}
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(3):
    state, _ = train_step(state, batch)
  quantized = state.quantized()
  for name, array in predict(state, IMAGES).items():
    np.testing.assert_array_equal(array, quantized(IMAGES)[name])


def test_a_bare_file_of_several_outputs_is_an_error(tmp_path):
  quantized = quantize.post_training(*trained("detector"), IMAGES, method="minmax", progress=False)
  with pytest.raises(ValueError, match="bare: the model has 5 outputs"):
    export.tflite(quantized, tmp_path / "a.tflite", bare=True)
