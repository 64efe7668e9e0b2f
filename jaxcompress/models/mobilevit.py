"""MobileViT: transformers over the cells of patches, between convolutions (Mehta and Rastegari, 2022)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, InvertedResidual, classified, convolved
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import (
  Add,
  Affine,
  Concat,
  ConvNorm,
  DepthToSpace,
  Endpoints,
  LayerNorm,
  MatMul,
  Norm,
  Reshape,
  Resize,
  Softmax,
  SpaceToDepth,
  Split,
)

STRIDES = (2, 1, 2, 2, 2, 2)
STEM = 16
REPEATS = (1, 3, 1, 1, 1)  # inverted residuals of each stage
DEPTHS = (0, 0, 2, 4, 3)  # transformers of each stage, one behind the other
PATCH = 2
HEADS = 4
EXPAND = 2  # of transformers
EPSILON = 1e-5  # of layer normalizations
SIDE = 256  # of images in the layout for ImageNet
ACT = "silu"


class Size(NamedTuple):
  """One of the family.

  Attributes:
    features: channels of each stage.
    tokens: channels of the transformers of the last three.
    head: channels of the last convolution.
    expand: channels inside an inverted residual are a multiple of those that come in.
  """

  features: tuple[int, int, int, int, int]
  tokens: tuple[int, int, int]
  head: int
  expand: int = 4


SIZES = {
  "xxs": Size((16, 24, 48, 64, 80), (64, 80, 96), 320, expand=2),
  "xs": Size((32, 48, 64, 80, 96), (96, 120, 144), 384),
  "s": Size((32, 64, 96, 128, 160), (144, 192, 240), 640),
}


class Attention(nn.Module):
  """Each cell of a patch attends to the cells at the same place in the other patches.

  The map has whole patches. Places within a patch are channels for a while, so that each head of each
  place is a part of the channels.
  """

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels, depth = x.shape[-1], x.shape[-1] // HEADS
    rows, columns = (side // PATCH for side in x.shape[1:3])
    parts = {}
    for name in ("query", "key", "value"):
      y = ConvNorm(channels, norm=None, name=name)(x, train=train)
      if name == "query":
        y = Affine(depth**-0.5, name="scaled")(y)
      y = SpaceToDepth(PATCH, name=f"{name}_patches")(y)
      y = Reshape((rows * columns, y.shape[-1]), name=f"{name}_tokens")(y)
      parts[name] = Split((depth,) * (PATCH**2 * HEADS), name=f"{name}_heads")(y)
    mixed = []
    for i, (query, key, value) in enumerate(zip(*parts.values(), strict=True)):
      scores = MatMul(transpose_second=True, name=f"scores{i}")(query, key)
      mixed.append(MatMul(name=f"mix{i}")(Softmax(name=f"softmax{i}")(scores), value))
    places = [  # TFLite-Micro joins ten tensors at most
      Concat(name=f"place{i}")(*mixed[HEADS * i : HEADS * (i + 1)]) for i in range(PATCH**2)
    ]
    y = Concat(name="places")(*places)
    y = Reshape((rows, columns, y.shape[-1]), name="patches")(y)
    y = DepthToSpace(PATCH, name="cells")(y)
    return ConvNorm(channels, norm=None, name="out")(y, train=train)


class Transformer(nn.Module):
  """Attention and a multilayer perceptron, each behind a layer normalization; two residuals."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels = x.shape[-1]
    y = LayerNorm(EPSILON, name="norm1")(x)
    x = Add(name="attended")(x, Attention(name="attention")(y, train=train))
    y = LayerNorm(EPSILON, name="norm2")(x)
    y = convolved(y, EXPAND * channels, act=ACT, norm=None, name="widen", train=train)
    return Add(name="add")(x, ConvNorm(channels, norm=None, name="narrow")(y, train=train))


class MobileViTBlock(nn.Module):
  """Convolutions, transformers over all patches, and a convolution of their result beside the input."""

  tokens: int
  depth: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    _, height, width, features = x.shape
    options: dict[str, Any] = {"act": ACT, "norm": self.norm, "train": train}
    step: dict[str, Any] = {"kernel": 3, "padding": SYMMETRIC, **options}
    y = convolved(x, features, name="local", **step)
    y = ConvNorm(self.tokens, norm=None, use_bias=False, name="enter")(y, train=train)
    whole = -(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH
    if whole != (height, width):
      y = Resize(whole, method="bilinear", name="enlarged")(y)
    for i in range(self.depth):
      y = Transformer(name=f"transformer{i}")(y, train=train)
    y = LayerNorm(EPSILON, name="norm")(y)
    if whole != (height, width):
      y = Resize((height, width), method="bilinear", name="reduced")(y)
    y = convolved(y, features, name="leave", **options)
    return convolved(Concat(name="both")(x, y), features, name="fusion", **step)


class MobileViT(nn.Module):
  """The network; see :func:`mobilevit`."""

  num_classes: int
  size: str
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    size = SIZES[self.size]
    options: dict[str, Any] = {"act": ACT, "norm": self.norm, "train": train}
    x = convolved(x, STEM, kernel=3, stride=first, padding=SYMMETRIC, name="stem", **options)
    maps = []
    for i, (features, repeats, depth) in enumerate(
      zip(size.features, REPEATS, DEPTHS, strict=True)
    ):
      for j in range(repeats):
        stride, expanded = (1 if j else strides[i]), size.expand * x.shape[-1]
        residual = bool(j) or STRIDES[i + 1] == 1
        block = InvertedResidual(
          features, expanded, stride, SYMMETRIC, self.norm,
          act=ACT, residual=residual, name=f"stage{i}_block{j}",
        )  # fmt: skip
        x = block(x, train=train)
      if depth:
        tokens = size.tokens[i - len(DEPTHS)]
        vit = MobileViTBlock(tokens, depth, self.norm, name=f"stage{i}_block{repeats}")
        x = vit(x, train=train)
      maps.append(x)
    x = convolved(x, size.head, name="head", **options)
    return classified(x, self.num_classes, maps)


def mobilevit(
  size: str,
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> MobileViT:
  """MobileViT: inverted residuals, and transformers over patches of 2 x 2 cells.

  Maps of an odd side are resized to whole patches and back, as in timm.

  Args:
    size: ``"xxs"``, ``"xs"`` or ``"s"``.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds each stage's last map.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilevit("xxs")).parameters
    1272024

  References:
    Mehta and Rastegari, `MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
    Transformer <https://arxiv.org/abs/2110.02178>`_, 2022, section 3 and table 4.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  side = native_size(layout)
  return MobileViT(num_classes, size, layout, norm, SIDE if side == native_size("auto") else side)


mobilevit_xxs = variant(mobilevit, "mobilevit_xxs", size="xxs")
""":func:`mobilevit` XXS."""
mobilevit_xs = variant(mobilevit, "mobilevit_xs", size="xs")
""":func:`mobilevit` XS."""
mobilevit_s = variant(mobilevit, "mobilevit_s", size="s")
""":func:`mobilevit` S."""
