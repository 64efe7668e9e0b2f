"""MobileNetV4-Conv: universal inverted bottlenecks (Qin et al., 2024)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import (
  Architecture,
  Block,
  activated,
  classified_by_head,
  convolved,
  unroll,
)
from jaxcompress.models.layouts import (
  check_positive,
  divisible,
  layout_strides,
  native_size,
  variant,
)
from jaxcompress.nn import Add, Affine, ConvNorm, Endpoints, Norm


class Conv(NamedTuple):
  """A plain convolution with ReLU."""

  kernel: int
  features: int
  stride: int = 1
  repeats: int = 1


class Fused(NamedTuple):
  """A fused inverted bottleneck: a 3x3 expansion and a pointwise projection."""

  expand: int
  features: int
  stride: int = 1
  repeats: int = 1


class Universal(NamedTuple):
  """A universal inverted bottleneck.

  Attributes:
    start: side of the depthwise kernel before the expansion, 0 for none.
    middle: side of the depthwise kernel after it, 0 for none.
    expand: expansion.
    features: channels at the end.
    stride: of the last depthwise convolution that there is.
    repeats: how many there are.
  """

  start: int
  middle: int
  expand: int
  features: int
  stride: int = 1
  repeats: int = 1


SMALL = Architecture(
  stem=32,
  stages=(
    (Conv(3, 32, stride=2), Conv(1, 32)),
    (Conv(3, 96, stride=2), Conv(1, 64)),
    (
      Universal(5, 5, 3, 96, stride=2),
      Universal(0, 3, 2, 96, repeats=4),
      Universal(3, 0, 4, 96),
    ),
    (
      Universal(3, 3, 6, 128, stride=2),
      Universal(5, 5, 4, 128),
      Universal(0, 5, 4, 128),
      Universal(0, 5, 3, 128),
      Universal(0, 3, 4, 128, repeats=2),
    ),
  ),
  head=1280,
)
MEDIUM = Architecture(
  stem=32,
  stages=(
    (Fused(4, 48, stride=2),),
    (Universal(3, 5, 4, 80, stride=2), Universal(3, 3, 2, 80)),
    (
      Universal(3, 5, 6, 160, stride=2),
      Universal(3, 3, 4, 160, repeats=2),
      Universal(3, 5, 4, 160),
      Universal(3, 3, 4, 160),
      Universal(3, 0, 4, 160),
      Universal(0, 0, 2, 160),
      Universal(3, 0, 4, 160),
    ),
    (
      Universal(5, 5, 6, 256, stride=2),
      Universal(5, 5, 4, 256),
      Universal(3, 5, 4, 256, repeats=2),
      Universal(0, 0, 4, 256),
      Universal(3, 0, 4, 256),
      Universal(3, 5, 2, 256),
      Universal(5, 5, 4, 256),
      Universal(0, 0, 4, 256, repeats=2),
      Universal(5, 0, 2, 256),
    ),
  ),
  head=1280,
)
LARGE = Architecture(
  stem=24,
  stages=(
    (Fused(4, 48, stride=2),),
    (Universal(3, 5, 4, 96, stride=2), Universal(3, 3, 4, 96)),
    (
      Universal(3, 5, 4, 192, stride=2),
      Universal(3, 3, 4, 192, repeats=3),
      Universal(3, 5, 4, 192),
      Universal(5, 3, 4, 192, repeats=5),
      Universal(3, 0, 4, 192),
    ),
    (
      Universal(5, 5, 4, 512, stride=2),
      Universal(5, 5, 4, 512, repeats=3),
      Universal(5, 0, 4, 512),
      Universal(5, 3, 4, 512),
      Universal(5, 0, 4, 512, repeats=2),
      Universal(5, 3, 4, 512),
      Universal(5, 5, 4, 512),
      Universal(5, 0, 4, 512, repeats=3),
    ),
  ),
  head=1280,
)
TAIL = 960


class FusedBottleneck(nn.Module):
  """A 3x3 expansion, a pointwise projection, and a residual where shapes allow."""

  row: Fused
  features: int
  stride: int
  act: str
  options: dict

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    expanded = divisible(x.shape[-1] * self.row.expand)
    options = {"kernel": 3, "stride": self.stride, "act": self.act, **self.options}
    y = convolved(x, expanded, name="expand", train=train, **options)
    y = ConvNorm(self.features, name="project", **self.options)(y, train=train)
    return Add(name="add")(x, y) if self.row.stride == 1 and x.shape == y.shape else y


class UniversalBottleneck(nn.Module):
  """Depthwise, expansion, depthwise, projection; each depthwise is optional.

  ``layer_scale``: that scales of the last map's channels begin as; None: it has no scales.
  """

  row: Universal
  features: int
  stride: int
  act: str
  options: dict
  layer_scale: float | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    row, options = self.row, self.options
    depthwise: dict[str, Any] = {"groups": "depthwise", **options}
    expanded = divisible(x.shape[-1] * row.expand)
    y, step = x, dict[str, Any]()
    if row.start:
      step = {"kernel": row.start, "stride": 1 if row.middle else self.stride}
      y = ConvNorm(y.shape[-1], name="start", **step, **depthwise)(y, train=train)
    y = convolved(y, expanded, act=self.act, name="expand", train=train, **options)
    if row.middle:
      step = {"kernel": row.middle, "stride": self.stride, "act": self.act}
      y = convolved(y, expanded, name="depthwise", train=train, **step, **depthwise)
    y = ConvNorm(self.features, name="project", **options)(y, train=train)
    if self.layer_scale is not None:
      y = Affine("trained", start=self.layer_scale, name="layer_scale")(y)
    return Add(name="add")(x, y) if row.stride == 1 and x.shape == y.shape else y


class MobileNetV4(nn.Module):
  """The network; see :func:`mobilenet_v4_conv_small`."""

  num_classes: int
  width: float
  architecture: Architecture
  layout: str
  padding: ops.Padding
  norm: Norm
  image_size: int
  act: str = "relu"
  layer_scale: float | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem, stages, head = self.architecture
    imagenet = (2, *(stage[0].stride for stage in stages))
    first, *strides = layout_strides(self.layout, x.shape[1], imagenet)
    options: dict[str, Any] = {"padding": self.padding, "norm": self.norm}
    rectified: dict[str, Any] = {"act": self.act, **options}
    stem = stem if self.width < 1 else self._channels(stem)
    x = convolved(x, stem, kernel=3, stride=first, name="stem", train=train, **rectified)
    maps, preact = [x], [x]
    for block in unroll(stages, strides):
      before, x = self._block(x, block, options, train)
      if block.ends:
        maps.append(x)
        preact.append(before)
    x = convolved(x, self._channels(TAIL), name="tail", train=train, **rectified)
    return classified_by_head(x, head, self.num_classes, maps, preact, train=train, **rectified)

  def _channels(self, channels: int) -> int:
    return divisible(channels * self.width)

  def _block(
    self, x: jax.Array, block: Block, options: dict, train: bool | jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """A block's map before and after its activation; bottlenecks are linear."""
    row, features = block.row, self._channels(block.row.features)
    if isinstance(row, Conv):
      step: dict[str, Any] = {"kernel": row.kernel, "stride": block.stride, "act": self.act}
      return activated(x, features, name=block.name, train=train, **step, **options)
    fields = (row, features, block.stride, self.act, options)
    if isinstance(row, Fused):
      y = FusedBottleneck(*fields, name=block.name)(x, train=train)
    else:
      y = UniversalBottleneck(*fields, self.layer_scale, name=block.name)(x, train=train)
    return y, y


def mobilenet_v4_conv_small(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(),  # noqa: B008
) -> MobileNetV4:
  """MobileNetV4-Conv-S.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 8; below 1 the stem keeps its own,
      and the last layer always does.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    padding: ``"SYMMETRIC"`` as in timm, ``"SAME"`` as in the authors' code.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v4_conv_small()).parameters
    3774024

  References:
    Qin et al., `MobileNetV4: Universal Models for the Mobile Ecosystem
    <https://arxiv.org/abs/2404.10518>`_, 2024, appendix D; sizes are timm's.
  """
  check_positive(num_classes=num_classes, width=width)
  return MobileNetV4(num_classes, width, SMALL, layout, padding, norm, native_size(layout))


mobilenet_v4_conv_medium = variant(
  mobilenet_v4_conv_small, "mobilenet_v4_conv_medium", architecture=MEDIUM
)
"""MobileNetV4-Conv-M; else as :func:`mobilenet_v4_conv_small`."""
mobilenet_v4_conv_large = variant(
  mobilenet_v4_conv_small, "mobilenet_v4_conv_large", architecture=LARGE
)
"""MobileNetV4-Conv-L; else as :func:`mobilenet_v4_conv_small`."""
