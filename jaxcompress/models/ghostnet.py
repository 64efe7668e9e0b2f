"""GhostNet: half of every map from a cheap depthwise convolution (Han et al., 2020, table 1)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.models.layouts import (
  check_layout,
  check_positive,
  divisible,
  layout_strides,
  native_size,
  resolution_ends,
)
from jaxcompress.nn import Add, Concat, ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm

DIVISOR = 4
HEAD = 1280
STEM = 16
SYMMETRIC = "SYMMETRIC"


class Row(NamedTuple):
  """One ghost bottleneck.

  Attributes:
    kernel: side of the depthwise kernels of a halving.
    expanded: channels inside, at width 1.
    features: channels at the end, at width 1.
    squeeze: whether there is a squeeze-excite.
    stride: of the bottleneck.
  """

  kernel: int
  expanded: int
  features: int
  squeeze: bool = False
  stride: int = 1


STAGES = (
  (Row(3, 16, 16),),
  (Row(3, 48, 24, stride=2),),
  (Row(3, 72, 24),),
  (Row(5, 72, 40, squeeze=True, stride=2),),
  (Row(5, 120, 40, squeeze=True),),
  (Row(3, 240, 80, stride=2),),
  (
    Row(3, 200, 80),
    *(Row(3, 184, 80),) * 2,
    Row(3, 480, 112, squeeze=True),
    Row(3, 672, 112, squeeze=True),
  ),
  (Row(5, 672, 160, squeeze=True, stride=2),),
  (*(Row(5, 960, 160), Row(5, 960, 160, squeeze=True)) * 2,),
)
STRIDES = (2, *(stage[0].stride for stage in STAGES))


class Ghost(nn.Module):
  """Half of the features by a pointwise convolution, the other half by a depthwise 3x3 of those."""

  features: int
  act: str | None
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    half = self.features // 2
    options: dict[str, Any] = {"act": self.act, "padding": SYMMETRIC, "norm": self.norm}
    primary = ConvNorm(half, name="primary", **options)(x, train=train)
    cheap = ConvNorm(half, kernel=3, groups="depthwise", name="cheap", **options)
    return Concat(name="concat")(primary, cheap(primary, train=train))


class GhostBottleneck(nn.Module):
  """Two ghost modules, a depthwise convolution at halvings, squeeze-excite, and a shortcut."""

  row: Row
  expanded: int
  features: int
  stride: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    norm = self.norm
    depthwise: dict[str, Any] = {
      "kernel": self.row.kernel,
      "stride": self.stride,
      "groups": "depthwise",
      "padding": SYMMETRIC,
      "norm": norm,
    }
    y = Ghost(self.expanded, "relu", norm, name="ghost1")(x, train=train)
    if self.row.stride > 1:
      y = ConvNorm(self.expanded, name="depthwise", **depthwise)(y, train=train)
    if self.row.squeeze:
      y = SqueezeExcite(divisible(self.expanded / 4, DIVISOR), name="se")(y, train=train)
    y = Ghost(self.features, None, norm, name="ghost2")(y, train=train)
    if self.row.stride > 1 or x.shape[-1] != self.features:
      x = ConvNorm(x.shape[-1], name="shortcut_depthwise", **depthwise)(x, train=train)
      x = ConvNorm(self.features, norm=norm, name="shortcut")(x, train=train)
    return Add(name="add")(y, x)


class GhostNet(nn.Module):
  """The network; see :func:`ghostnet`."""

  num_classes: int
  width: float
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    norm = self.norm
    strides = layout_strides(self.layout, x.shape[1], STRIDES)
    x = ConvNorm(
      self._channels(STEM),
      kernel=3,
      stride=strides[0],
      padding=SYMMETRIC,
      act="relu",
      norm=norm,
      name="stem",
    )(x, train=train)
    maps = [x]
    for i, (stage, stride) in enumerate(zip(STAGES, strides[1:], strict=True)):
      for j, row in enumerate(stage):
        x = GhostBottleneck(
          row,
          self._channels(row.expanded),
          self._channels(row.features),
          stride if j == 0 else 1,
          norm,
          name=f"stage{i}_block{j}",
        )(x, train=train)
      if i in resolution_ends(STRIDES[1:]):
        maps.append(x)
    tail = self._channels(STAGES[-1][-1].expanded)
    x = ConvNorm(tail, act="relu", norm=norm, name="tail")(x, train=train)
    x = GlobalAvgPool(keepdims=True, name="pool")(x)
    x = ConvNorm(HEAD, act="relu", norm=None, name="head")(x, train=train)
    logits = Dense(self.num_classes, name="classifier")(x)
    pooled = x.reshape(x.shape[0], -1)
    return Endpoints(logits, pooled, tuple(maps), preact=tuple(maps))  # bottlenecks are linear

  def _channels(self, channels: int) -> int:
    return divisible(channels * self.width, DIVISOR)


def ghostnet(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> GhostNet:
  """GhostNet, with ghost modules of ratio 2.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 4; the last layer keeps its 1280.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(ghostnet()).parameters
    5182508

  References:
    Han et al., `GhostNet: More Features from Cheap Operations <https://arxiv.org/abs/1911.11907>`_,
    2020, table 1.
  """
  check_layout(layout)
  check_positive(num_classes=num_classes, width=width)
  return GhostNet(num_classes, width, layout, norm, native_size(layout))
