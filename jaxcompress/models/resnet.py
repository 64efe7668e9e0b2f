"""ResNets for ImageNet and for 32 px, and wide ones (He et al., 2015; Zagoruyko & Komodakis, 2016)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, Row, classified, unroll
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import Activation, Add, BatchNorm, ConvNorm, Endpoints, MaxPool, Norm

WIDTHS = (64, 128, 256, 512)
REPEATS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STRIDES = (2, 2, 1, 2, 2, 2)
CIFAR_WIDTHS = (16, 16, 32, 64)  # stem and three stages
CIFAR_WIDTHS_X4 = (32, 64, 128, 256)
CIFAR_STRIDES = (1, 2, 2)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, projected where the shape changes.

  Returns the sum before and after its last ReLU.

  References:
    He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_,
    2015, figure 5.
  """

  features: int
  stride: int
  norm: Norm
  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = partial(ConvNorm, padding=SYMMETRIC, norm=self.norm)
    y = conv(self.features, kernel=3, stride=self.stride, act="relu", name="conv1")(x, train=train)
    y = conv(self.features, kernel=3, name="conv2")(y, train=train)
    if self.stride != 1 or x.shape[-1] != self.features:
      x = conv(self.features, stride=self.stride, name="shortcut")(x, train=train)
    total = Add(name="add")(y, x)
    return total, Activation("relu", name="relu")(total)


class Bottleneck(nn.Module):
  """A 3x3 convolution between two pointwise ones, and a shortcut; the 3x3 has the stride.

  Returns the sum, of ``4 * features`` channels, before and after its last ReLU.
  """

  features: int
  stride: int
  norm: Norm
  expansion = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = partial(ConvNorm, padding=SYMMETRIC, norm=self.norm)
    out = self.expansion * self.features
    y = conv(self.features, act="relu", name="conv1")(x, train=train)
    y = conv(self.features, kernel=3, stride=self.stride, act="relu", name="conv2")(y, train=train)
    y = conv(out, name="conv3")(y, train=train)
    if self.stride != 1 or x.shape[-1] != out:
      x = conv(out, stride=self.stride, name="shortcut")(x, train=train)
    total = Add(name="add")(y, x)
    return total, Activation("relu", name="relu")(total)


class ResNet(nn.Module):
  """The network; see :func:`resnet`."""

  num_classes: int
  depth: int
  small_input: bool
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    small = self.small_input
    strides = layout_strides("cifar" if small else self.layout, x.shape[1], STRIDES)
    step: dict[str, Any] = {"kernel": 3 if small else 7, "stride": strides[0], "padding": SYMMETRIC}
    x = ConvNorm(64, act="relu", norm=self.norm, name="stem", **step)(x, train=train)
    maps, preact = [x], [x]
    if strides[1] > 1:
      x = MaxPool(3, 2, SYMMETRIC, name="stem_pool")(x)
    stages = _stages(WIDTHS, STRIDES[2:], REPEATS[self.depth])
    kind = Bottleneck if self.depth == 50 else BasicBlock
    for block in unroll(stages, strides[2:]):
      residual = kind(block.row.features, block.stride, self.norm, name=block.name)
      total, x = residual(x, train=train)
      if block.last:
        maps.append(x)
        preact.append(total)
    return classified(x, self.num_classes, maps, preact)


