"""MobileNetV1: depthwise separable convolutions (Howard et al., 2017, table 1)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.layouts import LAYOUTS, check_layout, check_positive, pick_layout
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
    strides = pick_layout(self.layout, x.shape[1]).v1
    options = {"act": self.act, "padding": self.padding, "norm": self.norm}
    x = ConvNorm(int(32 * self.width), kernel=3, stride=strides[0], name="stem", **options)(
      x, train=train
    )
    maps = [x]
    for i, (stage, stride) in enumerate(zip(V1_STAGES, strides[1:], strict=True)):
      for j in range(stage.repeats):
        x = Separable(
          int(stage.features * self.width),
          stride if j == 0 else 1,
          options,
          name=f"stage{i}_block{j}",
        )(x, train=train)
      maps.append(x)
    pooled = GlobalAvgPool(name="pool")(x)
    return Endpoints(Dense(self.num_classes, name="classifier")(pooled), pooled, tuple(maps))


class Separable(nn.Module):
  """A depthwise 3x3 and a pointwise convolution."""

  features: int
  stride: int
  options: dict

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    x = ConvNorm(
      x.shape[-1],
      kernel=3,
      stride=self.stride,
      groups="depthwise",
      name="depthwise",
      **self.options,
    )(x, train=train)
    return ConvNorm(self.features, name="pointwise", **self.options)(x, train=train)


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
    and returns :class:`~jaxcompress.nn.Endpoints`.

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
  check_layout(layout)
  check_positive(num_classes=num_classes, width=width, resolution=resolution)
  native = LAYOUTS[layout].image_size if layout != "auto" else 224
  return MobileNetV1(num_classes, width, layout, act, padding, norm, round(native * resolution))
