"""MobileNetV3: squeeze-excite and hard-swish (Howard et al., 2019, tables 1 and 2)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import (
  Architecture,
  InvertedResidual,
  Row,
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
from jaxcompress.nn import Endpoints, Norm

RELU, SWISH = "relu", "hard_swish"
SCALINGS = ("paper", "torchvision")
Swish = partial(Row, act=SWISH)


LARGE = Architecture(
  stem=16,
  stages=(
    (Row(16, expanded=16),),
    (Row(24, stride=2, expanded=64), Row(24, expanded=72)),
    (
      Row(40, stride=2, expanded=72, kernel=5, squeeze=True),
      Row(40, repeats=2, expanded=120, kernel=5, squeeze=True),
    ),
    (
      Swish(80, stride=2, expanded=240),
      Swish(80, expanded=200),
      Swish(80, repeats=2, expanded=184),
    ),
    (Swish(112, expanded=480, squeeze=True), Swish(112, expanded=672, squeeze=True)),
    (
      Swish(160, stride=2, expanded=672, kernel=5, squeeze=True),
      Swish(160, repeats=2, expanded=960, kernel=5, squeeze=True),
    ),
  ),
  head=1280,
)
SMALL = Architecture(
  stem=16,
  stages=(
    (Row(16, stride=2, expanded=16, squeeze=True),),
    (Row(24, stride=2, expanded=72), Row(24, expanded=88)),
    (
      Swish(40, stride=2, expanded=96, kernel=5, squeeze=True),
      Swish(40, repeats=2, expanded=240, kernel=5, squeeze=True),
    ),
    (
      Swish(48, expanded=120, kernel=5, squeeze=True),
      Swish(48, expanded=144, kernel=5, squeeze=True),
    ),
    (
      Swish(96, stride=2, expanded=288, kernel=5, squeeze=True),
      Swish(96, repeats=2, expanded=576, kernel=5, squeeze=True),
    ),
  ),
  head=1024,
)


class MobileNetV3(nn.Module):
  """The network; see :func:`mobilenet_v3_large` and :func:`mobilenet_v3_small`."""

  num_classes: int
  width: float
  architecture: Architecture
  minimal: bool
  scaling: str
  layout: str
  padding: ops.Padding
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stages, norm = self.architecture.stages, self.norm
    imagenet = (2, *(stage[0].stride for stage in stages))
    first, *strides = layout_strides(self.layout, x.shape[1], imagenet)
    act = RELU if self.minimal else SWISH
    step: dict[str, Any] = {"kernel": 3, "stride": first, "padding": self.padding}
    x = convolved(
      x, self._outer(self.architecture.stem), act=act, norm=norm, name="stem", train=train, **step
    )
    maps, before = [x], self.architecture.stem
    for block in unroll(stages, strides):
      row = block.row
      expanded = self._expanded(row, before, x.shape[-1])
      x = InvertedResidual(
        divisible(row.features * self.width),
        expanded,
        block.stride,
        self.padding,
        norm,
        kernel=3 if self.minimal else row.kernel,
        squeezed=divisible(expanded / 4) if row.squeeze and not self.minimal else 0,
        act=RELU if self.minimal else row.act,
        residual=row.stride == 1,
        name=block.name,
      )(x, train=train)
      before = row.features
      if block.ends:
        maps.append(x)
    x = convolved(x, 6 * x.shape[-1], act=act, norm=norm, name="tail", train=train)
    head = self._outer(self.architecture.head)
    return classified_by_head(x, head, self.num_classes, maps, act=act, norm=None, train=train)

  def _outer(self, channels: int) -> int:
    """Channels of the stem and of the last layer before the classifier."""
    keeps = self.scaling == "paper" and self.width < 1
    return channels if keeps else divisible(channels * self.width)

  def _expanded(self, row: Row, before: int, channels: int) -> int:
    """Channels inside a block: a multiple of its own input, or of those at width 1."""
    if row.expanded == before:
      return channels
    if self.scaling == "paper":
      return divisible(channels * row.expanded / before)
    return divisible(row.expanded * self.width)


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
  check_positive(num_classes=num_classes, width=width)
  if scaling not in SCALINGS:
    raise ValueError(f"scaling: {scaling!r} is unknown; it must be one of {', '.join(SCALINGS)}.")
  size = native_size(layout)
  return MobileNetV3(num_classes, width, LARGE, minimal, scaling, layout, padding, norm, size)


mobilenet_v3_small = variant(mobilenet_v3_large, "mobilenet_v3_small", architecture=SMALL)
"""MobileNetV3-Small (Howard et al., 2019, table 2); else as :func:`mobilenet_v3_large`."""
