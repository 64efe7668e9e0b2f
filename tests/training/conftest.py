"""A network of every common leaf op that compiles in a second, and batches for it."""

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import nn
from jaxcompress.training import Recipe

collect_ignore = ["on_eight_devices.py"]  # a program of its own, for test_sharding.py


class TinyNet(linen.Module):
  """A stem, one inverted residual, and a classifier."""

  features: int = 8
  num_classes: int = 5

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(self.features, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    y = nn.ConvNorm(2 * self.features, act="relu6", name="expand")(x, train=train)
    y = nn.ConvNorm(2 * self.features, kernel=3, groups="depthwise", act="relu6", name="depthwise")(
      y, train=train
    )
    y = nn.ConvNorm(self.features, name="project")(y, train=train)
    x = nn.Add(name="add")(x, y)
    pooled = nn.GlobalAvgPool(name="pool")(x)
    return nn.Endpoints(nn.Dense(self.num_classes, name="classifier")(pooled), pooled, (x,))


@pytest.fixture(scope="session")
def tiny():
  """The class, so that tests can build students and teachers of several widths."""
  return TinyNet


PATTERNS = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)


def batch_of(position: int, size: int = 16) -> dict[str, np.ndarray]:
  """A batch whose classes can be told apart, as a function of position."""
  rng = np.random.default_rng((1, position))
  label = rng.integers(0, 5, size).astype(np.int32)
  image = PATTERNS[label] + 0.5 * rng.normal(size=(size, 8, 8, 3)).astype(np.float32)
  index = rng.integers(0, 40, size).astype(np.int32)
  return {"image": image.astype(np.float32), "label": label, "index": index}


@pytest.fixture(scope="session")
def batches():
  """:func:`batch_of`."""
  return batch_of


@pytest.fixture(scope="session")
def recipe_of(tiny):
  """Builds recipes around the tiny network."""

  def make(**parts):
    return Recipe(**{"student": tiny(), "optimizer": optax.sgd(0.1, momentum=0.9), **parts})

  return make


@pytest.fixture(scope="session")
def teacher(tiny):
  """A teacher and its variables."""
  import jax

  model = tiny(features=16)
  return model, model.init(jax.random.key(7), jnp.zeros((1, 8, 8, 3)), train=False)
