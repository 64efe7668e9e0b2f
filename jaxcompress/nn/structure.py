"""The leaf ops without weights: sums and products, concatenation and splits, pooling, activation."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress import ops
from jaxcompress.nn.activations import activate
from jaxcompress.nn.checks import check_act, check_counts, check_map, is_whole, refuse, windows
from jaxcompress.nn.graph import Node, Operation, alike
from jaxcompress.nn.layers import BatchNorm, ConvNorm, Dense, LeafOp


class Add(LeafOp):
  """Elementwise sum of two arrays of one shape.

  Examples:
    >>> Add().apply({}, jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
    [[4.0, 6.0]]
  """

  operation = Operation(route=alike, linear=True, hosts=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    x, y = _pair(self, xs)
    if x.shape != y.shape:
      refuse(self, f"it reads shapes {x.shape} and {y.shape}, which must be the same.")
    return x + y


class Multiply(LeafOp):
  """Elementwise product; the second factor may be (batch, 1, 1, channels), as in squeeze-excite.

  Examples:
    >>> x, gate = jnp.ones((1, 2, 2, 2)), jnp.array([0.5, 2.0]).reshape(1, 1, 1, 2)
    >>> Multiply().apply({}, x, gate)[0, 0].tolist()
    [[0.5, 2.0], [0.5, 2.0]]
  """

  operation = Operation(route=alike, hosts=True)

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    x, y = _pair(self, xs)
    if y.shape not in (x.shape, (x.shape[0], 1, 1, x.shape[-1])):
      refuse(
        self,
        f"it reads shapes {x.shape} and {y.shape}; the second must be as the first, or (batch, 1, 1,"
        " channels).",
      )
    return x * y


def _pair(layer: LeafOp, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
  if len(xs) != 2:
    refuse(layer, f"it reads two arrays, got {len(xs)}; take a layer of its own for each pair.")
  return xs[0], xs[1]


class Concat(LeafOp):
  """Concatenation on the channel axis.

  Examples:
    >>> Concat().apply({}, jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 5))).shape
    (1, 2, 2, 8)
  """

  operation = Operation(
    route=lambda node, *channels: ((np.concatenate(channels),),),
    grid="copied",
    within=True,
    linear=True,
  )

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    if not xs or len({(x.ndim, x.shape[:-1]) for x in xs}) > 1:
      found = ", ".join(str(x.shape) for x in xs) or "none"
      refuse(self, f"it reads arrays that differ in their channels only, got shapes {found}.")
    return jnp.concatenate(xs, axis=-1)


class Split(LeafOp):
  """Splits the channels into consecutive parts of the given sizes.

  Examples:
    >>> first, second = Split((1, 2)).apply({}, jnp.array([[1.0, 2.0, 3.0]]))
    >>> first.tolist(), second.tolist()
    ([[1.0]], [[2.0, 3.0]])
  """

  sizes: Sequence[int]

  operation = Operation(
    route=lambda node, channels: tuple(
      (part,) for part in np.split(channels, np.cumsum(node.attrs["sizes"])[:-1])
    ),
    grid="copied",
    within=True,
    linear=True,
    resized=lambda node, inputs, outputs: {"sizes": tuple(outputs)},
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
    if isinstance(self.sizes, int) or not all(is_whole(size, 1) for size in self.sizes):
      refuse(self, f"sizes must be whole numbers of 1 or more, got {self.sizes!r}.")
    if sum(self.sizes) != x.shape[-1]:
      refuse(self, f"sizes: {tuple(self.sizes)} must add up to the {x.shape[-1]} channels.")
    edges = [sum(self.sizes[:i]) for i in range(1, len(self.sizes))]
    return tuple(jnp.split(x, edges, axis=-1))


def _other_shuffle(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  """The smaller of the two factors is kept, so that it stays the same shuffle of groups."""
  was, groups, (channels,) = node.input_shapes[0][-1], node.attrs["groups"], inputs
  found = groups if groups * groups <= was else channels // (was // groups)
  if found == 0 or (found != groups and channels // found != was // groups):
    raise ValueError(f"{channels} channels are no such shuffle")
  return {"groups": found}


class ChannelShuffle(LeafOp):
  """Transposes (groups, channels / groups) on the channel axis (Zhang et al., ShuffleNet, 2017).

  Examples:
    >>> ChannelShuffle(groups=2).apply({}, jnp.arange(6.0).reshape(1, 6)).tolist()
    [[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]]
  """

  groups: int

  operation = Operation(
    route=lambda node, channels: ((channels.reshape(node.attrs["groups"], -1).T.ravel(),),),
    groups=lambda node: node.attrs["groups"],
    grid="copied",
    within=True,
    linear=True,
    resized=_other_shuffle,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_counts(self, "groups")
    if x.shape[-1] % self.groups:
      refuse(self, f"groups: {self.groups} must divide the {x.shape[-1]} channels.")
    y = x.reshape(*x.shape[:-1], self.groups, -1)
    return jnp.swapaxes(y, -1, -2).reshape(x.shape)


class _Pool(LeafOp):
  """A square pooling window; padding as in :class:`ConvNorm`."""

  kernel: int
  stride: int
  padding: ops.Padding = "SAME"

  def _window(self, x: jax.Array, init: float, combine) -> jax.Array:
    pads = windows(self, x)
    if max(map(max, pads)) >= self.kernel:
      refuse(
        self,
        f"padding: {self.padding!r} leaves windows of {self.kernel} without a cell of the image; pad"
        f" less than {self.kernel}.",
      )
    window, strides = (1, self.kernel, self.kernel, 1), (1, self.stride, self.stride, 1)
    return jax.lax.reduce_window(x, init, combine, window, strides, ((0, 0), *pads, (0, 0)))


class MaxPool(_Pool):
  """Largest value of each window; padded cells never win.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> MaxPool(kernel=2, stride=2).apply({}, x).item()
    4.0
  """

  operation = Operation(route=alike, grid="copied", within=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self._window(x, -jnp.inf, jax.lax.max)


class AvgPool(_Pool):
  """Mean of each window.

  Attributes:
    count_padding: whether padded cells count as zeros (PyTorch's default) or not at all (TFLite).

  Examples:
    >>> x = jnp.ones((1, 2, 2, 1))
    >>> AvgPool(kernel=3, stride=2).apply({}, x).item()
    1.0
    >>> round(AvgPool(kernel=3, stride=2, count_padding=True).apply({}, x).item(), 3)  # 4 / 9
    0.444
  """

  count_padding: bool = False

  operation = Operation(route=alike, grid="shared", within=True, linear=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    total = self._window(x, 0.0, jax.lax.add)
    if self.count_padding:
      return total / self.kernel**2
    return total / self._window(jnp.ones_like(x[:1, :, :, :1]), 0.0, jax.lax.add)


class GlobalAvgPool(LeafOp):
  """Mean over height and width: (batch, height, width, channels) to (batch, channels).

  Attributes:
    keepdims: keep height and width as axes of length one.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> GlobalAvgPool().apply({}, x).tolist()
    [[2.5]]
    >>> GlobalAvgPool(keepdims=True).apply({}, x).shape
    (1, 1, 1, 1)
  """

  keepdims: bool = False

  operation = Operation(route=alike, within=True, linear=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    return jnp.mean(x, axis=(1, 2), keepdims=self.keepdims)


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


LEAF_OPS: Mapping[str, type[LeafOp]] = {
  op.__name__: op
  for op in (
    *(ConvNorm, BatchNorm, Dense),
    *(Add, Multiply, Concat, Split, ChannelShuffle, MaxPool, AvgPool, GlobalAvgPool, Activation),
  )
}
"""The leaf ops by the name of their class."""
REQUANTIZE = "Requantize"
"""An operation of graphs of integers alone: the same numbers on another grid."""
OPERATIONS: Mapping[str, Operation] = {
  **{name: op.operation for name, op in LEAF_OPS.items()},
  REQUANTIZE: Operation(route=alike, within=True, linear=True),
}
"""The record of each operation of a graph, by its name there."""
