"""Statistics that a recipe freezes, and the rate of what moves before them."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, nn, quantize
from jaxcompress.training import Stage, distill_step, dot, init_state, sgd, train_step
from jaxcompress.training.frozen import frozen_norms, slowed_layers

RATE = 0.1
NORMS = ("stem", "expand", "depthwise", "project")


def ready(recipe, batches, **options):
  """A state whose running statistics are far from any batch's."""
  state = init_state(recipe, jax.random.key(0), batches(0), **options)
  spread = lambda x: x + 0.5 + np.arange(x.size, dtype=np.float32)  # noqa: E731
  return state.replace(batch_stats=jax.tree.map(spread, state.batch_stats))


def moved(before, after):
  return {
    name
    for name in before
    if not jax.tree.all(jax.tree.map(np.array_equal, before[name], after[name]))
  }


def steps_taken(state, batches, count, step=train_step):
  """Returns the state, and the statistics that each step moved."""
  found = []
  for position in range(count):
    before = jax.device_get(state.batch_stats)
    state, _ = step(state, batches(position))
    found.append(moved(before, jax.device_get(state.batch_stats)))
  return state, found


@pytest.mark.parametrize(
  ("steps", "expected"),
  [
    (None, [set(NORMS)] * 3),
    (0, [set()] * 3),
    (2, [set(NORMS)] * 2 + [set()]),
    ({"^stem|expand": 0}, [{"depthwise", "project"}] * 3),
    ({"depthwise": 1}, [set(NORMS)] + [set(NORMS) - {"depthwise"}] * 2),
    ({("ConvNorm", "!first"): 1, "stem": 2}, [set(NORMS), {"stem"}, set()]),
  ],
)
def test_statistics_stay_from_their_step_on(recipe_of, batches, steps, expected):
  _, found = steps_taken(ready(recipe_of(freeze_norm_step=steps), batches), batches, 3)
  assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  "parts",
  [
    {"quantize": quantize.int8()},
    {"quantize": quantize.int8(start_step=1, freeze_norm_step=3)},
    {"accumulate": 2},
    {"remat": True},
    {"ema": 0.9},
  ],
  ids=["int8", "int8 frozen later", "microbatches", "remat", "average"],
)
def test_statistics_stay_however_it_trains(recipe_of, batches, parts):
  recipe = recipe_of(freeze_norm_step={"stem|expand": 0, "project": 1}, **parts)
  _, found = steps_taken(ready(recipe, batches), batches, 3)
  assert found == [{"depthwise", "project"}, {"depthwise"}, {"depthwise"}]


@pytest.mark.slow
def test_whatever_freezes_first_counts(recipe_of, batches):
  recipe = recipe_of(
    quantize=quantize.int8(freeze_norm_step=1),
    freeze_norm_step={"depthwise": 2, "expand": 0},
    trainable=("student", "quantizer", "!student/stem"),
  )
  state = ready(recipe, batches)
  steps = {"stem": 0, "expand": 0, "depthwise": 1, "project": 1}
  assert frozen_norms(state) == {(name,): at for name, at in steps.items()}
  _, found = steps_taken(state, batches, 2)
  assert found == [{"depthwise", "project"}, set()]


@pytest.mark.slow
def test_stages_keep_what_is_frozen(recipe_of, teacher, batches):
  labels = distill.named_chain(labels=distill.cross_entropy())
  recipe = recipe_of(
    teachers=(teacher[0], recipe_of().student),
    mean_teacher=0.5,
    loss=labels,
    stages=(Stage(labels, ("student",), 2),),
    freeze_norm_step={"stem": 1},
  )
  state = ready(recipe, batches, teacher_variables=(teacher[1], None))
  other = jax.device_get(state.teachers[0])
  state, found = steps_taken(state, batches, 3, distill_step)
  assert found == [set(NORMS), set(NORMS) - {"stem"}, set(NORMS) - {"stem"}]
  assert not moved(other, jax.device_get(state.teachers[0]))


@pytest.mark.slow
def test_a_frozen_step_is_that_of_the_network_in_evaluation(recipe_of, batches):
  """Against optax on the gradient of the plain function."""
  optimizer = optax.sgd(RATE)
  state = ready(recipe_of(freeze_norm_step=0, frozen_rate=1.0, optimizer=optimizer), batches)
  variables, batch = jax.device_get(state.variables), batches(0)

  def loss(params):
    variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
    logits = state.recipe.student.apply(variables_now, batch["image"], train=False).logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

  expected = optax.apply_updates(
    variables["params"], jax.tree.map(lambda g: -RATE * g, jax.grad(loss)(variables["params"]))
  )
  state, metrics = train_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], loss(variables["params"]), rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected
  )


def first_updates(recipe, batches, count=1):
  """How far each layer moved in the last of some steps."""
  state = init_state(recipe, jax.random.key(0), batches(0))
  for position in range(count):
    before = jax.device_get(state.params)
    state, _ = train_step(state, batches(position))
  return jax.tree.map(lambda a, b: np.asarray(a - b), dict(state.params), before)


def check_slowed(full, lower, slow, factor):
  """Slowed layers have the factor, and a gradient whose norm together is 1 at most."""
  of_slow = [x / RATE for name in slow for x in jax.tree.leaves(full[name])]
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in of_slow))
  factor = factor / max(1.0, norm)
  for name, moved_by in full.items():
    expected = jax.tree.map(lambda x, f=factor if name in slow else 1.0: f * x, moved_by)
    jax.tree.map(
      lambda a, b, name=name: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6, err_msg=name),
      lower[name],
      expected,
    )
  return norm


