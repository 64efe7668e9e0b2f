"""EdgeNeXt: convolutions, and attention between channels (Maaz et al., 2022)."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, convolved
from jaxcompress.models.layouts import check_positive, variant
from jaxcompress.nn import (
  Add,
  Affine,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  Endpoints,
  FourierPositions,
  GlobalAvgPool,
  LayerNorm,
  MatMul,
  Reshape,
  RmsNorm,
  Softmax,
  Split,
)

KERNELS = (3, 5, 7, 9)  # sides of the depthwise kernels of each stage
PARTS = (0, 2, 3, 4)  # of the channels in a stage's last block, which attends; 0: it has none
PATCH, MERGED = 4, 2  # sides of the kernels that are their own strides
EXPAND = 4
POSITIONED = 1  # the stage whose last block knows places
LAYER_SCALE = 1e-6
EPSILON = 1e-6  # of LayerNorm
LEAST_SQUARE = 1e-12  # added to the mean square of queries and keys, which have the length one
IMAGE_SIZE = 256


class Size(NamedTuple):
  """One of the family.

  Attributes:
    features: channels of each stage.
    repeats: blocks of each stage.
    heads: of the attention.
  """

  features: tuple[int, int, int, int]
  repeats: tuple[int, int, int, int] = (3, 3, 9, 3)
  heads: int = 4


SIZES = {
  "xx_small": Size((24, 48, 88, 168), (2, 2, 6, 2)),
  "x_small": Size((32, 64, 100, 192)),
  "small": Size((48, 96, 160, 304), heads=8),
}


def _perceptron(x: jax.Array, train: bool | jax.Array) -> jax.Array:
  """LayerNorm, an expansion with GELU, a projection and a scale, inside a compact method."""
  channels = x.shape[-1]
  y = LayerNorm(EPSILON, name="norm")(x)
  y = convolved(y, EXPAND * channels, act="gelu", norm=None, name="expand", train=train)
  y = ConvNorm(channels, norm=None, name="project")(y, train=train)
  return Affine("trained", start=LAYER_SCALE, name="layer_scale")(y)


class ConvBlock(nn.Module):
  """A depthwise convolution, a multilayer perceptron, and a residual."""

  kernel: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    step: dict[str, Any] = {"kernel": self.kernel, "groups": "depthwise", "padding": SYMMETRIC}
    y = ConvNorm(x.shape[-1], norm=None, name="depthwise", **step)(x, train=train)
    return Add(name="add")(x, _perceptron(y, train))


class AttentionBlock(nn.Module):
  """Convolutions of parts of the channels one after the other, attention, a perceptron, a residual.

  The attention is between channels: queries and keys are rows of cells, of the length one.

  References:
    Maaz et al., 2022, section 3; Ali et al., `XCiT: Cross-Covariance Image Transformers
    <https://arxiv.org/abs/2106.09681>`_, 2021, section 3.2.
  """

  parts: int
  heads: int
  positioned: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    height, width, channels = x.shape[1:]
    y = self._convolve(x, train)
    if self.positioned:
      y = Reshape((height * width * channels,), name="places")(y)
      y = FourierPositions((height, width), name="positions")(y)
      y = Reshape((height, width, channels), name="placed")(y)
    z = self._attend(LayerNorm(EPSILON, name="attention_norm")(y), train)
    z = Affine("trained", start=LAYER_SCALE, name="attention_scale")(z)
    return Add(name="add")(x, _perceptron(Add(name="attended")(y, z), train))

  def _convolve(self, x: jax.Array, train: bool | jax.Array) -> jax.Array:
    """Each part but the last is convolved with what was made of the one before it."""
    channels = x.shape[-1]
    few = math.ceil(channels / self.parts)
    sizes = (*(few,) * (self.parts - 1), channels - few * (self.parts - 1))
    *convolved, last = Split(sizes, name="split")(x)
    step: dict[str, Any] = {"kernel": 3, "groups": "depthwise", "padding": SYMMETRIC, "norm": None}
    made: list[jax.Array] = []
    for i, part in enumerate(convolved):
      part = Add(name=f"sum{i}")(made[-1], part) if made else part
      made.append(ConvNorm(few, name=f"part{i}", **step)(part, train=train))
    return Concat(name="concat")(*made, last)

  def _attend(self, x: jax.Array, train: bool | jax.Array) -> jax.Array:
    height, width, channels = x.shape[1:]
    cells, depth, heads = height * width, channels // self.heads, range(self.heads)
    y = ConvNorm(3 * channels, norm=None, name="qkv")(x, train=train)
    rows, values = Split((2 * channels, channels), name="split_values")(y)
    rows = Reshape((2 * channels * cells,), name="cells_first")(rows)
    rows = ChannelShuffle(cells, name="turn")(rows)
    rows = Reshape((2 * channels, cells), name="channels_first")(rows)
    rows = RmsNorm(LEAST_SQUARE, name="length")(rows)
    rows = Reshape((2 * channels * cells,), name="rows")(rows)
    parts = Split((depth * cells,) * (2 * self.heads), name="heads")(rows)
    queries, keys = (
      [Reshape((depth, cells), name=f"{name}{i}")(parts[start + i]) for i in heads]
      for name, start in (("query", 0), ("key", self.heads))
    )
    tokens = Reshape((cells, channels), name="value_tokens")(values)
    columns = Split((depth,) * self.heads, name="value_heads")(tokens)
    mixed = []
    for i in heads:
      y = MatMul(transpose_second=True, name=f"scores{i}")(queries[i], keys[i])
      y = Affine(1 / cells, name=f"mean{i}")(y)
      y = Affine("scalar", name=f"temperature{i}")(y)
      y = Softmax(name=f"softmax{i}")(y)
      mixed.append(MatMul(transpose_second=True, name=f"mix{i}")(columns[i], y))
    y = Reshape((height, width, channels), name="map")(Concat(name="joined")(*mixed))
    return ConvNorm(channels, norm=None, name="out")(y, train=train)


class EdgeNeXt(nn.Module):
  """The network; see :func:`edgenext`."""

  num_classes: int
  size: str
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    size, maps = SIZES[self.size], []
    for i, (features, repeats) in enumerate(zip(size.features, size.repeats, strict=True)):
      side, norm = MERGED if i else PATCH, LayerNorm(EPSILON, name=f"stage{i}_norm")
      merge = ConvNorm(
        features, kernel=side, stride=side, padding="VALID", norm=None, name=f"stage{i}_start"
      )
      x = merge(norm(x), train=train) if i else norm(merge(x, train=train))
      for j in range(repeats):
        name = f"stage{i}_block{j}"
        if PARTS[i] and j + 1 == repeats:
          block: nn.Module = AttentionBlock(PARTS[i], size.heads, i == POSITIONED, name=name)
        else:
          block = ConvBlock(KERNELS[i], name=name)
        x = block(x, train=train)
      maps.append(x)
    pooled = LayerNorm(EPSILON, name="norm")(GlobalAvgPool(name="pool")(x))
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), tuple(maps))


def edgenext(size: str, num_classes: int = 1000) -> EdgeNeXt:
  """EdgeNeXt: depthwise convolutions of growing kernels, and attention between channels.

  Activations have 8 bits, since a ``MatMul`` and an ``RmsNorm`` have no others. Of the channels only those
  inside the perceptrons can be pruned: LayerNorm and the attention read all others at once.

  Args:
    size: ``"xx_small"``, ``"x_small"`` or ``"small"``.
    num_classes: size of the logits.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds each stage's last map. Images must
    be of 32 px or more.

  Raises:
    ValueError: for another size.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(edgenext("xx_small")).parameters
    1327216

  References:
    Maaz et al., `EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture for Mobile Vision
    Applications <https://arxiv.org/abs/2206.10589>`_, 2022, table 1.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return EdgeNeXt(num_classes, size, IMAGE_SIZE)


edgenext_xx_small = variant(edgenext, "edgenext_xx_small", size="xx_small")
""":func:`edgenext` XXS."""
edgenext_x_small = variant(edgenext, "edgenext_x_small", size="x_small")
""":func:`edgenext` XS."""
edgenext_small = variant(edgenext, "edgenext_small", size="small")
""":func:`edgenext` S."""
