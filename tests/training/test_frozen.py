"""A part that does not train computes in training what it computes in evaluation."""

import itertools

import flax.linen as linen
import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import distill, nn, quantize
from jaxcompress.training import Stage, distill_step, init_state, train_step
from jaxcompress.training.stages import still_norms

RATE = 0.1
HEAD = ("student/classifier",)
NORMS = ("stem", "expand", "depthwise", "project")


def ready(recipe, batches, seed=0, **options):
  """A state whose running statistics are far from any batch's."""
  state = init_state(recipe, jax.random.key(seed), batches(0), **options)
  spread = lambda x: x + 0.5 + np.arange(x.size, dtype=np.float32)  # noqa: E731
  return state.replace(batch_stats=jax.tree.map(spread, state.batch_stats))


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(size=st.sampled_from([1, 2, 5, 16]), seed=st.integers(0, 100))
def test_a_head_on_a_frozen_backbone_learns_as_on_inference_features(
  recipe_of, batches, size, seed
):
  state = ready(recipe_of(optimizer=optax.sgd(RATE), trainable=HEAD), batches, seed)
  before = jax.device_get(state.variables)
  batch = batches(seed, size)
  features = state.recipe.student.apply(before, batch["image"], train=False).pooled

  def loss(head):
    logits = nn.Dense(5).apply({"params": head}, features)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

  expected = jax.grad(loss)(before["params"]["classifier"])
  after, metrics = train_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], loss(before["params"]["classifier"]), rtol=1e-5)
  moved = jax.tree.map(
    lambda a, b: (a - b) / RATE, before["params"]["classifier"], after.params["classifier"]
  )
  jax.tree.map(lambda m, e: np.testing.assert_allclose(m, e, rtol=1e-3, atol=2e-5), moved, expected)
  assert same(before["batch_stats"], after.batch_stats)
  rest = lambda params: {k: v for k, v in params.items() if k != "classifier"}  # noqa: E731
  assert same(rest(before["params"]), rest(after.params))


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
  ids=["int8", "int8 later", "microbatches", "remat", "average"],
)
def test_frozen_statistics_stay_to_the_bit_however_it_trains(recipe_of, batches, parts):
  state = ready(recipe_of(trainable=HEAD, **parts), batches)
  before = jax.device_get(state.batch_stats)
  for position in range(3):
    state, _ = train_step(state, batches(position))
  assert same(before, state.batch_stats)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("trainable", "still"),
  [
    (("student",), ()),
    (("student", "!student/stem"), ("stem",)),
    (("student/project", "student/classifier"), ("stem", "expand", "depthwise")),
    (("student/*/scale",), ()),
    (("student/stem/bias",), ("expand", "depthwise", "project")),
    (("student/*/kernel",), NORMS),
    (("student", "!student/*/scale", "!student/*/bias"), NORMS),
    (("quantizer", "loss"), NORMS),
  ],
)
def test_a_normalization_follows_the_batch_where_its_scale_or_bias_trains(
  recipe_of, batches, trainable, still
):
  plan = quantize.int4() if "quantizer" in trainable else None  # it has steps to train
  state = ready(recipe_of(trainable=trainable, quantize=plan), batches)
  assert still_norms(trainable, state.params, state.batch_stats) == {(name,) for name in still}
  before = jax.device_get(state.batch_stats)
  state, _ = train_step(state, batches(0))
  moved = {name for name in NORMS if not same(before[name], state.batch_stats[name])}
  assert moved == set(NORMS) - set(still)


@pytest.mark.slow
def test_each_stage_holds_what_it_does_not_train(recipe_of, teacher, batches):
  """As in RepDistiller: what an early stage trains is in train mode, all else in eval mode."""
  asked = distill.parse("fsp")
  recipe = recipe_of(
    teachers=(teacher[0],),
    loss=distill.named_chain(labels=distill.cross_entropy()),
    stages=(Stage(distill.named_chain(at=distill.attention()), asked.moves, 1),
            Stage(distill.named_chain(labels=distill.cross_entropy()), HEAD, 1)),
  )  # fmt: skip
  state = ready(recipe, batches, teacher_variables=(teacher[1],))
  seen = [jax.device_get(state.batch_stats)]
  for position in range(3):
    state, _ = distill_step(state, batches(position))
    seen.append(jax.device_get(state.batch_stats))
  assert [same(a, b) for a, b in itertools.pairwise(seen)] == [False, True, False]


class Foreign(linen.Module):
  """A network with a normalization of flax."""

  @linen.compact
  def __call__(self, x, *, train):
    x = linen.BatchNorm(use_running_average=not train, name="bn")(x)
    return nn.Dense(5, name="classifier")(x.mean((1, 2)))


@pytest.mark.slow
def test_a_normalization_that_cannot_be_held_is_refused(recipe_of, batches):
  state = init_state(recipe_of(student=Foreign()), jax.random.key(0), batches(0))
  train_step(state, batches(0))
  for parts in ({"trainable": HEAD}, {"freeze_norm_step": 2}):
    recipe = recipe_of(student=Foreign(), **parts)
    state = init_state(recipe, jax.random.key(0), batches(0))
    with pytest.raises(
      ValueError, match="freeze_norm_step: 'bn', a BatchNorm, does not move or is"
    ):
      train_step(state, batches(0))


@pytest.mark.slow
def test_quantizers_train_alone(recipe_of, batches):
  plan = quantize.Quantization(weights=quantize.lsq(4), activations=quantize.lsq_activations(8))
  state = ready(recipe_of(quantize=plan, trainable=("quantizer",)), batches)
  before = jax.device_get((state.params, state.batch_stats, state.quantizer.params))
  for position in range(2):
    state, _ = train_step(state, batches(position))
  assert same(before[:2], (state.params, state.batch_stats))
  assert not same(before[2], state.quantizer.params)
