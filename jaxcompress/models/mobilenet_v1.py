"""MobileNetV1: depthwise separable convolutions (Howard et al., 2017, table 1)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import activated
from jaxcompress.models.layouts import (
  check_layout,
  check_positive,
  layout_strides,
  native_size,
  resolution_ends,
)
from jaxcompress.nn import ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm


class Stage(NamedTuple):
  """Separable convolutions at one resolution; the first of them has the stride."""

  features: int
  repeats: int
  stride: int


V1_STAGES = (
  Stage(features=64, repeats=1, stride=1),
  Stage(features=128, repeats=2, stride=2),
  Stage(features=256, repeats=2, stride=2),
  Stage(features=512, repeats=6, stride=2),
  Stage(features=1024, repeats=2, stride=2),
)
V1_STRIDES = (2, *(stage.stride for stage in V1_STAGES))
SHORT_STRIDES = (2, 1, 1, 2, 2, 1)  # for 32 px: an early stem, and 8 px at the end


class MobileNetV1(nn.Module):
  """The network; see :func:`mobilenet_v1`."""

  num_classes: int
  width: float
  layout: str
  act: str
  padding: ops.Padding
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    short = self.layout == "short"
    strides = SHORT_STRIDES if short else layout_strides(self.layout, x.shape[1], V1_STRIDES)
    options: dict[str, Any] = {"act": self.act, "padding": self.padding, "norm": self.norm}
    x = ConvNorm(int(32 * self.width), kernel=3, stride=strides[0], name="stem", **options)(
      x, train=train
    )
    maps, preact = [x], [x]
    for i, (stage, stride) in enumerate(zip(V1_STAGES, strides[1:], strict=True)):
      for j in range(stage.repeats):
        before, x = Separable(
          int(stage.features * self.width),
          stride if j == 0 else 1,
          options,
          name=f"stage{i}_block{j}",
        )(x, train=train)
      if i in resolution_ends(V1_STRIDES[1:]):
        maps.append(x)
        preact.append(before)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), tuple(preact))

  @property
  def resolution(self) -> float:
    """The multiplier of the native image size."""
    return self.image_size / _native(self.layout)


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
  check_layout(layout, "short")
  check_positive(num_classes=num_classes, width=width, resolution=resolution)
  size = round(_native(layout) * resolution)
  return MobileNetV1(num_classes, width, layout, act, padding, norm, size)


def _native(layout: str) -> int:
  return 32 if layout == "short" else native_size(layout)
