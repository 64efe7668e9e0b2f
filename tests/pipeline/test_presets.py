"""Presets: that each trains on data of its shape, and that they say what was published."""

import dataclasses
import functools
import io

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import distill, models, training
from jaxcompress.data.storage import EncodedImages, Listed
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import PRESETS, fitting, networks, opening, phases
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.outside import OutsideTeacher
from jaxcompress.report.metrics import MetricsWriter

PUBLISHED = [name for name in PRESETS if name != "default"]
BATCH = 4
QUICK = {"xla_backend_optimization_level": 0}  # compiles faster, runs slower


def context(name, folder):
  """A run of a preset on two batches of noise."""
  side, classes = (64, 1000) if "imagenet" in name else (32, 100)  # nothing depends on 224
  rng = np.random.default_rng(0)
  split = datasets.Split(
    rng.integers(0, 256, (2 * BATCH, side, side, 3), np.uint8),
    rng.integers(0, classes, 2 * BATCH).astype(np.int32),
  )
  data = datasets.Dataset(
    name=name,
    classes=tuple(map(str, range(classes))),
    train=split,
    validation=split,
    test=split,
    flip=True,
  )
  options = CompressOptions.of({"preset": name, "batch_size": BATCH, "epochs": 1})
  return Context(
    folder=folder,
    options=options,
    data=data,
    preset=PRESETS[name],
    steps=PhaseSteps.of(options, len(split)),
    metrics=None,
    console=Console(quiet=True),
  )


@functools.cache
def network(name, classes, shape, width, wanted):
  """Built once for the presets that share it."""
  return networks.build(name, classes, shape, width, None, dict(wanted))


def test_imagenets_boxes_are_cut_from_the_originals_where_these_are_at_hand(tmp_path):
  preset, run = PRESETS["kd-imagenet"], context("kd-imagenet", tmp_path)
  file = io.BytesIO()
  Image.new("RGB", (90, 70)).save(file, "JPEG")
  encoded = EncodedImages(Listed([file.getvalue()] * 4), datasets.ImageReader(64))
  disk = datasets.Split(encoded, np.zeros(4, np.int32))
  assert preset.crop_of(disk, None) == datasets.CropOnRead()  # 8 to 100 % of the area
  assert preset.crop_of(disk, "medium") is None and run.crop is None
  assert preset.for_weights().crop_of(disk, None) is None
  boxes = datasets.RandomResizedCrop(scale=(0.08, 1.0))
  in_memory = preset.augmented(run.data, None)
  assert in_memory.transforms == (boxes, preset.augmented(run.data, None, cropped=True))
  assert boxes not in preset.augmented(run.data, None, cropped=True).transforms


