"""Whole runs: on data of every kind to a file that predicts, with options that do something, after teachers
that see other numbers and name classes in another order."""

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jaxcompress as jc
from jaxcompress import data as datasets
from jaxcompress import export, models, training
from jaxcompress.data import ImageReader, Preprocess, cifar
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import PRESETS, Classifier
from jaxcompress.pipeline.evaluating import evaluate_on
from jaxcompress.report.metrics import read_metrics
from tests.data import test_cifar as small_cifar
from tests.data.test_idx import write as write_idx
from tests.data.test_stored_sets import SETS, picture

SIDE = 8
TINY = {"student": "resnet8", "teacher": "resnet8", "epochs": 2, "batch_size": 8, "quiet": True}


def as_table(folder):
  """csv: 20 pictures of two classes, and the file that lists them."""
  lines = ["path,label"]
  for i in range(20):
    Image.fromarray(picture(i, i % 2)).save(folder / f"{i}.png")
    lines.append(f"{i}.png,{'cat' if i % 2 == 0 else 'dog'}")
  (folder / "photos.csv").write_text("\n".join(lines))
  return f"csv:{folder / 'photos.csv'}"


def as_arrays(folder):
  images = np.stack([picture(i, i % 2) for i in range(20)])
  np.savez(folder / "photos.npz", images=images, labels=np.arange(20) % 2)
  return f"npz:{folder / 'photos.npz'}"


KINDS = {
  "csv": (as_table, ("cat", "dog")),
  "npz": (as_arrays, ("0", "1")),
  "hf": (lambda folder: f"hf:{SETS / 'saved'}", ("cat", "dog")),
  "wds": (lambda folder: f"wds:{SETS / 'shards'}", ("0", "1")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind_end_in_a_file_that_predicts(kind, tmp_path):
  make, classes = KINDS[kind]
  made = jc.compress(make(tmp_path), image_size=SIDE, out=tmp_path / "out", **TINY)
  assert made.results.entries["int8"].bit_equal == 1.0 and made.classes == classes
  pictures = []
  for i in range(6):
    Image.fromarray(picture(40 + i, i % 2)).save(tmp_path / f"new{i}.png")
    pictures.append(tmp_path / f"new{i}.png")
  found = Classifier.open(made.files["model"]).predict(pictures)
  logits = made.quantized(np.stack([made.reader(path) for path in pictures]))
  assert [one.label for one in found] == [classes[i] for i in logits.argmax(-1)]
  again = evaluate_on(made.classifier)  # on the run's own test images
  assert again.top1 == made.results.entries["int8"].top1


@pytest.mark.slow
def test_grey_pictures_of_28_pixels_padded_to_32_end_in_a_file_that_predicts(tmp_path):
  digits, classes = [], np.arange(30, dtype=np.uint8) % 3
  for part, start in (("train", 0), ("t10k", 100)):
    images = np.zeros((30, 28, 28), np.uint8)
    for i in range(30):
      images[i, 9 * classes[i] : 9 * classes[i] + 9] = 150 + i + start % 7
    write_idx(tmp_path, {part: (images, classes)})
    digits.append(images)
  asked = {"channels": 1, "image_size": 32, "resize": "pad"}
  made = jc.compress(f"idx:{tmp_path}", out=tmp_path / "out", **asked, **TINY)
  assert made.results.entries["int8"].bit_equal == 1.0
  assert made.quantized.graph.input_shape[1:] == (32, 32, 1)
  Image.fromarray(digits[1][4]).save(tmp_path / "new.png")
  (logits,) = made.classifier.logits([tmp_path / "new.png"])
  framed = np.pad(digits[1][4], 2)[None, ..., None]
  np.testing.assert_array_equal(logits, made.quantized(framed)[0])


@pytest.mark.slow
def test_cifars_own_files_are_trained_on_as_mlperf_tinys_preset_says(tmp_path, monkeypatch):
  begin, began = training.init_state, []

  def noted(recipe, *rest, **options):
    began.append((recipe, begin(recipe, *rest, **options)))
    return began[-1][1]

  monkeypatch.setattr(training, "init_state", noted)
  folder = small_cifar.write(tmp_path / "set", small_cifar.contents(cifar.FORMS[0]))
  asked = {"preset": "mlperf-resnet8", "teacher": "resnet8", "epochs": 2, "quiet": True}
  made = jc.compress(f"cifar:{folder}", out=tmp_path / "out", **asked)
  is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
  for recipe, state in began:  # teacher, student alone, distilled
    assert recipe.preprocess == PRESETS["mlperf-resnet8"].preprocess
    assert any(map(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam)))
  assert models.mlperf_resnet8(5) in [recipe.student for recipe, _ in began]
  settings = made.results.run.settings
  found = [settings[name] for name in ("batch size", "learning rate", "fine-tuning rate")]
  assert found == [32, 1e-3, 1e-3 / 20]
  assert made.classes == tuple(f"class_{i}" for i in range(5))
  assert made.results.entries["int8"].bit_equal == 1.0


def photographs(folder):
  """Two classes of 24 pictures of 12 x 8 pixels: lying and standing stripes in noise."""
  noise = np.random.default_rng(0)
  for name in ("lying", "standing"):
    (folder / name).mkdir(parents=True)
    for i in range(24):
      pixels = noise.integers(0, 140, (8, 12, 3)).astype(np.uint8)
      if name == "lying":
        pixels[::3] += 110
      else:
        pixels[:, ::3] += 110
      Image.fromarray(pixels).save(folder / name / f"{i}.png")
  return f"folder:{folder}"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
  """Runs of a student with weights, by their options."""
  home = tmp_path_factory.mktemp("tuned")
  spec, model = photographs(home / "photographs"), models.resnet8(2)
  variables = init_variables(model, jax.random.key(3), (SIDE, SIDE, 3))
  models.save(
    home / "start.safetensors",
    model,
    variables,
    metadata={"classes": ["lying", "standing"], "image_shape": [SIDE, SIDE, 3]},
  )
  made = {}

  def run(**options):
    key = tuple(sorted(options.items()))
    if key not in made:
      settings = {"student_weights": str(home / "start.safetensors"), "image_size": SIDE}
      settings |= {"epochs": 2, "batch_size": 16, "quiet": True, "augment": "none", "flip": False}
      made[key] = jc.compress(spec, out=home / str(len(made)), **{**settings, **options})
    return made[key]

  return run, variables, home / "photographs"


def differ(one, other):
  """The largest difference of two networks' parameters."""
  leaves = (jax.tree.leaves(variables["params"]) for variables in (one, other))
  return max(float(np.abs(a - b).max()) for a, b in zip(*leaves, strict=True))


def looks(made):
  """Steps at which fine-tuning looked at validation images, the one that it kept, and its length."""
  rows = [row for row in read_metrics(made.folder / "metrics.jsonl") if row["phase"] == "alone"]
  (kept,) = [row["kept"] for row in rows if "kept" in row]
  steps = made.results.run.settings["float steps"]
  return sorted({row["step"] for row in rows if "top1" in row}), kept, steps


@pytest.mark.slow
def test_nothing_moves_at_a_rate_of_nothing_and_patience_looks_at_each_epoch(tuned):
  run, start, _ = tuned
  still = run(learning_rate=1e-12, patience=1, epochs=6)
  assert still.results.run.settings["learning rate"] == 1e-12
  assert differ(still.variables, start) < 1e-7
  looked, kept, steps = looks(still)
  assert set(looked) <= {*range(0, steps, 2), steps}  # an epoch is two steps
  assert looked[-1] == steps or looked[-1] - kept >= 2  # it ended when patience did
  moving = run(learning_rate=1e-3)
  assert 1 in looks(moving)[0]  # without patience it looks ten times, whatever an epoch is
  assert differ(moving.variables, start) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"augment": "strong"}, {"flip": True}])
