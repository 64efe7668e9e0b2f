"""What a model returns."""

from typing import NamedTuple

import jax


class Endpoints(NamedTuple):
  """Everything that a loss may read from a network; ``jit`` drops what nobody uses.

  Attributes:
    logits: unnormalised class scores, (batch, classes).
    pooled: penultimate features, (batch, features).
    maps: feature maps at the end of each stage, (batch, height, width, channels) each.
    preact: the same maps before their last activation function.

  Examples:
    >>> import jax.numpy as jnp
    >>> Endpoints(logits=jnp.ones((1, 3))).logits.shape
    (1, 3)
  """

  logits: jax.Array
  pooled: jax.Array | None = None
  maps: tuple[jax.Array, ...] = ()
  preact: tuple[jax.Array, ...] = ()
