"""MobileNetV4-Hybrid: attention whose heads share keys and values (Qin et al., 2024)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.models.blocks import Architecture, Block
from jaxcompress.models.layouts import check_positive, native_size, variant
from jaxcompress.models.mobilenet_v4 import Fused, MobileNetV4, Universal
from jaxcompress.nn import (
  Add,
  Affine,
  BatchNorm,
  ConvNorm,
  MatMul,
  Norm,
  Reshape,
  Softmax,
)

LAYER_SCALE = 1e-5


class Attention(NamedTuple):
  """Attention over the cells of a map.

  Attributes:
    heads: of the queries; all have the same keys and values.
    depth: channels of a head.
    features: channels at the end.
    halved: whether keys and values are of a map of half the height and width.
    stride: always 1.
    repeats: how many there are.
  """

  heads: int
  depth: int
  features: int
  halved: bool = False
  stride: int = 1
  repeats: int = 1


WIDE, NARROW = Attention(4, 64, 160, halved=True), Attention(4, 64, 256)
MEDIUM = Architecture(
  stem=32,
  stages=(
    (Fused(4, 48, stride=2),),
    (Universal(3, 5, 4, 80, stride=2), Universal(3, 3, 2, 80)),
    (
      Universal(3, 5, 6, 160, stride=2),
      Universal(0, 0, 2, 160),
      Universal(3, 3, 4, 160),
      Universal(3, 5, 4, 160),
      *(WIDE, Universal(3, 3, 4, 160)),
      *(WIDE, Universal(3, 0, 4, 160)),
      *(WIDE, Universal(3, 3, 4, 160)),
      *(WIDE, Universal(3, 0, 4, 160)),
    ),
    (
      Universal(5, 5, 6, 256, stride=2),
      Universal(5, 5, 4, 256),
      Universal(3, 5, 4, 256, repeats=2),
      Universal(0, 0, 2, 256),
      Universal(3, 5, 2, 256),
      Universal(0, 0, 2, 256),
      Universal(0, 0, 4, 256),
      *(NARROW, Universal(3, 0, 4, 256)),
      *(NARROW, Universal(5, 5, 4, 256)),
      *(NARROW, Universal(5, 0, 4, 256)) * 2,
    ),
  ),
  head=1280,
)
LARGE_WIDE, LARGE_NARROW = Attention(8, 48, 192, halved=True), Attention(8, 64, 512)
LARGE = Architecture(
  stem=24,
  stages=(
    (Fused(4, 48, stride=2),),
    (Universal(3, 5, 4, 96, stride=2), Universal(3, 3, 4, 96)),
    (
      Universal(3, 5, 4, 192, stride=2),
      Universal(3, 3, 4, 192, repeats=3),
      Universal(3, 5, 4, 192),
      Universal(5, 3, 4, 192, repeats=2),
      *(LARGE_WIDE, Universal(5, 3, 4, 192)) * 3,
      *(LARGE_WIDE, Universal(3, 0, 4, 192)),
    ),
    (
      Universal(5, 5, 4, 512, stride=2),
      Universal(5, 5, 4, 512, repeats=3),
      Universal(5, 0, 4, 512),
      Universal(5, 3, 4, 512),
      Universal(5, 0, 4, 512, repeats=2),
      Universal(5, 3, 4, 512),
      Universal(5, 5, 4, 512),
      *(LARGE_NARROW, Universal(5, 0, 4, 512)) * 4,
    ),
  ),
  head=1280,
)


class MobileAttention(nn.Module):
  """Normalization, attention with several queries for each key, a scale, and a residual.

  Cells are rows of the matrix of queries, ``heads`` of them each, so that all heads are one product.

  References:
    Shazeer, `Fast Transformer Decoding: One Write-Head is All You Need
    <https://arxiv.org/abs/1911.02150>`_, 2019, section 3; Qin et al., 2024, section 4.
  """

  row: Attention
  features: int
  padding: ops.Padding
  norm: Norm
  layer_scale: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    heads, depth, *_ = self.row
    height, width = x.shape[1:3]
    y = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    query = _project(heads * depth, "query")(y, train=train)
    query = Affine(depth**-0.5, name="scaled")(query)
    query = Reshape((height * width * heads, depth), name="query_tokens")(query)
    key, value = (self._tokens(y, name, train) for name in ("key", "value"))
    scores = MatMul(transpose_second=True, name="scores")(query, key)
    y = MatMul(name="mix")(Softmax(name="softmax")(scores), value)
    y = Reshape((height, width, heads * depth), name="map")(y)
    y = _project(self.features, "output")(y, train=train)
    y = Affine("trained", start=self.layer_scale, name="layer_scale")(y)
    return Add(name="add")(x, y) if x.shape == y.shape else y

  def _tokens(self, x: jax.Array, name: str, train: bool | jax.Array) -> jax.Array:
    """Keys or values, one for each cell."""
    if self.row.halved:
      down = ConvNorm(
        x.shape[-1], kernel=3, stride=2, groups="depthwise", padding=self.padding, norm=self.norm,
        name=f"{name}_down",
      )  # fmt: skip
      x = down(x, train=train)
    x = _project(self.row.depth, name)(x, train=train)
    return Reshape((x.shape[1] * x.shape[2], self.row.depth), name=f"{name}_tokens")(x)


def _project(features: int, name: str) -> ConvNorm:
  """A pointwise convolution alone."""
  return ConvNorm(features, norm=None, use_bias=False, name=name)


class MobileNetV4Hybrid(MobileNetV4):
  """The network; see :func:`mobilenet_v4_hybrid_medium`."""

  layer_scale: float = LAYER_SCALE

  def _block(
    self, x: jax.Array, block: Block, options: dict, train: bool | jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    if not isinstance(block.row, Attention):
      return super()._block(x, block, options, train)
    features = self._channels(block.row.features)
    attention = MobileAttention(
      block.row, features, **options, layer_scale=self.layer_scale, name=block.name
    )
    y = attention(x, train=train)
    return y, y


def mobilenet_v4_hybrid_medium(
  num_classes: int = 1000,
  width: float = 1.0,
  *,
  layout: str = "auto",
  padding: ops.Padding = "SYMMETRIC",
  norm: Norm = Norm(),  # noqa: B008
) -> MobileNetV4Hybrid:
  """MobileNetV4-Hybrid-M: MobileNetV4-Conv with attention in its last two stages.

  Images of up to 448 px export everywhere; TFLite-Micro and TFLite's reference kernels compute no
  softmax of more than 511 keys, which are the cells of the last stage. Activations have 8 bits, since
  a ``MatMul`` has no others.

  Args:
    num_classes: size of the logits.
    width: multiplier of the channels, rounded to multiples of 8; below 1 the stem keeps its own,
      and the last layer and the heads of the attention always do.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    padding: ``"SYMMETRIC"`` as in timm, ``"SAME"`` as in the authors' code.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; endpoints as of :func:`~jaxcompress.models.mobilenet_v4_conv_small`.

  Raises:
    ValueError: for an unknown layout or a width that is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mobilenet_v4_hybrid_medium()).parameters
    11074648

  References:
    Qin et al., `MobileNetV4: Universal Models for the Mobile Ecosystem
    <https://arxiv.org/abs/2404.10518>`_, 2024, section 4 and appendix D; sizes are timm's.
  """
  check_positive(num_classes=num_classes, width=width)
  return MobileNetV4Hybrid(num_classes, width, MEDIUM, layout, padding, norm, native_size(layout))


mobilenet_v4_hybrid_large = variant(
  mobilenet_v4_hybrid_medium, "mobilenet_v4_hybrid_large", architecture=LARGE, act="gelu"
)
"""MobileNetV4-Hybrid-L, with GELU; else as :func:`mobilenet_v4_hybrid_medium`."""
