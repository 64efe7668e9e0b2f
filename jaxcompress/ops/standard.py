"""Convolution over all channels, and over groups of channels, on CPU.

XLA's own convolution is good there, gradients included (matrix products for the weight gradient
came within 15 % of it either way). Two cases are not: a kernel of few taps, the stem, is faster
unfolded, and any gradient of a grouped convolution is 10 to 100 times slower than the gradients
of the same convolution group by group.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.ops.padding import Pads, output_size
from jaxcompress.ops.pointwise import matrix_product
from jaxcompress.ops.xla import xla_conv

FEW_TAPS = 36  # kh * kw * in up to which the input is unfolded: a stem on RGB
MOST_PARTS = 16  # separate convolutions that a grouped one is cut into: bounds compile time


def by_case(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1) -> jax.Array:
  """Convolution in the formulation that fits its kernel.

  Args:
    x: (batch, height, width, in).
    kernel: (kh, kw, in / groups, out).
    stride: step in both directions.
    pads: ``((top, bottom), (left, right))``.
    groups: number of channel groups.

  Returns:
    (batch, out_height, out_width, out) of the dtype of ``x``.

  Examples:
    >>> pads = ((1, 1), (1, 1))
    >>> by_case(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 4, 6)), 1, pads, groups=2).shape
    (1, 4, 4, 6)
  """
  height, width, channels, _ = kernel.shape
  if groups > 1:
    return by_parts(x, kernel, stride, pads, groups)
  if height == width == 1 and pads == ((0, 0), (0, 0)):
    return matrix_product(x, kernel, stride)
  if height * width * channels <= FEW_TAPS:
    return unfolded(x, kernel, stride, pads)
  return xla_conv(x, kernel, stride, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def unfolded(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
  """One product of the unfolded input (im2col) with the kernel, for kernels of few taps.

  The gradient by the input, which a stem does not need and ``jit`` then drops, is XLA's.
  """
  patches = unfold(x, kernel.shape[:2], stride, pads)
  y = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
  return y.reshape(*patches.shape[:3], -1)


def _unfolded_forward(x, kernel, stride, pads):
  return unfolded(x, kernel, stride, pads), (x, kernel)


def _unfolded_backward(stride, pads, residuals, g):
  x, kernel = residuals
  (dx,) = jax.linear_transpose(lambda x: xla_conv(x, kernel, stride, pads), x)(g)
  patches = unfold(x, kernel.shape[:2], stride, pads)  # the same as in the forward pass: shared
  flat = [a.reshape(-1, a.shape[-1]) for a in (patches, g)]
  wide = jnp.promote_types(g.dtype, jnp.float32)
  dw = lax.dot_general(*flat, (((0,), (0,)), ((), ())), preferred_element_type=wide)
  return dx, dw.reshape(kernel.shape).astype(kernel.dtype)


unfolded.defvjp(_unfolded_forward, _unfolded_backward)


def unfold(x: jax.Array, kernel: tuple[int, ...], stride: int, pads: Pads) -> jax.Array:
  """The cells under each kernel position, tap by tap, on the channel axis.

  Args:
    x: (batch, height, width, channels).
    kernel: height and width of the kernel.
    stride: step in both directions.
    pads: ``((top, bottom), (left, right))``.

  Returns:
    (batch, out_height, out_width, kh * kw * channels).

  Examples:
    >>> unfold(jnp.arange(4.0).reshape(1, 1, 4, 1), (1, 2), 1, ((0, 0), (0, 0)))[0, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
  """
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  height, width = output_size(x.shape[1:3], kernel, stride, pads)
  windows = [
    padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]
  return jnp.concatenate(windows, axis=-1)


def by_parts(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """A grouped convolution as at most :data:`MOST_PARTS` separate ones.

  Groups that share a part make its kernel block diagonal. Arguments and result as for
  :func:`by_case`, which computes the parts.
  """
  parts = max(n for n in range(1, MOST_PARTS + 1) if groups % n == 0)
  kernels = [_block_diagonal(part, groups // parts) for part in jnp.split(kernel, parts, axis=-1)]
  results = [
    by_case(part, weights, stride, pads)
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
