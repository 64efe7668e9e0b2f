"""Transposed convolution, as the ordinary convolutions that it is interleaved of.

A stride of s puts s - 1 zeros between the cells of the input. Each output reads every s-th tap of the
kernel, and outputs s apart read the same ones: as many ordinary convolutions as there are *phases*, of
``ceil(kernel / stride)`` taps, whose outputs take turns. No zero is multiplied but those that fill up a
kernel that the stride does not divide.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.ops.convolution import conv
from jaxcompress.ops.padding import Padding, Pads, Pair, both

NAMES = ("SAME", "VALID")


class Phases(NamedTuple):
  """The ordinary convolution that a transposed one is, and what is done to its output.

  Attributes:
    pads: cells around the input, ``((top, bottom), (left, right))``.
    crop: rows and columns left out at the start, once the phases are interleaved.
    size: height and width that are left.
  """

  pads: Pads
  crop: Pair
  size: Pair


def resolve_transposed(padding: Padding, kernel: Any, stride: Any) -> Pads:
  """Cells added around the spread input, over which the kernel moves by one, as ``lax.conv_transpose``.

  Args:
    padding: ``"SAME"`` (an output of ``size * stride``), ``"VALID"`` (everything that the kernel
      reaches), or ``((top, bottom), (left, right))``. PyTorch's ``padding=p, output_padding=o`` is
      ``kernel - 1 - p`` before and ``kernel - 1 - p + o`` after.
    kernel: side of the kernel, or its height and width.
    stride: how far the cells are spread, in both directions or along height and width.

  Raises:
    ValueError: for an unknown name, or pairs that are no whole numbers of cells or leave outputs that
      read nothing: there are up to ``kernel - 1`` cells before, and ``kernel + stride - 2`` after.

  Examples:
    >>> resolve_transposed("SAME", 3, 2), resolve_transposed("VALID", 3, 2)
    (((2, 1), (2, 1)), ((2, 2), (2, 2)))
  """
  sides, steps = both(kernel), both(stride)
  if isinstance(padding, str):
    if padding not in NAMES:
      raise ValueError(
        f"padding: {padding!r} is unknown; that of a transposed convolution is one of"
        f" {', '.join(NAMES)} or ((top, bottom), (left, right))."
      )
    rows, columns = (_named(padding, *axis) for axis in zip(sides, steps, strict=True))
    return rows, columns
  try:
    (top, bottom), (left, right) = padding
  except (TypeError, ValueError):
    message = f"padding: {padding!r} must be ((top, bottom), (left, right)) or a name."
    raise ValueError(message) from None
  pads = ((top, bottom), (left, right))
  for (before, after), side, step in zip(pads, sides, steps, strict=True):
    if not all(isinstance(n, int | np.integer) and n >= 0 for n in (before, after)):
      raise ValueError(f"padding: {padding!r} must be whole numbers of cells, zero or more.")
    if before >= side or after > side + step - 2:
      raise ValueError(
        f"padding: {padding!r} leaves outputs that read nothing; a kernel of {side} with stride"
        f" {step} has at most {side - 1} cells before and {side + step - 2} after."
      )
  return pads


def _named(padding: str, kernel: int, stride: int) -> Pair:
  total = kernel + stride - 2
  if padding == "VALID":
    return kernel - 1, max(kernel, stride) - 1
  before = kernel - 1 if stride > kernel - 1 else -(-total // 2)
  return before, total - before


def transposed_size(size: Sequence[int], kernel: Any, stride: Any, pads: Pads) -> Pair:
  """Height and width of a transposed convolution's output; below 1 where the padding cuts all off.

  Examples:
    >>> transposed_size((4, 5), 3, 2, ((2, 1), (2, 2)))
    (8, 11)
  """
  axes = zip(size, both(kernel), both(stride), pads, strict=True)
  height, width = ((n - 1) * step + 2 + sum(pair) - k for n, k, step, pair in axes)
  return height, width


def reach_before(kernel: Any, pads: Pads) -> Pair:
  """Rows and columns that the kernel reaches before the first output: TFLite's and ONNX's padding.

  Examples:
    >>> reach_before(4, resolve_transposed("SAME", 4, 2))
    (1, 1)
  """
  rows, columns = (side - 1 - before for side, (before, _) in zip(both(kernel), pads, strict=True))
  return rows, columns


def phases(size: Sequence[int], kernel: Any, stride: Any, pads: Pads) -> Phases:
  """The ordinary convolution of a transposed one; its kernel is :func:`phase_kernel`.

  Args:
    size: height and width of the input.
    kernel: side of the kernel, or its height and width.
    stride: in both directions, or along height and width.
    pads: from :func:`resolve_transposed`.

  Examples:
    >>> phases((4, 4), 2, 2, resolve_transposed("SAME", 2, 2))
    Phases(pads=((0, 0), (0, 0)), crop=(0, 0), size=(8, 8))
  """
  out = transposed_size(size, kernel, stride, pads)
  axes = zip(size, out, reach_before(kernel, pads), both(kernel), both(stride), strict=True)
  rows, columns = (_phase_pads(*axis) for axis in axes)
  crops = zip(reach_before(kernel, pads), both(stride), strict=True)
  top, left = (reach % step for reach, step in crops)
  return Phases((rows, columns), (top, left), out)


def _phase_pads(size: int, out: int, reach: int, kernel: int, stride: int) -> Pair:
  taps, first, last = -(-kernel // stride), reach // stride, -(-(reach + out) // stride)
  before = taps - 1 - first
  return before, max(last - first - size - before + taps - 1, 0)


def phase_kernel(kernel: Any, stride: Any) -> Any:
  """The kernel of all phases side by side.

  Args:
    kernel: (kh, kw, in, out), of numpy or JAX.
    stride: in both directions, or along height and width.

  Returns:
    (ceil(kh / stride), ceil(kw / stride), in, phases * out), the phases row by row.

  Examples:
    >>> phase_kernel(np.arange(3.0).reshape(1, 3, 1, 1), (1, 2)).squeeze().tolist()
    [[0.0, 0.0], [2.0, 1.0]]
  """
  numbers: Any = jnp if isinstance(kernel, jax.Array) else np
  (height, width), (down, right) = kernel.shape[:2], both(stride)
  rows, columns = -(-height // down), -(-width // right)
  more = ((0, rows * down - height), (0, columns * right - width), (0, 0), (0, 0))
  taps = numbers.pad(kernel[::-1, ::-1], more)
  taps = taps.reshape(rows, down, columns, right, *kernel.shape[2:])[::-1, :, ::-1]
  return taps.transpose(0, 2, 4, 1, 3, 5).reshape(rows, columns, kernel.shape[2], -1)


def interleave(y: jax.Array, stride: Any, plan: Phases) -> jax.Array:
  """The outputs of all phases, taking turns.

  Args:
    y: (batch, height, width, phases * out), of a convolution with :func:`phase_kernel`.
    stride: in both directions, or along height and width.
    plan: from :func:`phases`.

  Examples:
    >>> y = jnp.arange(4.0).reshape(1, 1, 1, 4)
    >>> interleave(y, 2, Phases(((0, 0), (0, 0)), (0, 0), (2, 2)))[0, ..., 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
  """
  batch, height, width, _ = y.shape
  down, right = both(stride)
  y = y.reshape(batch, height, width, down, right, -1).transpose(0, 1, 3, 2, 4, 5)
  y = y.reshape(batch, height * down, width * right, -1)
  (top, left), (rows, columns) = plan.crop, plan.size
  return y[:, top : top + rows, left : left + columns]


def conv_transpose(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: Any = 1,
  padding: Padding = "SAME",
  result: Any = None,
) -> jax.Array:
  """Transposed convolution, as ``lax.conv_transpose(x, kernel, strides, padding)`` has it.

  Where the convolution of all phases makes more than it reads, the map is padded beforehand: for such
  ones XLA's gradient with respect to the kernel is 40 to 100 times slower on CPU (jaxlib 0.10.2).

  Args:
    x: (batch, height, width, in), any float dtype.
    kernel: (kh, kw, in, out), of the same dtype.
    stride: how far the cells are spread, in both directions or along height and width.
    padding: as for :func:`resolve_transposed`.
    result: as for :func:`~jaxcompress.ops.conv`.

  Returns:
    (batch, out_height, out_width, out), of the dtype of ``x`` or ``result``.

  Raises:
    ValueError: as :func:`resolve_transposed`.

  Examples:
    >>> conv_transpose(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 5)), stride=2).shape
    (1, 8, 8, 5)
  """
  sides = kernel.shape[:2]
  plan = phases(x.shape[1:3], sides, stride, resolve_transposed(padding, sides, stride))
  weights, pads = phase_kernel(kernel, stride), plan.pads
  if any(sum(pair) >= taps for pair, taps in zip(pads, weights.shape[:2], strict=True)):
    x, pads = jnp.pad(x, ((0, 0), *pads, (0, 0))), ((0, 0), (0, 0))
  return interleave(conv(x, weights, padding=pads, result=result), stride, plan)
