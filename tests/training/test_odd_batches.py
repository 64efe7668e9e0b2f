"""Batches and networks that are not as expected train as they should, or say what is wrong."""

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
  variables = training.init_variables(teacher, jax.random.key(7), (8, 8, 3))
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
  state, metrics = training.train_step(state_of(recipe_of(), batch), batch)
  assert int(metrics["skipped"]) == 1
  assert np.isnan(training.eval_step(state, batch)["loss"])
  masked = {**batch, "mask": np.arange(16) != 3}  # as padding may be labelled
  assert np.isfinite(training.eval_step(state, masked)["loss"])


@pytest.mark.parametrize("loss", [distill.dkd(), distill.nkd()])
@pytest.mark.parametrize("label", [-1, 3])
def test_losses_that_read_labels_are_not_finite_without_a_class(loss, label):
  logits = nn.Endpoints(jnp.eye(2, 3))
  batch = {"label": jnp.array([0, label])}
  params, state = loss.init(jax.random.key(0), logits, (logits,), batch)
  value, _, _ = loss.update(params, state, logits, (logits,), batch)
  assert np.isnan(value)


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


def test_checkpoints_of_no_interval_are_refused(tmp_path):
  with pytest.raises(ValueError, match="every: 0 must be at least 1"):
    training.Checkpoints(tmp_path, every=0)
