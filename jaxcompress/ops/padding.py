"""Strides, dilation and padding of kernels; padding from frameworks' names to numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[int, int]
Sides = int | Pair
"""One number for both directions, or ``(height, width)``."""
Pads = tuple[Pair, Pair]
Padding = str | Pads
"""A name, or cells as ``((top, bottom), (left, right))``; see :func:`resolve_padding`."""

NAMES = ("SAME", "SYMMETRIC", "VALID")


class Slide(NamedTuple):
  """Stride, padding and dilation of a kernel on a map.

  Attributes:
    stride: steps along height and width.
    pads: cells around the map, ``((top, bottom), (left, right))``.
    dilation: cells from one of the kernel's to the next, along height and width.
  """

  stride: Pair
  pads: Pads
  dilation: Pair = (1, 1)


def both(sides: Any) -> Pair:
  """One number for both directions as a pair; a pair as it is.

  Examples:
    >>> both(3), both((1, 7))
    ((3, 3), (1, 7))
  """
  if isinstance(sides, int | np.integer):
    return (sides, sides)  # type: ignore[return-value]
  height, width = sides
  return height, width


def shortest(sides: Any) -> Any:
  """A pair of equal whole numbers as one; a list of two as a tuple; all else as it is.

  So what is one number in both directions is written in one way, in graphs and in files.

  Examples:
    >>> shortest((3, 3)), shortest([1, 7]), shortest(2), shortest("odd")
    (3, (1, 7), 2, 'odd')
  """
  if not isinstance(sides, list | tuple) or len(sides) != 2:
    return sides
  if not all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in sides):
    return sides
  height, width = map(int, sides)
  return height if height == width else (height, width)


def spans(kernel: Sequence[int], dilation: Sides) -> Pair:
  """Cells from one end of a dilated kernel to the other, along height and width.

  Examples:
    >>> spans((3, 5), 1), spans((3, 5), (2, 4))
    ((3, 5), (5, 17))
  """
  height, width = ((k - 1) * step + 1 for k, step in zip(kernel, both(dilation), strict=True))
  return height, width


def resolve_padding(
  padding: Padding, size: Sequence[int], kernel: Any, stride: Sides, dilation: Sides = 1
) -> Pads:
  """Cells added before and after each spatial axis.

  Args:
    padding: ``"SAME"`` (TensorFlow's: an output of ``ceil(size / stride)``, the odd cell at the
      end), ``"SYMMETRIC"`` (``kernel // 2`` on every side, as PyTorch models write it, of the cells
      that a dilated kernel spans), ``"VALID"`` (none), or explicit ``((top, bottom), (left, right))``.
    size: height and width of the input.
    kernel: side of the kernel, or its height and width.
    stride: step in both directions, or those along height and width.
    dilation: cells from one of the kernel's to the next, likewise.

  Returns:
    ``((top, bottom), (left, right))``.

  Raises:
    ValueError: for an unknown name, pairs of another shape, or numbers that are negative or not whole.

  Examples:
    >>> resolve_padding("SAME", (8, 7), kernel=3, stride=2)
    ((0, 1), (1, 1))
    >>> resolve_padding("SYMMETRIC", (8, 7), kernel=3, stride=2)
    ((1, 1), (1, 1))
  """
  sides = spans(both(kernel), dilation)
  if not isinstance(padding, str):
    try:
      (top, bottom), (left, right) = padding
    except (TypeError, ValueError):
      message = f"padding: {padding!r} must be ((top, bottom), (left, right)) or a name."
      raise ValueError(message) from None
    if not all(isinstance(n, int | np.integer) for n in (top, bottom, left, right)):
      raise ValueError(f"padding: {padding!r} must be whole numbers of cells.")
    if min(top, bottom, left, right) < 0:
      raise ValueError(f"padding: {padding!r} must not be negative; crop the images instead.")
    return (top, bottom), (left, right)
  if padding == "VALID":
    return ((0, 0), (0, 0))
  if padding == "SYMMETRIC":
    first, second = ((side // 2, side // 2) for side in sides)
    return first, second
  if padding == "SAME":
    axes = zip(size, sides, both(stride), strict=True)
    first, second = (_same(*axis) for axis in axes)
    return first, second
  raise ValueError(
    f"padding: {padding!r} is unknown; it must be one of {', '.join(NAMES)} "
    "or ((top, bottom), (left, right))."
  )


def _same(size: int, kernel: int, stride: int) -> Pair:
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def output_size(
  size: Sequence[int], kernel: Sequence[int], stride: Sides, pads: Pads, dilation: Sides = 1
) -> Pair:
  """Height and width of a convolution's output; 0 where the kernel does not fit.

  Examples:
    >>> output_size((8, 2), (3, 3), 2, ((1, 1), (0, 0)))
    (4, 0)
  """
  axes = zip(size, spans(kernel, dilation), both(stride), pads, strict=True)
  height, width = (max((n + sum(pair) - k) // step + 1, 0) for n, k, step, pair in axes)
  return height, width
