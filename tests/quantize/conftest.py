"""A small network with every kind of layer, and images for it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress.nn import (
  Add,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Graph,
  MaxPool,
  init_variables,
  trace,
)
from jaxcompress.quantize.sites import find_sites


class Small(nn.Module):
  """Pointwise, depthwise and grouped convolutions, a pool, a residual."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    x = ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depthwise")(x, train=train)
    x = MaxPool(2, 2, name="max")(x)
    y = ConvNorm(8, groups=2, name="branch")(x, train=train)
    x = Add(name="add")(x, y)
    return Dense(5, name="dense")(GlobalAvgPool(name="pool")(x))


class Case(NamedTuple):
  """A network that was as good as trained."""

  model: nn.Module
  variables: Any
  images: np.ndarray
  graph: Graph

  @property
  def sites(self):
    """Where it is rounded."""
    return find_sites(self.graph)


@pytest.fixture(scope="session")
def case():
  rng = np.random.default_rng(0)
  variables = jax.device_get(init_variables(Small(), jax.random.key(0), (8, 8, 3)))

  def change(path, array):
    name = path[-1].key
    if name == "var":
      return rng.uniform(0.5, 2.0, array.shape).astype(np.float32)
    if name in ("mean", "bias"):
      return rng.normal(0, 0.3, array.shape).astype(np.float32)
    return array

  variables = jax.tree_util.tree_map_with_path(change, variables)
  images = rng.normal(0, 1, (24, 8, 8, 3)).astype(np.float32)
  logits = np.asarray(Small().apply(variables, images, train=False))
  variables["params"]["dense"]["bias"] -= logits.mean(axis=0)  # so that all classes occur
  return Case(Small(), variables, images, trace(Small(), variables, images[:1]))
