"""EfficientNet-Lite and EfficientNet-B0: inverted residuals scaled in width, depth and resolution."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import Expansion, InvertedResidual, classified, convolved, unroll
from jaxcompress.models.layouts import (
  check_positive,
  divisible,
  layout_strides,
  native_size,
  variant,
)
from jaxcompress.nn import Endpoints, Norm

STAGES = (
  Expansion(16, 1),
  Expansion(24, 6, stride=2, repeats=2),
  Expansion(40, 6, stride=2, repeats=2, kernel=5),
  Expansion(80, 6, stride=2, repeats=3),
  Expansion(112, 6, repeats=3, kernel=5),
  Expansion(192, 6, stride=2, repeats=4, kernel=5),
  Expansion(320, 6),
)
STRIDES = (2, *(row.stride for row in STAGES))
STEM, HEAD = 32, 1280


class Scaling(NamedTuple):
  """How much larger a network is than the smallest one.

  Attributes:
    width: multiplier of the channels.
    depth: multiplier of the number of blocks in a stage, rounded up.
    image_size: side of the images in pixels.
  """

  width: float
  depth: float
  image_size: int


LITE = (
  Scaling(1.0, 1.0, 224),
  Scaling(1.0, 1.1, 240),
  Scaling(1.1, 1.2, 260),
  Scaling(1.2, 1.4, 300),
  Scaling(1.4, 1.8, 380),
)


class EfficientNet(nn.Module):
  """The network; see :func:`efficientnet_lite` and :func:`efficientnet_b0`."""

  num_classes: int
  scaling: Scaling
  is_lite: bool
  layout: str
  padding: ops.Padding
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    act = "relu6" if self.is_lite else "silu"
    options: dict[str, Any] = {"act": act, "norm": self.norm}
    step: dict[str, Any] = {"kernel": 3, "stride": first, "padding": self.padding}
    x = convolved(x, self._outer(STEM), name="stem", train=train, **step, **options)
    maps = [x]
    for block in unroll([(self._deepened(row),) for row in STAGES], strides):
      channels = x.shape[-1]
      x = InvertedResidual(
        divisible(block.row.features * self.scaling.width),
        channels * block.row.expand,
        block.stride,
        self.padding,
        kernel=block.row.kernel,
        squeezed=0 if self.is_lite else max(1, channels // 4),
        gates=(act, "sigmoid"),
        name=block.name,
        **options,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    x = convolved(x, self._outer(HEAD), name="head", train=train, **options)
    return classified(x, self.num_classes, maps)

  def _outer(self, channels: int) -> int:
    """Channels of the first and the last convolution."""
    return channels if self.is_lite else divisible(channels * self.scaling.width)

  def _deepened(self, row: Expansion) -> Expansion:
    if self.is_lite and row in (STAGES[0], STAGES[-1]):
      return row
    return row._replace(repeats=math.ceil(row.repeats * self.scaling.depth))


def efficientnet_lite(
  size: int,
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(),  # noqa: B008
) -> EfficientNet:
  """EfficientNet-Lite: EfficientNet for integers, with ReLU6 and without squeeze-excite.

  Args:
    size: 0 to 4; larger ones are wider and deeper, for larger images, and keep the first and the last
      convolution of size 0.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    padding: ``"SYMMETRIC"``, or ``"SAME"`` as in the authors' code and timm's ``tf_`` models.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(efficientnet_lite(0)).parameters
    4652008

  References:
    Tan & Le, `EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
    <https://arxiv.org/abs/1905.11946>`_, 2019, table 1; `EfficientNet-Lite
    <https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite>`_, 2020.
  """
  check_positive(num_classes=num_classes)
  if size not in range(len(LITE)):
    raise ValueError(f"size: {size} must be one of {', '.join(map(str, range(len(LITE))))}.")
  return EfficientNet(
    num_classes, LITE[size], True, layout, padding, norm, _side(layout, LITE[size])
  )


efficientnet_lite0 = variant(efficientnet_lite, "efficientnet_lite0", size=0)
""":func:`efficientnet_lite` of size 0, for 224 px."""
efficientnet_lite1 = variant(efficientnet_lite, "efficientnet_lite1", size=1)
""":func:`efficientnet_lite` of size 1, for 240 px."""
efficientnet_lite2 = variant(efficientnet_lite, "efficientnet_lite2", size=2)
""":func:`efficientnet_lite` of size 2, for 260 px."""
efficientnet_lite3 = variant(efficientnet_lite, "efficientnet_lite3", size=3)
""":func:`efficientnet_lite` of size 3, for 300 px."""
efficientnet_lite4 = variant(efficientnet_lite, "efficientnet_lite4", size=4)
""":func:`efficientnet_lite` of size 4, for 380 px."""


def efficientnet_b0(
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(),  # noqa: B008
) -> EfficientNet:
  """EfficientNet-B0, with SiLU and squeeze-excites of sigmoid gates.

  Args:
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    padding: ``"SYMMETRIC"``, or ``"SAME"`` as in the authors' code and timm's ``tf_`` models.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; endpoints as of :func:`efficientnet_lite`.

  Raises:
    ValueError: for an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(efficientnet_b0()).parameters
    5288548

  References:
    Tan & Le, `EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
    <https://arxiv.org/abs/1905.11946>`_, 2019, table 1.
  """
  check_positive(num_classes=num_classes)
  return EfficientNet(num_classes, LITE[0], False, layout, padding, norm, _side(layout, LITE[0]))


def _side(layout: str, scaling: Scaling) -> int:
  """Side of the images that a layout is meant for."""
  side = native_size(layout)
  return scaling.image_size if side == native_size("imagenet") else side
