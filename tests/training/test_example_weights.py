"""Weights of examples in the training step: what does not count is not there, however it trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill
from jaxcompress.data import Mix
from jaxcompress.training import distill_step, fit, init_state, train_step


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, {"accumulate": 2}, {"remat": True}], ids=str)
@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_a_step_is_that_of_the_examples_that_count(recipe_of, teacher, batches, parts, taught):
  loss, given, step = distill.cross_entropy(), {}, train_step
  if taught:
    loss = distill.named_chain(labels=distill.cross_entropy(), kd=distill.kd())
    parts, given = {**parts, "teachers": (teacher[0],)}, {"teacher_variables": (teacher[1],)}
    step = distill_step
  recipe = recipe_of(
    optimizer=optax.sgd(0.1), loss=loss, freeze_norm_step=0, frozen_rate=1.0, **parts
  )
  whole = batches(0)
  counts = np.arange(16) % 4 != 1
  few = {name: x[counts] for name, x in whole.items()}
  weighted, metrics = step(
    init_state(recipe, jax.random.key(0), whole, **given), {**whole, "weight": np.float32(counts)}
  )
  expected, _ = step(init_state(recipe, jax.random.key(0), whole, **given), few)
  _, plain = step(init_state(recipe, jax.random.key(0), whole, **given), whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    weighted.params,
    expected.params,
  )
  assert metrics["loss"] != plain["loss"]
  for name in set(plain) - {"loss"}:
    np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_mixed_images_have_mixed_weights(recipe_of, batches):
  batch = {**batches(0), "weight": np.arange(16, dtype=np.float32)}
  mixed = Mix(classes=5, mixup=0.5)(jax.random.key(3), batch)
  share = float(mixed["target"].max(axis=1).min())
  assert 0.5 < share < 1
  both = np.stack([batch["weight"], np.roll(batch["weight"], 1)])
  found = [
    np.allclose(mixed["weight"], s * both[0] + (1 - s) * both[1]) for s in (share, 1 - share)
  ]
  assert any(found)
  recipe = recipe_of(augment=Mix(classes=5, mixup=0.5))
  _, metrics = train_step(init_state(recipe, jax.random.key(0), batch), batch)
  assert np.isfinite(metrics["loss"])


def test_wrong_weights_are_refused_before_they_are_trained_with(recipe_of, batches):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  for weight, message in (
    (np.full(16, -1.0), "'weight' has -1.0"),
    (jnp.full(16, -1.0), "'weight' has -1.0"),
    (jnp.full(16, jnp.nan), "'weight' has nan"),
    (np.ones(3), r"'weight' has shape \(3,\), and there are 16 images"),
  ):
    if isinstance(weight, np.ndarray):
      with pytest.raises(ValueError, match=message):
        train_step(state, {**batches(0), "weight": weight})
    with pytest.raises(ValueError, match=message):
      fit(state, lambda i, weight=weight: {**batches(i), "weight": weight}, steps=1)
  kept, metrics = train_step(state, {**batches(0), "weight": jnp.ones(16).at[3].set(-1.0)})
  assert (
    int(metrics["skipped"]) == 1 and int(kept.step) == 0
  )  # what is on a device is not waited for
  compares = dataclasses.replace(
    kept.recipe, loss=distill.stateless("own", lambda s, t, b: s.logits.mean())
  )
  with pytest.raises(ValueError, match="by_example=True if own is"):
    init_state(compares, jax.random.key(0), {**batches(0), "weight": np.ones(16, np.float32)})
