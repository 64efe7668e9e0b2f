"""Masks and schedules against arrays computed elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.prune import agp
from jaxcompress.prune.dynamic import cosine_fraction
from jaxcompress.prune.scores import keep_largest, keep_n_of_m


@pytest.fixture(scope="module")
def arrays(golden):
  return golden("quantize/pruning")


def test_the_magnitude_mask_is_the_reference_s(arrays):
  found = keep_largest(jnp.asarray(arrays["mag/w"], jnp.float32), float(arrays["mag/sparsity"]))
  np.testing.assert_array_equal(found, arrays["mag/mask"])


def test_the_two_of_four_mask_is_the_reference_s(arrays):
  found = keep_n_of_m(jnp.asarray(arrays["nm24/w"], jnp.float32), 2, 4)
  np.testing.assert_array_equal(found, arrays["nm24/mask_along_axis0"])


def test_agp_is_equation_one(arrays):
  begin, span, first, last = arrays["agp/t0_n_si_sf"]
  schedule = agp(int(begin), int(begin + span), every=10, initial=first / last)
  found = last * np.asarray(jax.vmap(schedule.progress)(jnp.asarray(arrays["agp/t"])))
  np.testing.assert_allclose(found, arrays["agp/s"], rtol=1e-5, atol=1e-6)


def test_the_share_that_rigl_moves_falls_along_the_reference_s_cosine(arrays):
  fraction, stop = arrays["rigl/alpha_Tend"]
  share = cosine_fraction(float(fraction), int(stop))
  found = jax.vmap(share)(jnp.asarray(arrays["rigl/t"]))
  np.testing.assert_allclose(found, arrays["rigl/drop_fraction"], rtol=1e-5, atol=1e-6)
