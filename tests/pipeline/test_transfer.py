"""Runs that start from weights: a head, fine-tuning, distillation, integers, the best of each."""

import contextlib
import io

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxcompress as jc
from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import PRESETS, fitting, integers, transfer
from jaxcompress.pipeline.best import Best
from jaxcompress.pipeline.context import Context, PhaseSteps, Score
from jaxcompress.pipeline.networks import TrainedNetwork, network_of
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.pretrained import Start
from jaxcompress.report.metrics import MetricsWriter, read_metrics

pytestmark = pytest.mark.slow

SIDE = 12
SMALL = {"epochs": 3, "batch_size": 16}


def stripes(count, seed):
  """Lying, standing and crossed stripes in noise."""
  labels = np.arange(count, dtype=np.int32) % 3
  images = np.random.default_rng(seed).integers(0, 140, (count, SIDE, SIDE, 3)).astype(np.uint8)
  images[labels == 0, ::3] += 110
  images[labels == 1, :, ::3] += 110
  images[labels == 2, ::3, ::3] += 110
  return datasets.Split(images, labels)


@pytest.fixture(scope="module")
def data():
  parts = {"train": stripes(64, 0), "validation": stripes(24, 1), "test": stripes(24, 2)}
  return datasets.Dataset(name="stripes", classes=("lying", "standing", "crossed"), **parts)


@pytest.fixture(scope="module")
def student():
  model = models.resnet8(3)
  return model, init_variables(model, jax.random.key(3), (SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def finished(data, student, tmp_path_factory):
  """A run of a student with a new head and no teacher, its folder, and what it said."""
  return compress(data, student, tmp_path_factory.mktemp("transfer") / "out")


def compress(data, student, out, **options):
  said, (model, variables) = io.StringIO(), student
  made = jc.compress(
    data,
    student=model,
    student_variables=variables,
    new_head=True,
    out=out,
    console=Console(file=said, width=200),
    **{**SMALL, **options},
  )
  return made, out, said.getvalue()


def leaves(variables):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
  }


def test_the_phases_follow_one_another_and_the_head_is_reported(finished):
  made, out, said = finished
  phases = [row["phase"] for row in read_metrics(out / "metrics.jsonl")]
  assert list(dict.fromkeys(phases)) == ["alone", "distilled", "int8"]
  assert set(made.results.entries) == {"head", "alone", "distilled", "int8"}
  assert made.results.entries["int8"].bit_equal == 1.0
  assert "a new head on features of 64 images" in said
  assert not (out / "checkpoints").exists()


def test_no_network_in_float_validates_worse_than_the_head(finished):
  entries = finished[0].results.entries
  rank = lambda key: (entries[key].validation_top1, -entries[key].validation_loss)  # noqa: E731
  assert rank("alone") >= rank("head") and rank("distilled") >= rank("head")


@pytest.fixture
def run(data, student, tmp_path):
  """Makes the run of some options, of whose phases single ones are carried out."""
  model, variables = student
  network = network_of("resnet8", None, model, data.image_shape)
  start = Start(network, variables, True, None)

  def make(**options):
    given = CompressOptions(**{"student_weights": "given", **SMALL, **options})
    preset = PRESETS["default"].with_rate(given.learning_rate)
    console = Console(file=io.StringIO(), width=300)
    metrics = MetricsWriter(tmp_path / "metrics.jsonl")
    starts, steps = {"student": start}, PhaseSteps(12, 4)
    opened.callback(metrics.close)
    return Context(tmp_path, given, data, preset, steps, metrics, console, starts=starts)

  with contextlib.ExitStack() as opened:
    yield make


def tuned(run):
  """Returns the variables before and after fine-tuning on labels."""
  start = transfer.begin(run, "student")
  return start, transfer.tune(run, "alone", run.starts["student"].network, start, steps=12)


def test_fine_tuning_that_makes_it_worse_is_undone_with_a_word(run):
  worse = run(learning_rate=3.0)
  start, kept = tuned(worse)
  for name, leaf in leaves(start).items():
    np.testing.assert_array_equal(leaves(kept)[name], leaf)
  assert "alone: 12 steps of fine-tuning did not improve it" in worse.console.file.getvalue()


def test_the_average_with_the_start_is_kept_where_it_gets_no_fewer_images_right(run):
  one = run()
  network, start = one.starts["student"].network, transfer.begin(one, "student")
  images = fitting.looked_at(one.data.validation)
  right = lambda variables: one.evaluate(network, variables, images).top1  # noqa: E731

  def moved(scale):
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + scale * noise.normal(size=x.shape).astype(x.dtype), start)

  near, far = moved(1e-4), moved(3.0)
  assert right(near) == right(start) > right(far)
  between = transfer.drawn_back(one, "alone", network, far, near)
  if between is not near:
    assert right(between) >= right(near)
  between = transfer.drawn_back(one, "alone", network, start, start)
  for name, leaf in leaves(start).items():
    np.testing.assert_array_equal(leaves(between)[name], leaf)
  assert "70% of the way from the initial to the fine-tuned weights" in one.console.file.getvalue()


