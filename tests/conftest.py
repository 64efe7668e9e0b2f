"""Settings for the whole suite: strict broadcasting, quick compilation, programs kept between runs."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update(
  "jax_disable_most_optimizations", True
)  # of machine code; most tests compile more than they compute

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def programs_forgotten():
  """Frees the compiled programs of a module with many networks, which are gigabytes otherwise."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="module")
def optimized():
  """Programs as users run them, for a module that tells integers apart by their last bit."""
  jax.clear_caches()
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)
  jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
  """Reads a folder/file of tests/golden into a dict of arrays."""

  def read(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
      return dict(file)

  return read
