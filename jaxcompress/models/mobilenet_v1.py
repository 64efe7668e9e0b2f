"""MobileNetV1: depthwise separable convolutions (Howard et al., 2017, table 1)."""

from typing import Any

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import Row, activated, classified, unroll
from jaxcompress.models.layouts import check_positive, layout_strides, native_size
from jaxcompress.nn import ConvNorm, Endpoints, Norm

STAGES = (
  (Row(64),),
  (Row(128, stride=2, repeats=2),),
  (Row(256, stride=2, repeats=2),),
  (Row(512, stride=2, repeats=6),),
  (Row(1024, stride=2, repeats=2),),
)
STRIDES = (2, 1, 2, 2, 2, 2)
SHORT = (2, 1, 1, 2, 2, 1)  # for 32 px: an early stem, and 8 px at the end


class MobileNetV1(nn.Module):
  """The network; see :func:`mobilenet_v1`."""

  num_classes: int
  width: float
  layout: str
  act: str
  padding: ops.Padding
  norm: Norm
  image_size: int
  use_bias: bool | None = None  # of convolutions, as in ConvNorm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES, short=SHORT)
    options: dict[str, Any] = {"act": self.act, "padding": self.padding, "norm": self.norm}
    if self.use_bias is not None:
      options["use_bias"] = self.use_bias
    stem = ConvNorm(int(32 * self.width), kernel=3, stride=first, name="stem", **options)
    x = stem(x, train=train)
    maps, preact = [x], [x]
    for block in unroll(STAGES, strides):
      features = int(block.row.features * self.width)
      before, x = Separable(features, block.stride, options, name=block.name)(x, train=train)
      if block.ends:
        maps.append(x)
        preact.append(before)
    return classified(x, self.num_classes, maps, preact)

  @property
  def resolution(self) -> float:
    """The multiplier of the native image size."""
    return self.image_size / native_size(self.layout, "short")


class Separable(nn.Module):
  """A depthwise 3x3 and a pointwise convolution; the latter's map before and after its activation."""

  features: int
  stride: int
  options: dict

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    x = ConvNorm(
      x.shape[-1],
      kernel=3,
      stride=self.stride,
      groups="depthwise",
      name="depthwise",
      **self.options,
    )(x, train=train)
    return activated(x, self.features, name="pointwise", train=train, **self.options)


def mobilenet_v1(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  resolution: float = 1.0,
  layout: str = "auto",
  act: str = "relu6",
  padding: ops.Padding = "SAME",
  norm: Norm = Norm(epsilon=1e-3),  # noqa: B008
) -> MobileNetV1:
  """MobileNetV1 with its width and resolution multipliers.

  Args:
    num_classes: size of the logits.
    width: the paper's alpha; every layer has ``int(width * channels)`` channels.
    resolution: the paper's rho: the native image size is 224 times it (32 for the small layouts).
    layout: strides; ``"imagenet"``, ``"cifar"``, ``"short"``, or ``"auto"``: by image size, so
      that images of at most 64 px get the 32 px layout.
    act: ``"relu6"`` as in Keras and timm, ``"relu"`` as in some others.
    padding: ``"SAME"`` as in Keras, ``"SYMMETRIC"`` as in timm.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for an unknown layout or multipliers that are not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v1(width=0.25)).parameters
    470072

  References:
    Howard et al., `MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications <https://arxiv.org/abs/1704.04861>`_, 2017.
  """
  check_positive(num_classes=num_classes, width=width, resolution=resolution)
  size = round(native_size(layout, "short") * resolution)
  return MobileNetV1(num_classes, width, layout, act, padding, norm, size)
