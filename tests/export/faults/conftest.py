"""Simulated devices."""

import pytest

from tests.export.faults.simulated import device_of


@pytest.fixture(scope="module")
def device(networks):
  """A device of a network by its name."""
  made = {}

  def of(name):
    if name not in made:
      made[name] = device_of(networks, name)
    return made[name]

  return of