@pytest.mark.slow
def test_a_phase_trains_on_boxes_and_no_device_gets_a_whole_batch_to_begin_with(
  tmp_path, monkeypatch
):
  pictures = []
  for i in range(12):
    pictures.append(file := io.BytesIO())
    pixels = np.random.default_rng(i).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
  source = Listed([file.getvalue() for file in pictures])
  encoded = EncodedImages(source, datasets.ImageReader(32))
  split = datasets.Split(encoded, np.arange(12, dtype=np.int32) % 2)
  whole = {"train": split, "validation": split, "test": split}
  data = datasets.Dataset(name="noise", classes=("a", "b"), **whole)
  options = CompressOptions.of({"preset": "kd-imagenet", "batch_size": 70, "epochs": 1})
  with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
    run = dataclasses.replace(
      context("kd-imagenet", tmp_path),
      options=options,
      data=data,
      metrics=metrics,
      workers=0,
    )
    seen, batches = [], []
    begin, fit = training.init_state, training.fit
    monkeypatch.setattr(
      training, "init_state", lambda r, k, batch, **o: seen.append(batch) or begin(r, k, batch, **o)
    )

    def noted(state, batch_at, **options):
      return fit(state, lambda at: batches.append(batch_at(at)) or batches[-1], **options)

    monkeypatch.setattr(training, "fit", noted)
    student = networks.network_of("resnet8", None, models.resnet8(2), (32, 32, 3))
    recipe = phases.recipe_of(
      run, student, optimizer=optax.sgd(0.01), loss=distill.cross_entropy(), ema=None
    )
    state = fitting.train(run, "alone", student, recipe, [fitting.Part("alone", 2)])
  assert int(state.step) == 2 and len(seen[0]["image"]) == 64
  for position, batch in enumerate(batches):
    expected = datasets.batch_at(split, 70, seed=0, position=position, crop=datasets.CropOnRead())
    np.testing.assert_array_equal(batch["image"], expected["image"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_fits_its_networks_and_trains(name, tmp_path):
  run = context(name, tmp_path)
  preset, classes = run.preset, len(run.data.classes)

  def build(model, width):
    return network(model, classes, run.data.image_shape, width, tuple(preset.network.items()))

  student = build(run.options.student, preset.widths[0])
  teacher = build(preset.teacher, preset.widths[1])
  phases.check_losses(run.options, run.data.train, preset.preprocess, student, teacher)
  student = teacher = build("resnet8", None)  # the true ones take minutes to compile
  recipe = dataclasses.replace(phases.distillation_recipe(run, student, teacher), quantize=None)
  batch = datasets.batch_at(run.data.train, BATCH, seed=0, position=0)
  variables = init_variables(teacher.module, jax.random.key(1), run.data.image_shape)
  state = training.init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))
  before = jax.device_get(state.params)
  step = jax.jit(training.distill_step.__wrapped__, compiler_options=QUICK)
  for position in range(2):
    batch = datasets.batch_at(run.data.train, BATCH, seed=0, position=position)
    state, metrics = step(state, batch)
  assert int(state.step) == 2 and np.isfinite(float(metrics["loss"]))
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
  assert np.mean(jax.tree.leaves(moved)) > 0.5


