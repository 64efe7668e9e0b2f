"""Batch normalization against Flax's ``BatchNorm``, differentiated by JAX in float64."""

from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import ops
from jaxcompress.nn.epilogue import norm_act
from jaxcompress.nn.norm import batch_statistics

EPSILON, MOMENTUM = 1e-3, 0.9
SHAPES = [(4, 8, 8, 3), (3, 7, 5, 4), (16, 1, 1, 5), (12, 6)]


class Problem:
  """Numbers for one normalization: the arguments and the gradient with respect to its output, float64."""

  def __init__(self, shape, mean=0.5, std=2.0, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[-1:]
    self.x = rng.normal(mean, std, shape)
    self.scale, self.bias = rng.normal(1.0, 0.5, channels), rng.normal(size=channels)
    self.mean = mean + std * rng.normal(0.0, 0.3, channels)
    self.variance = std**2 * rng.uniform(0.5, 2.0, channels)
    self.g = rng.normal(size=shape)

  def textbook(self, live):
    """Flax's output, gradients and new running statistics."""
    layer = flax.linen.BatchNorm(
      use_running_average=not live, epsilon=EPSILON, momentum=MOMENTUM, use_fast_variance=False
    )

    def run(x, scale, bias):
      stats = {"mean": jnp.asarray(self.mean), "var": jnp.asarray(self.variance)}
      variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
      return layer.apply(variables, x, mutable=["batch_stats"])

    with jax.enable_x64(True):
      y, pull_back, updated = jax.vjp(run, self.x, self.scale, self.bias, has_aux=True)
      return y, pull_back(self.g), updated.get("batch_stats")

  def ours(self, live, dtype=jnp.float32):
    """Our output, gradients and statistics; ``x`` in ``dtype``, everything else in float32."""
    to = lambda a: jnp.asarray(a, jnp.float32)  # noqa: E731

    @jax.jit
    def run(x, scale, bias, mean, variance, g, live):
      normalise = lambda *a: norm_act(*a, mean, variance, live, EPSILON, None)  # noqa: E731
      (y, *stats), pull_back = jax.vjp(normalise, x, scale, bias)
      return y, pull_back((g, *map(jnp.zeros_like, stats))), stats

    if isinstance(live, bool):
      run = partial(run.__wrapped__, live=live)
    x, g = jnp.asarray(self.x, dtype), jnp.asarray(self.g, dtype)
    rest = map(to, (self.scale, self.bias, self.mean, self.variance))
    return run(x, *rest, g, live=live)


def assert_near(actual, desired, tolerance):
  for mine, other in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
    other = np.asarray(other, np.float64)
    error = np.abs(np.asarray(mine, np.float64) - other).max() / np.abs(other).max()
    assert error < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shape", "live", "formulation"),
  [
    *((shape, True, "together") for shape in SHAPES),
    (SHAPES[0], True, "apart"),
    (SHAPES[0], False, "together"),
    (SHAPES[3], False, "apart"),
  ],
)
def test_values_and_gradients_are_the_textbooks(shape, live, formulation):
  problem = Problem(shape)
  expected, expected_gradients, updated = problem.textbook(live)
  with ops.formulations(reductions=formulation):
    y, gradients, (mean, variance) = problem.ours(live)
  assert_near(y, expected, 2e-6)
  assert_near(gradients, expected_gradients, 2e-5)
  if live:
    assert_near(MOMENTUM * problem.mean + (1 - MOMENTUM) * mean, updated["mean"], 1e-6)
    assert_near(MOMENTUM * problem.variance + (1 - MOMENTUM) * variance, updated["var"], 1e-6)
  else:
    np.testing.assert_array_equal(mean, np.float32(problem.mean))
    np.testing.assert_array_equal(variance, np.float32(problem.variance))


@pytest.mark.parametrize("live", [True, False])
def test_a_flag_known_only_at_run_time_changes_nothing(live):
  problem = Problem(SHAPES[0])
  at_run_time = problem.ours(jnp.array(live))
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), at_run_time, problem.ours(live)
  )


