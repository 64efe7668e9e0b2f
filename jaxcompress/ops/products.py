"""Convolution as one matrix product for each cell of the kernel."""

import jax
import jax.numpy as jnp

from jaxcompress.ops.padding import Pads, output_size


def tap_products(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """The sum over the kernel's cells of ``x``, shifted, times the weights of a cell.

  Convolution libraries of accelerators may pick Winograd's algorithm for float32, whose fractions
  are not exact; plain matrix products of integers are.

  Args:
    x: (batch, height, width, in).
    kernel: (kh, kw, in / groups, out).
    stride: step in both directions.
    pads: ``((top, bottom), (left, right))``.
    groups: number of channel groups.

  Returns:
    (batch, out_height, out_width, out).

  Examples:
    >>> x, kernel = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 3, 2))
    >>> tap_products(x, kernel, 1, ((1, 1), (1, 1)), groups=2).shape
    (1, 4, 4, 2)
  """
  height, width, depth, features = kernel.shape
  rows, columns = (
    (size - 1) * stride + 1 for size in output_size(x.shape[1:3], (height, width), stride, pads)
  )
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  x = x.reshape(*x.shape[:3], groups, depth)
  taps = kernel.reshape(height, width, depth, groups, features // groups)
  first, *others = [
    jnp.einsum(
      "nhwgc,cgo->nhwgo", x[:, i : i + rows : stride, j : j + columns : stride], taps[i, j]
    )
    for i in range(height)
    for j in range(width)
  ]
  total = sum(others, first)
  return total.reshape(*total.shape[:3], features)
