"""SqueezeNet: few channels before every 3x3 convolution (Iandola et al., 2016, table 1)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import Concat, ConvNorm, Endpoints, GlobalAvgPool, MaxPool

STRIDES = (2, 2, 2, 2)  # of the stem, and of the pool before each stage


class Fire(NamedTuple):
  """A block's row.

  Attributes:
    squeezed: channels that come out of its first convolution.
    features: channels that come out of the block, half of each kernel.
  """

  squeezed: int
  features: int


class Version(NamedTuple):
  """One of the networks.

  Attributes:
    stem: channels of the first convolution.
    kernel: its side.
    stages: rows between the pools.
  """

  stem: int
  kernel: int
  stages: tuple[tuple[Fire, ...], ...]


FIRES = (
  *(Fire(16, 128), Fire(16, 128), Fire(32, 256), Fire(32, 256)),
  *(Fire(48, 384), Fire(48, 384), Fire(64, 512), Fire(64, 512)),
)
VERSIONS = {
  "1.0": Version(96, 7, (FIRES[:3], FIRES[3:7], FIRES[7:])),
  "1.1": Version(64, 3, (FIRES[:2], FIRES[2:4], FIRES[4:])),
}


class FireBlock(nn.Module):
  """A pointwise convolution, and a pointwise and a 3x3 one of its output side by side."""

  row: Fire

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    half = self.row.features // 2
    x = ConvNorm(self.row.squeezed, act="relu", norm=None, name="squeeze")(x, train=train)
    one = ConvNorm(half, act="relu", norm=None, name="expand1x1")(x, train=train)
    three = ConvNorm(half, kernel=3, padding=SYMMETRIC, act="relu", norm=None, name="expand3x3")(
      x, train=train
    )
    return Concat(name="concat")(one, three)


def pooled_up(x: jax.Array, stride: int, name: str) -> jax.Array:
  """A 3x3 max pool whose last window may stand out of the map, so that every pixel is read."""
  if stride == 1:
    return x
  (top, left) = ((side - 3) % 2 for side in x.shape[1:3])
  return MaxPool(3, stride, ((0, top), (0, left)), name=name)(x)


class SqueezeNet(nn.Module):
  """The network; see :func:`squeezenet`."""

  num_classes: int
  version: str
  layout: str
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    version = VERSIONS[self.version]
    stem = ConvNorm(
      version.stem, kernel=version.kernel, stride=first, padding="VALID", act="relu", norm=None,
      name="stem",
    )  # fmt: skip
    x = stem(x, train=train)
    maps = [x]
    for i, (rows, stride) in enumerate(zip(version.stages, strides, strict=True)):
      x = pooled_up(x, stride, f"stage{i}_pool")
      for j, row in enumerate(rows):
        x = FireBlock(row, name=f"stage{i}_block{j}")(x, train=train)
      maps.append(x)
    pooled = GlobalAvgPool(name="features")(x)
    x = ConvNorm(self.num_classes, act="relu", norm=None, name="classifier")(x, train=train)
    return Endpoints(GlobalAvgPool(name="pool")(x), pooled, tuple(maps), tuple(maps))


def squeezenet(version: str, num_classes: int = 1000, *, layout: str = "auto") -> SqueezeNet:
  """SqueezeNet, without normalization; its logits are averages of a map, none below zero.

  Args:
    version: ``"1.0"``, or ``"1.1"``, which needs 2.4 times fewer multiply-adds.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution, ``pooled`` the mean of the last.

  Raises:
    ValueError: for another version or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(squeezenet("1.0")).parameters
    1248424

  References:
    Iandola et al., `SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size
    <https://arxiv.org/abs/1602.07360>`_, 2016, table 1; `version 1.1
    <https://github.com/forresti/SqueezeNet>`_.
  """
  check_positive(num_classes=num_classes)
  if version not in VERSIONS:
    raise ValueError(f"version: {version!r} is unknown; it must be one of {', '.join(VERSIONS)}.")
  return SqueezeNet(num_classes, version, layout, native_size(layout))


squeezenet1_0 = variant(squeezenet, "squeezenet1_0", version="1.0")
""":func:`squeezenet` 1.0."""
squeezenet1_1 = variant(squeezenet, "squeezenet1_1", version="1.1")
""":func:`squeezenet` 1.1."""
