"""The leaf op that gives the values of each image another shape."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it
import numpy as np

from jaxcompress.nn.checks import is_whole, refuse
from jaxcompress.nn.graph import Node, Operation
from jaxcompress.nn.layers import LeafOp
from jaxcompress.ops.dispatch import shapes_alone


def _channels(node: Node) -> tuple[int, int]:
  return node.input_shapes[0][-1], node.output_shapes[0][-1]


def _route(node: Node, channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """Channel ``k`` has what is from all that leave the same rest by the greatest common divisor."""
  count, made = _channels(node)
  divisor = math.gcd(count, made)
  rest = np.arange(made) % divisor
  return (tuple(channels[rest + start] for start in range(0, count, divisor)),)


def _with_channels(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  *cells, _ = node.output_shapes[0][1:]
  size = math.prod(node.input_shapes[0][1:-1]) * inputs[0]
  if size != math.prod(cells) * outputs[0]:
    raise ValueError(f"{inputs[0]} and {outputs[0]} channels do not hold the same numbers")
  return {"shape": (*cells, outputs[0])}


def _keeps_means(node: Node) -> bool:
  count, made = _channels(node)
  return made % count == 0


class Reshape(LeafOp):
  """The values of each image in another shape, in their order: as ``x.reshape(batch, *shape)``.

  A vector becomes a map, such as (1, 1, channels), or the map that a decoder begins with; a map becomes
  a vector. A :class:`Dense` flattens what it reads by itself.

  Attributes:
    shape: without the batch, channels last.

  Raises:
    ValueError: when called, if the shape does not hold the values of an image.

  Examples:
    >>> Reshape((1, 1, 3)).apply({}, jnp.ones((2, 3))).shape
    (2, 1, 1, 3)
  """

  shape: tuple[int, ...]

  operation = Operation(
    route=_route, grid="copied", within=True, linear=_keeps_means, resized=_with_channels
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = self.shape
    if not isinstance(shape, list | tuple) or not shape or not all(is_whole(n, 1) for n in shape):
      refuse(self, f"shape must be whole numbers of 1 or more without the batch, got {shape!r}.")
    if x.ndim < 2 or math.prod(shape) != math.prod(x.shape[1:]):
      refuse(
        self,
        f"shape: {tuple(shape)} has {math.prod(shape)} values, and an image of shape {x.shape[1:]}"
        f" has {math.prod(x.shape[1:])}.",
      )
    y = x.reshape(x.shape[0], *shape)
    return jax.lax.neg(y) if shapes_alone() else y  # an array of its own, which has a name
