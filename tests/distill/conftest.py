"""Fixtures of the tests of losses."""

import functools

import chex
import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def assert_near():
  """Compares with a float64 reference: the largest error within 2e-5 of the largest value."""

  def check(actual, expected):
    error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
    bound = 2e-5 * np.max(np.abs(expected)) + 1e-7
    assert error <= bound, f"{error} > {bound}"

  return check


@pytest.fixture(autouse=True)
def fresh_trace_counter():
  """``chex.assert_max_traces`` counts by name over the whole process."""
  chex.clear_trace_counter()


@pytest.fixture(scope="session")
def quick_jit():
  """``jax.jit`` that compiles several times faster and runs slower, for programs that run once."""
  return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
