"""Runs from Python: what ships, data sets and modules, more epochs, and what a resumed run knows again."""

import contextlib
import dataclasses
import shutil

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import data as datasets
from jaxcompress import models, training
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import phases, run, students
from jaxcompress.pipeline.folders import plan_epochs, read_options
from jaxcompress.pipeline.given import hash_of_data
from jaxcompress.pipeline.networks import read_network
from jaxcompress.pipeline.outcome import better
from jaxcompress.report import Entry
from tests.pipeline.stripes import stripes

pytestmark = pytest.mark.slow

CLASSES = ("lying", "standing")
TINY = {"epochs": 2, "batch_size": 16, "quiet": True}


@pytest.fixture(scope="module")
def data():
  parts = {"train": stripes(64, 0), "validation": stripes(16, 1), "test": stripes(20, 2)}
  return datasets.Dataset(name="stripes", classes=CLASSES, flip=False, **parts)


NAMES = {"student": "resnet8", "teacher": "resnet8"}


@contextlib.contextmanager
def validating(key):
  """Pretends that this student gets more of the validation images right."""
  true = students.better

  def better(facts):
    changed = {
      name: dataclasses.replace(facts[name], validation_top1=0.8 + 0.1 * (name == key))
      for name in ("alone", "distilled")
    }
    return true({**facts, **changed})

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(students, "better", better)
    yield


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
  """A run whose distilled student is the better one."""
  out = tmp_path_factory.mktemp("python") / "out"
  with validating("distilled"):
    return jc.compress(data, **NAMES, out=out, **TINY)


def top1(found, data):
  logits = found.quantized(data.test.images)
  return float(np.mean(np.argmax(logits, -1) == data.test.labels))


def test_a_run_gives_back_its_results_networks_and_files(first, data):
  entries = first.results.entries
  assert list(entries) == ["teacher", "alone", "distilled", "int8"]
  assert all(path.exists() for path in first.files.values())
  assert top1(first, data) == entries["int8"].top1
  images = first.reader.preprocess(jnp.asarray(data.test.images))
  logits = first.student.apply(first.variables, images, train=False).logits
  right = float(np.mean(np.argmax(logits, -1) == data.test.labels))
  assert right == pytest.approx(entries[entries["int8"].made_from].top1, abs=1e-6)
  predicted = first.classifier.predict(data.test.images)
  assert [p.classes[0] for p in predicted] == [
    CLASSES[i] for i in np.argmax(first.quantized(data.test.images), -1)
  ]
  assert first.classes == CLASSES and "top-1 quantized" in repr(first)


def test_results_hold_counts_and_samples_with_names_and_scores(first, data):
  run, samples = first.results.run, first.results.samples
  assert run.class_counts == {"train": (32, 32), "validation": (8, 8), "test": (10, 10)}
  assert run.validation_images == 16 and run.epochs == 2
  assert {sample.name for sample in samples} <= set(data.test.names)
  wrong = [sample for sample in samples if sample.label != sample.prediction]
  assert [s.score for s in wrong] == sorted((s.score for s in wrong), reverse=True)
  assert all(0 < sample.score <= 1 for sample in samples)
  assert samples[: len(wrong)] == tuple(wrong)


def test_a_phase_looks_at_held_out_images_more_than_three_times(first):
  for name in ("teacher", "alone", "distilled"):
    looks = [row for row in first.results.curves[name] if "top1" in row]
    assert len(looks) > 3 and looks[-1]["step"] == first.results.entries[name].steps == 8
    assert looks[-1]["top1"] == first.results.entries[name].validation_top1


def likeness(found, name):
  """Between the integers of the first layer and a float student's weights."""
  params = read_network(found.folder / "float" / name).variables["params"]["stem"]
  integers = found.quantized.layers["stem"].weights
  kernel, scale = (np.asarray(params[key]) for key in ("kernel", "scale"))
  # the columns are scaled apart, so that each one's likeness counts
  pairs = zip(np.rollaxis(kernel * scale, 3), np.rollaxis(integers, 3), strict=True)
  return np.mean([np.corrcoef(real.ravel(), whole.ravel())[0, 1] for real, whole in pairs])


def check_shipped(found, better, worse):
  entries = found.results.entries
  assert entries["int8"].made_from == better
  assert entries["int8"].steps == entries[better].steps + 1 == 9
  kept = read_network(found.folder / "float" / better).variables
  jax.tree.map(np.testing.assert_array_equal, kept, found.variables)
  assert likeness(found, better) > max(0.9, likeness(found, worse))


def test_the_distilled_student_is_shipped_where_it_validates_better(first):
  check_shipped(first, "distilled", "alone")


