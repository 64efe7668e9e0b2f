"""Depthwise convolution as shifted multiply-adds.

XLA runs a grouped convolution with one channel per group 10 to 70 times slower than the sum of
``k * k`` shifted slices times a weight per channel, and its gradients worse (jax issues 13800 and
23713). Sums are taken in float32 or wider, whatever the dtype of the images.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcompress.ops.padding import Pair, Slide, output_size
from jaxcompress.ops.reductions import reduce_together

ACCUMULATORS = 10  # running sums that one reduction keeps in registers

WeightGradient = Callable[[jax.Array, jax.Array, Pair, Slide], jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def shifted(
  x: jax.Array,
  kernel: jax.Array,
  slide: Slide,
  weight_gradient: WeightGradient,
  keep_padded: bool,
  result: Any = None,
) -> jax.Array:
  """Depthwise convolution: ``y[h, w, c] = sum_ij x[h * s + i, w * s + j, c] * kernel[i, j, 0, c]``.

  Args:
    x: (batch, height, width, channels), padded here.
    kernel: (kh, kw, 1, channels).
    slide: how the kernel moves.
    weight_gradient: :func:`by_taps` or :func:`by_rows`.
    keep_padded: whether padded arrays are written to memory once and shared by all that read
      them, which is best on CPU; elsewhere padding is left to be fused into every reader.
    result: dtype of the result, and of the sums where it is an integer; None: that of ``x``.

  Returns:
    (batch, out_height, out_width, channels). Differentiable in reverse.

  Examples:
    >>> slide = Slide(stride=(1, 1), pads=((1, 1), (1, 1)))
    >>> shifted(jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2)), slide, by_taps, False)[0, 0].tolist()
    [[4.0, 4.0], [6.0, 6.0], [4.0, 4.0]]
  """
  return _forward(x, kernel, slide, weight_gradient, keep_padded, result)[0]


def _forward(x, kernel, slide, weight_gradient, keep_padded, result):
  del weight_gradient
  to = x.dtype if result is None else result
  if not jnp.issubdtype(to, jnp.floating):
    x, kernel = x.astype(to), kernel.astype(to)
  size = output_size(x.shape[1:3], kernel.shape[:2], *slide)
  padded = _padded(x, *slide.pads, keep_padded)
  if keep_padded:  # what makes a kernel, such as rounding, would be computed for every pixel
    kernel = kept(lambda kernel: kernel)(kernel)
  weights = _wide(kernel)
  y = _sum(
    _wide(_under(padded, (i, j), size, slide)) * weights[i, j, 0].reshape(1, 1, 1, -1)
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )
  return y.astype(to), (padded, kernel)


def _backward(slide, weight_gradient, keep_padded, result, residuals, g):
  del result
  padded, kernel = residuals
  stride, pads, dilation = slide
  size = tuple(n - sum(pair) for n, pair in zip(padded.shape[1:3], pads, strict=True))
  axes = zip(size, g.shape[1:3], kernel.shape[:2], pads, stride, dilation, strict=True)
  rows, columns = (_phases(*axis) for axis in axes)
  padded_g = _padded(g, rows.margins, columns.margins, keep_padded)

  def by_input(padded_g, kernel):
    return input_gradient(padded_g, kernel, rows, columns, g.dtype)[:, : size[0], : size[1]]

  dx = (kept(by_input) if keep_padded else by_input)(padded_g, kernel)
  start = (rows.margins[0], columns.margins[0])
  dw = weight_gradient(padded, _window(padded_g, start, g.shape[1:3]), kernel.shape[:2], slide)
  return dx, dw.reshape(kernel.shape).astype(kernel.dtype)


shifted.defvjp(_forward, _backward)


class Phases(NamedTuple):
  """Reads of one axis of the input, by position modulo the stride.

  Attributes:
    taps: for each phase, pairs (kernel tap, offset into the output).
    size: positions of each phase.
    margins: zeros before and after the gradient with respect to the output, so that every tap finds a cell.
  """

  taps: tuple[tuple[Pair, ...], ...]
  size: int
  margins: Pair


def _phases(
  size: int, available: int, kernel: int, pad: Pair, stride: int, dilation: int
) -> Phases:
  """Input position ``stride * q + r`` meets tap ``a`` in output ``q + (r + pad - a * dilation) / stride``."""
  ahead = [[r + pad[0] - a * dilation for a in range(kernel)] for r in range(stride)]
  taps = tuple(
    tuple((a, cells // stride) for a, cells in enumerate(phase) if cells % stride == 0)
    for phase in ahead
  )
  count = -(-size // stride)
  offsets = [offset for phase in taps for _, offset in phase]
  return Phases(taps, count, (max(0, -min(offsets)), max(0, count + max(offsets) - available)))


def input_gradient(
  padded_g: jax.Array, kernel: jax.Array, rows: Phases, columns: Phases, dtype: jnp.dtype
) -> jax.Array:
  """Gradient with respect to the input: each of the phases, as many as strides allow, from the taps that hit it.

  The phases are computed from the upstream gradient as it is, without zeros between its cells,
  and then interleaved.

  Args:
    padded_g: gradient with respect to the output with the margins of ``rows`` and ``columns``.
    kernel: (kh, kw, 1, channels).
    rows: phases of the height.
    columns: phases of the width.
    dtype: of the result; sums are taken in float32 or wider.

  Returns:
    (batch, height, width, channels): the input's size, rounded up to whole strides.
  """
  batch, *_, channels = padded_g.shape
  size, stride = (rows.size, columns.size), (len(rows.taps), len(columns.taps))
  weights = _wide(kernel)
  zeros = jnp.zeros((batch, *size, channels), weights.dtype)

  def phase(row, column):
    terms = (
      _wide(_window(padded_g, (rows.margins[0] + dy, columns.margins[0] + dx), size))
      * weights[i, j, 0].reshape(1, 1, 1, -1)
      for i, dy in row
      for j, dx in column
    )
    return _sum(terms, zeros).astype(dtype)

  if stride == (1, 1):
    return phase(rows.taps[0], columns.taps[0])
  phases = [jnp.stack([phase(r, c) for c in columns.taps], axis=3) for r in rows.taps]
  return jnp.stack(phases, axis=2).reshape(
    batch, size[0] * stride[0], size[1] * stride[1], channels
  )


def by_taps(padded: jax.Array, g: jax.Array, kernel: Pair, slide: Slide) -> jax.Array:
  """Gradient with respect to the kernel, one sum over batch and space for each tap.

  Args:
    padded: (batch, padded_height, padded_width, channels), the convolution's padded input.
    g: (batch, out_height, out_width, channels), the gradient with respect to its output.
    kernel: height and width of the kernel.
    slide: how it moves.

  Returns:
    (kh * kw, channels), float32 or wider.
  """
  sums = [
    jnp.sum(_wide(_under(padded, (i, j), g.shape[1:3], slide)) * _wide(g), axis=(0, 1, 2))
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]
  return jnp.stack(sums)


def by_rows(padded: jax.Array, g: jax.Array, kernel: Pair, slide: Slide) -> jax.Array:
  """Gradient with respect to the kernel with few passes: one variadic reduction gives many taps.

  The products of all taps of a few kernel rows are reduced over blocks of 4 to 8 output rows by
  *one* ``lax.reduce`` with that many operands, so its loop loads the images once and keeps every
  sum in a register. What remains is small. Arguments and result as for :func:`by_taps`.
  """
  batch, height, width, channels = g.shape
  block = row_block(height)
  extra = -height % block
  if extra:
    padded, g = _pad(padded, (0, extra * slide.stride[0]), (0, 0)), _pad(g, (0, extra), (0, 0))
  sums = []
  step = max(ACCUMULATORS // kernel[1], 1)
  for first in range(0, kernel[0], step):
    products = [
      (_wide(_under(padded, (i, j), g.shape[1:3], slide)) * _wide(g)).reshape(
        batch, -1, block, width, channels
      )
      for i in range(first, min(first + step, kernel[0]))
      for j in range(kernel[1])
    ]
    sums += [jnp.sum(part, axis=(0, 1, 2)) for part in reduce_together(products, 2)]
  return jnp.stack(sums)


def row_block(height: int) -> int:
  """Rows that :func:`by_rows` reduces at a time: a divisor in 8..4, else the least padding.

  Examples:
    >>> row_block(32), row_block(14), row_block(3), row_block(11)
    (8, 7, 3, 6)
  """
  if height <= 8:
    return height
  return min(range(8, 3, -1), key=lambda block: -height % block)


def kept(function: Callable) -> Callable:
  """``function``, whose results are written to memory once, however many loops read them.

  XLA on CPU fuses an expensive expression into every loop that reads it, and computes it again in
  each; it drops ``lax.optimization_barrier`` before it fuses. A call that is not inlined it keeps:
  what the call returns is computed once, on all cores.

  Args:
    function: of arrays. Not differentiated: call it within a custom gradient.

  Examples:
    >>> program = jax.jit(lambda x: kept(jnp.sin)(x) + 1).lower(jnp.ones(3)).compile()
    >>> " call(" in program.as_text()
    True
  """

  def called(*args):
    with set_xla_metadata(inlineable="false"):
      return jax.jit(function)(*args)

  return called


def _wide(x: jax.Array) -> jax.Array:
  """Floats in float32 or wider: narrower arithmetic is slow on CPU and inexact everywhere."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _padded(x: jax.Array, rows: Pair, columns: Pair, keep: bool) -> jax.Array:
  """Padded here, widened (narrow floats are slow to read on CPU), or wherever XLA fuses it."""
  return lax.optimization_barrier(_pad(_wide(x), rows, columns)) if keep else _pad(x, rows, columns)


def _pad(x: jax.Array, rows: Pair, columns: Pair) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


def _under(padded: jax.Array, tap: Pair, size: Sequence[int], slide: Slide) -> jax.Array:
  """The cells that a tap of the kernel meets."""
  start = [a * step for a, step in zip(tap, slide.dilation, strict=True)]
  return _window(padded, start, size, slide.stride)


def _window(
  x: jax.Array, start: Sequence[int], size: Sequence[int], stride: Pair = (1, 1)
) -> jax.Array:
  """``size`` cells from ``start`` on, every ``stride``-th."""
  axes = zip(start, size, stride, strict=True)
  limits = [first + (n - 1) * step + 1 for first, n, step in axes]
  return lax.slice(x, (0, *start, 0), (x.shape[0], *limits, x.shape[3]), (1, *stride, 1))


def _sum(terms, start: Any = None) -> Any:
  """The terms added one by one, without a leading zero; ``start`` where there is none."""
  total = None
  for term in terms:
    total = term if total is None else total + term
  return start if total is None else total
