"""MnasNet: inverted residuals found by a search on phones (Tan et al., 2019, figure 7)."""

from typing import Any

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, Expansion, InvertedResidual, classified, unroll
from jaxcompress.models.layouts import check_positive, divisible, layout_strides, native_size
from jaxcompress.nn import ConvNorm, Endpoints, Norm

STAGES = (
  (Expansion(16, 1),),
  (Expansion(24, 3, stride=2, repeats=3),),
  (Expansion(40, 3, stride=2, repeats=3, kernel=5),),
  (Expansion(80, 6, stride=2, repeats=3, kernel=5),),
  (Expansion(96, 6, repeats=2),),
  (Expansion(192, 6, stride=2, repeats=4, kernel=5),),
  (Expansion(320, 6),),
)
STRIDES = (2, *(row.stride for (row,) in STAGES))
STEM, HEAD = 32, 1280


class MnasNet(nn.Module):
  """The network; see :func:`mnasnet`."""

  num_classes: int
  width: float
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    relu: dict[str, Any] = {"act": "relu", "norm": self.norm}
    step: dict[str, Any] = {"kernel": 3, "stride": first, "padding": SYMMETRIC}
    x = ConvNorm(divisible(STEM * self.width), name="stem", **step, **relu)(x, train=train)
    maps = [x]
    for block in unroll(STAGES, strides):
      x = InvertedResidual(
        divisible(block.row.features * self.width),
        x.shape[-1] * block.row.expand,
        block.stride,
        SYMMETRIC,
        kernel=block.row.kernel,
        residual=block.row.stride == 1 and block.row.expand > 1,
        name=block.name,
        **relu,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    x = ConvNorm(HEAD, name="head", **relu)(x, train=train)
    return classified(x, self.num_classes, maps)


def mnasnet(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> MnasNet:
  """MnasNet-B1, without squeeze-excite.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 8; the last convolution keeps its 1280.
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
    >>> models.summarize(mnasnet()).parameters
    4383312

  References:
    Tan et al., `MnasNet: Platform-Aware Neural Architecture Search for Mobile
    <https://arxiv.org/abs/1807.11626>`_, 2019, figure 7; sizes are torchvision's.
  """
  check_positive(num_classes=num_classes, width=width)
  return MnasNet(num_classes, width, layout, norm, native_size(layout))
