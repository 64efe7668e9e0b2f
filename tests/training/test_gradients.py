"""Microbatches, bfloat16 and rematerialization: what they change, and what they do not."""

import dataclasses

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill, nn, quantize
from jaxcompress.training import distill_step, dot, init_state, train_step


class WithoutNorm(linen.Module):
  """A network whose examples do not see each other."""

  features: int = 8

  @linen.compact
  def __call__(self, x, *, train):
    del train
    x = nn.ConvNorm(self.features, kernel=3, stride=4, act="relu", norm=None, name="stem")(
      x, train=False
    )
    pooled = nn.GlobalAvgPool(name="pool")(x)
    return nn.Endpoints(nn.Dense(5, name="classifier")(pooled), pooled, (x,))


@pytest.fixture(scope="module")
def distilling(recipe_of, batches):
  """``distilling(**parts)``: state and metrics after one step of a loss with relations and banks."""
  teacher = WithoutNorm(12)
  variables = teacher.init(jax.random.key(3), jnp.zeros((1, 8, 8, 3)), train=False)
  loss = distill.named_chain(
    labels=distill.cross_entropy(),
    kd=distill.kd(4.0),
    relations=distill.rkd(),
    banks=distill.crd(40, dim=4, negatives=8, strata=4),
  )

  def run(**parts):
    recipe = recipe_of(**{"student": WithoutNorm(), "teachers": (teacher,), "loss": loss, **parts})
    state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(variables,))
    return distill_step(state, batches(0))

  return run


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, {"optimizer": dot(0.1), "apart": ("kd", "relations")}])
def test_microbatches_give_the_gradient_of_the_whole_batch_for_losses_that_compare_examples(
  distilling, parts
):
  whole, cut = (distilling(accumulate=count, **parts) for count in (1, 4))
  (state, metrics), (of_parts, metrics_of_parts) = whole, cut
  chex.assert_trees_all_close(metrics, metrics_of_parts, rtol=1e-5)
  for name in ("params", "loss_params", "loss_state", "opt_state"):
    chex.assert_trees_all_close(getattr(state, name), getattr(of_parts, name), rtol=1e-5, atol=1e-6)
  assert int(of_parts.step) == 1


@pytest.mark.slow
def test_batch_norm_sees_one_microbatch_after_the_other(recipe_of, batches, tiny):
  batch = batches(0)
  state = init_state(recipe_of(accumulate=2), jax.random.key(0), batch)
  variables = jax.device_get(state.variables)
  for part in (batch["image"][::2], batch["image"][1::2]):
    _, updated = tiny().apply(variables, part, train=True, mutable=["batch_stats"])
    variables = {**variables, **updated}
  state, _ = train_step(state, batch)
  chex.assert_trees_all_close(state.batch_stats, variables["batch_stats"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rematerialization_computes_the_blocks_again_and_changes_no_number(recipe_of, batches):
  states = {
    remat: init_state(recipe_of(remat=remat), jax.random.key(0), batches(0))
    for remat in (False, True)
  }
  texts = {remat: train_step.lower(state, batches(0)).as_text() for remat, state in states.items()}
  products = {remat: text.count("stablehlo.dot_general") for remat, text in texts.items()}
  assert products[True] > products[False]
  (plain, loss), (again, same) = (train_step(states[remat], batches(0)) for remat in (False, True))
  np.testing.assert_allclose(loss["loss"], same["loss"], rtol=1e-6)
  chex.assert_trees_all_close(plain.params, again.params, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(plain.batch_stats, again.batch_stats, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_everything_else_in_float32(recipe_of, batches):
  narrow, wide = (
    init_state(recipe_of(compute_dtype=dtype), jax.random.key(0), batches(0))
    for dtype in (jnp.bfloat16, None)
  )
  text = train_step.lower(narrow, batches(0)).as_text()
  products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
  assert sum("bf16" in line for line in products) >= len(products) - 1  # all but the classifier's
  before = jax.tree.map(lambda x: x.dtype, narrow)
  narrow, of_narrow = train_step(narrow, batches(0))
  _, of_wide = train_step(wide, batches(0))
  assert jax.tree.map(lambda x: x.dtype, narrow) == before
  np.testing.assert_allclose(of_narrow["loss"], of_wide["loss"], rtol=0.02)


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"accumulate": 0}, "accumulate: 0 must be a whole number, at least 1"),
    ({"accumulate": 2.0}, "accumulate: 2.0"),
    ({"compute_dtype": jnp.int8}, "compute_dtype: .*int8.* must be a float"),
    (
      {
        "compute_dtype": jnp.bfloat16,
        "quantize": dataclasses.replace(quantize.int8(freeze_norm_step=1), exact_step=5),
      },
      "compute_dtype: bfloat16 cannot hold the integers",
    ),
  ],
)
def test_mistakes_about_precision_and_microbatches_are_named(recipe_of, parts, message):
  with pytest.raises(ValueError, match=message):
    recipe_of(**parts)


def test_microbatches_must_divide_the_batch(recipe_of, batches):
  state = init_state(recipe_of(accumulate=3), jax.random.key(0), batches(0))
  with pytest.raises(ValueError, match="accumulate: 3 microbatches do not divide a batch of 16"):
    train_step(state, batches(0))
