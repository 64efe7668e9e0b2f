"""ShuffleNetV2: channel split instead of groups (Ma et al., 2018, table 5)."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.models.blocks import SYMMETRIC, Row, activated, classified, unroll
from jaxcompress.models.layouts import check_positive, layout_strides, native_size
from jaxcompress.nn import ChannelShuffle, Concat, ConvNorm, Endpoints, MaxPool, Norm, Split

REPEATS = (4, 8, 4)
WIDTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
CHANNELS = (0, 48, 116, 176, 244)  # of the first stage by width; they double


class Unit(nn.Module):
  """Splits the channels, transforms one half, and joins and shuffles; returns the map only."""

  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    half = x.shape[-1] // 2
    kept, y = Split((half, half), name="split")(x)
    y = ConvNorm(half, act="relu", norm=self.norm, name="conv1")(y, train=train)
    y = _depthwise(y, 1, self.norm, "depthwise", train)
    before, y = activated(y, half, act="relu", norm=self.norm, name="conv2", train=train)
    joined = Concat(name="concat_linear")(kept, before)  # as RepDistiller has it: not shuffled
    return joined, ChannelShuffle(2, name="shuffle")(Concat(name="concat")(kept, y))


class DownUnit(nn.Module):
  """Two branches of half the features each, both with the stride."""

  features: int
  stride: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    half = self.features // 2
    left = _depthwise(x, self.stride, self.norm, "left_depthwise", train)
    left = ConvNorm(half, act="relu", norm=self.norm, name="left_conv")(left, train=train)
    right = ConvNorm(half, act="relu", norm=self.norm, name="right_conv1")(x, train=train)
    right = _depthwise(right, self.stride, self.norm, "right_depthwise", train)
    right = ConvNorm(half, act="relu", norm=self.norm, name="right_conv2")(right, train=train)
    return ChannelShuffle(2, name="shuffle")(Concat(name="concat")(left, right))


def _depthwise(x: jax.Array, stride: int, norm: Norm, name: str, train) -> jax.Array:
  step: dict[str, Any] = {
    "kernel": 3,
    "stride": stride,
    "groups": "depthwise",
    "padding": SYMMETRIC,
  }
  return ConvNorm(x.shape[-1], norm=norm, name=name, **step)(x, train=train)


class ShuffleNetV2(nn.Module):
  """The network; see :func:`shufflenet_v2` and :func:`shufflenet_v2_crd`."""

  num_classes: int
  width: float
  small_input: bool
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    small = self.small_input
    strides = layout_strides("cifar" if small else self.layout, x.shape[1], (2,) * 5)
    step: dict[str, Any] = {"kernel": 1 if small else 3, "stride": strides[0], "padding": SYMMETRIC}
    x = ConvNorm(24, act="relu", norm=self.norm, name="stem", **step)(x, train=train)
    maps, preact = [x], [x]
    if strides[1] > 1:
      x = MaxPool(3, 2, SYMMETRIC, name="stem_pool")(x)
    first, head = first_and_head(self.width)
    stages = [(Row(first * 2**i, stride=2, repeats=count),) for i, count in enumerate(REPEATS)]
    for block in unroll(stages, strides[2:]):
      if block.row.stride > 1:
        down = DownUnit(block.row.features, block.stride, self.norm, name=block.name)
        x = down(x, train=train)
      else:
        before, x = Unit(self.norm, name=block.name)(x, train=train)
      if block.last:
        maps.append(x)
        preact.append(before)
    x = ConvNorm(head, act="relu", norm=self.norm, name="head")(x, train=train)
    return classified(x, self.num_classes, maps, preact)


def first_and_head(width: float) -> tuple[int, int]:
  """Channels of the first stage and of the last convolution; linear between the published widths.

  Examples:
    >>> first_and_head(0.5), first_and_head(2.0), first_and_head(0.25)
    ((48, 1024), (244, 2048), (24, 1024))
  """
  scale = max(width, 2.0) / 2.0  # beyond the table in proportion
  first = np.interp(min(width, 2.0), WIDTHS, CHANNELS) * scale
  return max(4, 2 * round(first / 2)), 1024 if width < 2 else 2048


def shufflenet_v2(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ShuffleNetV2:
  """ShuffleNetV2, as in torchvision.

  Args:
    num_classes: size of the logits.
    width: 0.5, 1.0, 1.5 or 2.0 as published; channels are interpolated between.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each stage; ``preact`` is, as in RepDistiller, not shuffled.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(shufflenet_v2()).parameters
    2278604

  References:
    Ma et al., `ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design
    <https://arxiv.org/abs/1807.11164>`_, 2018, table 5.
  """
  check_positive(num_classes=num_classes, width=width)
  return ShuffleNetV2(num_classes, width, False, layout, norm, native_size(layout))


def shufflenet_v2_crd(num_classes: int = 100, *, norm: Norm = Norm()) -> ShuffleNetV2:  # noqa: B008
  """The ShuffleNetV2 of the CRD repository, for 32 px: width 1, a pointwise stem, no pooling.

  Args:
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` and ``preact`` are the repository's features but the last.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(shufflenet_v2_crd()).parameters
    1355528

  References:
    Tian et al., `Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
    2020, table 2.
  """
  check_positive(num_classes=num_classes)
  return ShuffleNetV2(num_classes, 1.0, True, "cifar", norm, 32)
