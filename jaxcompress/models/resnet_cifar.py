"""ResNets for 32 px images (He et al., 2015, section 4.2), as in the CRD repository."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jaxcompress.models.blocks import BasicBlock
from jaxcompress.models.layouts import check_positive
from jaxcompress.nn import ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm

WIDTHS = (16, 16, 32, 64)  # stem and three stages
WIDTHS_X4 = (32, 64, 128, 256)
SYMMETRIC = "SYMMETRIC"


class ResNetCifar(nn.Module):
  """The network; see :func:`resnet_cifar`."""

  num_classes: int
  depth: int
  widths: tuple[int, int, int, int]
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem = ConvNorm(
      self.widths[0], kernel=3, padding=SYMMETRIC, act="relu", norm=self.norm, name="stem"
    )
    x = stem(x, train=train)
    maps, preact = [x], [x]
    for i, features in enumerate(self.widths[1:]):
      for j in range((self.depth - 2) // 6):
        stride = 2 if i > 0 and j == 0 else 1
        block = BasicBlock(features, stride, self.norm, name=f"stage{i}_block{j}")
        total, x = block(x, train=train)
      maps.append(x)
      preact.append(total)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), tuple(preact))


def resnet_cifar(
  depth: int,
  num_classes: int = 100,
  *,
  widths: tuple[int, int, int, int] = WIDTHS,
  norm: Norm = Norm(),  # noqa: B008
) -> ResNetCifar:
  """A CIFAR ResNet of basic blocks: depth 8, 14, 20, 32, 44, 56, 110.

  Args:
    depth: number of weight layers, ``6 n + 2``.
    num_classes: size of the logits.
    widths: channels of the stem and the three stages; :data:`WIDTHS_X4` for the "x4" teachers.
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


def _named(depth: int, widths: tuple[int, int, int, int], name: str) -> Callable[..., ResNetCifar]:
  def make(num_classes: int = 100, *, norm: Norm = Norm()) -> ResNetCifar:  # noqa: B008
    return resnet_cifar(depth, num_classes, widths=widths, norm=norm)

  make.__name__ = make.__qualname__ = name
  make.__doc__ = f"""{name}: :func:`resnet_cifar` of depth {depth} with channels {widths}.

  Examples:
    >>> model = {name}(10)
    >>> model.depth, model.widths, model.num_classes
    ({depth}, {widths}, 10)
  """
  return make


resnet8 = _named(8, WIDTHS, "resnet8")
""":func:`resnet_cifar` of depth 8 with channels 16, 16, 32 and 64."""
resnet14 = _named(14, WIDTHS, "resnet14")
""":func:`resnet_cifar` of depth 14 with channels 16, 16, 32 and 64."""
resnet20 = _named(20, WIDTHS, "resnet20")
""":func:`resnet_cifar` of depth 20 with channels 16, 16, 32 and 64."""
resnet32 = _named(32, WIDTHS, "resnet32")
""":func:`resnet_cifar` of depth 32 with channels 16, 16, 32 and 64."""
resnet44 = _named(44, WIDTHS, "resnet44")
""":func:`resnet_cifar` of depth 44 with channels 16, 16, 32 and 64."""
resnet56 = _named(56, WIDTHS, "resnet56")
""":func:`resnet_cifar` of depth 56 with channels 16, 16, 32 and 64."""
resnet110 = _named(110, WIDTHS, "resnet110")
""":func:`resnet_cifar` of depth 110 with channels 16, 16, 32 and 64."""
resnet8x4 = _named(8, WIDTHS_X4, "resnet8x4")
""":func:`resnet_cifar` of depth 8 with channels 32, 64, 128 and 256."""
resnet32x4 = _named(32, WIDTHS_X4, "resnet32x4")
""":func:`resnet_cifar` of depth 32 with channels 32, 64, 128 and 256."""
