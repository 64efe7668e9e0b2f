"""GhostNet, half of whose maps come from cheap depthwise convolutions; V2 has attention beside them."""

from typing import Any

import flax.linen as nn
import jax

from jaxcompress.models.blocks import (
  SYMMETRIC,
  Row,
  SqueezeExcite,
  classified_by_head,
  unroll,
)
from jaxcompress.models.layouts import check_positive, divisible, layout_strides, native_size
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  Concat,
  ConvNorm,
  Endpoints,
  Multiply,
  Norm,
  Resize,
)

DIVISOR = 4
HEAD = 1280
PLAIN = 2  # blocks without attention
STAGES = (
  (Row(16, expanded=16),),
  (Row(24, stride=2, expanded=48),),
  (Row(24, expanded=72),),
  (Row(40, stride=2, expanded=72, kernel=5, squeeze=True),),
  (Row(40, expanded=120, kernel=5, squeeze=True),),
  (Row(80, stride=2, expanded=240),),
  (
    Row(80, expanded=200),
    Row(80, repeats=2, expanded=184),
    Row(112, expanded=480, squeeze=True),
    Row(112, expanded=672, squeeze=True),
  ),
  (Row(160, stride=2, expanded=672, kernel=5, squeeze=True),),
  (*(Row(160, expanded=960, kernel=5), Row(160, expanded=960, kernel=5, squeeze=True)) * 2,),
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


class Attention(nn.Module):
  """A gate for each pixel from its row and column, at half the resolution.

  References:
    Tang et al., `GhostNetV2: Enhance Cheap Operation with Long-Range Attention
    <https://arxiv.org/abs/2211.12905>`_, 2022, section 4.1.
  """

  features: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    y = AvgPool(2, 2, "VALID", name="pool")(x)
    y = ConvNorm(self.features, norm=self.norm, name="reduce")(y, train=train)
    for name, kernel in (("row", (1, 5)), ("column", (5, 1))):
      options: dict[str, Any] = {"groups": "depthwise", "padding": SYMMETRIC, "norm": self.norm}
      y = ConvNorm(self.features, kernel=kernel, name=name, **options)(y, train=train)
    y = Activation("sigmoid", name="gate")(y)
    return Resize((height, width), sampling="asymmetric", name="resize")(y)


class GhostBottleneck(nn.Module):
  """Two ghost modules, a depthwise convolution at halvings, squeeze-excite, and a shortcut.

  ``attention``: whether the first ghost module has a gate for each of its pixels.
  """

  row: Row
  expanded: int
  features: int
  stride: int
  norm: Norm
  attention: bool = False

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
    if self.attention:
      gate = Attention(self.expanded, norm, name="attention")(x, train=train)
      y = Multiply(name="attended")(y, gate)
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
  """The network; see :func:`ghostnet` and :func:`ghostnet_v2`."""

  num_classes: int
  width: float
  layout: str
  norm: Norm
  image_size: int
  attention: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    relu: dict[str, Any] = {"act": "relu", "norm": self.norm}
    step: dict[str, Any] = {"kernel": 3, "stride": first, "padding": SYMMETRIC}
    x = ConvNorm(self._channels(16), name="stem", **step, **relu)(x, train=train)
    maps = [x]
    for i, block in enumerate(unroll(STAGES, strides)):
      expanded, features = map(self._channels, (block.row.expanded, block.row.features))
      attention = self.attention and i >= PLAIN
      ghost = GhostBottleneck(
        block.row, expanded, features, block.stride, self.norm, attention, name=block.name
      )
      x = ghost(x, train=train)
      if block.ends:
        maps.append(x)
    x = ConvNorm(self._channels(STAGES[-1][-1].expanded), name="tail", **relu)(x, train=train)
    return classified_by_head(x, HEAD, self.num_classes, maps, act="relu", norm=None, train=train)

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
  check_positive(num_classes=num_classes, width=width)
  return GhostNet(num_classes, width, layout, norm, native_size(layout))


def ghostnet_v2(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> GhostNet:
  """GhostNetV2: GhostNet with a gate for each pixel from its row and column, but for two blocks.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 4; the last layer keeps its 1280.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; endpoints as of :func:`ghostnet`. Its last maps must be of 2 pixels or more.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(ghostnet_v2()).parameters
    6156908

  References:
    Tang et al., `GhostNetV2: Enhance Cheap Operation with Long-Range Attention
    <https://arxiv.org/abs/2211.12905>`_, 2022, section 4.
  """
  return ghostnet(num_classes, width, layout=layout, norm=norm).clone(attention=True)