def resnet(
  depth: int,
  num_classes: int = 1000,
  *,
  small_input: bool = False,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ResNet:
  """A ResNet of four stages: depth 18 or 34 of basic blocks, 50 of bottlenecks.

  Bottlenecks have their stride in the 3x3 convolution, as in torchvision and timm.

  Args:
    depth: number of weight layers.
    num_classes: size of the logits.
    small_input: a 3x3 stem with stride 1 and no pooling, as in the CRD repository, for 32 px.
    layout: ``"imagenet"``, ``"cifar"`` (the same weights with stride 1 in the stem and no
      pooling), or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` holds the stem's map and each stage's last, ``preact`` the stages' sums
    before their ReLU (for the stem, its map).

  Raises:
    ValueError: for another depth or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(resnet(34)).parameters
    21797672

  References:
    He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_,
    2015, table 1.
  """
  check_positive(num_classes=num_classes)
  if depth not in REPEATS:
    raise ValueError(f"depth: {depth} must be one of {', '.join(map(str, REPEATS))}.")
  size = 32 if small_input else native_size(layout)
  return ResNet(num_classes, depth, small_input, layout, norm, size)


resnet18 = variant(resnet, "resnet18", depth=18, small_input=False)
""":func:`resnet` of depth 18."""
resnet34 = variant(resnet, "resnet34", depth=34, small_input=False)
""":func:`resnet` of depth 34."""
resnet50 = variant(resnet, "resnet50", depth=50, small_input=False)
""":func:`resnet` of depth 50."""


def resnet50_crd(num_classes: int = 100, *, norm: Norm = Norm()) -> ResNet:  # noqa: B008
  """The ResNet-50 of the CRD repository, for 32 px: :func:`resnet` with ``small_input``.

  Examples:
    >>> model = resnet50_crd()
    >>> model.depth, model.num_classes, model.image_size
    (50, 100, 32)
  """
  return resnet(50, num_classes, small_input=True, norm=norm)


class ResNetCifar(nn.Module):
  """The network; see :func:`resnet_cifar`."""

  num_classes: int
  depth: int
  widths: tuple[int, int, int, int]
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    step: dict[str, Any] = {"kernel": 3, "padding": SYMMETRIC}
    x = ConvNorm(self.widths[0], act="relu", norm=self.norm, name="stem", **step)(x, train=train)
    maps, preact = [x], [x]
    repeats = (self.depth - 2) // 6
    for block in unroll(_stages(self.widths[1:], CIFAR_STRIDES, (repeats,) * 3), CIFAR_STRIDES):
      residual = BasicBlock(block.row.features, block.stride, self.norm, name=block.name)
      total, x = residual(x, train=train)
      if block.last:
        maps.append(x)
        preact.append(total)
    return classified(x, self.num_classes, maps, preact)


def resnet_cifar(
  depth: int,
  num_classes: int = 100,
  *,
  widths: tuple[int, int, int, int] = CIFAR_WIDTHS,
  norm: Norm = Norm(),  # noqa: B008
) -> ResNetCifar:
  """A CIFAR ResNet of basic blocks: depth 8, 14, 20, 32, 44, 56, 110.

  Args:
    depth: number of weight layers, ``6 n + 2``.
    num_classes: size of the logits.
    widths: channels of the stem and the three stages; :data:`CIFAR_WIDTHS_X4` for the "x4" teachers.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` holds the stem's map and each stage's last, ``preact`` the stages'
    sums before their ReLU (for the stem, its map), in the order of RepDistiller's features.

  Raises:
    ValueError: if the depth is not ``6 n + 2``.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(resnet_cifar(20)).parameters
    278324

  References:
    He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_,
    2015; Tian et al., `Contrastive Representation Distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020, for the x4 widths.
  """
  check_positive(num_classes=num_classes)
  if depth < 8 or (depth - 2) % 6:
    raise ValueError(f"depth: {depth} must be 6 n + 2, such as 8, 14, 20, 32, 44, 56 or 110.")
  return ResNetCifar(num_classes, depth, widths, norm)


resnet8 = variant(resnet_cifar, "resnet8", depth=8, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 8 with channels 16, 16, 32 and 64."""
resnet14 = variant(resnet_cifar, "resnet14", depth=14, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 14 with channels 16, 16, 32 and 64."""
resnet20 = variant(resnet_cifar, "resnet20", depth=20, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 20 with channels 16, 16, 32 and 64."""
resnet32 = variant(resnet_cifar, "resnet32", depth=32, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 32 with channels 16, 16, 32 and 64."""
resnet44 = variant(resnet_cifar, "resnet44", depth=44, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 44 with channels 16, 16, 32 and 64."""
resnet56 = variant(resnet_cifar, "resnet56", depth=56, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 56 with channels 16, 16, 32 and 64."""
resnet110 = variant(resnet_cifar, "resnet110", depth=110, widths=CIFAR_WIDTHS)
""":func:`resnet_cifar` of depth 110 with channels 16, 16, 32 and 64."""
resnet8x4 = variant(resnet_cifar, "resnet8x4", depth=8, widths=CIFAR_WIDTHS_X4)
""":func:`resnet_cifar` of depth 8 with channels 32, 64, 128 and 256."""
resnet32x4 = variant(resnet_cifar, "resnet32x4", depth=32, widths=CIFAR_WIDTHS_X4)
""":func:`resnet_cifar` of depth 32 with channels 32, 64, 128 and 256."""


class PreactBlock(nn.Module):
  """Normalises and rectifies before each of two 3x3 convolutions; the shortcut is projected where
  the shape changes, and reads the rectified map then.

  Returns the normalised input, which is the map of the stage before without its ReLU, and the sum.
  """

  features: int
  stride: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = partial(ConvNorm, self.features, padding=SYMMETRIC)
    bare = partial(conv, norm=None, use_bias=False)
    before = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    y = Activation("relu", name="relu")(before)
    if x.shape[-1] != self.features:
      x = bare(stride=self.stride, name="shortcut")(y, train=train)
    y = conv(kernel=3, stride=self.stride, act="relu", norm=self.norm, name="conv1")(y, train=train)
    y = bare(kernel=3, name="conv2")(y, train=train)
    return before, Add(name="add")(x, y)


class WideResNet(nn.Module):
  """The network; see :func:`wide_resnet`."""

  num_classes: int
  depth: int
  widen: int
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem = ConvNorm(16, kernel=3, padding=SYMMETRIC, norm=None, use_bias=False, name="stem")
    x = stem(x, train=train)
    maps, preact = [x], [x]
    widths, repeats = (16, 32, 64), (self.depth - 4) // 6
    for block in unroll(_stages(widths, CIFAR_STRIDES, (repeats,) * 3), CIFAR_STRIDES):
      features = block.row.features * self.widen
      before, x = PreactBlock(features, block.stride, self.norm, name=block.name)(x, train=train)
      if block.stride > 1:
        preact.append(before)
      if block.last:
        maps.append(x)
    before = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    x = Activation("relu", name="relu")(before)
    return classified(x, self.num_classes, maps, [*preact, before])


def wide_resnet(
  depth: int,
  widen: int,
  num_classes: int = 100,
  *,
  norm: Norm = Norm(),  # noqa: B008
) -> WideResNet:
  """WRN-d-k: a wide ResNet of depth d and widening factor k.

  Args:
    depth: number of weight layers, ``6 n + 4``.
    widen: factor of the channels 16, 32, 64.
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` holds the stem's map and each stage's sum, ``preact`` the same after
    the normalization that follows and before its ReLU (for the stem, its map), in the order of
    RepDistiller's features.

  Raises:
    ValueError: if the depth is not ``6 n + 4`` or the factor is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(wide_resnet(40, 2)).parameters
    2255156

  References:
    Zagoruyko & Komodakis, `Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_, 2016.
  """
  check_positive(num_classes=num_classes, widen=widen)
  if depth < 10 or (depth - 4) % 6:
    raise ValueError(f"depth: {depth} must be 6 n + 4, such as 10, 16, 22, 28 or 40.")
  return WideResNet(num_classes, depth, widen, norm)


wrn_16_1 = variant(wide_resnet, "wrn_16_1", depth=16, widen=1)
""":func:`wide_resnet` of depth 16 and factor 1."""
wrn_16_2 = variant(wide_resnet, "wrn_16_2", depth=16, widen=2)
""":func:`wide_resnet` of depth 16 and factor 2."""
wrn_40_1 = variant(wide_resnet, "wrn_40_1", depth=40, widen=1)
""":func:`wide_resnet` of depth 40 and factor 1."""
wrn_40_2 = variant(wide_resnet, "wrn_40_2", depth=40, widen=2)
""":func:`wide_resnet` of depth 40 and factor 2."""


def _stages(widths, strides, repeats) -> tuple[tuple[Row, ...], ...]:
  return tuple((Row(*row),) for row in zip(widths, strides, repeats, strict=True))
