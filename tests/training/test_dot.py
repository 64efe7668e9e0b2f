"""Separate momenta for labels and teacher against NumPy, alone and inside the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxcompress import distill
from jaxcompress.training import distill_step, dot, fit_chain, init_state
from jaxcompress.training.protocols import PROTOCOLS

RATE, MOMENTUM, DELTA, DECAY = 0.1, 0.8, 0.1, 0.01


def make(rate=RATE):
  return dot(rate, momentum=MOMENTUM, delta=DELTA, weight_decay=DECAY)


def numpy_dot(params, parts, rates):
  """Parameters after each step; only the kernel decays."""
  task, teacher, found = 0.0, 0.0, []
  for (g_task, g_teacher), rate in zip(parts, rates, strict=True):
    task = (MOMENTUM - DELTA) * task + g_task + DECAY * params
    teacher = (MOMENTUM + DELTA) * teacher + g_teacher
    params = params - rate * (task + teacher)
    found.append(params)
  return found


def test_the_optimizer_follows_the_formula_with_a_schedule():
  rng = np.random.default_rng(0)
  start, *gradients = rng.normal(size=(9, 5))
  parts = list(zip(gradients[::2], gradients[1::2], strict=True))
  rates = [0.1 / (1 + i) for i in range(len(parts))]
  optimizer = make(lambda count: 0.1 / (1 + count))
  params = {"kernel": jnp.asarray(start, jnp.float32)}
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for pair, expected in zip(parts, numpy_dot(start, parts, rates), strict=True):
    task, teacher = ({"kernel": jnp.asarray(g, jnp.float32)} for g in pair)
    updates, state = update(task, state, params, parts={"task": task, "distill": teacher})
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_the_optimizer_is_the_authors_with_the_published_difference(golden):
  arrays = golden(
    "distill/dot"
  )  # megvii-research/mdistiller at a08d46f, the rate to a tenth after 3 steps
  optimizer = PROTOCOLS["cifar-dot"].optimizer_at(
    lambda count: 0.05 * 0.1 ** (count >= 3), apart=True
  )
  params = {name: jnp.asarray(arrays[f"in_{name}"]) for name in ("kernel", "bias")}
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for step, expected in enumerate(zip(arrays["f64_kernel"], arrays["f64_bias"], strict=True)):
    parts = {
      part: {name: arrays[f"in_{part}_{name}"][step] for name in params}
      for part in ("task", "distill")
    }
    updates, state = update(params, state, params, parts=parts)
    params = optax.apply_updates(params, updates)
    for name, wanted in zip(("kernel", "bias"), expected, strict=True):
      np.testing.assert_allclose(params[name], wanted, rtol=1e-5, atol=1e-6)


def test_without_a_difference_it_is_sgd_and_biases_do_not_decay():
  params = {"kernel": jnp.array([2.0]), "bias": jnp.array([3.0])}
  one, zero = jax.tree.map(jnp.ones_like, params), jax.tree.map(jnp.zeros_like, params)
  plain = dot(1.0, momentum=0.9, delta=0.0, weight_decay=0.5)
  updates, _ = plain.update(one, plain.init(params), params, parts={"task": one, "distill": zero})
  assert (float(updates["kernel"][0]), float(updates["bias"][0])) == (-2.0, -1.0)


@pytest.fixture(scope="module")
def recipe(recipe_of, teacher):
  loss = distill.named_chain(
    labels=distill.cross_entropy(), kd=distill.kd(), embed=distill.in_batch_infonce(4)
  )
  return recipe_of(teachers=(teacher[0],), loss=loss, apart=("kd", "embed"), optimizer=make())


@pytest.mark.slow
def test_the_step_passes_the_gradients_of_each_part(recipe, batches, teacher):
  """Two steps by hand, from gradients of the two losses alone."""
  states = [
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))
    for _ in range(2)
  ]
  state, stats = states[0], states[1].batch_stats
  task = teacher_part = jax.tree.map(jnp.zeros_like, states[1].trained)
  trained = states[1].trained
  model = recipe.student

  @jax.jit
  def both(trained, stats, batch):
    seen = teacher[0].apply(teacher[1], batch["image"], train=False)

    def losses(trained, only):
      variables = {"params": trained["student"], "batch_stats": stats}
      student, updated = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
      loss, _, _ = recipe.loss.update(
        trained["loss"], states[1].loss_state, student, (seen,), batch, only=only
      )
      return loss, updated["batch_stats"]

    differentiate = jax.grad(losses, has_aux=True)
    g_task, stats = differentiate(trained, ("labels",))
    return g_task, differentiate(trained, ("kd", "embed"))[0], stats

  for position in range(2):
    batch = batches(position)
    g_task, g_teacher, stats = both(trained, stats, batch)
    updates, moments = make().update(
      g_task,
      (
        type(state.opt_state[0])(task, teacher_part),
        *state.opt_state[1:],
      ),
      trained,
      parts={"task": g_task, "distill": g_teacher},
    )
    task, teacher_part = moments[0]
    trained = optax.apply_updates(trained, updates)
    state, metrics = distill_step(state, batch)
  assert {"labels/cross_entropy", "kd/kd", "embed/in_batch_infonce", "loss"} <= set(metrics)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), state.trained, trained
  )


def test_mistakes_are_told(recipe_of, teacher, batches):
  with pytest.raises(ValueError, match=r"delta: 0.9 - 0.2 and 0.9 \+ 0.2 must both be"):
    dot(0.1, delta=0.2)
  with pytest.raises(ValueError, match="parts: dot needs two gradients"):
    make().update({}, make().init({}), {})
  recipe = recipe_of(
    teachers=(teacher[0],), loss=distill.named_chain(kd=distill.kd()), apart=("crd",)
  )
  with pytest.raises(ValueError, match="apart: the loss has no term 'crd'; its terms are kd"):
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))


@pytest.mark.slow
def test_assistants_hand_on_what_they_learned(tiny, recipe_of, teacher, batches):
  assistant = recipe_of(student=tiny(features=8), teachers=(teacher[0],), loss=distill.patient())
  last = recipe_of(student=tiny(features=4), teachers=(assistant.student,), loss=distill.patient())
  quiet = Console(quiet=True)
  options = {"steps": 2, "teacher_variables": teacher[1], "console": quiet}
  state = fit_chain([assistant, last], jax.random.key(0), batches, **options)
  middle = fit_chain([assistant], jax.random.key(0), batches, **options)
  jax.tree.map(np.testing.assert_array_equal, state.teachers[0], middle.variables)
  assert state.params["classifier"]["kernel"].shape[0] == 4
  with pytest.raises(ValueError, match="recipe 1 must have one teacher, the student"):
    fit_chain([assistant, assistant], jax.random.key(0), batches, **options)
