"""MobileNetV3: squeeze-excite and hard-swish (Howard et al., 2019, tables 1 and 2)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import SqueezeExcite, convolved
from jaxcompress.models.layouts import (
  check_layout,
  check_positive,
  divisible,
  layout_strides,
  native_size,
  resolution_ends,
)
from jaxcompress.nn import Add, ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm

RELU, SWISH = "relu", "hard_swish"
SCALINGS = ("paper", "torchvision")


class Row(NamedTuple):
  """One inverted residual.

  Attributes:
    kernel: side of the depthwise kernel.
    expanded: channels inside, at width 1.
    features: channels at the end, at width 1.
    squeeze: whether there is a squeeze-excite.
    act: name of the activation function.
    stride: of the depthwise convolution.
  """

  kernel: int
  expanded: int
  features: int
  squeeze: bool
  act: str
  stride: int = 1


class Architecture(NamedTuple):
  """Stages of rows, and the channels of the last layer before the classifier."""

  stages: tuple[tuple[Row, ...], ...]
  head: int


LARGE = Architecture(
  (
    (Row(3, 16, 16, False, RELU),),
    (Row(3, 64, 24, False, RELU, stride=2), Row(3, 72, 24, False, RELU)),
    (Row(5, 72, 40, True, RELU, stride=2), *(Row(5, 120, 40, True, RELU),) * 2),
    (
      Row(3, 240, 80, False, SWISH, stride=2),
      Row(3, 200, 80, False, SWISH),
      *(Row(3, 184, 80, False, SWISH),) * 2,
    ),
    (Row(3, 480, 112, True, SWISH), Row(3, 672, 112, True, SWISH)),
    (Row(5, 672, 160, True, SWISH, stride=2), *(Row(5, 960, 160, True, SWISH),) * 2),
  ),
  head=1280,
)
SMALL = Architecture(
  (
    (Row(3, 16, 16, True, RELU, stride=2),),
    (Row(3, 72, 24, False, RELU, stride=2), Row(3, 88, 24, False, RELU)),
    (Row(5, 96, 40, True, SWISH, stride=2), *(Row(5, 240, 40, True, SWISH),) * 2),
    (Row(5, 120, 48, True, SWISH), Row(5, 144, 48, True, SWISH)),
    (Row(5, 288, 96, True, SWISH, stride=2), *(Row(5, 576, 96, True, SWISH),) * 2),
  ),
  head=1024,
)
STEM = 16


def minimalistic(architecture: Architecture) -> Architecture:
  """The variant without squeeze-excite, 5x5 kernels and hard-swish."""
  stages = tuple(
    tuple(row._replace(kernel=3, squeeze=False, act=RELU) for row in stage)
    for stage in architecture.stages
  )
  return architecture._replace(stages=stages)


class InvertedResidual(nn.Module):
  """Expansion, depthwise, squeeze-excite, linear projection, and a residual where shapes allow."""

  row: Row
  expanded: int
  features: int
  stride: int
  padding: ops.Padding
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    act, norm = self.row.act, self.norm
    y = x
    if self.expanded != x.shape[-1]:
      y = convolved(y, self.expanded, act=act, norm=norm, name="expand", train=train)
    y = convolved(
      y,
      self.expanded,
      kernel=self.row.kernel,
      stride=self.stride,
      groups="depthwise",
      padding=self.padding,
      act=act,
      norm=norm,
      name="depthwise",
      train=train,
    )
    if self.row.squeeze:
      y = SqueezeExcite(divisible(self.expanded / 4), name="se")(y, train=train)
    y = ConvNorm(self.features, norm=norm, name="project")(y, train=train)
    return Add(name="add")(x, y) if x.shape == y.shape and self.row.stride == 1 else y


class MobileNetV3(nn.Module):
  """The network; see :func:`mobilenet_v3_large` and :func:`mobilenet_v3_small`."""

  num_classes: int
  width: float
  architecture: Architecture
  scaling: str
  layout: str
  padding: ops.Padding
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stages, norm = self.architecture.stages, self.norm
    imagenet = tuple(stage[0].stride for stage in stages)
    strides = layout_strides(self.layout, x.shape[1], (2, *imagenet))
    act = stages[-1][-1].act
    stem: dict[str, Any] = {
      "kernel": 3,
      "stride": strides[0],
      "padding": self.padding,
      "act": act,
      "norm": norm,
    }
    x = convolved(x, self._stem(), name="stem", train=train, **stem)
    maps, before = [x], STEM
    for i, (stage, stride) in enumerate(zip(stages, strides[1:], strict=True)):
      for j, row in enumerate(stage):
        x = InvertedResidual(
          row,
          self._expanded(row, before, x.shape[-1]),
          divisible(row.features * self.width),
          stride if j == 0 else 1,
          self.padding,
          norm,
          name=f"stage{i}_block{j}",
        )(x, train=train)
        before = row.features
      if i in resolution_ends(imagenet):
        maps.append(x)
    x = convolved(x, 6 * x.shape[-1], act=act, norm=norm, name="tail", train=train)
    x = GlobalAvgPool(keepdims=True, name="pool")(x)
    x = convolved(x, self._head(), act=act, norm=None, name="head", train=train)
    logits = Dense(self.num_classes, name="classifier")(x)
    pooled = x.reshape(x.shape[0], -1)
    return Endpoints(logits, pooled, tuple(maps), preact=tuple(maps))  # bottlenecks are linear

  @property
  def minimal(self) -> bool:
    """Whether it is the minimalistic variant."""
    return minimalistic(self.architecture) == self.architecture

  def _stem(self) -> int:
    keeps = self.scaling == "paper" and self.width < 1
    return STEM if keeps else divisible(STEM * self.width)

  def _head(self) -> int:
    head = self.architecture.head
    return head if self.scaling == "paper" and self.width < 1 else divisible(head * self.width)

  def _expanded(self, row: Row, before: int, channels: int) -> int:
    """Channels inside a block: a multiple of its own input, or of those at width 1."""
    if row.expanded == before:
      return channels
    if self.scaling == "paper":
      return divisible(channels * row.expanded / before)
    return divisible(row.expanded * self.width)


def _mobilenet_v3(architecture, num_classes, width, minimal, scaling, layout, padding, norm):
  check_layout(layout)
  check_positive(num_classes=num_classes, width=width)
  if scaling not in SCALINGS:
    raise ValueError(f"scaling: {scaling!r} is unknown; it must be one of {', '.join(SCALINGS)}.")
  rows = minimalistic(architecture) if minimal else architecture
  size = native_size(layout)
  return MobileNetV3(num_classes, width, rows, scaling, layout, padding, norm, size)


def mobilenet_v3_large(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  minimal: bool = False,
  scaling: str = "paper",
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(epsilon=1e-3, momentum=0.99),  # noqa: B008
) -> MobileNetV3:
  """MobileNetV3-Large.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 8.
    minimal: the minimalistic variant: 3x3 kernels and ReLU only, no squeeze-excite.
    scaling: what widths below 1 do: ``"paper"`` keeps the stem's channels and those before the
      classifier, and expands in proportion to each block's input, as the published checkpoints
      (Keras, timm); ``"torchvision"`` scales everything by the width.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    padding: ``"SYMMETRIC"`` as in torchvision, ``"SAME"`` as in Keras and timm's ``tf_`` models.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for an unknown layout or scaling, or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v3_large(width=0.75)).parameters
    3993528

  References:
    Howard et al., `Searching for MobileNetV3 <https://arxiv.org/abs/1905.02244>`_, 2019, table 1.
  """
  return _mobilenet_v3(LARGE, num_classes, width, minimal, scaling, layout, padding, norm)


def mobilenet_v3_small(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  minimal: bool = False,
  scaling: str = "paper",
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(epsilon=1e-3, momentum=0.99),  # noqa: B008
) -> MobileNetV3:
  """MobileNetV3-Small; arguments, return value and errors are :func:`mobilenet_v3_large`'s.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v3_small()).parameters
    2542856

  References:
    Howard et al., `Searching for MobileNetV3 <https://arxiv.org/abs/1905.02244>`_, 2019, table 2.
  """
  return _mobilenet_v3(SMALL, num_classes, width, minimal, scaling, layout, padding, norm)