@pytest.mark.slow
def test_the_student_alone_is_shipped_where_it_validates_better(data, tmp_path):
  with validating("alone"):
    found = jc.compress(data, **NAMES, out=tmp_path / "out", **TINY)
  check_shipped(found, "alone", "distilled")
  assert "trained alone" in (found.folder / "report.html").read_text()


class Stopped(Exception):
  """As if the process had been killed."""


def dies(*args, **options):
  raise Stopped


@pytest.mark.slow
def test_killed_before_its_integers_a_distilled_student_ends_in_the_same_file(
  data, first, tmp_path, monkeypatch
):
  given = {**NAMES, "out": tmp_path / "out", **TINY}
  with validating("distilled"), monkeypatch.context() as patch, pytest.raises(Stopped):
    fit = training.fit
    patch.setattr(training, "fit", lambda *a, **o: dies() if o["name"] == "int8" else fit(*a, **o))
    jc.compress(data, **given)
  with validating("distilled"):
    found = jc.compress(data, **given, resume=True)
  ours, theirs = (one.files["model"].read_bytes() for one in (found, first))
  assert ours == theirs


def test_the_distilled_student_ships_unless_the_other_validates_better():
  def make(top1, loss):
    return Entry("m", 0.5, 1, 1, 1, validation_top1=top1, validation_loss=loss)

  for alone, distilled, kept in (
    ((0.9, 0.2), (0.9, 0.3), "distilled"),
    ((0.91, 0.3), (0.9, 0.2), "alone"),
    ((0.8, 0.1), (0.9, 0.2), "distilled"),
    ((0.9, 0.2), (0.9, 0.2), "distilled"),
  ):
    assert better({"alone": make(*alone), "distilled": make(*distilled)}) == kept


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs_also_over_a_kill(
  data, first, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  shutil.copytree(first.folder, out)
  given = {**NAMES, "out": out, **TINY}
  before = (out / "report.json").read_bytes()
  with pytest.raises(ValueError, match=r"epochs: 1 are fewer than the 2 of the run in"):
    jc.compress(data, **{**given, "epochs": 1}, resume=True)
  same = jc.compress(data, **given, resume=True)
  assert (out / "report.json").read_bytes() == before and same.results.entries["int8"].rounds == 1

  with monkeypatch.context() as patch, pytest.raises(Stopped):
    patch.setattr(phases, "distill_student", dies)
    jc.compress(data, **{**given, "epochs": 4}, resume=True)
  assert (out / "report.json").read_bytes() == before  # until the end
  assert plan_epochs(out) == (2, 4) and read_options(out).epochs == 4
  left = {name: (out / "float" / name).stat().st_mtime_ns for name in ("alone", "alone-2")}
  found = jc.compress(data, **{**given, "epochs": None}, resume=True)
  assert {name: (out / "float" / name).stat().st_mtime_ns for name in left} == left
  entries, old = found.results.entries, first.results.entries
  for name in ("teacher", "alone", "distilled"):
    assert entries[name].steps == 16 and entries[name].rounds == 2
    assert entries[name].validation_top1 >= old[name].validation_top1
    steps = [row["step"] for row in found.results.curves[name] if "loss" in row]
    assert steps == sorted(steps) and steps[-1] == 16
  assert entries["int8"].rounds == 2 and found.results.run.epochs == 4
  assert top1(found, data) == entries["int8"].top1
  again = jc.compress(data, **{**given, "epochs": 4}, resume=True)
  assert again.results.entries == entries


@pytest.mark.parametrize("changed", ["data", "student_weights"])
def test_what_changed_on_disk_since_a_run_began_is_found_when_it_goes_on(
  changed, data, tmp_path, monkeypatch
):
  files = {"data": tmp_path / "set.npz", "student_weights": tmp_path / "student.safetensors"}
  model = models.resnet8(2)
  metadata = {"classes": ["0", "1"]}

  def write(what, seed):
    if what == "data":
      part = stripes(64, seed)
      np.savez(files[what], images=part.images, labels=part.labels)
    else:
      variables = init_variables(model, jax.random.key(seed), data.image_shape)
      models.save(files[what], model, variables, metadata=metadata)

  for what in files:
    write(what, 0)
  given = {"student_weights": str(files["student_weights"]), "teacher": "resnet8", **TINY}
  given["out"] = tmp_path / "out"
  monkeypatch.setattr(run, "teach", dies)
  with pytest.raises(Stopped):
    jc.compress(f"npz:{files['data']}", **given)
  with pytest.raises(Stopped):  # nothing has changed
    jc.compress(f"npz:{files['data']}", **given, resume=True)
  write(changed, 1)
  before = sorted(path.name for path in given["out"].rglob("*"))
  with pytest.raises(ValueError, match=f"^{changed}: .* than when the run in .*; put back what"):
    jc.compress(f"npz:{files['data']}", **given, resume=True)
  assert sorted(path.name for path in given["out"].rglob("*")) == before


@pytest.mark.slow
def test_more_epochs_that_make_it_worse_change_nothing(data, first, tmp_path, monkeypatch):
  out = tmp_path / "out"
  shutil.copytree(first.folder, out)
  true = phases.train_on_labels

  def ruined(*args, **options):
    return jax.tree.map(jnp.zeros_like, true(*args, **options))

  monkeypatch.setattr(phases, "train_on_labels", ruined)
  given = {**NAMES, "out": out, **TINY, "epochs": 3}
  found = jc.compress(data, **given, resume=True)
  for name in ("teacher", "alone"):
    assert found.results.entries[name].top1 == first.results.entries[name].top1


@pytest.mark.slow
def test_modules_start_from_their_variables_and_a_trained_teacher_teaches(data, first, tmp_path):
  student = models.resnet8(2)
  variables = init_variables(student, jax.random.key(3), data.image_shape)
  given = {
    "student": student,
    "student_variables": variables,
    "teacher": first.student,
    "teacher_variables": first.variables,
    "out": tmp_path / "out",
  }
  found = jc.compress(data, **given, **TINY)
  entries = found.results.entries
  assert entries["teacher"].steps == 0
  assert (
    entries["teacher"].top1 == first.results.entries[first.results.entries["int8"].made_from].top1
  )
  assert jc.compress(data, **given, **TINY, resume=True).results.entries == entries
  other = jax.tree.map(lambda leaf: leaf + 1, variables)
  with pytest.raises(ValueError, match=r"student: it is another network than the one with which"):
    jc.compress(data, **{**given, "student_variables": other}, **TINY, resume=True)
  turned = dataclasses.replace(data.train, labels=1 - data.train.labels)
  with pytest.raises(ValueError, match=r"data: it is another data set than the one with which"):
    jc.compress(dataclasses.replace(data, train=turned), **given, **TINY, resume=True)


class Plain(linen.Module):
  """A network of Flax's own layers."""

  @linen.compact
  def __call__(self, x, train: bool = False):
    x = linen.relu(linen.BatchNorm(use_running_average=not train)(linen.Conv(8, (3, 3))(x)))
    return linen.Dense(2)(x.mean((1, 2)))


@pytest.mark.slow
def test_networks_of_flax_are_imported(data, tmp_path):
  module = Plain()
  variables = module.init(jax.random.key(0), jnp.zeros((1, *data.image_shape)))
  imported = models.from_linen(module, variables, jnp.zeros((1, *data.image_shape)))
  found = jc.compress(data, student=imported, teacher="resnet8", out=tmp_path / "out", **TINY)
  assert found.results.entries["int8"].bit_equal == 1.0
  assert found.results.entries["alone"].model == "Plain"
  again = jc.compress(
    data, student=module, student_variables=variables, teacher="resnet8", out=tmp_path / "out",
    resume=True, **TINY,
  )  # fmt: skip
  assert again.results.entries == found.results.entries


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"data": 3}, "data must be a text, a data.Dataset, or None, got 3"),
    ({"student_variables": {}}, "student_variables: there is no module"),
    ({"new_head": True}, "new_head: it needs student_variables"),
    ({"resume": True}, "resume: no folder is named"),
    ({"epoch": 3}, "option: 'epoch' is unknown"),
    ({"image_size": 9}, "image_size: 9 decides how pictures are read"),
    ({"student": models.resnet8(5), "out": "x"}, "student: resnet8 gives .* the data has 2 classes"),
    ({"student": models.resnet8(2), "student_weights": "a.pth"}, "student_weights: a.pth is given beside"),
    ({"data": "glyphs", "student": Plain()}, "student: Plain is not a model of .* or give a data.Dataset and student_variables"),
  ],
)  # fmt: skip
def test_mistakes_are_told_by_argument(data, tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message):
    jc.compress(**{"data": data, **TINY, **arguments})
  assert not list(tmp_path.iterdir())


def test_a_run_from_python_is_not_resumed_by_the_command_line(first):
  options = dataclasses.replace(read_options(first.folder), epochs=3.0)
  with pytest.raises(ValueError, match=r"data: the run was started from Python with one"):
    run.carry_out(options, first.folder, console=None)


def test_a_hash_tells_data_sets_apart(data):
  changed = data.train.images.copy()
  changed[0] += 1
  others = [
    dataclasses.replace(data, classes=("a", "b")),
    dataclasses.replace(data, train=dataclasses.replace(data.train, images=changed)),
    dataclasses.replace(data, validation=data.test),
  ]
  assert len({hash_of_data(one) for one in (data, *others)}) == 4
  assert hash_of_data(data) == hash_of_data(dataclasses.replace(data, notes=("x",)))
