"""The leaf op that makes probabilities of logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it

from jaxcompress.nn.checks import check_floats, refuse
from jaxcompress.nn.graph import Operation, alike, all_channels
from jaxcompress.nn.layers import LeafOp


class Softmax(LeafOp):
  """``exp(x) / sum(exp(x))`` over the channels, the last axis, of vectors or maps.

  At the end of a network it is an output beside the logits, which losses take: return
  ``Endpoints(logits, outputs={"probabilities": Softmax()(logits)})``. A student whose
  logits it made is refused. Integers are on a fixed grid, from 0 to 255/256 in 8 bits. TFLite-Micro and
  TFLite's reference kernels take 511 channels at most: they abort where exponentials add up to 512.

  Examples:
    >>> Softmax().apply({}, jnp.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
  """

  operation = Operation(route=alike, whole=True, resized=all_channels)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_floats(self, x)
    if x.ndim < 2:
      refuse(self, f"it reads shape {x.shape}, which must be (batch, ..., channels).")
    return jax.nn.softmax(x, axis=-1)