def test_pictures_that_are_changed_in_training_train_another_network(tuned, option):
  run = tuned[0]
  assert (
    differ(run(learning_rate=1e-3).variables, run(learning_rate=1e-3, **option).variables) > 1e-6
  )


@pytest.mark.slow
def test_the_way_of_resizing_is_that_of_training_and_of_the_file(tuned):
  run, _, folder = tuned
  boxed, covered = run(learning_rate=1e-3, resize="letterbox"), run(learning_rate=1e-3)
  path = folder / "lying" / "3.png"
  wide = ImageReader(SIDE, resize="letterbox")(path)
  assert (wide[0] == 128).all() and (wide[-1] == 128).all()  # 12 x 8 pixels leave room
  for made, way in ((boxed, "letterbox"), (covered, "cover")):
    assert made.reader.resize == way
    assert export.read_metadata(made.files["model"])["reader"]["resize"] == way
    (logits,) = made.classifier.logits([path])
    np.testing.assert_array_equal(logits, made.quantized(made.reader(path)[None])[0])
  assert differ(boxed.variables, covered.variables) > 1e-6


@pytest.mark.slow
def test_a_teacher_of_another_order_and_normalization_teaches_what_it_knows(tmp_path):
  def split(count, seed, order):
    labels = np.arange(count, dtype=np.int32) % 3
    images = np.random.default_rng(seed).integers(0, 140, (count, SIDE, SIDE, 3)).astype(np.uint8)
    images[np.arange(count), ..., labels] += 110
    return datasets.Split(images, np.argsort(order)[labels].astype(np.int32))

  def data(order, preprocess):
    sizes = {"train": (48, 0), "validation": (24, 1), "test": (60, 2)}
    return datasets.Dataset(
      name="colours",
      classes=tuple(np.array(["red", "green", "blue"])[list(order)].tolist()),
      flip=False,
      reader=ImageReader(SIDE, preprocess=preprocess),
      **{part: split(*size, order) for part, size in sizes.items()},
    )

  own = Preprocess(center=40.0, scale=200.0, per_image=False)
  model = models.resnet8(3)
  settings = {"batch_size": 16, "quiet": True, "flip": False}
  fresh = init_variables(model, jax.random.key(0), (SIDE, SIDE, 3))
  first = jc.compress(
    data((0, 1, 2), own),
    **{
      **settings,
      "student": model,
      "student_variables": fresh,
      "epochs": 8,
      "learning_rate": 3e-3,
    },
    out=tmp_path / "first",
  )
  knows = max(first.results.entries[key].top1 for key in ("alone", "distilled"))
  assert knows > 0.8
  second = jc.compress(
    data((2, 0, 1), Preprocess()),
    **{
      **settings,
      "student": "resnet8",
      "teacher_weights": str(tmp_path / "first" / "student"),
      "epochs": 2,
    },
    out=tmp_path / "second",
  )
  assert second.classes == ("blue", "red", "green")
  made_from = first.results.entries["int8"].made_from
  assert second.results.entries["teacher"].top1 == first.results.entries[made_from].top1