def test_the_cifar_presets_are_those_of_repdistiller():
  options = CompressOptions.of({"preset": "crd-cifar100"})
  assert (options.data, options.student, options.epochs, options.batch_size) == (
    "tfds:cifar100", "resnet8x4", 240, 64,
  )  # fmt: skip
  preset = PRESETS["crd-cifar100"]
  assert preset.teacher == "resnet32x4"
  assert phases.losses_of(options, 50_000).weights == {"labels": 1.0, "crd": 0.8}
  kd = CompressOptions.of({"preset": "kd-cifar100"})
  assert phases.losses_of(kd, 50_000).weights == {"labels": 0.1, "kd": 0.9}
  both = CompressOptions.of({"preset": "crd-kd-cifar100"})
  assert phases.losses_of(both, 50_000).weights == {"labels": 1.0, "kd": 1.0, "crd": 0.8}
  image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
  mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
  expected = (image / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(preset.preprocess(image), expected, atol=1e-5)
  light = preset.protocol_of("mobilenet_v2_crd")
  assert (light.learning_rate, light.weight_decay, light.momentum) == (0.01, 5e-4, 0.9)
  assert light.mask is None and not light.nesterov


def test_the_longer_preset_of_two_views_is_that_of_logit_standardisation(tmp_path):
  run = context("mlkd-lskd-cifar100", tmp_path)
  assert phases.losses_of(run.options, 50_000).weights == {"labels": 0.2, "mlkd_lskd": 9.0}
  options = CompressOptions.of({"preset": "mlkd-lskd-cifar100"})
  assert (options.epochs, options.batch_size, options.student) == (480, 64, "resnet8x4")
  rates = {
    name: run.preset.protocol_of(name).rate(480) for name in ("resnet8x4", "shufflenet_v2_crd")
  }
  for rate, start in zip(rates.values(), (0.025, 0.01), strict=True):
    at = [float(rate(epoch)) / start for epoch in (149, 150, 180, 210, 479)]
    np.testing.assert_allclose(at, [1, 0.1, 0.01, 0.001, 0.001], rtol=1e-5)
  weak, strong = phases.augmented(run, 2).transforms
  assert weak == phases.augmented(run) and strong.transforms[-1] == datasets.FixMatchAugment()
  stored = OutsideTeacher("teacher.onnx", None, None)
  with pytest.raises(ValueError, match=r"2 views of each image, and the outputs of teacher\.onnx"):
    phases.check_losses(run.options, run.data.train, run.preset.preprocess, None, stored)


def test_separate_momenta_are_for_labels_beside_a_teacher(tmp_path):
  run = context("dot-cifar100", tmp_path)
  assert run.preset.protocol_of("shufflenet_v2_crd").delta == run.preset.protocol.delta == 0.075
  net = network("resnet8", 100, (32, 32, 3), None, ())
  assert phases.distillation_recipe(run, net, net).apart == ("kd",)
  for text in ("kd,factor", "labels:0,kd"):
    options = dataclasses.replace(run.options, distill=text)
    recipe = phases.distillation_recipe(dataclasses.replace(run, options=options), net, net)
    assert recipe.apart == ()


def test_the_presets_of_mlperf_tiny_are_those_of_its_reference():
  image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
  for name, student, side, epochs, white in (
    ("mlperf-resnet8", "mlperf_resnet8", None, 500, 1),
    ("mlperf-vww", "mlperf_mobilenet_v1", 96, 50, 255),
  ):
    options, preset = CompressOptions.of({"preset": name}), PRESETS[name]
    assert (options.student, options.image_size, options.epochs) == (student, side, epochs)
    assert options.batch_size == 32 and preset.protocol_of(student).optimizer_name == "adam"
    np.testing.assert_allclose(preset.preprocess(image), image / white, rtol=1e-6)
    shape = (side or 32, side or 32, 3)
    found = networks.build(student, 2, shape, options.width, preset.widths[0], preset.network)
    assert found.module == models.create(student, 2)


def test_given_options_go_before_those_of_the_preset_and_quick_runs_stay_quick():
  options = CompressOptions.of({"preset": "kd-cifar100", "student": "vgg8", "epochs": 3.0})
  assert (options.student, options.epochs) == ("vgg8", 3.0)
  assert CompressOptions.of({"preset": "kd-cifar100", "quick": True}).epochs is None
  with pytest.raises(ValueError, match="preset: 'kd-mnist' is unknown; it must be one of default"):
    CompressOptions.of({"preset": "kd-mnist"})


def test_validation_images_are_trained_on_where_the_protocol_has_none(tmp_path):
  data = context("kd-cifar100", tmp_path).data
  whole = data.with_validation_trained()
  assert len(whole.train) == 2 * len(data.train) and len(whole.validation) == len(data.validation)


def test_images_are_mirrored_as_the_options_say_before_the_preset_and_the_data_set():
  assert CompressOptions.of({"preset": "crd-cifar100"}).flip is True
  assert CompressOptions.of({"preset": "crd-cifar100", "flip": False}).flip is False
  assert CompressOptions.of({}).flip is None
  for name, preset in PRESETS.items():
    for flip in (True, False):
      found = preset.augment(datasets.load("digits", limit=20, flip=flip))
      assert f"flip={flip}" in repr(found), name


@pytest.mark.parametrize(
  ("flip", "says"),
  [
    (None, "images are not mirrored in training (flip decides)"),
    (True, "images are mirrored in training"),
    (False, "images are not mirrored in training"),
  ],
)
def test_a_run_tells_what_was_left_out_and_whether_images_are_mirrored(flip, says):
  data = datasets.load("digits", limit=20)
  data = dataclasses.replace(data, flip=flip, notes=("left out: 2 hidden files ([bold], .x)",))
  console = Console(file=io.StringIO(), width=100)
  opening.tell_data(datasets.decide_flip(data), console)
  lines = console.file.getvalue().splitlines()
  assert lines[0].split() == ["class", "train", "validation", "test", "all"]
  assert "  images of 32 x 32 px" in lines
  assert lines[-2:] == ["  left out: 2 hidden files ([bold], .x)", f"  {says}"]


def test_a_strength_that_is_given_decides_how_images_are_changed_before_the_preset():
  data = dataclasses.replace(datasets.load("digits", limit=20), flip=True)
  for preset in PRESETS.values():
    strong = datasets.augmentation("strong", data.image_shape, flip=True)
    assert preset.augmented(data, "strong") == strong
    read = preset.augmented(
      data, None, cropped=True
    )  # boxes are cut when images are read, if any are
    assert repr(read) == repr(preset.augment(data))
    in_the_step = "RandomResizedCrop" in repr(preset.augmented(data, None))
    assert in_the_step == (preset.crop is not None)
