"""The leaf ops that move values and compute nothing: concatenation, splits and shuffles."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.checks import check_counts, is_whole, refuse
from jaxcompress.nn.graph import Node, Operation
from jaxcompress.nn.layers import LeafOp


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

  So channels are cut as well: by a split of which some parts are not read.

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
