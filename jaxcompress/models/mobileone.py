"""MobileOne: separable convolutions that train with branches (Vasu et al., 2022, table 2)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import Row, classified, unroll
from jaxcompress.models.branched import Branched
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import Endpoints, Norm

WIDTHS = (64, 128, 256, 512)
REPEATS = (2, 8, 10, 1)
STRIDES = (2, 2, 2, 2, 2)
DIVISOR = 8


class Size(NamedTuple):
  """One of the family.

  Attributes:
    factors: multipliers of the stages' channels.
    convolutions: with the same kernel in each layer but the first.
    squeezes: blocks with squeeze-excites at the end of each stage.
  """

  factors: tuple[float, ...]
  convolutions: int = 1
  squeezes: tuple[int, ...] = (0, 0, 0, 0)


SIZES = {
  "s0": Size((0.75, 1.0, 1.0, 2.0), convolutions=4),
  "s1": Size((1.5, 1.5, 2.0, 2.5)),
  "s2": Size((1.5, 2.0, 2.5, 4.0)),
  "s3": Size((2.0, 2.5, 3.0, 4.0)),
  "s4": Size((3.0, 3.5, 3.5, 4.0), squeezes=(0, 0, 5, 1)),
}


class MobileOneBlock(nn.Module):
  """A depthwise and a pointwise layer of branches."""

  features: int
  stride: int
  norm: Norm
  convolutions: int
  squeeze: bool
  identity: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    for name, features, fields in (
      ("depthwise", x.shape[-1], self._depthwise()),
      ("pointwise", self.features, {"kernel": 1}),
    ):
      x = Branched(
        features,
        self.norm,
        convolutions=self.convolutions,
        squeezed=_squeezed(features) if self.squeeze else 0,
        name=name,
        **fields,
      )(x, train=train)
    return x

  def _depthwise(self) -> dict[str, Any]:
    return {"stride": self.stride, "groups": "depthwise", "identity": self.identity}


def _squeezed(channels: int) -> int:
  """A sixteenth, rounded to a multiple of 8."""
  return max(DIVISOR, int(channels / 16 + DIVISOR / 2) // DIVISOR * DIVISOR)


class MobileOne(nn.Module):
  """The network; see :func:`mobileone`."""

  num_classes: int
  size: str
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    size = SIZES[self.size]
    widths = [int(width * factor) for width, factor in zip(WIDTHS, size.factors, strict=True)]
    stem = Branched(min(64, widths[0]), self.norm, stride=first, identity=False, name="stem")
    x = stem(x, train=train)
    maps = [x]
    stages = [
      (Row(width, stride=2, repeats=repeats - squeezes), Row(width, repeats=squeezes, squeeze=True))
      if repeats > squeezes
      else (Row(width, stride=2, repeats=repeats, squeeze=True),)
      for width, repeats, squeezes in zip(widths, REPEATS, size.squeezes, strict=True)
    ]
    for block in unroll(stages, strides):
      x = MobileOneBlock(
        block.row.features,
        block.stride,
        self.norm,
        size.convolutions,
        block.row.squeeze,
        identity=block.row.stride == 1,
        name=block.name,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    return classified(x, self.num_classes, maps)


def mobileone(
  size: str,
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> MobileOne:
  """MobileOne: depthwise and pointwise convolutions, each a sum of branches while it is trained.

  :func:`~jaxcompress.models.fold_branches` makes one convolution of each sum, before quantization.

  Args:
    size: ``"s0"`` to ``"s4"``; the last has squeeze-excites.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobileone("s0")).parameters
    5293272

  References:
    Vasu et al., `MobileOne: An Improved One millisecond Mobile Backbone
    <https://arxiv.org/abs/2206.04040>`_, 2022, tables 2 and 3; the number of branches is timm's.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return MobileOne(num_classes, size, layout, norm, native_size(layout))


mobileone_s0 = variant(mobileone, "mobileone_s0", size="s0")
""":func:`mobileone` S0."""
mobileone_s1 = variant(mobileone, "mobileone_s1", size="s1")
""":func:`mobileone` S1."""
mobileone_s2 = variant(mobileone, "mobileone_s2", size="s2")
""":func:`mobileone` S2."""
mobileone_s3 = variant(mobileone, "mobileone_s3", size="s3")
""":func:`mobileone` S3."""
mobileone_s4 = variant(mobileone, "mobileone_s4", size="s4")
""":func:`mobileone` S4."""