def test_an_average_that_gets_fewer_images_right_is_not_kept(run, monkeypatch):
  one = run()
  network, start = one.starts["student"].network, transfer.begin(one, "student")
  tuned = jax.tree.map(lambda x: x + 1, start)
  between = jax.tree.map(lambda x: x + np.float32(0.7), start)
  first = leaves(start)["['params']['classifier']['bias']"]
  for right, kept in (
    ((0.8, 0.9, 0.7), tuned),
    ((0.9, 0.9, 0.7), between),
    ((0.9, 0.9, 0.95), tuned),
  ):
    score_of = dict(zip((0.7, 1.0, 0.0), right, strict=True))

    def evaluate(self, network, variables, split, score_of=score_of):
      moved = leaves(variables)["['params']['classifier']['bias']"] - first
      return Score(score_of[round(float(moved.mean()), 2)], 0.5)

    monkeypatch.setattr(Context, "evaluate", evaluate)
    found = transfer.drawn_back(one, "alone", network, start, tuned)
    for name, leaf in leaves(kept).items():
      np.testing.assert_allclose(leaves(found)[name], leaf, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_integers_that_training_makes_worse_are_those_without_it(run):
  worse = run(learning_rate=30.0)
  start, network = transfer.begin(worse, "student"), worse.starts["student"].network
  found, (note, *more) = integers.to_integers(worse, network, start, None)
  said = " ".join(worse.console.file.getvalue().split())
  assert "quantization without training" in said and note.endswith("the latter is taken")
  images = worse.data.validation.images
  exact = network.module.apply(start, worse.preprocess(jax.numpy.asarray(images)), train=False)
  of_float = fitting.looked_at(worse.data.validation)
  right = np.mean(found(of_float.images).argmax(-1) == of_float.labels)
  loses = right < worse.evaluate(network, start, of_float).top1
  assert bool(more) == loses and all("the network in float" in one for one in more)
  agreement = np.mean(found(images).argmax(-1) == np.argmax(exact.logits, axis=-1))
  assert agreement > 0.9


@pytest.mark.slow
def test_of_integers_that_get_as_many_right_those_nearer_to_float_are_taken(run, monkeypatch):
  one = run(learning_rate=1e-6)
  start, network = transfer.begin(one, "student"), one.starts["student"].network
  score = integers._score
  for nearer in (0, 1):
    scored = []

    def of(run, quantized, probes, scored=scored, nearer=nearer):
      assert len(probes.images) == 24 + 64 and 0 <= score(run, quantized, probes).away < 1
      scored.append(quantized)
      return integers._Followed(0.9, float(len(scored) - 1 != nearer))

    monkeypatch.setattr(integers, "_score", of)
    found, notes = integers.to_integers(one, network, start, None)
    assert found is scored[nearer]
    assert any("the latter is taken" in note for note in notes) == bool(nearer)


@pytest.mark.slow
def test_layers_of_a_selector_stay_and_others_move(run):
  start, kept = map(leaves, tuned(run(freeze="stem", learning_rate=1e-3)))
  moved = {name for name in start if not np.array_equal(start[name], kept[name])}
  assert not any("'stem'" in name for name in moved) and any("'stage2" in name for name in moved)


@pytest.mark.slow
def test_after_a_teacher_a_frozen_backbone_keeps_every_bit_and_the_head_moves(run):
  frozen = run(freeze="backbone", learning_rate=1e-2)
  start, alone = tuned(frozen)  # the head is the best one already
  network = frozen.starts["student"].network
  teacher = TrainedNetwork(network, start)
  taught = transfer.tune(frozen, "distilled", network, start, steps=12, teacher=teacher)
  for name, leaf in leaves(start).items():
    np.testing.assert_array_equal(leaves(alone)[name], leaf)
    if "classifier" not in name:
      np.testing.assert_array_equal(leaves(taught)[name], leaf)
  assert "the backbone is frozen" in frozen.console.file.getvalue()


@pytest.mark.parametrize(
  ("freeze", "message"),
  [
    ("steam", "freeze: 'steam' matches no layer; .*stem"),
    ("backbon", "freeze: 'backbon' is no layer; did you mean backbone?"),
    (".", "freeze: '.' names every layer, and nothing would learn"),
  ],
)
def test_a_selector_of_no_layer_or_all_is_refused_before_anything_is_computed(
  data, student, tmp_path, freeze, message
):
  with pytest.raises(ValueError, match=message):
    compress(data, student, tmp_path / "out", freeze=freeze)
  assert not (tmp_path / "out").exists()


def test_frozen_layers_are_not_pruned():
  with pytest.raises(ValueError, match="freeze: backbone does not work with pruning"):
    CompressOptions(student_weights="given", freeze="backbone", sparsity=0.5)


def test_patience_ends_a_phase_early(run):
  patient = run(learning_rate=1e-12, patience=1, epochs=20)
  network, start = patient.starts["student"].network, transfer.begin(patient, "student")
  transfer.tune(patient, "alone", network, start, steps=80)
  steps = [row["step"] for row in patient.metrics.rows() if row["phase"] == "alone"]
  assert max(steps) <= 8  # of 80


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_in_the_same_bytes(
  finished, data, student, tmp_path, monkeypatch
):
  write = MetricsWriter.write
  for phase in ("alone", "int8"):  # stopped twice

    def stop(self, name, step, phase=phase, **values):
      write(self, name, step, **values)
      if name == phase and step >= 2:
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
      compress(data, student, tmp_path / "out", resume=(tmp_path / "out").exists())
  monkeypatch.setattr(MetricsWriter, "write", write)
  made, out, _ = compress(data, student, tmp_path / "out", resume=True)
  for name in ("student.tflite", "student.jcz"):
    assert (out / name).read_bytes() == (finished[1] / name).read_bytes()
  for key, entry in made.results.entries.items():
    assert entry.validation_loss == finished[0].results.entries[key].validation_loss


class Judged:
  """Ranks of states by their step, and how often each was asked for."""

  def __init__(self, ranks):
    self.ranks = ranks

  def __call__(self, state):
    return self.ranks[int(state.step)]


def test_of_equal_states_the_first_is_best_and_a_kill_changes_nothing(tmp_path, state_at):
  ranks = {0: (0.5, -2.0), 1: (0.7, -1.0), 2: (0.7, -1.0), 3: (0.6, -0.1), 4: (0.7, -0.9)}
  with Best(tmp_path / "best", Judged(ranks), patience=2) as best:
    ended = [best.look(at, state_at(at))[1] for at in (0, 1, 2, 3)]
    assert ended == [False, False, False, True] and best.position == 1
    best.look(4, state_at(4))
  with Best(tmp_path / "best", Judged(ranks), patience=2) as best:  # goes on from a checkpoint of 2
    ended = [best.look(at, state_at(at))[1] for at in (2, 3, 4)]
    assert ended == [False] * 3 and best.position == 4
    assert int(best.state(state_at(2)).step) == 4


@pytest.fixture(scope="module")
def state_at():
  """A state at a step; its arrays are as good as any."""
  import optax

  from jaxcompress import training

  recipe = training.Recipe(student=models.resnet8(3), optimizer=optax.sgd(0.1))
  batch = {"image": np.zeros((2, 8, 8, 3), np.float32), "label": np.zeros(2, np.int32)}
  state = training.init_state(recipe, jax.random.key(0), batch)
  return lambda step: state.replace(step=jax.numpy.int32(step))
