"""ResNets for ImageNet, and for 32 px with the same stages (He et al., 2015, table 1)."""

import flax.linen as nn
import jax

from jaxcompress.models.blocks import BasicBlock, Bottleneck
from jaxcompress.models.layouts import (
  check_layout,
  check_positive,
  layout_strides,
  native_size,
)
from jaxcompress.nn import ConvNorm, Dense, Endpoints, GlobalAvgPool, MaxPool, Norm

STEM = 64
WIDTHS = (64, 128, 256, 512)
REPEATS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BLOCKS = {18: BasicBlock, 34: BasicBlock, 50: Bottleneck}
SYMMETRIC = "SYMMETRIC"


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
    imagenet = (2, 2, 1, 2, 2, 2)
    strides = (1, 1, *imagenet[2:]) if small else layout_strides(self.layout, x.shape[1], imagenet)
    x = ConvNorm(
      STEM,
      kernel=3 if small else 7,
      stride=strides[0],
      padding=SYMMETRIC,
      act="relu",
      norm=self.norm,
      name="stem",
    )(x, train=train)
    maps, preact = [x], [x]
    if strides[1] > 1:
      x = MaxPool(3, 2, SYMMETRIC, name="stem_pool")(x)
    for i, (features, repeats, stride) in enumerate(
      zip(WIDTHS, REPEATS[self.depth], strides[2:], strict=True)
    ):
      for j in range(repeats):
        block = BLOCKS[self.depth](
          features, stride if j == 0 else 1, self.norm, name=f"stage{i}_block{j}"
        )
        total, x = block(x, train=train)
      maps.append(x)
      preact.append(total)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), tuple(preact))


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
  check_layout(layout)
  check_positive(num_classes=num_classes)
  if depth not in REPEATS:
    raise ValueError(f"depth: {depth} must be one of {', '.join(map(str, REPEATS))}.")
  size = 32 if small_input else native_size(layout)
  return ResNet(num_classes, depth, small_input, layout, norm, size)


def resnet18(
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ResNet:
  """ResNet-18: :func:`resnet` of depth 18.

  Examples:
    >>> model = resnet18(10)
    >>> model.depth, model.num_classes, model.image_size
    (18, 10, 224)
  """
  return resnet(18, num_classes, layout=layout, norm=norm)


def resnet34(
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ResNet:
  """ResNet-34: :func:`resnet` of depth 34.

  Examples:
    >>> model = resnet34(10, layout="cifar")
    >>> model.depth, model.num_classes, model.image_size
    (34, 10, 32)
  """
  return resnet(34, num_classes, layout=layout, norm=norm)


def resnet50(
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> ResNet:
  """ResNet-50: :func:`resnet` of depth 50.

  Examples:
    >>> model = resnet50()
    >>> model.depth, model.num_classes, model.image_size
    (50, 1000, 224)
  """
  return resnet(50, num_classes, layout=layout, norm=norm)


def resnet50_crd(num_classes: int = 100, *, norm: Norm = Norm()) -> ResNet:  # noqa: B008
  """The ResNet-50 of the CRD repository, for 32 px: :func:`resnet` with ``small_input``.

  Examples:
    >>> model = resnet50_crd()
    >>> model.depth, model.num_classes, model.image_size
    (50, 100, 32)
  """
  return resnet(50, num_classes, small_input=True, norm=norm)
