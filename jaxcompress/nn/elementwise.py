"""The leaf ops that compute value by value: sums, products, activation functions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.activations import activate
from jaxcompress.nn.checks import check_act, refuse
from jaxcompress.nn.graph import Node, Operation, alike
from jaxcompress.nn.layers import LeafOp


def _route(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """Routes each channel from the same one of the inputs; an input of one channel meets all."""
  count = node.output_shapes[0][-1]
  return (tuple(part for part in channels if len(part) == count),)


def _has_all_channels(node: Node) -> bool:
  return all(shape[-1] == node.output_shapes[0][-1] for shape in node.input_shapes)


class _Pair(LeafOp):
  """An operation on two arrays, value by value; an axis of one meets all of the other array's."""

  def _pair(self, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """The two arrays, if their shapes meet."""
    if len(xs) != 2:
      refuse(self, f"it reads two arrays, got {len(xs)}; take a layer of its own for each pair.")
    x, y = xs
    if not all(hasattr(part, "ndim") and part.ndim for part in xs):
      refuse(self, "it reads two arrays, got a number; an Affine multiplies by one, or adds it.")
    meet = x.ndim == y.ndim and x.shape[:1] == y.shape[:1]
    if not meet or any(a != b and 1 not in (a, b) for a, b in zip(x.shape, y.shape, strict=True)):
      refuse(
        self,
        f"it reads shapes {x.shape} and {y.shape}, which must be the same but for axes of one, such as"
        " (batch, 1, 1, channels) beside a map; a Reshape gives a vector these axes.",
      )
    return x, y


class Add(_Pair):
  """Elementwise sum of two arrays.

  Shapes are the same; or an axis of one of them, but the batch, has length one and meets all of the
  other's, as those of (batch, 1, 1, channels) or (batch, height, width, 1) do beside a map.

  Examples:
    >>> Add().apply({}, jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
    [[4.0, 6.0]]
  """

  operation = Operation(route=_route, linear=_has_all_channels, hosts=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    x, y = self._pair(xs)
    return x + y


class Subtract(_Pair):
  """Elementwise difference of two arrays, whose shapes meet as for :class:`Add`.

  Examples:
    >>> Subtract().apply({}, jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])).tolist()
    [[-2.0, -1.0]]
  """

  operation = Operation(route=_route, hosts=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    x, y = self._pair(xs)
    return x - y


class Multiply(_Pair):
  """Elementwise product of two arrays, whose shapes meet as for :class:`Add`.

  A gate of (batch, 1, 1, channels) is that of squeeze-excite, one of (batch, height, width, 1) that of
  spatial attention.

  Examples:
    >>> x, gate = jnp.ones((1, 2, 2, 2)), jnp.array([0.5, 2.0]).reshape(1, 1, 1, 2)
    >>> Multiply().apply({}, x, gate)[0, 0].tolist()
    [[0.5, 2.0], [0.5, 2.0]]
  """

  operation = Operation(route=_route, hosts=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    x, y = self._pair(xs)
    return x * y


class Maximum(_Pair):
  """The larger ones of the values of two arrays, whose shapes meet as for :class:`Add`.

  Examples:
    >>> Maximum().apply({}, jnp.array([[1.0, 4.0]]), jnp.array([[3.0, 2.0]])).tolist()
    [[3.0, 4.0]]
  """

  operation = Operation(route=_route, grid="copied", within=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    return jnp.maximum(*self._pair(xs))


class Minimum(_Pair):
  """The smaller ones of the values of two arrays, whose shapes meet as for :class:`Add`.

  Examples:
    >>> Minimum().apply({}, jnp.array([[1.0, 4.0]]), jnp.array([[3.0, 2.0]])).tolist()
    [[1.0, 2.0]]
  """

  operation = Operation(route=_route, grid="copied", within=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    return jnp.minimum(*self._pair(xs))


class Activation(LeafOp):
  """An activation function on its own, by name.

  Examples:
    >>> Activation("relu6").apply({}, jnp.array([-1.0, 3.0, 9.0])).tolist()
    [0.0, 3.0, 6.0]
  """

  act: str

  operation = Operation(route=alike)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_act(self, self.act)
    return activate(self.act, x)
