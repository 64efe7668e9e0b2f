"""Padding of a convolution, from the names that frameworks use to numbers."""

from collections.abc import Sequence

import numpy as np

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = str | Pads
"""A name, or cells as ``((top, bottom), (left, right))``; see :func:`resolve_padding`."""

NAMES = ("SAME", "SYMMETRIC", "VALID")


def resolve_padding(
  padding: Padding, size: Sequence[int], kernel: int | Sequence[int], stride: int
) -> Pads:
  """Cells added before and after each spatial axis.

  Args:
    padding: ``"SAME"`` (TensorFlow's: an output of ``ceil(size / stride)``, the odd cell at the
      end), ``"SYMMETRIC"`` (``kernel // 2`` on every side, as PyTorch models write it),
      ``"VALID"`` (none), or explicit ``((top, bottom), (left, right))``.
    size: height and width of the input.
    kernel: side of the kernel, or its height and width.
    stride: step in both directions.

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
  sides = (kernel, kernel) if isinstance(kernel, int | np.integer) else tuple(kernel)
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
    first, second = (_same(n, side, stride) for n, side in zip(size, sides, strict=True))
    return first, second
  raise ValueError(
    f"padding: {padding!r} is unknown; it must be one of {', '.join(NAMES)} "
    "or ((top, bottom), (left, right))."
  )


def _same(size: int, kernel: int, stride: int) -> Pair:
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def output_size(
  size: Sequence[int], kernel: Sequence[int], stride: int | Sequence[int], pads: Pads
) -> Pair:
  """Height and width of a convolution's output; 0 where the kernel does not fit.

  Examples:
    >>> output_size((8, 2), (3, 3), 2, ((1, 1), (0, 0)))
    (4, 0)
  """
  steps = (stride, stride) if isinstance(stride, int | np.integer) else stride
  axes = zip(size, kernel, steps, pads, strict=True)
  height, width = (max((n + sum(pair) - k) // step + 1, 0) for n, k, step, pair in axes)
  return height, width
