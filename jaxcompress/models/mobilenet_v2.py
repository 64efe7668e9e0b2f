"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018, table 2)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.layouts import (
  check_layout,
  check_positive,
  divisible,
  layout_strides,
  native_size,
  resolution_ends,
)
from jaxcompress.nn import Add, ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm


class Stage(NamedTuple):
  """Inverted residuals of one width; the first of them has the stride."""

  expand: int
  features: int
  repeats: int
  stride: int


V2_STAGES = (
  Stage(expand=1, features=16, repeats=1, stride=1),
  Stage(expand=6, features=24, repeats=2, stride=2),
  Stage(expand=6, features=32, repeats=3, stride=2),
  Stage(expand=6, features=64, repeats=4, stride=2),
  Stage(expand=6, features=96, repeats=3, stride=1),
  Stage(expand=6, features=160, repeats=3, stride=2),
  Stage(expand=6, features=320, repeats=1, stride=1),
)
V2_STRIDES = (2, *(stage.stride for stage in V2_STAGES))
V2_REPEATS = tuple(stage.repeats for stage in V2_STAGES)
SHORT_STRIDES = (2, 1, 1, 2, 1, 2, 1, 1)  # for 32 px: an early stem, 11 blocks, 4 px at the end
SHORT_REPEATS = (1, 2, 2, 2, 2, 2, 0)
HEAD = 1280
CRD_STRIDES = (2, 1, 1, 2, 2, 1, 2, 1)


class InvertedResidual(nn.Module):
  """Expansion, depthwise 3x3, linear projection, and a residual where shapes allow."""

  features: int
  expand: int
  stride: int
  padding: ops.Padding
  norm: Norm
  zero_residual: bool
  act: str = "relu6"
  always_expand: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels = x.shape[-1] * self.expand
    residual = self.stride == 1 and x.shape[-1] == self.features
    y = x
    if self.expand != 1 or self.always_expand:
      y = ConvNorm(channels, act=self.act, norm=self.norm, name="expand")(y, train=train)
    y = ConvNorm(
      channels,
      kernel=3,
      stride=self.stride,
      groups="depthwise",
      padding=self.padding,
      act=self.act,
      norm=self.norm,
      name="depthwise",
    )(y, train=train)
    norm = self.norm
    if norm is not None:
      norm = norm._replace(zero=residual and self.zero_residual)
    y = ConvNorm(self.features, norm=norm, name="project")(y, train=train)  # linear bottleneck
    return Add(name="add")(x, y) if residual else y


class MobileNetV2(nn.Module):
  """The network; see :func:`mobilenet_v2` and :func:`mobilenet_v2_crd`."""

  num_classes: int
  width: float
  layout: str
  padding: ops.Padding
  norm: Norm
  zero_residual: bool
  image_size: int
  expand: int = 6
  act: str = "relu6"
  always_expand: bool = False
  divisor: int = 8

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    strides, repeats = layout_rows(self.layout, x.shape[1])
    x = ConvNorm(
      self._channels(32),
      kernel=3,
      stride=strides[0],
      padding=self.padding,
      act=self.act,
      norm=self.norm,
      name="stem",
    )(x, train=train)
    maps = [x]
    for i, (stage, stride, count) in enumerate(zip(V2_STAGES, strides[1:], repeats, strict=True)):
      for j in range(count):
        x = InvertedResidual(
          features=self._channels(stage.features),
          expand=1 if stage.expand == 1 else self.expand,
          stride=stride if j == 0 else 1,
          act=self.act,
          always_expand=self.always_expand,
          padding=self.padding,
          norm=self.norm,
          zero_residual=self.zero_residual,
          name=f"stage{i}_block{j}",
        )(x, train=train)
      if i in resolution_ends(V2_STRIDES[1:]):
        maps.append(x)
    head = head_features(self.width, self.layout, self.divisor)
    x = ConvNorm(head, act=self.act, norm=self.norm, name="head")(x, train=train)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), preact=tuple(maps))  # bottlenecks are linear

  def _channels(self, channels: int) -> int:
    return scaled(channels, self.width, self.divisor)


def layout_rows(layout: str, image_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Strides of the stem and of each stage, and the blocks of each stage."""
  if layout == "short":
    return SHORT_STRIDES, SHORT_REPEATS
  if layout == "crd":
    return CRD_STRIDES, V2_REPEATS
  return layout_strides(layout, image_size, V2_STRIDES), V2_REPEATS


def scaled(channels: int, width: float, divisor: int = 8) -> int:
  """Channels at a width, rounded to a multiple of the divisor; cut where it is 1."""
  return int(channels * width) if divisor == 1 else divisible(channels * width, divisor)


def head_features(width: float, layout: str, divisor: int = 8) -> int:
  """Channels of the last convolution: the paper keeps 1280 below width 1; the short layout scales.

  Examples:
    >>> head_features(0.5, "auto"), head_features(1.4, "auto"), head_features(0.25, "short")
    (1280, 1792, 320)
  """
  if layout == "short":
    return max(128, scaled(HEAD, width, divisor))
  return scaled(HEAD, max(1.0, width), divisor)


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
      blocks for 32 px and a last convolution that scales, which learns more in a few minutes of
      training), or ``"auto"``: images of at most 64 px get ``"cifar"``.
    padding: ``"SYMMETRIC"`` as in torchvision, ``"SAME"`` as in Keras.
    norm: BatchNorm's epsilon and momentum.
    zero_residual: start every residual branch at zero.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

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
  check_layout(layout, "short")
  check_positive(num_classes=num_classes, width=width)
  size = 32 if layout == "short" else native_size(layout)
  return MobileNetV2(num_classes, width, layout, padding, norm, zero_residual, size)


def mobilenet_v2_crd(
  num_classes: int = 100,
  width: float = 0.5,
  *,
  expand: int = 6,
  norm: Norm = Norm(),  # noqa: B008
) -> MobileNetV2:
  """The MobileNetV2 of the CRD repository, for 32 px.

  It has ReLU for ReLU6, channels of ``int(width * channels)``, an expansion in the first block
  too, and halves in its stem.

  Args:
    num_classes: size of the logits.
    width: multiplier of every layer's channels; "MobileNetV2" of the CRD tables has 0.5.
    expand: expansion of every block but the first; 6 in the tables.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` are the repository's features but the last.

  Raises:
    ValueError: if an argument is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v2_crd()).parameters
    812836

  References:
    Tian et al., `Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
    2020, table 2.
  """
  check_positive(num_classes=num_classes, width=width, expand=expand)
  return MobileNetV2(
    num_classes,
    width,
    layout="crd",
    padding="SYMMETRIC",
    norm=norm,
    zero_residual=False,
    image_size=32,
    expand=expand,
    act="relu",
    always_expand=True,
    divisor=1,
  )
