"""BatchNorm's statistics after training, and rounded gradients during it."""

import chex
import jax
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.training import init_state, predict, reestimate_norm, train_step


@pytest.fixture(scope="module")
def trained(recipe_of, batches):
  recipe = recipe_of(quantize=quantize.w4a8(freeze_norm_step=2))
  state = init_state(recipe, jax.random.key(0), batches(0))
  for position in range(4):
    state, _ = train_step(state, batches(position))
  return state


def test_statistics_become_those_of_all_images_together(trained, batches):
  parts = [batches(position) for position in (7, 8, 9)]
  whole = {"image": np.concatenate([part["image"] for part in parts])}
  together = reestimate_norm(trained, [whole])
  # The first layer's input does not depend on how images are batched.
  averaged = reestimate_norm(trained, parts).batch_stats["stem"]
  chex.assert_trees_all_close(averaged, together.batch_stats["stem"], rtol=2e-4, atol=1e-6)
  again = reestimate_norm(together, [whole])
  chex.assert_trees_all_close(again.batch_stats, together.batch_stats, rtol=2e-4, atol=1e-5)
  chex.assert_trees_all_equal(
    (together.params, together.quantizer.state, together.step),
    (trained.params, trained.quantizer.state, trained.step),
  )


def test_the_deployed_network_takes_the_new_statistics(trained, batches):
  images = batches(5)["image"]
  settled = reestimate_norm(trained, [{"image": images}])
  old, new = (np.asarray(predict(state, images)) for state in (trained, settled))
  assert np.max(np.abs(old - new)) > 0.01
  step = settled.quantized().grids["classifier"].scale
  assert np.mean(np.abs(settled.quantized()(images) - new)) < 2 * step


def test_without_batches_it_says_so(trained):
  with pytest.raises(ValueError, match="batches: there are none"):
    reestimate_norm(trained, [])


def test_rounded_gradients_are_unbiased_and_train(recipe_of, batches):
  """With 3 bits the gradient of one step is rough; its mean over keys is that of float."""
  plans = {bits: quantize.Quantization(
    weights=quantize.absmax(8), activations=quantize.ema_range(8), gradients=bits
  ) for bits in (None, 16, 3)}  # fmt: skip
  moved = {}
  for bits, plan in plans.items():
    start = init_state(recipe_of(quantize=plan), jax.random.key(0), batches(0))
    before = jax.device_get(start.params["classifier"]["kernel"])
    for seed in range(12 if bits == 3 else 1):
      state = init_state(start.recipe, jax.random.key(0), batches(0))
      state, _ = train_step(state.replace(rng=jax.random.key(seed)), batches(0))
      moved.setdefault(bits, []).append(state.params["classifier"]["kernel"] - before)
  exact = moved[None][0]
  size = np.linalg.norm(exact)
  assert np.linalg.norm(moved[16][0] - exact) < 0.01 * size
  one, mean = moved[3][0] - exact, np.mean(moved[3], axis=0) - exact
  assert 0.02 * size < np.linalg.norm(one)
  assert np.linalg.norm(mean) < 0.6 * np.linalg.norm(one)


def test_gradient_bits_out_of_range_are_an_error():
  with pytest.raises(ValueError, match="gradients: 0 bits are out of range"):
    quantize.Quantization(
      weights=quantize.absmax(8), activations=quantize.ema_range(8), gradients=0
    )
