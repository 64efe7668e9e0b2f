"""The convolutions that layers call: one function per kind, NHWC, "same dtype in and out"."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.ops.dispatch import pick
from jaxcompress.ops.padding import Padding, Sides, Slide, both, output_size, resolve_padding
from jaxcompress.ops.standard import xla_conv

NO_PADS = ((0, 0), (0, 0))


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: Sides = 1,
  padding: Padding = "SAME",
  dilation: Sides = 1,
  groups: int = 1,
  result: Any = None,
) -> jax.Array:
  """Convolution, over all channels or over groups of them.

  Args:
    x: (batch, height, width, in), any float dtype.
    kernel: (kh, kw, in / groups, out), of the same dtype.
    stride: step in both directions, or those along height and width.
    padding: ``"SAME"`` (TensorFlow's), ``"SYMMETRIC"`` (``k // 2`` on every side), ``"VALID"``, or
      explicit ``((top, bottom), (left, right))``.
    dilation: cells from one of the kernel's to the next, in both directions or in each.
    groups: number of channel groups. As many as there are channels is a depthwise convolution
      (with ``out / in`` kernels per channel).
    result: dtype of sums and result, such as int32 for integers; None: that of ``x``. With another one
      there are no gradients.

  Returns:
    (batch, out_height, out_width, out), of the dtype of ``x`` or ``result``.

  Raises:
    ValueError: if ranks, channels, groups or dtypes do not fit together.

  Examples:
    >>> conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 2, 6)), stride=2, groups=2).shape
    (1, 4, 4, 6)
    >>> conv(jnp.ones((1, 8, 8, 4)), jnp.ones((1, 7, 4, 6)), stride=(2, 1), dilation=2).shape
    (1, 4, 8, 6)
  """
  _check(x, kernel, stride, dilation)
  depth, features = kernel.shape[2:]
  if groups < 1 or depth * groups != x.shape[-1] or features % groups:
    raise ValueError(
      f"groups: {groups} groups of {depth} input channels do not fit {x.shape[-1]} channels "
      f"in and {features} out; the kernel is (kh, kw, in / groups, out)."
    )
  slide = _slide(x, kernel, stride, padding, dilation)
  if groups > 1 and depth == 1:
    x = jnp.repeat(x, features // groups, axis=-1) if features > groups else x
    return depthwise_conv(
      x, kernel, stride=stride, padding=slide.pads, dilation=dilation, result=result
    )
  if groups == 1 and kernel.shape[:2] == (1, 1) and slide.pads == NO_PADS:
    return pointwise_conv(x, kernel, stride=stride, result=result)
  if _is_empty(x, kernel, slide):
    return xla_conv(x, kernel, slide, groups, result)
  return pick("standard")(x, kernel, slide, groups, result)


def depthwise_conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: Sides = 1,
  padding: Padding = "SAME",
  dilation: Sides = 1,
  result: Any = None,
) -> jax.Array:
  """Convolution of every channel with a kernel of its own.

  Sums are taken in float32 or wider.

  Args:
    x: (batch, height, width, channels), any float dtype.
    kernel: (kh, kw, 1, channels), of the same dtype.
    stride: as for :func:`conv`.
    padding: as for :func:`conv`.
    dilation: as for :func:`conv`.
    result: as for :func:`conv`.

  Returns:
    (batch, out_height, out_width, channels), of the dtype of ``x`` or ``result``.

  Raises:
    ValueError: if ranks, channels or dtypes do not fit together.

  Examples:
    >>> depthwise_conv(jnp.ones((1, 5, 7, 4)), jnp.ones((3, 3, 1, 4)), stride=2).shape
    (1, 3, 4, 4)

  References:
    Howard et al., `MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications <https://arxiv.org/abs/1704.04861>`_, 2017, section 3.1.
  """
  _check(x, kernel, stride, dilation)
  if kernel.shape[2:] != (1, x.shape[-1]):
    raise ValueError(
      f"kernel: shape {kernel.shape} must be (kh, kw, 1, {x.shape[-1]}) for {x.shape[-1]} "
      "channels; use conv(groups=...) for other groups."
    )
  slide = _slide(x, kernel, stride, padding, dilation)
  if _is_empty(x, kernel, slide):
    return xla_conv(x, kernel, slide, x.shape[-1], result)
  return pick("depthwise")(x, kernel, slide, result=result)


def pointwise_conv(
  x: jax.Array, kernel: jax.Array, *, stride: Sides = 1, result: Any = None
) -> jax.Array:
  """1x1 convolution: a linear map of the channels at every ``stride``-th position.

  Args:
    x: (batch, height, width, in), any float dtype.
    kernel: (1, 1, in, out), of the same dtype.
    stride: as for :func:`conv`.
    result: as for :func:`conv`.

  Returns:
    (batch, ceil(height / stride), ceil(width / stride), out), of the dtype of ``x`` or ``result``.

  Raises:
    ValueError: if ranks, channels or dtypes do not fit together.

  Examples:
    >>> pointwise_conv(jnp.ones((1, 5, 5, 4)), jnp.ones((1, 1, 4, 6))).shape
    (1, 5, 5, 6)
  """
  _check(x, kernel, stride, 1)
  if kernel.shape[:3] != (1, 1, x.shape[-1]):
    raise ValueError(f"kernel: shape {kernel.shape} must be (1, 1, {x.shape[-1]}, out).")
  return pick("pointwise")(x, kernel, both(stride), result)


def _slide(x, kernel, stride, padding, dilation) -> Slide:
  pads = resolve_padding(padding, x.shape[1:3], kernel.shape[:2], stride, dilation)
  return Slide(both(stride), pads, both(dilation))


def _check(x, kernel, stride, dilation) -> None:
  if x.ndim != 4 or kernel.ndim != 4:
    raise ValueError(
      f"x: shapes {x.shape} and {kernel.shape} must be (batch, height, width, channels) "
      "and (kh, kw, in, out)."
    )
  if x.dtype != kernel.dtype:
    raise ValueError(
      f"kernel: {kernel.dtype} differs from the input's {x.dtype}; cast one of them."
    )
  for name, value in (("stride", stride), ("dilation", dilation)):
    if min(both(value)) < 1:
      raise ValueError(f"{name}: {value} must be at least 1.")


def _is_empty(x, kernel, slide: Slide) -> bool:
  """Whether there is nothing to compute, which is left to XLA."""
  return 0 in (*x.shape, *output_size(x.shape[1:3], kernel.shape[:2], *slide))
