"""Batches and networks that are not as expected train as they should, or say what is wrong."""

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, nn, quantize, training
from jaxcompress.data.augment.mixing import mix


def state_of(recipe, batch, **options):
  return training.init_state(recipe, jax.random.key(0), batch, **options)


@pytest.fixture(scope="module")
def taught(tiny, batches):
  """A recipe whose loss reads no labels, and its teacher's variables."""
  teacher = tiny(features=16)
  variables = nn.init_variables(teacher, jax.random.key(7), (8, 8, 3))
  return {
    "student": tiny(),
    "teachers": (teacher,),
    "loss": distill.kd(4.0),
    "optimizer": optax.sgd(0.01),
  }, variables


def test_labels_of_another_shape_are_refused_in_training_and_evaluation(taught, recipe_of, batches):
  parts, variables = taught
  batch = batches(0)
  state = state_of(recipe_of(), batch)
  for label in (batch["label"][:, None], batch["label"][:1]):
    bad = {**batch, "label": label}
    with pytest.raises(ValueError, match="batch: 'label' has shape"):
      training.eval_step(state, bad)
    with pytest.raises(ValueError, match="batch: 'label' has shape"):
      training.distill_step(
        state_of(training.Recipe(**parts), batch, teacher_variables=(variables,)), bad
      )


def test_a_loss_without_labels_needs_none(taught, batches):
  parts, variables = taught
  batch = {"image": batches(0)["image"]}
  state = state_of(training.Recipe(**parts), batch, teacher_variables=(variables,))
  state, metrics = training.distill_step(state, batch)
  assert np.isfinite(metrics["loss"]) and "accuracy" not in metrics
  rows = []
  training.fit(state, lambda _: batch, steps=2, log_every=1, on_log=rows.append)
  assert len(rows) == 1 and rows[0]["images_per_second"] > 0


@dataclasses.dataclass(frozen=True)
class Told(training.CachedTeacher):
  """A teacher of which batches carry all outputs, as a tree of arrays."""

  def from_batch(self, batch, augment=None):
    return batch["told"]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_tree_of_arrays_in_a_batch_is_cut_as_arrays_are(taught, batches, accumulate):
  parts, variables = taught
  parts = {**parts, "accumulate": accumulate}
  batch = batches(0)
  told = parts["teachers"][0].apply(variables, batch["image"], train=False)
  states = [
    state_of(training.Recipe(**parts), batch, teacher_variables=(variables,)),
    state_of(
      training.Recipe(**parts | {"teachers": (Told(),)}),
      batch | {"told": told},
      teacher_variables=({},),
    ),
  ]
  mesh = training.make_mesh(1)
  ours = training.distill_step(states[0], batch)[1]["loss"]
  for given in (batch | {"told": told}, training.shard_batch(batch | {"told": told}, mesh)):
    state = jax.tree.map(jnp.copy, states[1])
    np.testing.assert_allclose(training.distill_step(state, given)[1]["loss"], ours, rtol=1e-5)


def test_microbatches_leave_entries_of_other_lengths_alone(taught, batches):
  parts, variables = taught
  batch = {**batches(0), "names": np.zeros(3, np.int32)}
  state = state_of(training.Recipe(**parts, accumulate=2), batch, teacher_variables=(variables,))
  _, metrics = training.distill_step(state, batch)
  assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_no_class_skips_the_batch(label, recipe_of, batches):
  batch = batches(0)
  batch["label"][3] = label
  state, metrics = training.train_step(state_of(recipe_of(), batches(1)), batch)
  assert int(metrics["skipped"]) == 1
  assert np.isnan(training.eval_step(state, batch)["loss"])
  masked = {**batch, "mask": np.arange(16) != 3}  # as padding may be labelled
  assert np.isfinite(training.eval_step(state, masked)["loss"])


@pytest.mark.parametrize("label", [np.int64(2**32), np.int64(-(2**31) - 1), np.uint64(2**33 + 1)])
def test_a_label_that_would_wrap_is_refused(label, recipe_of, batches):
  good = batches(0)
  state, wrong = state_of(recipe_of(), good), np.full(16, label)
  with pytest.raises(ValueError, match=f"'label' has {label}, which int32 does not hold"):
    training.train_step(state, {**good, "label": wrong})


@pytest.mark.parametrize("name", ["image", "label", "index"])
def test_a_list_is_no_array(name, recipe_of, batches):
  good = batches(0)
  state = state_of(recipe_of(), good)
  with pytest.raises(ValueError, match=rf"batch: '{name}' must be an array, got (a list|\[)"):
    training.train_step(state, {**good, name: good[name].tolist()})


def test_a_tree_of_arrays_travels_with_the_batch(recipe_of, batches):
  batch = {**batches(0), "teacher": {"maps": (np.zeros((16, 2), np.float32),)}}
  _, metrics = training.train_step(state_of(recipe_of(), batch), batch)
  assert not metrics["skipped"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [distill.dkd(), distill.nkd()])
