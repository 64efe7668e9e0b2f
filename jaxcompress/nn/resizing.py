"""The leaf ops that give maps another height and width: resizing, and channels that become cells."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it
import numpy as np

from jaxcompress.nn.checks import check_counts, check_map, check_sides, refuse
from jaxcompress.nn.graph import Node, Operation, alike
from jaxcompress.nn.layers import LeafOp, keep_shortest
from jaxcompress.ops.padding import both
from jaxcompress.ops.resizing import METHODS, SAMPLINGS, depth_to_space, resize, space_to_depth


class Resize(LeafOp):
  """Maps of another height and width, by copying cells or by weighing the four around each output.

  Nothing is averaged where maps shrink: ``"bilinear"`` is ``jax.image.resize(..., antialias=False)``.
  Enlarging by whole numbers, ``"nearest"`` is ``jnp.repeat`` on both axes.

  Attributes:
    size: height and width of the output, or the side of a square.
    method: ``"nearest"`` or ``"bilinear"``.
    sampling: where outputs lie among inputs: ``"half_pixel"`` (``jax.image.resize``, Keras, and
      PyTorch's ``"nearest-exact"`` and ``align_corners=False``), ``"asymmetric"`` (PyTorch's
      ``"nearest"``), or ``"align_corners"`` (bilinear only); see
      :func:`jaxcompress.ops.resizing.resize`.

  Raises:
    ValueError: when called, if a field is unknown, or the input is not a map of floats.

  Examples:
    >>> x = jnp.array([[0.0, 4.0]]).reshape(1, 1, 2, 1)
    >>> Resize((1, 4)).apply({}, x).ravel().tolist()
    [0.0, 0.0, 4.0, 4.0]
    >>> Resize((1, 4), method="bilinear").apply({}, x).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
  """

  size: int | tuple[int, int]
  method: str = "nearest"
  sampling: str = "half_pixel"

  operation = Operation(
    route=alike,
    grid=lambda node: "copied" if node.attrs["method"] == "nearest" else "shared",
    within=True,
    linear=True,
  )

  def __post_init__(self) -> None:
    keep_shortest(self, "size")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    check_sides(self, "size")
    for field, choices in (("method", METHODS), ("sampling", SAMPLINGS)):
      if getattr(self, field) not in choices:
        refuse(
          self, f"{field}: {getattr(self, field)!r} is unknown; it is one of {', '.join(choices)}."
        )
    if (self.method, self.sampling) == ("nearest", "align_corners"):
      refuse(
        self,
        "sampling: 'align_corners' is for method='bilinear'; 'nearest' copies by 'half_pixel' or"
        " 'asymmetric'.",
      )
    return resize(x, both(self.size), method=self.method, sampling=self.sampling)


def _cells(node: Node) -> int:
  """Cells of a block."""
  return int(node.attrs["block"]) ** 2


def _as_many(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  """Checks that one end has as many channels for each of the other as a block has cells."""
  if max(*inputs, *outputs) != min(*inputs, *outputs) * _cells(node):
    raise ValueError(f"{inputs[0]} and {outputs[0]} channels are no blocks of {_cells(node)} cells")
  return {}


class DepthToSpace(LeafOp):
  """Channels become cells: each cell a block of ``block`` x ``block``, as sub-pixel convolutions do.

  The channels hold the block row by row, all output channels of a cell side by side, as TensorFlow has
  them: ``x.reshape(b, h, w, s, s, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h * s, w * s, c)``. PyTorch's
  ``PixelShuffle`` has the cells of an output channel side by side; ``ChannelShuffle(out)`` before this
  makes it so.

  Attributes:
    block: side of the block.

  Raises:
    ValueError: when called, if ``block`` is no whole number of 1 or more, its square does not divide the
      channels, or the input is no map of floats.

  Examples:
    >>> DepthToSpace(2).apply({}, jnp.arange(4.0).reshape(1, 1, 1, 4))[0, ..., 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]

  References:
    Shi et al., `Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network <https://arxiv.org/abs/1609.05158>`_, 2016.
  """

  block: int

  operation = Operation(
    route=lambda node, channels: (tuple(channels.reshape(_cells(node), -1)),),
    grid="copied",
    within=True,
    resized=_as_many,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_counts(self, "block")
    check_map(self, x)
    if x.shape[-1] % self.block**2:
      refuse(
        self, f"block: {self.block} x {self.block} cells must divide the {x.shape[-1]} channels."
      )
    return depth_to_space(x, self.block)


class SpaceToDepth(LeafOp):
  """Blocks of ``block`` x ``block`` cells become channels: the inverse of :class:`DepthToSpace`.

  Attributes:
    block: side of the block.

  Raises:
    ValueError: when called, if ``block`` is no whole number of 1 or more or does not divide height and
      width, or the input is no map of floats.

  Examples:
    >>> SpaceToDepth(2).apply({}, jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[[[0.0, 1.0, 2.0, 3.0]]]]
  """

  block: int

  operation = Operation(
    route=lambda node, channels: ((np.tile(channels, _cells(node)),),),
    grid="copied",
    within=True,
    linear=True,
    resized=_as_many,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_counts(self, "block")
    check_map(self, x)
    if x.shape[1] % self.block or x.shape[2] % self.block:
      refuse(
        self, f"block: {self.block} must divide height and width, {x.shape[1]} x {x.shape[2]}."
      )
    return space_to_depth(x, self.block)
