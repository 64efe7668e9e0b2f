"""The leaf ops that pool: the largest value or the mean of windows or of whole maps."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress import ops
from jaxcompress.nn.checks import check_map, refuse, windows
from jaxcompress.nn.graph import Operation, alike
from jaxcompress.nn.layers import LeafOp, keep_shortest
from jaxcompress.ops.padding import both


class _Pool(LeafOp):
  """A pooling window; kernel, stride and padding as in :class:`ConvNorm`."""

  kernel: ops.Sides
  stride: ops.Sides
  padding: ops.Padding = "SAME"

  def __post_init__(self) -> None:
    keep_shortest(self, "kernel", "stride")
    super().__post_init__()

  def _window(self, x: jax.Array, init: float, combine) -> jax.Array:
    pads = windows(self, x)
    for side, pair in zip(both(self.kernel), pads, strict=True):
      if max(pair) >= side:
        refuse(
          self,
          f"padding: {self.padding!r} leaves windows of {self.kernel} without a cell of the image;"
          f" pad less than {side}.",
        )
    window, strides = (1, *both(self.kernel), 1), (1, *both(self.stride), 1)
    return jax.lax.reduce_window(x, init, combine, window, strides, ((0, 0), *pads, (0, 0)))


class MaxPool(_Pool):
  """Largest value of each window; padded cells never win.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> MaxPool(kernel=2, stride=2).apply({}, x).item()
    4.0
  """

  operation = Operation(route=alike, grid="copied", within=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self._window(x, -jnp.inf, jax.lax.max)


class AvgPool(_Pool):
  """Mean of each window.

  Attributes:
    count_padding: whether padded cells count as zeros (PyTorch's default) or not at all (TFLite).

  Examples:
    >>> x = jnp.ones((1, 2, 2, 1))
    >>> AvgPool(kernel=3, stride=2).apply({}, x).item()
    1.0
    >>> round(AvgPool(kernel=3, stride=2, count_padding=True).apply({}, x).item(), 3)  # 4 / 9
    0.444
  """

  count_padding: bool = False

  operation = Operation(route=alike, grid="shared", within=True, linear=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    total = self._window(x, 0.0, jax.lax.add)
    if self.count_padding:
      return total / math.prod(both(self.kernel))
    return total / self._window(jnp.ones_like(x[:1, :, :, :1]), 0.0, jax.lax.add)


class GlobalAvgPool(LeafOp):
  """Mean over height and width: (batch, height, width, channels) to (batch, channels).

  Attributes:
    keepdims: keep height and width as axes of length one.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> GlobalAvgPool().apply({}, x).tolist()
    [[2.5]]
    >>> GlobalAvgPool(keepdims=True).apply({}, x).shape
    (1, 1, 1, 1)
  """

  keepdims: bool = False

  operation = Operation(route=alike, within=True, linear=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    return jnp.mean(x, axis=(1, 2), keepdims=self.keepdims)
