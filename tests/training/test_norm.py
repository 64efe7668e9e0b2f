"""BatchNorm's statistics after training, and rounded gradients during it."""

import chex
import flax.linen as linen
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import nn, quantize
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
  chex.assert_trees_all_close(averaged, together.batch_stats["stem"], rtol=2e-6, atol=1e-7)
  again = reestimate_norm(together, [whole])
  chex.assert_trees_all_close(again.batch_stats, together.batch_stats, rtol=2e-4, atol=1e-5)
  chex.assert_trees_all_equal(
    (together.params, together.quantizer.state, together.step),
    (trained.params, trained.quantizer.state, trained.step),
  )


@pytest.mark.slow
def test_the_deployed_network_takes_the_new_statistics(trained, batches):
  images = batches(5)["image"]
  settled = reestimate_norm(trained, [{"image": images}])
  old, new = (np.asarray(predict(state, images)) for state in (trained, settled))
  assert np.max(np.abs(old - new)) > 0.01
  step = settled.quantized().grids["classifier"].scale
  assert np.mean(np.abs(settled.quantized()(images) - new)) < 2 * step


class OneLayer(linen.Module):
  """A normalization that sees the images themselves."""

  momentum: float
  after_convolution: bool

  @linen.compact
  def __call__(self, x, *, train):
    norm = nn.Norm(momentum=self.momentum)
    if self.after_convolution:
      x = nn.ConvNorm(3, norm=norm, name="layer")(x, train=train)
    else:
      x = nn.BatchNorm(norm=norm, name="layer")(x, train=train)
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


def one_layer(momentum, after_convolution, batch, recipe_of, old=0.0):
  """A state whose convolution, if any, does nothing, and whose running statistics are arbitrary."""
  recipe = recipe_of(student=OneLayer(momentum, after_convolution))
  state = init_state(recipe, jax.random.key(0), batch)
  if after_convolution:
    state.params["layer"]["kernel"] = np.eye(3, dtype=np.float32).reshape(1, 1, 3, 3)
  spoilt = {"mean": np.full(3, old, np.float32), "var": np.full(3, abs(old), np.float32)}
  return state.replace(batch_stats={"layer": spoilt})


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
  momentum=st.sampled_from([0.0, 0.9, 0.99, 0.999, 0.9999, 1.0]),
  after_convolution=st.booleans(),
  log_scale=st.integers(-4, 4),
  offset=st.sampled_from([0.0, 1.0, -30.0, 300.0]),  # in deviations
  old=st.sampled_from([0.0, 1.0, -1e4, 1e9, float("inf"), float("nan")]),
  sizes=st.lists(st.sampled_from([4, 9]), min_size=1, max_size=3),
  seed=st.integers(0, 99),
)
def test_moments_are_those_of_the_images_in_float64(
  recipe_of, momentum, after_convolution, log_scale, offset, old, sizes, seed
):
  rng = np.random.default_rng(seed)
  stretch = np.array([0.3, 1.0, 7.0])  # the channels differ

  def images(size):
    x = rng.normal(size=(size, 7, 6, 3)) + rng.normal() / 3 + offset
    return (x * stretch * 10.0**log_scale).astype(np.float32)

  parts = [images(size) for size in sizes]
  batches = [{"image": part, "label": np.zeros(len(part), np.int32)} for part in parts]
  state = one_layer(momentum, after_convolution, batches[0], recipe_of, old)
  found = jax.device_get(reestimate_norm(state, batches).batch_stats["layer"])
  seen = np.concatenate(parts).astype(np.float64).reshape(-1, 3)
  # A mean is as good as its values are; a variance as good as their deviations are.
  np.testing.assert_allclose(found["mean"], seen.mean(0), rtol=2e-6, atol=2e-6 * seen.std(0).min())
  np.testing.assert_allclose(found["var"], seen.var(0), rtol=2e-6)


def test_many_values_lose_no_digits(recipe_of):
  rng = np.random.default_rng(5)
  image = (rng.exponential(size=(64, 96, 96, 3)) - 2.0).astype(np.float32)
  batch = {"image": image, "label": np.zeros(64, np.int32)}
  state = one_layer(0.999, False, batch, recipe_of)
  found = jax.device_get(reestimate_norm(state, [batch]).batch_stats["layer"])
  seen = image.astype(np.float64).reshape(-1, 3)
  np.testing.assert_allclose(found["mean"], seen.mean(0), rtol=1e-6)
  np.testing.assert_allclose(found["var"], seen.var(0), rtol=1e-6)


def test_later_layers_are_measured_behind_well_normalised_ones(trained, batches):
  """Old statistics of one layer do not reach the next."""
  spoilt = jax.tree.map(lambda x: 1e8 * jax.numpy.ones_like(x), trained.batch_stats)
  found = [
    reestimate_norm(state, [batches(7)]).batch_stats
    for state in (trained, trained.replace(batch_stats=spoilt))
  ]
  chex.assert_trees_all_equal(*found)


def test_without_batches_it_says_so(trained):
  with pytest.raises(ValueError, match="batches must not be empty"):
    reestimate_norm(trained, [])


@pytest.mark.parametrize(("place", "value"), [(0, np.nan), (1, np.inf), (2, 1e25)])
@pytest.mark.parametrize("after_convolution", [False, True])
def test_statistics_that_are_not_finite_are_refused(recipe_of, place, value, after_convolution):
  """Squares of 1e25 are beyond float32."""
  images = np.random.default_rng(0).normal(size=(3, 5, 6, 4, 3)).astype(np.float32)
  parts = [{"image": image, "label": np.zeros(5, np.int32)} for image in images]
  state = one_layer(0.9, after_convolution, parts[0], recipe_of)
  images[place, 3, 2, 1] = value
  with pytest.raises(
    ValueError, match=f"batches: the statistics of 'layer' in batch {place} are not"
  ):
    reestimate_norm(state, parts)


@pytest.mark.parametrize("offset", [300.0, -1e5])
def test_means_of_batches_far_from_zero_are_joined_to_all_digits(recipe_of, offset):
  """Those of two batches differ by little of what they are."""
  rng = np.random.default_rng(3)
  parts = [
    (offset + shift + rng.integers(-4, 5, (6, 7, 9, 3)) / 8).astype(np.float32)
    for shift in (0, 1.5)
  ]
  batches = [{"image": part, "label": np.zeros(6, np.int32)} for part in parts]
  state = one_layer(0.99, False, batches[0], recipe_of)
  found = jax.device_get(reestimate_norm(state, batches).batch_stats["layer"])
  seen = np.concatenate(parts).astype(np.float64).reshape(-1, 3)
  np.testing.assert_allclose(found["var"], seen.var(0), rtol=1e-6)


@pytest.mark.slow
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
  with pytest.raises(ValueError, match="gradients: 0 is out of range"):
    quantize.Quantization(
      weights=quantize.absmax(8), activations=quantize.ema_range(8), gradients=0
    )
