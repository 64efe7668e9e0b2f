"""The one step: learning, quantization by schedule, guards, determinism, and compile counts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxcompress import distill, quantize
from jaxcompress.training import (
  DivergedError,
  distill_step,
  eval_step,
  fit,
  init_state,
  predict,
  sgd,
  train_step,
  warmup_cosine,
)
from jaxcompress.training.optimizers import kernels_only

START = 4


def full_recipe(recipe_of, teacher, **parts):
  loss = distill.chain(
    distill.cross_entropy(), distill.kd(4.0), distill.crd(40, dim=8, negatives=6)
  )
  plan = quantize.int8(start_step=START, freeze_norm_step=START)
  return recipe_of(**{"teachers": (teacher[0],), "loss": loss, "quantize": plan, **parts})


@pytest.fixture(scope="module")
def recipe(recipe_of, teacher):
  return full_recipe(recipe_of, teacher)


@pytest.fixture
def start(recipe, batches, teacher):
  return init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))


def run(state, batches, positions, step=distill_step):
  for position in positions:
    state, metrics = step(state, batches(position))
  return state, metrics


def arrays(state):
  return jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng)))


@pytest.mark.slow
def test_a_run_that_only_skips_steps_says_so(recipe_of, batches):
  def bad(position):
    return {**batches(position), "image": np.full((16, 8, 8, 3), np.nan, np.float32)}

  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  with pytest.raises(
    DivergedError, match=r"the last 3 steps were skipped.*lower the learning rate"
  ):
    fit(state, bad, steps=3, console=Console(quiet=True))


@pytest.mark.slow
def test_every_part_of_the_loss_is_reported(start, batches):
  _, metrics = distill_step(start, batches(0))
  assert {"loss", "accuracy", "cross_entropy", "kd", "crd", "skipped"} <= set(metrics)
  total = metrics["cross_entropy"] + metrics["kd"] + metrics["crd"]
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@pytest.mark.slow
def test_training_learns_in_float_and_after_quantization(recipe_of, batches):
  recipe = recipe_of(quantize=quantize.int8(start_step=20))
  state = init_state(recipe, jax.random.key(0), batches(0))
  _, metrics = run(state, batches, range(40), train_step)
  assert metrics["loss"] < 0.5
  assert metrics["accuracy"] > 0.8


@pytest.mark.slow
def test_a_run_through_float_and_int8_compiles_once(start, batches):
  step = jax.jit(chex.assert_max_traces(distill_step.__wrapped__, n=1), donate_argnums=0)
  state, _ = run(start, batches, range(START + 3), step)
  assert int(state.step) == START + 3


def test_variables_that_are_bound_to_a_device_compile_no_second_program(recipe, batches, teacher):
  """Orbax restores such ones."""
  bound = jax.device_put(teacher[1], jax.devices()[0])
  state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(bound,))
  compiled = distill_step.program._cache_size()
  for position in range(3):
    state, _ = distill_step(state, batches(position))
  assert distill_step.program._cache_size() == compiled + 1


@pytest.mark.slow
def test_before_the_start_step_nothing_is_rounded(recipe_of, teacher, batches):
  plain, planned = (
    init_state(
      full_recipe(recipe_of, teacher, quantize=plan),
      jax.random.key(0),
      batches(0),
      teacher_variables=(teacher[1],),
    )
    for plan in (None, quantize.int8(start_step=START))
  )
  plain, _ = run(plain, batches, range(START))
  planned, _ = run(planned, batches, range(START))
  chex.assert_trees_all_close(plain.params, planned.params, rtol=1e-4, atol=1e-5)
  assert all(r.count == 0 for _, r in _ranges(planned))
  planned, _ = run(planned, batches, [START])
  assert all(r.count == 1 for _, r in _ranges(planned))


def _ranges(state):
  return state.quantizer.state["activations"].items()


def test_frozen_statistics_stay_to_the_bit(start, batches):
  state, _ = run(start, batches, range(START))
  before = jax.device_get(state.batch_stats)
  state, _ = run(state, batches, range(START, START + 3))
  chex.assert_trees_all_equal(before, jax.device_get(state.batch_stats))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing_and_is_counted(start, batches, value):
  state, _ = run(start, batches, range(2))
  before = jax.device_get(arrays(state.replace(skipped=jnp.zeros((), jnp.int32))))
  bad = batches(2)
  bad["image"][0, 0, 0, 0] = value
  state, metrics = distill_step(state, bad)
  assert int(state.skipped) == int(metrics["skipped"]) == 1
  after = jax.device_get(arrays(state.replace(skipped=jnp.zeros((), jnp.int32))))
  chex.assert_trees_all_equal(before, after)
  state, metrics = distill_step(state, batches(3))
  assert int(state.step) == 3
  assert np.isfinite(float(metrics["loss"]))


def test_the_same_start_gives_the_same_bits(recipe, batches, teacher):
  ends = [
    run(
      init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],)),
      batches,
      range(START + 2),
    )[0]
    for _ in range(2)
  ]
  chex.assert_trees_all_equal(*(jax.device_get(arrays(state)) for state in ends))


def test_the_callers_teacher_survives_donation(start, batches, teacher):
  run(start, batches, range(2))
  assert np.isfinite(np.asarray(jax.tree.leaves(teacher[1])[0])).all()


@pytest.mark.slow
def test_augmentation_runs_inside_the_step_with_its_own_key(recipe_of, batches):
  def noisy(rng, batch):
    return {**batch, "image": batch["image"] + jax.random.normal(rng, batch["image"].shape)}

  recipe = recipe_of(augment=noisy)
  state = init_state(recipe, jax.random.key(0), batches(0))
  state, first = train_step(state, batches(0))
  _, second = train_step(state, batches(0))
  assert first["loss"] != second["loss"]


def test_evaluation_sums_leave_padding_out(recipe_of, batches):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  batch = batches(0)
  mask = np.arange(16) < 10
  sums = eval_step(state, {**batch, "mask": mask})
  logits = np.asarray(predict(state, batch["image"]))
  assert float(sums["count"]) == 10
  assert float(sums["correct"]) == np.sum((logits.argmax(-1) == batch["label"])[mask])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
  np.testing.assert_allclose(sums["loss"], np.sum(np.asarray(losses)[mask]), rtol=1e-5)


def test_weight_decay_touches_kernels_only(recipe_of, batches):
  state = init_state(recipe_of(optimizer=sgd(0.1)), jax.random.key(0), batches(0))
  mask = kernels_only(state.trained)
  flat = jax.tree_util.tree_leaves_with_path(mask)
  assert {jax.tree_util.keystr(path[-1:], simple=True) for path, on in flat if on} == {"kernel"}
  assert float(warmup_cosine(0.1, 100)(100)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
  ("act", "message"),
  [
    (lambda r, b, t: init_state(r, jax.random.key(0), b(0)), "teacher_variables: 0 given for 1"),
    (
      lambda r, b, t: init_state(
        r, jax.random.key(0), {"label": b(0)["label"]}, teacher_variables=(t[1],)
      ),
      "no 'image'",
    ),
    (
      lambda r, b, t: train_step(
        init_state(r, jax.random.key(0), b(0), teacher_variables=(t[1],)), b(0)
      ),
      "use distill_step",
    ),
    (
      lambda r, b, t: init_state(r, jax.random.key(0), b(0), teacher_variables=(t[1],)).quantized(),
      "start_step: 4 was not passed yet",
    ),
  ],
)
def test_mistakes_say_what_to_do(recipe, batches, teacher, act, message):
  with pytest.raises(ValueError, match=message):
    act(recipe, batches, teacher)


def test_integer_images_need_a_preprocess(recipe_of, batches):
  batch = {**batches(0), "image": np.zeros((16, 8, 8, 3), np.uint8)}
  with pytest.raises(ValueError, match="images are uint8 and the recipe has no preprocess"):
    init_state(recipe_of(), jax.random.key(0), batch)


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_an_error(recipe_of, tiny, batches):
  model = tiny(num_classes=7)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  recipe = recipe_of(teachers=(model,), loss=distill.kd())
  with pytest.raises(ValueError, match=r"logits have shape \(16, 7\) and the student's \(16, 5\)"):
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(variables,))
