"""One-pass sums against plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import ops
from jaxcompress.ops.sums import channel_moments, channel_sums, extremes, total


@pytest.mark.parametrize("formulation", ["apart", "together"])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (3, 7, 7, 5), (2, 1, 1, 4), (5, 6), (2, 4, 3)])
def test_sums_are_over_all_axes_but_the_last(shape, formulation):
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.integers(-9, 9, shape), jnp.float32) for _ in range(2))
  axes = tuple(range(len(shape) - 1))
  with ops.formulations(reductions=formulation):
    moments = jax.jit(channel_moments)(a, jnp.ones(shape[-1:]))
    sums = jax.jit(channel_sums)(a, b)
    mapped = jax.vmap(channel_sums)(jnp.stack([a, b]), jnp.stack([b, a]))
  for mine, array in zip(sums, (a, b), strict=True):
    np.testing.assert_array_equal(mine, np.sum(array, axes))
  np.testing.assert_array_equal(mapped[0], jnp.stack(sums))
  expected = (np.sum(a - 1, axes), np.sum((a - 1) ** 2, axes), np.min(a, axes), np.max(a, axes))
  np.testing.assert_array_equal(moments, expected)


@pytest.mark.parametrize("formulation", ["apart", "together"])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (3, 7, 7, 5), (1, 1, 1, 1), (5, 6), (4,), ()])
def test_extremes_are_the_ends_of_the_range_and_the_total_is_all_of_it(shape, formulation):
  x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
  with ops.formulations(reductions=formulation):
    whole = jax.jit(total)(jnp.round(8 * x))
    low, high = jax.jit(extremes)(x)
    half = extremes(x.astype(jnp.bfloat16))
    lost = extremes(x.at[(0,) * x.ndim].set(jnp.nan))
  assert (low, high) == (np.min(x), np.max(x))
  assert whole == np.sum(np.round(8 * x))
  assert half[0].dtype == jnp.bfloat16
  assert np.isnan(lost).all()


def test_arrays_of_different_shapes_are_refused():
  with pytest.raises(ValueError, match="arrays: float32"):
    channel_sums(jnp.ones((2, 3)), jnp.ones((2, 4)))
