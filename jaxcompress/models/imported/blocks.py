"""Reads channels that become cells, and cells that become channels, from how axes were split and joined.

The channels of a block may have all channels of a cell side by side, as TensorFlow has them, or all cells
of a channel, as PyTorch does; then they are shuffled.
"""

import math

from jaxcompress.models.imported import views
from jaxcompress.models.imported.reading import Call
from jaxcompress.models.imported.values import Op, Tensor
from jaxcompress.models.imported.views import Atom, Axis

Axes = tuple[Axis, Axis, Axis]  # height, width and channels as a traced array has them


def with_blocks(call: Call, tensor: Tensor) -> Tensor:
  """The tensor behind a ``DepthToSpace`` or ``SpaceToDepth`` where its axes are those of one."""
  _, height, width, depth = tensor.op.shape
  if set(tensor.view) <= {*views.straight(tensor.op.shape), ()}:
    return tensor
  sides = range(2, max(math.isqrt(depth), min(height, width)) + 1)
  for find in (_cells, _blocks):
    for block in sides:
      found = find(call, tensor, block)
      if found is not None:
        return found
  return tensor


def _cells(call: Call, tensor: Tensor, block: int) -> Tensor | None:
  op, (images, height, width, depth) = tensor.op, tensor.op.shape
  if depth % block**2:
    return None
  channels = depth // block**2
  rows, columns = views.whole("H", height), views.whole("W", width)

  def axes(down: int, right: int, step: int) -> Axes:
    last = (Atom("C", channels, step),) if channels > 1 else ()
    return (*rows, Atom("C", block, down)), (*columns, Atom("C", block, right)), last

  by_cell, by_channel = axes(block * channels, channels, 1), axes(block, 1, block**2)
  found = next((axes for axes in (by_cell, by_channel) if set(axes) <= {*tensor.view, ()}), None)
  if found is None:
    return None
  if found != by_cell:
    op = call.op("ChannelShuffle", [op], op.shape, groups=channels)
  shape = (images, height * block, width * block, channels)
  return _seen(tensor, call.op("DepthToSpace", [op], shape, block=block), found)


def _blocks(call: Call, tensor: Tensor, block: int) -> Tensor | None:
  images, height, width, depth = tensor.op.shape
  if height % block or width % block:
    return None
  rows, columns = (
    (Atom(role, size // block, block),) if size > block else ()
    for role, size in (("H", height), ("W", width))
  )
  inside, channels = (Atom("H", block, 1), Atom("W", block, 1)), views.whole("C", depth)
  by_cell, by_channel = ((rows, columns, axis) for axis in (inside + channels, channels + inside))
  found = next((axes for axes in (by_cell, by_channel) if set(axes) <= {*tensor.view, ()}), None)
  if found is None:
    return None
  shape = (images, height // block, width // block, depth * block**2)
  op = call.op("SpaceToDepth", [tensor.op], shape, block=block)
  if found != by_cell:
    op = call.op("ChannelShuffle", [op], shape, groups=block**2)
  return _seen(tensor, op, found)


def _seen(tensor: Tensor, op: Op, axes: Axes) -> Tensor:
  """Another operation's output, with whole axes where these were."""
  sizes = zip("HWC", op.shape[1:], strict=True)
  whole = dict(zip(axes, (views.whole(role, size) for role, size in sizes), strict=True))
  return Tensor(op, tuple(whole.get(axis, axis) if axis else axis for axis in tensor.view))
