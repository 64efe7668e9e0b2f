"""A network of the zoo, brought once for all the tests of a module that ask for it."""

import functools

import jax
import pytest

from tests.models.imported.zoo import ZOO


@pytest.fixture(scope="module", autouse=True)
def ranks_as_numpy():
  """JAX adds axes where they lack, as it does for users, who add a bias of (channels,) to maps."""
  with jax.numpy_rank_promotion("allow"):
    yield


class Brought:
  """A network in its own library and here."""

  def __init__(self, name):
    self.original = ZOO[name]()
    self.images = self.original.images

  @functools.cached_property
  def imported(self):
    return self.original.bring()

  @property
  def model(self):
    return self.imported.model

  @property
  def variables(self):
    return self.imported.variables

  def restore(self, variables):
    return self.imported.restore(variables)


def pytest_generate_tests(metafunc):
  if "network" in metafunc.fixturenames:
    metafunc.parametrize("network", metafunc.module.NETWORKS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def network(request, ranks_as_numpy):
  yield Brought(request.param)
  jax.clear_caches()