@pytest.mark.parametrize("label", [-1, 3])
def test_losses_that_read_labels_are_not_finite_without_a_class(loss, label):
  logits = nn.Endpoints(jnp.eye(2, 3))
  batch = {"label": jnp.array([0, label])}
  params, state = loss.init(jax.random.key(0), logits, (logits,), batch)
  value, _, _ = loss.update(params, state, logits, (logits,), batch)
  assert np.isnan(value)


SHARES = np.float32([[0.25, 0.75, 0.0, 0.0, 0.0]] * 16)
BAD_SHARES = {
  "sum": ({2: [1.0, 1.0, 1.0, 0.0, 0.0]}, "row 2 of 'label' sums to 3"),
  "negative": ({5: [1.5, -0.5, 0.0, 0.0, 0.0]}, "row 5 of 'label' has -0.5"),
  "nothing": ({0: [0.0] * 5}, "row 0 of 'label' sums to 0"),
  "nan": ({15: [np.nan, 1.0, 0.0, 0.0, 0.0]}, "row 15 of 'label' sums to nan"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD_SHARES)
def test_soft_labels_that_are_no_shares_are_refused_or_skip_the_batch(bad, recipe_of, batches):
  rows, message = BAD_SHARES[bad]
  good = {**batches(0), "label": SHARES}
  wrong = {**good, "label": SHARES.copy()}
  for row, values in rows.items():
    wrong["label"][row] = values
  recipe = recipe_of()
  with pytest.raises(ValueError, match=f"batch: {message}; soft labels must be"):
    state_of(recipe, wrong)
  state = state_of(recipe, good)
  with pytest.raises(ValueError, match=message):
    training.train_step(state, wrong)
  state, metrics = training.train_step(state, jax.device_put(wrong))
  assert int(metrics["skipped"]) == 1
  assert np.isnan(training.eval_step(state, wrong)["loss"])
  with pytest.raises(ValueError, match=message):
    training.fit(state, lambda position: wrong if position == 3 else good, steps=9)


@pytest.mark.parametrize(
  ("label", "message"),
  [
    (np.zeros(16, np.float32), "'label' is float32"),
    (np.zeros(16, bool), "'label' is bool"),
    (np.zeros((16, 1, 1), np.int32), "'label' has shape"),
    (np.int32(3), "'label' has shape"),
    (np.full((16, 4), 0.25, np.float32), "soft labels must have"),
  ],
)
def test_labels_that_are_neither_classes_nor_shares_are_refused(label, message, recipe_of, batches):
  recipe, good = recipe_of(), batches(0)
  state = state_of(recipe, good)
  for act in (lambda b: state_of(recipe, b), *(lambda b, f=f: f(state, b) for f in STEPS)):
    with pytest.raises(ValueError, match=f"batch: .*{message}"):
      act({**good, "label": label})


STEPS = (training.eval_step, training.train_step)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64])
def test_classes_may_be_integers_of_any_kind(dtype, recipe_of, batches):
  recipe, losses = recipe_of(), []
  for batch in (batches(0), {**batches(0), "label": batches(0)["label"].astype(dtype)}):
    state, metrics = training.train_step(state_of(recipe, batch), batch)
    losses.append((float(metrics["loss"]), float(training.eval_step(state, batch)["correct"])))
  assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [distill.dkd(), distill.nkd()], ids=["dkd", "nkd"])
def test_losses_that_read_labels_see_those_that_were_mixed_within_the_step(loss, taught, batches):
  parts, variables = taught
  batch = {**batches(0), "image": np.repeat(batches(0)["image"][:1], 16, axis=0)}  # mixes to itself
  labels = batch["label"]

  def loss_of(label, augment=None):
    recipe = training.Recipe(**{**parts, "loss": loss, "augment": augment})
    state = state_of(recipe, {**batch, "label": label}, teacher_variables=(variables,))
    return float(training.distill_step(state, {**batch, "label": label})[1]["loss"])

  def halves(key, batch):
    return {**batch, **mix(batch, jnp.float32(0.5), 5)}

  each = [loss_of(labels), loss_of(np.roll(labels, 1))]
  assert abs(each[0] - each[1]) <= 1e-5 * each[0]  # of equal images only their number counts
  np.testing.assert_allclose(loss_of(labels, halves), np.mean(each), rtol=1e-4)
  likeliest = np.where(labels > np.roll(labels, 1), np.roll(labels, 1), labels)
  assert abs(loss_of(likeliest) - each[0]) > 1e-3 * each[0]


def memory(taught, examples=40):
  parts, variables = taught
  loss = distill.named_chain(labels=distill.cross_entropy(), crd=distill.crd(examples, negatives=4))
  return training.Recipe(**{**parts, "loss": loss}), {"teacher_variables": (variables,)}


@pytest.mark.slow
def test_batches_of_any_size_train_with_memory_banks(taught, batches):
  recipe, teacher = memory(taught)
  state = state_of(recipe, batches(0), **teacher)
  for position, size in enumerate((16, 5, 40, 1)):
    form = jax.eval_shape(lambda state: state, state)
    state, metrics = training.distill_step(state, batches(position, size))
    assert np.isfinite(metrics["loss"]) and int(state.step) == position + 1
    assert jax.eval_shape(lambda state: state, state) == form