@pytest.mark.parametrize("live", [True, False])
def test_a_flag_known_when_tracing_compiles_no_branch(live):
  ones = jnp.ones(3)
  run = lambda x: norm_act(x, ones, ones, ones, ones, live, EPSILON, None)[0]  # noqa: E731
  for function in (run, jax.grad(lambda x: jnp.sum(run(x)))):
    assert "cond" not in str(jax.make_jaxpr(function)(jnp.ones((2, 4, 4, 3))))


def test_a_mean_far_above_the_deviation_does_not_cancel():
  problem = Problem((4, 8, 8, 3), mean=3000.0, std=0.5)
  problem.x = np.float64(np.float32(problem.x))  # what is stored, to compare the arithmetic only
  expected, expected_gradients, updated = problem.textbook(live=True)
  y, gradients, (mean, variance) = problem.ours(live=True)
  assert_near(variance, np.var(problem.x, axis=(0, 1, 2)), 1e-5)
  assert_near(mean, np.mean(problem.x, axis=(0, 1, 2)), 1e-7)
  assert_near(y, expected, 1e-3)  # the mean in float32 is off by up to 1e-4 there
  assert_near(gradients, expected_gradients, 1e-3)
  assert_near(MOMENTUM * problem.mean + (1 - MOMENTUM) * mean, updated["mean"], 1e-6)


def test_a_poor_shift_costs_accuracy_but_no_sign():
  x = jnp.full((2, 4, 4, 1), 1000.0).at[0, 0, 0, 0].set(1000.001)
  mean, variance = jax.jit(batch_statistics)(x, jnp.zeros(1))
  assert mean.item() == pytest.approx(1000.0)
  assert 0.0 <= variance.item() < 1.0


@pytest.mark.parametrize("live", [True, False])
def test_bfloat16_is_normalised_in_float32(live):
  problem = Problem((4, 8, 8, 3))
  for name in ("x", "g"):  # the same numbers for both sides
    setattr(problem, name, np.float64(jnp.asarray(getattr(problem, name), jnp.bfloat16)))
  expected, (dx, dscale, dbias), _ = problem.textbook(live)
  y, gradients, (mean, variance) = problem.ours(live, jnp.bfloat16)
  assert (y.dtype, gradients[0].dtype) == (jnp.bfloat16, jnp.bfloat16)
  assert {a.dtype for a in (*gradients[1:], mean, variance)} == {jnp.dtype("float32")}
  assert_near((y, gradients[0]), (expected, dx), 2**-8)
  assert_near(gradients[1:], (dscale, dbias), 1e-5)  # sums keep float32's accuracy


@jax.jit
def standardise(x):
  """Normalisation to mean 0 and variance 1."""
  ones, zeros = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
  return norm_act(x, ones, zeros, zeros, ones, True, 0.0, None)[0]


@given(offset=st.integers(-8, 8), power=st.integers(-3, 3), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_the_output_ignores_the_inputs_offset_and_scale(offset, power, seed):
  """Batch statistics undo ``x -> a x + b``, and the gradient has no component along either."""
  x = jax.random.normal(jax.random.key(seed), (2, 4, 4, 3))
  y, pull_back = jax.vjp(standardise, x)
  np.testing.assert_allclose(standardise(2.0**power * x + offset), y, atol=2e-3)
  (dx,) = pull_back(jnp.cos(5 * y))
  np.testing.assert_allclose(jnp.sum(dx, axis=(0, 1, 2)), 0.0, atol=1e-4)
  np.testing.assert_allclose(jnp.sum(dx * y, axis=(0, 1, 2)), 0.0, atol=1e-4)


def test_an_ensemble_by_vmap_equals_a_loop():
  x = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 5))
  flags, ones = jnp.array([True, False, True]), jnp.ones(5)

  def total(x, live):
    return jnp.sum(jnp.sin(norm_act(x, ones, ones, 0 * ones, ones, live, EPSILON, None)[0]))

  gradient = jax.jit(jax.grad(total))
  together = jax.jit(jax.vmap(jax.grad(total)))(x, flags)
  for mine, one, live in zip(together, x, flags, strict=True):
    np.testing.assert_allclose(mine, gradient(one, live), rtol=1e-4, atol=1e-5)
