"""The leaf op that multiplies matrices of two activations, as attention does."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.nn.checks import check_floats, refuse
from jaxcompress.nn.graph import Node, Operation, mixed
from jaxcompress.nn.layers import LeafOp
from jaxcompress.ops.codes import multiply
from jaxcompress.ops.standard import matmul


def _macs(node: Node) -> int:
  return math.prod(node.output_shapes[0][1:]) * node.input_shapes[0][-1]


def _all(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  if inputs != [shape[-1] for shape in node.input_shapes]:
    raise ValueError(f"{node.name!r} multiplies matrices of all channels")
  return {}


class MatMul(LeafOp):
  """Matrix product of two activations, for each image: (batch, n, k) and (batch, k, m) to (batch, n, m).

  Attention over tokens (batch, n, channels) is made of it: ``scores = MatMul(transpose_second=True)(queries, keys)``, then
  ``MatMul()(Softmax()(scores), values)``. Heads are parts of the channels, by :class:`Split` and
  :class:`Concat`; a :class:`Reshape` makes tokens of a map. An :class:`Affine` behind the queries, such
  as ``Affine(channels**-0.5)``, becomes part of their weights.

  Devices have it with 8-bit integers. XNNPACK leaves it to LiteRT's own kernels, unless zero has code 0
  in the second array.

  Attributes:
    transpose_second: whether the second array is (batch, m, k).

  Raises:
    ValueError: when called, if there are not two arrays of floats, or their shapes do not meet.

  Examples:
    >>> x, y = jnp.array([[[1.0, 2.0]]]), jnp.array([[[3.0], [4.0]]])
    >>> MatMul().apply({}, x, y).tolist()
    [[[11.0]]]
    >>> MatMul(transpose_second=True).apply({}, x, x).tolist()
    [[[5.0]]]

  References:
    Vaswani et al., `Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_, 2017, equation 1.
  """

  transpose_second: bool = False

  operation = Operation(route=mixed, macs=_macs, whole=True, resized=_all)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    if len(xs) != 2:
      refuse(self, f"it reads two arrays, got {len(xs)}.")
    x, y = xs
    for array in xs:
      check_floats(self, array)
    axis = -1 if self.transpose_second else -2
    meet = x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0]
    if not meet or x.shape[-1] != y.shape[axis]:
      second = "(batch, m, k)" if self.transpose_second else "(batch, k, m)"
      refuse(
        self,
        f"it reads shapes {x.shape} and {y.shape}, which must be (batch, n, k) and {second}; a"
        " Reshape makes tokens (batch, cells, channels) of a map.",
      )
    return multiply(matmul, x, jnp.swapaxes(y, -1, -2) if self.transpose_second else y)
