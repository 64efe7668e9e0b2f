"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018, table 2)."""

from typing import Any

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import InvertedResidual, Row, classified, unroll
from jaxcompress.models.layouts import check_positive, divisible, layout_strides, native_size
from jaxcompress.nn import ConvNorm, Endpoints, Norm

STAGES = (
  (Row(16),),
  (Row(24, stride=2, repeats=2),),
  (Row(32, stride=2, repeats=3),),
  (Row(64, stride=2, repeats=4),),
  (Row(96, repeats=3),),
  (Row(160, stride=2, repeats=3),),
  (Row(320),),
)
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
CRD = (2, 1, 1, 2, 2, 1, 2, 1)
SHORT = (2, 1, 1, 2, 1, 2, 1)  # for 32 px: an early stem, 11 blocks, 4 px at the end
SHORT_STAGES = tuple((row._replace(repeats=min(row.repeats, 2)),) for (row,) in STAGES[:6])
HEAD = 1280


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
    strides = layout_strides(self.layout, x.shape[1], STRIDES, short=SHORT, crd=CRD)
    stages = SHORT_STAGES if self.layout == "short" else STAGES
    options: dict[str, Any] = {"act": self.act, "norm": self.norm}
    step: dict[str, Any] = {"kernel": 3, "stride": strides[0], "padding": self.padding}
    stem = ConvNorm(self._channels(32), name="stem", **step, **options)
    x = stem(x, train=train)
    maps = [x]
    for i, block in enumerate(unroll(stages, strides[1:])):
      x = InvertedResidual(
        features=self._channels(block.row.features),
        expanded=x.shape[-1] * (self.expand if i else 1),
        stride=block.stride,
        padding=self.padding,
        zero_residual=self.zero_residual,
        always_expand=self.always_expand,
        name=block.name,
        **options,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    head = head_features(self.width, self.layout, self.divisor)
    x = ConvNorm(head, name="head", **options)(x, train=train)
    return classified(x, self.num_classes, maps)

  def _channels(self, channels: int) -> int:
    return scaled(channels, self.width, self.divisor)


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
  check_positive(num_classes=num_classes, width=width)
  size = native_size(layout, "short")
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
