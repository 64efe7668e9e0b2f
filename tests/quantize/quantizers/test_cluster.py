"""Weight clustering against float64: assignment, gradients, k-means, and what a file holds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from jaxcompress.quantize.quantizers.cluster import cluster, cluster_weights, find_centroids

SHAPE = (3, 3, 4, 6)


def rounded_by(quantizer, w):
  """Values, state and grid of a kernel that is the first one of training."""
  params, state = quantizer.init(w)
  y, state = quantizer.apply(params, state, w, train=True)
  return y, state, *quantizer.grid(params, state, w)


def case(seed=0, entries=7):
  rng = np.random.default_rng(seed)
  w, g = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  codebook = np.append(rng.normal(size=entries - 1), 0).astype(np.float32)
  return w, g, codebook


def reference(w, g, codebook):
  """Nearest entries, and gradients of them, in float64."""
  w, g, codebook = (np.float64(x) for x in (w, g, codebook))
  index = np.abs(w[..., None] - codebook).argmin(-1)
  picked = index[..., None] == np.arange(codebook.size)
  return codebook[index], (g[..., None] * picked).sum((0, 1, 2, 3)), picked.sum((0, 1, 2, 3))


@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_values_and_gradients_are_those_of_float64(pull, gradient):
  w, g, codebook = case()
  y, (dw, dc) = pull(lambda w, c: cluster_weights(w, c, gradient), g, w, codebook)
  value, total, count = reference(w, g, codebook)
  np.testing.assert_array_equal(y, value.astype(np.float32))
  np.testing.assert_array_equal(dw, g)
  assert count.min() > 0
  np.testing.assert_allclose(dc, total if gradient == "sum" else total / count, 1e-5, 1e-5)


def test_the_gradient_of_entries_is_what_autodiff_finds_with_fixed_assignments(pull):
  w, g, codebook = case(1)
  index = np.abs(w[..., None] - codebook).argmin(-1)
  _, (plain,) = pull(lambda c: c[index], g, codebook)
  _, (_, ours) = pull(cluster_weights, g, w, codebook)
  np.testing.assert_allclose(ours, plain, 1e-5, 1e-6)


@pytest.mark.parametrize("start", ["linear", "k-means++"])
def test_centroids_are_a_fixed_point_of_lloyds_algorithm_beside_zero(start):
  w = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
  found = np.float64(jax.jit(lambda w: find_centroids(w, 6, start))(w))
  np.testing.assert_array_equal(found, np.sort(found))
  _, total, count = reference(w, w, np.append(found, 0))
  np.testing.assert_allclose(found, (total / count)[:-1], 0.02, 2e-3)


def test_the_error_of_centroids_is_near_that_of_scikit_learn():
  w = np.random.default_rng(0).laplace(size=8192).astype(np.float32)
  codebook = np.append(jax.jit(find_centroids, static_argnums=1)(w, 32), 0)
  ours = np.square(
    w - reference(w.reshape(1, 1, 64, -1), w.reshape(1, 1, 64, -1), codebook)[0].ravel()
  )
  theirs = KMeans(32, n_init=1, random_state=0).fit(w[:, None])
  assert ours.sum() < 1.1 * theirs.inertia_


def learned(quantizer, w, delta):
  """Values once the codebook has moved."""
  params, state = quantizer.init(w)
  _, state = quantizer.apply(params, state, w, train=True)
  return quantizer.apply(params._replace(delta=delta), state, w, train=False)[0]


LEARNED = {
  per_channel: jax.jit(partial(learned, cluster(8, per_channel=per_channel)))
  for per_channel in (True, False)
}


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.3, 0.8, 1.0]), per_channel=st.booleans())
def test_pruned_weights_stay_zero_whatever_the_codebook_learns(seed, share, per_channel):
  rng = np.random.default_rng(seed)
  w = (rng.normal(size=SHAPE) * (rng.random(SHAPE) >= share)).astype(np.float32)
  y = LEARNED[per_channel](w, rng.normal(size=7).astype(np.float32))
  assert np.all(np.asarray(y)[w == 0] == 0)
  assert np.all(np.isfinite(y))


@pytest.mark.parametrize("per_channel", [True, False])
def test_integers_are_the_codebook_of_the_layer_and_give_the_values_back(per_channel):
  w = case()[0] * np.float32([1, 2, 0.1, 5, 1, 1])
  quantizer = cluster(9, per_channel=per_channel)
  y, _, scale, zero = jax.jit(rounded_by, static_argnums=0)(quantizer, w)
  codes = np.asarray(jnp.round(y / scale))
  assert scale.shape == (1, 1, 1, 6) and not np.any(zero)
  assert len(np.unique(codes)) <= 9 and np.abs(codes).max() <= 127 and 0 in codes
  np.testing.assert_allclose(codes * scale, y, rtol=1e-6)
  assert (len(np.unique(np.asarray(scale))) == 1) != per_channel
  if per_channel:
    assert np.abs(codes[..., 2]).max() > 90  # a small channel is as finely stored as a large one


def test_the_codebook_is_found_in_the_first_kernel_of_training_and_then_kept():
  w, quantizer = case()[0], cluster(5, per_channel=False)
  params, state = quantizer.init(w)
  step = jax.jit(lambda state, w: quantizer.apply(params, state, w, train=jnp.bool_(True))[1])
  state = step(state, 3 * w)
  found = jax.jit(find_centroids, static_argnums=1)(3 * w, 5)
  np.testing.assert_allclose(state.base, found, rtol=1e-6)
  after = step(state, w)
  np.testing.assert_array_equal(after.base, state.base)
  assert after.count == 2


def test_descent_moves_entries_to_where_the_loss_is_least():
  rng = np.random.default_rng(0)
  target = rng.choice(np.float32([-1.0, 0.0, 0.4]), SHAPE)
  w = jnp.float32(target * 0.7 + 0.05 * rng.normal(size=SHAPE))
  quantizer = cluster(3, per_channel=False, gradient="mean")
  params, state = quantizer.init(w)
  state = jax.jit(rounded_by, static_argnums=0)(quantizer, w)[1]

  @jax.jit
  def step(params):
    loss = lambda p: jnp.sum((quantizer.apply(p, state, w, train=False)[0] - target) ** 2)  # noqa: E731
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params))

  for _ in range(30):
    params = step(params)
  np.testing.assert_allclose(state.base + params.delta, [-1.0, 0.4], atol=0.005)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: cluster(1), "clusters: 1 is out of range; it must be 2 to 128"),
    (lambda: cluster(129), "clusters: 129 is out of range"),
    (lambda: cluster(start="random"), "start: 'random' is unknown"),
    (lambda: cluster(gradient="none"), "gradient: 'none' is unknown"),
    (lambda: cluster_weights(jnp.ones(2), jnp.ones(2), "none"), "gradient: 'none' is unknown"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