@pytest.mark.slow
@pytest.mark.parametrize(
  ("parts", "slow"),
  [
    ({"freeze_norm_step": 0}, NORMS),
    ({"freeze_norm_step": {"expand": 0}}, ("stem", "expand")),
    ({"freeze_norm_step": 1}, ()),
    ({"quantize": quantize.int8(freeze_norm_step=0)}, NORMS),
    ({"trainable": ("student/*/kernel",)}, NORMS),
    ({"trainable": ("student", "!student/expand")}, ("stem",)),
    ({"trainable": ("student/classifier",)}, ()),
  ],
)
def test_what_lies_before_a_frozen_normalization_moves_at_the_lower_rate(
  recipe_of, batches, parts, slow
):
  parts = {"optimizer": optax.sgd(RATE), **parts}
  full = first_updates(recipe_of(frozen_rate=1.0, **parts), batches)
  lower = first_updates(recipe_of(frozen_rate=0.25, **parts), batches)
  check_slowed(full, lower, slow, 0.25)


@pytest.mark.slow
def test_the_rate_falls_in_the_step_that_freezes(recipe_of, batches):
  parts = {"optimizer": optax.sgd(RATE), "freeze_norm_step": 1}
  (full, lower) = (first_updates(recipe_of(frozen_rate=r, **parts), batches, 2) for r in (1.0, 0.5))
  assert check_slowed(full, lower, NORMS, 0.5) > 1  # so that the clip is seen, too


@pytest.mark.slow
def test_parts_of_a_gradient_are_clipped_alike(recipe_of, teacher, batches):
  loss = distill.named_chain(labels=distill.cross_entropy(), teacher=distill.kd())
  parts = {"loss": loss, "teachers": (teacher[0],), "freeze_norm_step": 0}
  found = []
  for more in ({}, {"apart": ("teacher",), "optimizer": dot(RATE, delta=0.0, momentum=0.0)}):
    recipe = recipe_of(**{"optimizer": sgd(RATE, momentum=0.0, nesterov=False), **parts, **more})
    state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))
    found.append(distill_step(state, batches(0))[0].params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


class Apart(linen.Module):
  """A convolution whose normalization is a layer of its own, on one of two branches."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(6, kernel=3, norm=None, name="conv")(x, train=train)
    y = nn.BatchNorm(name="norm")(x, train=train)
    z = nn.ConvNorm(6, norm=None, name="side")(x, train=train)
    pooled = nn.GlobalAvgPool(name="pool")(nn.Add(name="add")(y, z))
    return nn.Endpoints(nn.Dense(5, name="classifier")(pooled), pooled)


def test_what_comes_before_is_read_off_the_graph(recipe_of, batches):
  recipe = recipe_of(student=Apart(), freeze_norm_step=3)
  state = init_state(recipe, jax.random.key(0), batches(0))
  assert slowed_layers(state) == {"conv": 3, "norm": 3}


@pytest.mark.slow
def test_a_trained_network_is_fine_tuned_at_the_rate_that_it_was_trained_with(recipe_of, batches):
  """Frozen from the start at that rate it would fall; a tenth of it is taken by default."""
  optimizer = optax.sgd(0.2, momentum=0.9)
  state = init_state(recipe_of(optimizer=optimizer), jax.random.key(0), batches(0, 64))
  for position in range(40):
    state, trained = train_step(state, batches(position, 64))
  variables = jax.tree.map(np.asarray, state.variables)
  last = {}
  for rate in (0.1, 1.0):
    recipe = recipe_of(optimizer=optimizer, freeze_norm_step=0, frozen_rate=rate)
    state = init_state(recipe, jax.random.key(1), batches(0), student_variables=variables)
    for position in range(40):
      state, metrics = train_step(state, batches(100 + position, 4))
    last[rate] = float(metrics["loss"])
  assert last[0.1] < 2 * float(trained["loss"]) + 0.1


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"freeze_norm_step": True}, "freeze_norm_step: True must be a whole number, at least 0"),
    ({"freeze_norm_step": -1}, "freeze_norm_step: -1 must be"),
    ({"freeze_norm_step": {"stem": 0.5}}, r"freeze_norm_step\['stem'\]: 0.5 must be a whole"),
    ({"freeze_norm_step": {"(": 0}}, "freeze_norm_step: .* is no regular expression"),
    ({"frozen_rate": 2.0}, "frozen_rate: 2.0 must be a number from 0 to 1"),
    ({"freeze_norm_step": {"steam": 0}}, "freeze_norm_step: 'steam' matches no layer"),
    ({"freeze_norm_step": {"last": 0}}, "'last' names no layer with running statistics"),
  ],
)
def test_mistakes_name_the_argument(recipe_of, batches, parts, message):
  with pytest.raises(ValueError, match=message):
    init_state(recipe_of(**parts), jax.random.key(0), batches(0))


def test_a_network_without_a_graph_freezes_too(batches, recipe_of):
  class Odd(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.ConvNorm(6, name="stem")(x, train=train)
      return nn.Dense(5, name="classifier")(jnp.sin(x).mean((1, 2)))  # no leaf op

  state = ready(recipe_of(student=Odd(), freeze_norm_step=1), batches)
  assert slowed_layers(state) == {"stem": 1}
  _, found = steps_taken(state, batches, 2)
  assert found == [{"stem"}, set()]
