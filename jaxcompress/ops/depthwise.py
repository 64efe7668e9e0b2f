"""Depthwise convolution as shifted multiply-adds.

XLA runs a grouped convolution with one channel per group 10 to 70 times slower than the sum of
``k * k`` shifted slices times a weight per channel, and its gradients worse (jax issues 13800 and
23713). Sums are taken in float32 or wider, whatever the dtype of the images.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.ops.images import sum_over_groups
from jaxcompress.ops.padding import Pads, output_size
from jaxcompress.ops.reductions import reduce_together

GROUP_ELEMENTS = 2**19  # input elements of one group of images: about the size of a core's cache
ACCUMULATORS = 10  # running sums that one reduction keeps in registers

WeightGradient = Callable[[jax.Array, jax.Array, tuple[int, int], int, Pads], jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  pads: Pads,
  weight_gradient: WeightGradient,
) -> jax.Array:
  """Depthwise convolution: ``y[h, w, c] = sum_ij x[h * s + i, w * s + j, c] * kernel[i, j, 0, c]``.

  Args:
    x: (batch, height, width, channels), padded here by ``pads``.
    kernel: (kh, kw, 1, channels).
    stride: step in both directions.
    pads: ``((top, bottom), (left, right))``.
    weight_gradient: one of :func:`by_taps`, :func:`by_rows`, :func:`by_scan`.

  Returns:
    (batch, out_height, out_width, channels) of the dtype of ``x``. Differentiable in reverse.

  Examples:
    >>> shifted(jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2)), 1, ((1, 1), (1, 1)), by_taps)[0, 0, 0]
    Array([4., 4.], dtype=float32)
  """
  del weight_gradient
  size = output_size(x.shape[1:3], kernel.shape[:2], stride, pads)
  padded = _pad(_wide(x), *pads)
  weights = _wide(kernel)
  y = _sum(
    _window(padded, (i, j), size, stride) * weights[i, j, 0].reshape(1, 1, 1, -1)
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )
  return y.astype(x.dtype)


def _forward(x, kernel, stride, pads, weight_gradient):
  return shifted(x, kernel, stride, pads, weight_gradient), (x, kernel)


def _backward(stride, pads, weight_gradient, residuals, g):
  x, kernel = residuals
  dx = input_gradient(g, kernel, x.shape, stride, pads)
  dw = weight_gradient(x, g, kernel.shape[:2], stride, pads)
  return dx, dw.reshape(kernel.shape).astype(kernel.dtype)


shifted.defvjp(_forward, _backward)


def input_gradient(
  g: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int, pads: Pads
) -> jax.Array:
  """Gradient by the input: each of the ``stride**2`` phases from the taps that hit it.

  Position ``stride * q + r`` of the input was read by tap ``a`` into output ``q + d`` wherever
  ``r + pad - a = stride * d``. The phases are computed from the upstream gradient as it is (no
  zeros between its cells) and then interleaved.

  Args:
    g: (batch, out_height, out_width, channels), the gradient by the output.
    kernel: (kh, kw, 1, channels).
    shape: shape of the input.
    stride: the convolution's.
    pads: the convolution's.

  Examples:
    >>> g, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1))
    >>> input_gradient(g, kernel, (1, 3, 3, 1), 2, ((0, 0), (0, 0)))[0, 0, :, 0]
    Array([1., 0., 1.], dtype=float32)
  """
  batch, height, width, channels = shape
  rows = [_taps(r + pads[0][0], kernel.shape[0], stride) for r in range(stride)]
  columns = [_taps(r + pads[1][0], kernel.shape[1], stride) for r in range(stride)]
  size = (-(-height // stride), -(-width // stride))  # of one phase
  top, bottom = _reach(rows, size[0], g.shape[1])
  left, right = _reach(columns, size[1], g.shape[2])
  padded = _pad(_wide(g), (top, bottom), (left, right))
  weights = _wide(kernel)
  zeros = jnp.zeros((batch, *size, channels), padded.dtype)

  def phase(row, column):
    return _sum(
      (
        _window(padded, (top + dy, left + dx), size, 1) * weights[i, j, 0].reshape(1, 1, 1, -1)
        for i, dy in row
        for j, dx in column
      ),
      zeros,
    )

  if stride == 1:
    return phase(rows[0], columns[0]).astype(g.dtype)
  phases = [jnp.stack([phase(row, column) for column in columns], axis=3) for row in rows]
  full = jnp.stack(phases, axis=2).reshape(batch, size[0] * stride, size[1] * stride, channels)
  return full[:, :height, :width].astype(g.dtype)


def by_taps(x, g, kernel, stride, pads) -> jax.Array:
  """Gradient by the kernel, one sum over batch and space for each tap.

  Args:
    x: (batch, height, width, channels), the convolution's input.
    g: (batch, out_height, out_width, channels), the gradient by its output.
    kernel: height and width of the kernel.
    stride: the convolution's.
    pads: the convolution's.

  Returns:
    (kh * kw, channels), float32 or wider.
  """
  padded, g = _pad(_wide(x), *pads), _wide(g)
  sums = [
    jnp.sum(_window(padded, (i, j), g.shape[1:3], stride) * g, axis=(0, 1, 2))
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]
  return jnp.stack(sums)


def by_rows(x, g, kernel, stride, pads) -> jax.Array:
  """Gradient by the kernel with few passes: one variadic reduction gives many taps.

  The products of all taps of a few kernel rows are reduced over blocks of 4 to 8 output rows by
  *one* ``lax.reduce`` with that many operands, so its loop loads the images once and keeps every
  sum in a register. What remains is small. Arguments and result as for :func:`by_taps`.
  """
  x, g = _wide(x), _wide(g)
  batch, height, width, channels = g.shape
  block = row_block(height)
  extra = -height % block
  padded = _pad(x, (pads[0][0], pads[0][1] + extra * stride), pads[1])
  g = _pad(g, (0, extra), (0, 0))
  sums = []
  step = max(ACCUMULATORS // kernel[1], 1)
  for first in range(0, kernel[0], step):
    products = tuple(
      (_window(padded, (i, j), g.shape[1:3], stride) * g).reshape(batch, -1, block, width, channels)
      for i in range(first, min(first + step, kernel[0]))
      for j in range(kernel[1])
    )
    sums += [jnp.sum(part, axis=(0, 1, 2)) for part in reduce_together(products, 2)]
  return jnp.stack(sums)


def by_scan(x, g, kernel, stride, pads) -> jax.Array:
  """:func:`by_rows` over groups of images that fit the cache, in a scan."""
  term = partial(by_rows, kernel=kernel, stride=stride, pads=pads)
  per_image = x.shape[1] * x.shape[2] * x.shape[3]
  return sum_over_groups(term, x, g, GROUP_ELEMENTS // per_image)


def row_block(height: int) -> int:
  """Rows that :func:`by_rows` reduces at a time: a divisor in 8..4, else the least padding.

  Examples:
    >>> row_block(32), row_block(14), row_block(3), row_block(11)
    (8, 7, 3, 6)
  """
  if height <= 8:
    return height
  return min(range(8, 3, -1), key=lambda block: -height % block)


def _wide(x: jax.Array) -> jax.Array:
  """Floats in float32 or wider: narrower arithmetic is slow on CPU and inexact everywhere."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pad(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


def _window(x: jax.Array, start: tuple[int, int], size: tuple[int, int], stride: int) -> jax.Array:
  """``size`` cells from ``start`` on, every ``stride``-th."""
  limits = [first + (n - 1) * stride + 1 for first, n in zip(start, size, strict=True)]
  return lax.slice(x, (0, *start, 0), (x.shape[0], *limits, x.shape[3]), (1, stride, stride, 1))


def _sum(terms, start: jax.Array | None = None) -> jax.Array:
  """The terms added one by one, without a leading zero; ``start`` where there is none."""
  total = None
  for term in terms:
    total = term if total is None else total + term
  return start if total is None else total


def _taps(position: int, kernel: int, stride: int) -> list[tuple[int, int]]:
  """Pairs (tap, output offset) that read a position of the padded input."""
  return [(a, (position - a) // stride) for a in range(kernel) if (position - a) % stride == 0]


def _reach(phases: list[list[tuple[int, int]]], size: int, available: int) -> tuple[int, int]:
  """Zeros needed before and after the gradient so that every tap finds a cell."""
  offsets = [offset for taps in phases for _, offset in taps]
  return max(0, -min(offsets)), max(0, size + max(offsets) - available)
