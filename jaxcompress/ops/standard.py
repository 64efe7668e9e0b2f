"""Convolution over all channels, and over groups of them, in every formulation.

XLA's own convolution is good on CPU, gradients included (matrix products for the weight gradient
came within 15 % of it either way). Two cases are not: a kernel of few taps, the stem, is faster
unfolded, and any gradient of a grouped convolution is 10 to 100 times slower than the gradients
of the same convolution group by group. A 1x1 convolution is one matrix product there.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.ops.padding import Pair, Slide, output_size, spans

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
FEW_TAPS = 36  # kh * kw * in up to which the input is unfolded: a stem on RGB
MOST_PARTS = 16  # separate convolutions that a grouped one is cut into: bounds compile time


def xla_conv(
  x: jax.Array, kernel: jax.Array, slide: Slide, groups: int = 1, result: Any = None
) -> jax.Array:
  """``lax.conv_general_dilated`` on NHWC images and an HWIO kernel, with its own gradients.

  Padding outside ``0 .. span - 1`` is applied beforehand: the input gradient would then be a
  convolution with negative padding, for which XLA on CPU (jaxlib 0.10.2) reads uninitialised memory.
  That of integers stays before it: moved behind a 1x1 kernel, it would cut sums to eight bits there.

  Examples:
    >>> slide = Slide(stride=(1, 1), pads=((1, 1), (1, 1)))
    >>> xla_conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), slide).shape
    (1, 4, 4, 5)
  """
  stride, pads, dilation = slide
  usual = zip(pads, spans(kernel.shape[:2], dilation), strict=True)
  if not all(0 <= pad < k for pair, k in usual for pad in pair):
    edges = ((0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0))
    x, pads = lax.pad(x, jnp.zeros((), x.dtype), edges), ((0, 0), (0, 0))
    if jnp.issubdtype(x.dtype, jnp.integer):
      x = lax.optimization_barrier(x)
  return lax.conv_general_dilated(
    x,
    kernel,
    stride,
    pads,
    rhs_dilation=dilation,
    dimension_numbers=DIMENSIONS,
    feature_group_count=groups,
    preferred_element_type=result,
  )


def matmul(x: jax.Array, y: jax.Array, *, result: Any = None) -> jax.Array:
  """``x @ y``; ``result`` is the dtype of sums and result, by default that of the arrays.

  Examples:
    >>> matmul(jnp.int8([[100, 100]]), jnp.int8([[100], [100]]), result=jnp.int32).tolist()
    [[20000]]
  """
  return jnp.matmul(x, y, preferred_element_type=result)


def matrix_product(x: jax.Array, kernel: jax.Array, stride: Pair, result: Any = None) -> jax.Array:
  """``y[h, w] = x[h * s, w * t] @ kernel`` with batch and space flattened to one axis.

  On flat matrices the gradients are two plain products as well. With batch and space left as
  axes, XLA on CPU copies both operands first and takes up to four times as long.

  Args:
    x: (batch, height, width, in).
    kernel: (1, 1, in, out).
    stride: steps along height and width.
    result: dtype of sums and result; None: that of the arrays.

  Returns:
    (batch, ceil(height / stride), ceil(width / stride), out).

  Examples:
    >>> matrix_product(jnp.ones((2, 3, 4, 5)), jnp.ones((1, 1, 5, 6)), (2, 2)).shape
    (2, 2, 2, 6)
  """
  if stride != (1, 1):
    x = x[:, :: stride[0], :: stride[1]]
  flat = x.reshape(-1, x.shape[-1])
  y = matmul(flat, kernel.reshape(kernel.shape[2:]), result=result)
  return y.reshape(*x.shape[:-1], kernel.shape[-1])


def by_case(
  x: jax.Array, kernel: jax.Array, slide: Slide, groups: int = 1, result: Any = None
) -> jax.Array:
  """Convolution in the formulation that fits its kernel.

  Args:
    x: (batch, height, width, in).
    kernel: (kh, kw, in / groups, out).
    slide: how the kernel moves.
    groups: number of channel groups.
    result: dtype of sums and result; None: that of the arrays.

  Returns:
    (batch, out_height, out_width, out).

  Examples:
    >>> slide = Slide(stride=(1, 1), pads=((1, 1), (1, 1)))
    >>> by_case(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 4, 6)), slide, groups=2).shape
    (1, 4, 4, 6)
  """
  height, width, channels, _ = kernel.shape
  if groups > 1:
    return by_parts(x, kernel, slide, groups, result)
  if height == width == 1 and slide.pads == ((0, 0), (0, 0)):
    return matrix_product(x, kernel, slide.stride, result)
  if height * width * channels <= FEW_TAPS:
    return unfolded(x, kernel, slide, result)
  return xla_conv(x, kernel, slide, result=result)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def unfolded(x: jax.Array, kernel: jax.Array, slide: Slide, result: Any = None) -> jax.Array:
  """One product of the unfolded input (im2col) with the kernel, for kernels of few taps.

  The gradient with respect to the input, which a stem does not need and ``jit`` then drops, is XLA's.
  """
  patches = unfold(x, kernel.shape[:2], slide)
  flat = patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, kernel.shape[-1])
  return matmul(*flat, result=result).reshape(*patches.shape[:3], -1)


def _unfolded_forward(x, kernel, slide, result):
  return unfolded(x, kernel, slide, result), (x, kernel)


def _unfolded_backward(slide, result, residuals, g):
  del result
  x, kernel = residuals
  (dx,) = jax.linear_transpose(lambda x: xla_conv(x, kernel, slide), x)(g)
  patches = unfold(x, kernel.shape[:2], slide)  # the same as in the forward pass: shared
  flat = [a.reshape(-1, a.shape[-1]) for a in (patches, g)]
  wide = jnp.promote_types(g.dtype, jnp.float32)
  dw = lax.dot_general(*flat, (((0,), (0,)), ((), ())), preferred_element_type=wide)
  return dx, dw.reshape(kernel.shape).astype(kernel.dtype)


unfolded.defvjp(_unfolded_forward, _unfolded_backward)


def unfold(x: jax.Array, kernel: tuple[int, ...], slide: Slide) -> jax.Array:
  """The cells under each kernel position, tap by tap, on the channel axis.

  Args:
    x: (batch, height, width, channels).
    kernel: height and width of the kernel.
    slide: how it moves.

  Returns:
    (batch, out_height, out_width, kh * kw * channels).

  Examples:
    >>> slide = Slide(stride=(1, 1), pads=((0, 0), (0, 0)))
    >>> unfold(jnp.arange(4.0).reshape(1, 1, 4, 1), (1, 2), slide)[0, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
  """
  padded = jnp.pad(x, ((0, 0), *slide.pads, (0, 0)))
  return jnp.concatenate([*_windows(padded, kernel, slide)], axis=-1)


def _windows(padded: jax.Array, kernel: tuple[int, ...], slide: Slide) -> Iterator[jax.Array]:
  """Yields the inputs of each kernel cell, (batch, out_height, out_width, ...) each."""
  (down, right), _, dilation = slide
  no_pads = ((0, 0), (0, 0))
  height, width = output_size(padded.shape[1:3], kernel, slide.stride, no_pads, dilation)
  rows, columns = (height - 1) * down + 1, (width - 1) * right + 1
  for i in range(0, kernel[0] * dilation[0], dilation[0]):
    for j in range(0, kernel[1] * dilation[1], dilation[1]):
      yield padded[:, i : i + rows : down, j : j + columns : right]


def by_parts(
  x: jax.Array, kernel: jax.Array, slide: Slide, groups: int = 1, result: Any = None
) -> jax.Array:
  """A grouped convolution as at most :data:`MOST_PARTS` separate ones.

  Groups that share a part make its kernel block diagonal. Arguments and result as for
  :func:`by_case`, which computes the parts.
  """
  parts = max(n for n in range(1, MOST_PARTS + 1) if groups % n == 0)
  kernels = [_block_diagonal(part, groups // parts) for part in jnp.split(kernel, parts, axis=-1)]
  results = [
    by_case(part, weights, slide, result=result)
    for part, weights in zip(jnp.split(x, parts, axis=-1), kernels, strict=True)
  ]
  return results[0] if parts == 1 else jnp.concatenate(results, axis=-1)


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
  """(kh, kw, in, out) of a grouped convolution to the (kh, kw, groups * in, out) of a dense one."""
  if groups == 1:
    return kernel
  height, width, channels, features = kernel.shape
  blocks = kernel.reshape(height, width, 1, channels, groups, features // groups)
  eye = jnp.eye(groups, dtype=kernel.dtype).reshape(1, 1, groups, 1, groups, 1)
  return (blocks * eye).reshape(height, width, groups * channels, features)


def tap_products(
  x: jax.Array, kernel: jax.Array, slide: Slide, groups: int = 1, result: Any = None
) -> jax.Array:
  """The sum over the kernel's cells of ``x``, shifted, times the weights of a cell.

  Convolution libraries of accelerators may pick Winograd's algorithm for float32, whose fractions
  are not exact; plain matrix products of integers are.

  Args:
    x: (batch, height, width, in).
    kernel: (kh, kw, in / groups, out).
    slide: how the kernel moves.
    groups: number of channel groups.
    result: dtype of sums and result; None: that of the arrays.

  Returns:
    (batch, out_height, out_width, out).

  Examples:
    >>> x, kernel = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 3, 2))
    >>> tap_products(x, kernel, Slide((1, 1), ((1, 1), (1, 1))), groups=2).shape
    (1, 4, 4, 2)
  """
  height, width, depth, features = kernel.shape
  x = jnp.pad(x, ((0, 0), *slide.pads, (0, 0)))
  x = x.reshape(*x.shape[:3], groups, depth)
  taps = kernel.reshape(height, width, depth, groups, features // groups)
  windows = _windows(x, (height, width), slide)
  first, *others = [
    jnp.einsum("nhwgc,cgo->nhwgo", window, taps[cell], preferred_element_type=result)
    for cell, window in zip(np.ndindex(height, width), windows, strict=True)
  ]
  total = sum(others, first)
  return total.reshape(*total.shape[:3], features)
