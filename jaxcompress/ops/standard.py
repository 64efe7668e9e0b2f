"""Convolution over all channels, and over groups of channels, on CPU.

XLA's forward pass and input gradient are good there. Its weight gradient is slow for maps of many
positions, kernels on few channels are better unfolded, and any gradient of a grouped convolution
is 10 to 100 times slower than the same convolution group by group.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.ops.images import sum_over_groups
from jaxcompress.ops.padding import Pads, output_size
from jaxcompress.ops.pointwise import matrix_product
from jaxcompress.ops.xla import xla_conv

GROUP_POSITIONS = 2048  # output positions of one group of images in the weight gradient
FEW_TAPS = 36  # kh * kw * in up to which the input is unfolded: a stem on RGB
MANY_CHANNELS = 32  # input channels from which matrix products win the weight gradient,
LARGE_MAP = 512  # and output positions
MOST_PARTS = 16  # separate convolutions that a grouped one is cut into: bounds compile time


def matrix_products(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """Convolution whose slow parts are matrix products.

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
    >>> matrix_products(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 4, 6)), 1, pads, groups=2).shape
    (1, 4, 4, 6)
  """
  if groups > 1:
    return by_parts(x, kernel, stride, pads, groups, matrix_products)
  height, width, channels, _ = kernel.shape
  if height == width == 1 and pads == ((0, 0), (0, 0)):
    return matrix_product(x, kernel, stride)
  if height * width * channels <= FEW_TAPS:
    return unfolded(x, kernel, stride, pads)
  size = output_size(x.shape[1:3], (height, width), stride, pads)
  if channels >= MANY_CHANNELS and math.prod(size) >= LARGE_MAP:
    return fast_weights(x, kernel, stride, pads)
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
  patches = unfold(x, kernel.shape[:2], stride, pads)  # the same as in the forward pass: shared
  dw = _outer(patches, g).reshape(kernel.shape)
  return _input_gradient(x, kernel, stride, pads, g), dw.astype(kernel.dtype)


unfolded.defvjp(_unfolded_forward, _unfolded_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def fast_weights(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
  """XLA's convolution with a weight gradient of one matrix product per kernel row.

  The columns that a kernel row reads are gathered side by side on the channel axis once, and
  every kernel row then multiplies another block of rows of them with the gradient; a few images
  at a time, so that the gathered columns stay in the cache.
  """
  return xla_conv(x, kernel, stride, pads)


def _fast_weights_forward(x, kernel, stride, pads):
  return xla_conv(x, kernel, stride, pads), (x, kernel)


def _fast_weights_backward(stride, pads, residuals, g):
  x, kernel = residuals
  height, width, channels, features = kernel.shape
  _, rows, columns, _ = g.shape

  def term(x, g):
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    gathered = unfold(x, (1, width), (1, stride), ((0, 0), (0, 0)))
    parts = []
    for i in range(height):
      block = gathered[:, i : i + (rows - 1) * stride + 1 : stride]
      parts.append(_outer(g, block))
    return jnp.stack(parts)  # (kh, out, kw * in): the wide matrix second is the faster product

  dw = sum_over_groups(term, x, g, GROUP_POSITIONS // (rows * columns))
  dw = dw.reshape(height, features, width, channels).transpose(0, 2, 3, 1)
  return _input_gradient(x, kernel, stride, pads, g), dw.astype(kernel.dtype)


fast_weights.defvjp(_fast_weights_forward, _fast_weights_backward)


def unfold(
  x: jax.Array, kernel: tuple[int, int], stride: int | tuple[int, int], pads: Pads
) -> jax.Array:
  """The cells under each kernel position, tap by tap, on the channel axis.

  Args:
    x: (batch, height, width, channels).
    kernel: height and width of the kernel.
    stride: step, or steps in height and width.
    pads: ``((top, bottom), (left, right))``.

  Returns:
    (batch, out_height, out_width, kh * kw * channels).

  Examples:
    >>> unfold(jnp.arange(4.0).reshape(1, 1, 4, 1), (1, 2), 1, ((0, 0), (0, 0)))[0, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
  """
  steps = (stride, stride) if isinstance(stride, int) else stride
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  sizes = output_size(x.shape[1:3], kernel, steps, pads)
  spans = [(n - 1) * s + 1 for n, s in zip(sizes, steps, strict=True)]
  windows = [
    padded[:, i : i + spans[0] : steps[0], j : j + spans[1] : steps[1]]
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]
  return jnp.concatenate(windows, axis=-1)


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
  """Sum over batch and space of outer products, (a's channels, b's), in float32 or wider."""
  flat = [t.reshape(-1, t.shape[-1]) for t in (a, b)]
  wide = jnp.promote_types(a.dtype, jnp.float32)
  return lax.dot_general(*flat, (((0,), (0,)), ((), ())), preferred_element_type=wide)


def _input_gradient(x, kernel, stride, pads, g):
  """XLA's: a convolution of the gradient with the kernel turned around."""
  (dx,) = jax.linear_transpose(lambda x: xla_conv(x, kernel, stride, pads), x)(g)
  return dx


def by_parts(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1, part_conv=xla_conv
) -> jax.Array:
  """A grouped convolution as at most :data:`MOST_PARTS` separate ones.

  Groups that share a part make its kernel block diagonal. Arguments and result as for
  :func:`matrix_products`; ``part_conv`` is the convolution of one part.
  """
  parts = max(n for n in range(1, MOST_PARTS + 1) if groups % n == 0)
  kernels = [_block_diagonal(part, groups // parts) for part in jnp.split(kernel, parts, axis=-1)]
  results = [
    part_conv(part, weights, stride, pads)
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
