"""ShuffleNetV1: grouped pointwise convolutions and channel shuffles (Zhang et al., 2017, table 1)."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, Row, classified, unroll
from jaxcompress.models.layouts import check_positive, layout_strides, native_size
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Endpoints,
  MaxPool,
  Norm,
)

REPEATS = (4, 8, 4)
STEM = 24
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # of the first stage by groups; they double


class Variant(NamedTuple):
  """Differences between the authors' code and the CRD repository's.

  Attributes:
    small_input: a pointwise stem with stride 1 and no max-pooling.
    quarter_of_branch: the bottleneck has a quarter of its branch's channels, not of the block's.
    shuffle_first: the shuffle comes before the depthwise convolution, not after it.
    pool_first: at a halving the pooled input comes before the branch, which alone is rectified;
      otherwise it comes last, and both are.
    classifier_bias: whether the classifier has a bias.
  """

  small_input: bool
  quarter_of_branch: bool
  shuffle_first: bool
  pool_first: bool
  classifier_bias: bool


AUTHORS = Variant(False, False, False, True, False)
CRD = Variant(True, True, True, False, True)


class ShuffleUnit(nn.Module):
  """Grouped pointwise, shuffle and depthwise, grouped pointwise; added or concatenated to the input.

  Returns the map before and after its last ReLU.
  """

  features: int
  stride: int
  halves: bool
  groups: int
  first_groups: int
  variant: Variant
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    norm = self.norm
    out = self.features - x.shape[-1] if self.halves else self.features
    middle = (out if self.variant.quarter_of_branch else self.features) // 4
    y = ConvNorm(middle, groups=self.first_groups, act="relu", norm=norm, name="reduce")(
      x, train=train
    )
    if self.variant.shuffle_first:
      y = ChannelShuffle(self.first_groups, name="shuffle")(y) if self.first_groups > 1 else y
    y = ConvNorm(
      middle,
      kernel=3,
      stride=self.stride,
      groups="depthwise",
      padding=SYMMETRIC,
      act="relu" if self.variant.shuffle_first else None,
      norm=norm,
      name="depthwise",
    )(y, train=train)
    if not self.variant.shuffle_first and self.groups > 1:
      y = ChannelShuffle(middle // self.groups, name="shuffle")(y)
    y = ConvNorm(out, groups=self.groups, norm=norm, name="expand")(y, train=train)
    if not self.halves:
      total = Add(name="add")(y, x)
      return total, Activation("relu", name="relu")(total)
    pooled = self._pool(x)
    if self.variant.pool_first:
      z = Activation("relu", name="relu")(y)
      return Concat(name="concat_linear")(pooled, y), Concat(name="concat")(pooled, z)
    total = Concat(name="concat")(y, pooled)
    return total, Activation("relu", name="relu")(total)

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.stride == 1:  # a layout for small images: nothing to halve
      return x
    return AvgPool(3, self.stride, SYMMETRIC, count_padding=True, name="pool")(x)


class ShuffleNetV1(nn.Module):
  """The network; see :func:`shufflenet_v1` and :func:`shufflenet_v1_crd`."""

  num_classes: int
  width: float
  groups: int
  variant: Variant
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem, stages = stem_and_stages(self.width, self.groups)
    small = self.variant.small_input
    strides = layout_strides("cifar" if small else self.layout, x.shape[1], (2,) * 5)
    step: dict[str, Any] = {"kernel": 1 if small else 3, "stride": strides[0], "padding": SYMMETRIC}
    x = ConvNorm(stem, act="relu", norm=self.norm, name="stem", **step)(x, train=train)
    maps, preact = [x], [x]
    if strides[1] > 1:
      x = MaxPool(3, 2, SYMMETRIC, name="stem_pool")(x)
    for i, block in enumerate(unroll(stages, strides[2:])):
      before, x = ShuffleUnit(
        block.row.features,
        block.stride,
        halves=block.row.stride > 1,
        groups=self.groups,
        first_groups=self.groups if i else 1,
        variant=self.variant,
        norm=self.norm,
        name=block.name,
      )(x, train=train)
      if block.last:
        maps.append(x)
        preact.append(before)
    bias = self.variant.classifier_bias
    return classified(x, self.num_classes, maps, preact, use_bias=bias)

  @property
  def classifier_bias(self) -> bool:
    """Whether the classifier has a bias."""
    return self.variant.classifier_bias


def stem_and_stages(width: float, groups: int) -> tuple[int, tuple[tuple[Row], ...]]:
  """Channels of the stem, and the rows of the three stages.

  Below width 1 both are rounded, the stem to a multiple of the groups and the stages to one of
  four times the groups; the stem of the authors' code doubles at width 2, not before.

  Examples:
    >>> stem, stages = stem_and_stages(0.5, 8)
    >>> stem, [row.features for (row,) in stages]
    (16, [192, 384, 768])
  """
  stem = STEM * max(1, int(width)) if width >= 1 else groups * math.ceil(STEM * width / groups)
  step = 4 * groups
  first = max(step, round(CHANNELS[groups] * width / step) * step)
  rows = (Row(first * 2**i, stride=2, repeats=count) for i, count in enumerate(REPEATS))
  return stem, tuple((row,) for row in rows)


def shufflenet_v1(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  groups: int = 3,
  classifier_bias: bool = False,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ShuffleNetV1:
  """ShuffleNetV1, as in its authors' code.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels.
    groups: of the pointwise convolutions: 1, 2, 3, 4 or 8.
    classifier_bias: whether the classifier has a bias; the authors' has none.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each stage.

  Raises:
    ValueError: for other groups, an unknown layout, or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(shufflenet_v1(groups=8)).parameters
    2433768

  References:
    Zhang et al., `ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
    Devices <https://arxiv.org/abs/1707.01083>`_, 2017, table 1.
  """
  check_positive(num_classes=num_classes, width=width)
  if groups not in CHANNELS:
    raise ValueError(f"groups: {groups} must be one of {', '.join(map(str, CHANNELS))}.")
  variant = AUTHORS._replace(classifier_bias=classifier_bias)
  return ShuffleNetV1(num_classes, width, groups, variant, layout, norm, native_size(layout))


def shufflenet_v1_crd(num_classes: int = 100, *, norm: Norm = Norm()) -> ShuffleNetV1:  # noqa: B008
  """The ShuffleNetV1 of the CRD repository, for 32 px: width 1, three groups.

  Args:
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` and ``preact`` are the repository's features but the last.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(shufflenet_v1_crd()).parameters
    949258

  References:
    Tian et al., `Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
    2020, table 2.
  """
  check_positive(num_classes=num_classes)
  return ShuffleNetV1(num_classes, 1.0, 3, CRD, "cifar", norm, 32)