@pytest.mark.slow
def test_a_place_outside_the_banks_is_refused_at_the_start_and_in_the_first_such_batch(
  taught, batches
):
  recipe, teacher = memory(taught)
  outside = batches(1)
  outside["index"][7] = 40
  message = "batch: 'index' must be places from 0 to 39 in the training set, got 40; num_examples"
  with pytest.raises(ValueError, match=message):
    state_of(recipe, outside, **teacher)
  state = state_of(recipe, batches(0), **teacher)
  with pytest.raises(ValueError, match=message):
    training.distill_step(state, outside)
  state, metrics = training.distill_step(state, jax.device_put(outside))
  assert float(metrics["crd/crd_outside"]) == 1 and int(metrics["skipped"]) == 1
  seen = []

  def batch_at(position):
    seen.append(position)
    return batches(position) if position < 4 else outside

  with pytest.raises(ValueError, match=message):
    training.fit(state, batch_at, steps=9, ahead=0)
  assert seen == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_checkpoint_is_restored_where_the_first_batch_was_of_another_size(
  taught, batches, tmp_path
):
  recipe, teacher = memory(taught)
  state, _ = training.distill_step(state_of(recipe, batches(0), **teacher), batches(0))
  with training.Checkpoints(tmp_path, every=1) as checkpoints:
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(state_of(recipe, batches(0, 6), **teacher))
  ends = [training.distill_step(s, batches(1, 6))[0] for s in (state, restored)]
  banks = [end.loss_state["crd"].student_bank for end in ends]
  np.testing.assert_array_equal(*banks)
  other, _ = memory(taught, 41)
  with (
    training.Checkpoints(tmp_path, every=1) as checkpoints,
    pytest.raises(ValueError, match=r"another recipe: loss_state\.crd\.student_bank"),
  ):
    checkpoints.restore(state_of(other, batches(0), **teacher))


def test_mixing_labels_of_no_class_gives_no_target():
  batch = {"image": jnp.zeros((3, 2, 2, 1)), "label": jnp.array([0, 2, -1])}
  assert np.isnan(mix(batch, jnp.float32(0.5), 2)["target"]).all(-1).tolist() == [True] * 3
  assert np.isfinite(
    mix({**batch, "label": jnp.zeros(3, int)}, jnp.float32(0.5), 2)["target"]
  ).all()
  with pytest.raises(ValueError, match="batch: it has image, but no 'label' or 'target'"):
    mix({"image": batch["image"]}, jnp.float32(0.5), 2)


class Plain(linen.Module):
  """Without BatchNorm, with dropout."""

  rate: float = 0.0
  act: str | None = None

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, norm=None, act=self.act, name="stem")(x, train=train)
    x = nn.GlobalAvgPool(name="pool")(x)
    x = linen.Dropout(self.rate, deterministic=not train)(x)
    return nn.Dense(5, name="classifier")(x)


def test_a_mean_teacher_follows_a_student_without_statistics(batches):
  recipe = training.Recipe(
    student=Plain(),
    teachers=(Plain(),),
    loss=distill.chain(distill.cross_entropy(), distill.kd(4.0)),
    optimizer=optax.sgd(0.1),
    mean_teacher=0.5,
  )
  state = state_of(recipe, batches(0))
  before = jax.device_get(state.teachers[0]["params"]["stem"]["kernel"])
  state, _ = training.distill_step(state, batches(0))
  mean = (before + np.asarray(state.params["stem"]["kernel"])) / 2
  np.testing.assert_allclose(state.teachers[0]["params"]["stem"]["kernel"], mean, rtol=1e-5)


@pytest.mark.slow
def test_dropout_draws_anew_at_every_step_and_not_in_evaluation(batches):
  """The loss of the same weights differs from step to step, and a run can be repeated."""

  def losses():
    recipe = training.Recipe(
      student=Plain(0.5), optimizer=optax.sgd(0.0), quantize=quantize.int8(start_step=99)
    )
    state, found = state_of(recipe, batches(0)), []
    for _ in range(3):
      state, metrics = training.train_step(state, batches(0))
      found.append(float(metrics["loss"]))
    evaluated = [float(training.eval_step(state, batches(0))["loss"]) for _ in range(2)]
    return found, evaluated

  found, evaluated = losses()
  assert len(set(found)) == 3 and evaluated[0] == evaluated[1]
  assert losses() == (found, evaluated)


def test_what_has_no_integers_is_refused_before_training(batches):
  recipe = training.Recipe(
    student=Plain(act="hard_swish"), optimizer=optax.sgd(0.1), quantize=quantize.int8()
  )
  with pytest.raises(ValueError, match="act of 'stem': 'hard_swish' has no integer"):
    state_of(recipe, batches(0))


@pytest.mark.slow
def test_checkpoints_of_no_interval_are_refused(tmp_path):
  with pytest.raises(ValueError, match="every: 0 must be a whole number, at least 1"):
    training.Checkpoints(tmp_path, every=0)
