"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018, table 2)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.layouts import (
  LAYOUTS,
  check_layout,
  check_positive,
  divisible,
  pick_layout,
)
from jaxcompress.nn import Add, ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm


class Stage(NamedTuple):
  """Inverted residuals of one width; strides and repeats are the layout's."""

  expand: int
  features: int


V2_STAGES = (
  Stage(expand=1, features=16),
  Stage(expand=6, features=24),
  Stage(expand=6, features=32),
  Stage(expand=6, features=64),
  Stage(expand=6, features=96),
  Stage(expand=6, features=160),
  Stage(expand=6, features=320),
)


class InvertedResidual(nn.Module):
  """Expansion, depthwise 3x3, linear projection, and a residual where shapes allow."""

  features: int
  expand: int
  stride: int
  padding: ops.Padding
  norm: Norm
  zero_residual: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels = x.shape[-1] * self.expand
    residual = self.stride == 1 and x.shape[-1] == self.features
    y = x
    if self.expand != 1:
      y = ConvNorm(channels, act="relu6", norm=self.norm, name="expand")(y, train=train)
    y = ConvNorm(
      channels,
      kernel=3,
      stride=self.stride,
      groups="depthwise",
      padding=self.padding,
      act="relu6",
      norm=self.norm,
      name="depthwise",
    )(y, train=train)
    norm = self.norm._replace(zero=residual and self.zero_residual)
    y = ConvNorm(self.features, norm=norm, name="project")(y, train=train)  # linear bottleneck
    return Add(name="add")(x, y) if residual else y


class MobileNetV2(nn.Module):
  """The network; see :func:`mobilenet_v2`."""

  num_classes: int
  width: float
  layout: str
  padding: ops.Padding
  norm: Norm
  zero_residual: bool
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    layout = pick_layout(self.layout, x.shape[1])
    x = ConvNorm(
      divisible(32 * self.width),
      kernel=3,
      stride=layout.v2[0],
      padding=self.padding,
      act="relu6",
      norm=self.norm,
      name="stem",
    )(x, train=train)
    maps = []
    for i, (stage, stride, repeats) in enumerate(
      zip(V2_STAGES, layout.v2[1:], layout.repeats, strict=True)
    ):
      if stride > 1:
        maps.append(x)  # the last map of each resolution
      for j in range(repeats):
        x = InvertedResidual(
          features=divisible(stage.features * self.width),
          expand=stage.expand,
          stride=stride if j == 0 else 1,
          padding=self.padding,
          norm=self.norm,
          zero_residual=self.zero_residual,
          name=f"stage{i}_block{j}",
        )(x, train=train)
    maps.append(x)
    head = head_features(self.width, short=layout is LAYOUTS["short"])
    x = ConvNorm(head, act="relu6", norm=self.norm, name="head")(x, train=train)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), preact=tuple(maps))  # bottlenecks are linear


def head_features(width: float, *, short: bool) -> int:
  """Channels of the last convolution: the paper keeps 1280 below width 1; the short layout scales.

  Examples:
    >>> head_features(0.5, short=False), head_features(1.4, short=False), head_features(0.25, short=True)
    (1280, 1792, 320)
  """
  return max(128, divisible(1280 * width)) if short else divisible(1280 * max(1.0, width))


def mobilenet_v2(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(),  # noqa: B008
  zero_residual: bool = False,
) -> MobileNetV2:
  """MobileNetV2.

  Args:
    num_classes: size of the logits.
    width: multiplier of every layer's channels, rounded to multiples of 8; the last convolution
      keeps its 1280 channels below 1.
    layout: strides; ``"imagenet"``, ``"cifar"`` (the same network for 32 px), ``"short"`` (11
      blocks for 32 px, which learns more in a few minutes of training), or ``"auto"``: images of
      at most 64 px get ``"cifar"``.
    padding: ``"SYMMETRIC"`` as in torchvision, ``"SAME"`` as in Keras.
    norm: BatchNorm's epsilon and momentum.
    zero_residual: start every residual branch at zero.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the last map of each
    resolution.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v2()).parameters
    3504872

  References:
    Sandler et al., `MobileNetV2: Inverted Residuals and Linear Bottlenecks
    <https://arxiv.org/abs/1801.04381>`_, 2018.
  """
  check_layout(layout)
  check_positive(num_classes=num_classes, width=width)
  size = LAYOUTS[layout].image_size if layout != "auto" else 224
  return MobileNetV2(num_classes, width, layout, padding, norm, zero_residual, size)
