"""Values and gradients of a function under jit, against golden arrays."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def pull():
  """``pull(function, g, *arguments)`` is ``(y, gradients of all arguments)``, jitted."""

  def run(function, g, *arguments):
    def both(g, *arguments):
      y, back = jax.vjp(function, *arguments)
      return y, back(g)

    return jax.jit(both)(g, *arguments)

  return run


@pytest.fixture(scope="session")
def cases():
  """``cases(arrays, prefix)`` groups the arrays ``case/name`` by case."""

  def group(arrays, prefix=""):
    found = {}
    for key, value in arrays.items():
      case, name = key.split("/")
      if case.startswith(prefix):
        found.setdefault(case, {})[name] = value
    return found

  return group


@pytest.fixture(scope="session")
def agree():
  """Values to 1e-5, gradients to 1e-4, sums over many terms to 1e-3."""
  tolerances = {
    "value": {"rtol": 1e-5, "atol": 1e-6},
    "gradient": {"rtol": 1e-4, "atol": 1e-5},
    "sum": {"rtol": 1e-3, "atol": 1e-5},
  }

  def check(actual, expected, kind):
    np.testing.assert_allclose(actual, expected, **tolerances[kind])

  return check
