"""Copies put off: reshaped and transposed tensors, until something computes with them.

Files spell one arrangement of numbers in many ways: a channel shuffle is a RESHAPE, a TRANSPOSE and a
RESHAPE, which alone have no leaf op. So these are remembered, and what they come to is found by
arranging counted numbers as they do.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.ops.resizing import depth_to_space, space_to_depth

Shape = tuple[int, ...]


class Turn(NamedTuple):
  """A transposition of an array of a shape."""

  shape: Shape
  order: tuple[int, ...]


class View(NamedTuple):
  """A tensor of a file as a tensor of the graph whose numbers it has.

  Attributes:
    base: name of the tensor of the graph.
    shape: of the tensor of the file.
    turns: what was done to the numbers of the base, in order; shapes in between are free.
  """

  base: str
  shape: Shape
  turns: tuple[Turn, ...] = ()

  def reshaped(self, shape: Shape) -> "View":
    """The same numbers in another shape.

    Raises:
      ValueError: if it does not hold as many.
    """
    if math.prod(shape) != math.prod(self.shape):
      raise ValueError(f"shape {shape} does not hold the numbers of {self.shape}")
    return self._replace(shape=shape)

  def turned(self, order: tuple[int, ...]) -> "View":
    """The same numbers with axes in another order.

    Raises:
      ValueError: if the order is not a permutation of the axes.
    """
    if sorted(order) != [*range(len(self.shape))]:
      raise ValueError(f"order {order} is not a permutation of {len(self.shape)} axes")
    shape = tuple(self.shape[axis] for axis in order)
    moved = [axis for axis in order if self.shape[axis] > 1]
    if moved == sorted(moved):  # only axes of one changed their places
      return self._replace(shape=shape)
    return View(self.base, shape, (*self.turns, Turn(self.shape, order)))


class Step(NamedTuple):
  """A leaf op that copies: its name, its attributes, and the shapes of what it reads and writes."""

  op: str
  attrs: dict[str, Any]
  before: Shape
  after: Shape


def batched(shape: Shape) -> Shape:
  """The shape of a tensor of the graph: an axis of images is put before where there is none.

  Examples:
    >>> batched((1, 8, 8, 3)), batched((64, 2, 4)), batched((7,))
    ((1, 8, 8, 3), (1, 64, 2, 4), (1, 7))
  """
  return shape if len(shape) > 1 and shape[0] == 1 else (1, *shape)


def steps_of(view: View, before: Shape, after: Shape) -> list[Step]:
  """The leaf ops that make a view of its base.

  Args:
    view: of a tensor of the graph.
    before: shape of that tensor.
    after: shape that is wanted, of as many numbers.

  Examples:
    >>> view = View("x", (1, 2, 2, 6)).reshaped((4, 2, 3)).turned((0, 2, 1)).reshaped((1, 2, 2, 6))
    >>> [(step.op, step.attrs) for step in steps_of(view, (1, 2, 2, 6), (1, 2, 2, 6))]
    [('ChannelShuffle', {'groups': 2})]
  """
  if view.turns:
    known = _known_step(view, before, after)
    steps = [known] if known else list(_rotations(view.turns))
  else:
    steps = []
  found, shape = [], before
  for step in steps:
    found += [*_reshape(shape, step.before), step]
    shape = step.after
  return found + _reshape(shape, after)


def _reshape(before: Shape, after: Shape) -> list[Step]:
  return [] if before == after else [Step("Reshape", {"shape": after[1:]}, before, after)]


def _known_step(view: View, before: Shape, after: Shape) -> Step | None:
  """One leaf op that arranges numbers as all turns do; None if there is none."""
  source = np.arange(math.prod(before), dtype=np.int32)
  wanted = source
  for turn in view.turns:
    wanted = wanted.reshape(turn.shape).transpose(turn.order).ravel()
  channels = before[-1]
  for groups in (n for n in range(2, channels) if channels % n == 0):
    shuffled = source.reshape(-1, groups, channels // groups).transpose(0, 2, 1)
    if np.array_equal(shuffled.ravel(), wanted):
      return Step("ChannelShuffle", {"groups": groups}, before, before)
  if len(before) != 4 or len(after) != 4:
    return None
  x: Any = source.reshape(before)
  for op, move, block in (
    ("DepthToSpace", depth_to_space, _ratio(after, before)),
    ("SpaceToDepth", space_to_depth, _ratio(before, after)),
  ):
    if block and np.array_equal(np.asarray(move(x, block)).ravel(), wanted):
      return Step(op, {"block": block}, before, after)
  return None


def _ratio(large: Shape, small: Shape) -> int | None:
  """Returns the ratio of the sides of two maps; None if it is not a whole number."""
  block = large[1] // small[1]
  fits = large[1:3] == (small[1] * block, small[2] * block)
  return block if block > 1 and fits and large[3] * block**2 == small[3] else None


def _rotations(turns: tuple[Turn, ...]) -> Iterator[Step]:
  """Turns as channel shuffles, each of which moves the last axes before some others."""
  for shape, order in turns:
    axes = [axis for axis in range(len(shape)) if shape[axis] > 1]
    wanted = [axis for axis in order if shape[axis] > 1]
    for place, axis in enumerate(wanted):
      found = axes.index(axis)
      if found == place:
        continue
      rows, first, last = (
        math.prod(shape[axis] for axis in part)
        for part in (axes[:place], axes[place:found], axes[found:])
      )
      flat = (1, *((rows,) if rows > 1 else ()), first * last)
      yield Step("ChannelShuffle", {"groups": first}, flat, flat)
      axes = [*axes[:place], *axes[found:], *axes[place:found]]
