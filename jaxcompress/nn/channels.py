"""The leaf ops that make one channel of all: their mean and the largest."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.checks import check_counts, check_floats, check_map, refuse
from jaxcompress.nn.graph import Node, Operation, mixed
from jaxcompress.nn.layers import LeafOp


def _constants(
  node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  return np.array([1 / (node.attrs["count"] or node.input_shapes[0][-1])]), np.zeros(1)


def _evaluate(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  spread = (1,) * x.ndim
  return jnp.matmul(x, weights.astype(x.dtype).reshape(-1, 1)) + bias.astype(x.dtype).reshape(
    spread
  )


def _of_as_many(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  """Removed channels count on, as if they were zero."""
  channels = node.input_shapes[0][-1]
  return {} if inputs == [channels] else {"count": node.attrs["count"] or channels}


class ChannelMean(LeafOp):
  """Mean over the channels of each cell, which stay as an axis of length one.

  From (batch, height, width, channels) to (batch, height, width, 1); vectors and tokens likewise.

  On a device it is a 1x1 convolution of equal weights.

  Attributes:
    count: by how many the sum is divided; None: the channels that there are.

  Examples:
    >>> ChannelMean().apply({}, jnp.array([1.0, 2.0, 6.0]).reshape(1, 1, 1, 3)).ravel().tolist()
    [3.0]

  References:
    Woo et al., `CBAM: Convolutional Block Attention Module <https://arxiv.org/abs/1807.06521>`_,
    2018, section 3, for spatial attention.
  """

  count: int | None = None

  operation = Operation(
    route=mixed,
    evaluate=_evaluate,
    kernel=lambda node: (1, 1, node.input_shapes[0][-1], 1),
    constants=_constants,
    trained=False,
    resized=_of_as_many,
    lowered=lambda node: {"kernel": 1, "stride": 1, "padding": "VALID", "groups": 1},
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_floats(self, x)
    if x.ndim < 2 or 0 in x.shape[1:]:
      refuse(
        self, f"it reads shape {x.shape}, which must be (batch, ..., channels) with values in it."
      )
    if self.count is not None:
      check_counts(self, "count")
    return jnp.sum(x, axis=-1, keepdims=True) / (self.count or x.shape[-1])


class ChannelMax(LeafOp):
  """Largest channel of each cell: (batch, height, width, channels) to (batch, height, width, 1).

  Examples:
    >>> ChannelMax().apply({}, jnp.array([1.0, 2.0, 6.0]).reshape(1, 1, 1, 3)).ravel().tolist()
    [6.0]
  """

  operation = Operation(route=mixed, grid="copied", within=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    return jnp.max(x, axis=-1, keepdims=True)
