"""RepViT: depthwise branches that mix pixels, then pointwise convolutions (Wang et al., 2024)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, SqueezeExcite, convolved
from jaxcompress.models.layouts import (
  check_positive,
  divisible,
  layout_strides,
  native_size,
  variant,
)
from jaxcompress.nn import Add, Affine, BatchNorm, ConvNorm, Dense, Endpoints, GlobalAvgPool, Norm

STRIDES = (2, 2, 2, 2, 2)
EXPAND = 2
SQUEEZE = 4


class Size(NamedTuple):
  """One of the family.

  Attributes:
    features: channels of the first stage; each further one has twice as many.
    repeats: blocks of each stage, beside those with which stages begin.
    early: whether it is of the first release, which normalizes the pointwise branch and not the sum.
  """

  features: int
  repeats: tuple[int, int, int, int]
  early: bool = False


SIZES = {
  "m0_9": Size(48, (2, 2, 14, 2)),
  "m1_0": Size(56, (2, 2, 14, 2)),
  "m1_1": Size(64, (2, 2, 12, 2)),
  "m1_5": Size(64, (4, 4, 24, 4)),
  "m2_3": Size(80, (6, 6, 34, 2)),
  "m1": Size(48, (2, 2, 14, 2), early=True),
  "m2": Size(64, (2, 2, 12, 2), early=True),
  "m3": Size(64, (4, 4, 18, 2), early=True),
}


class Mixer(nn.Module):
  """The sum of a map and of two depthwise convolutions of it, 3x3 and pointwise."""

  early: bool
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    options: dict[str, Any] = {"groups": "depthwise", "padding": SYMMETRIC}
    norm = self.norm if self.early else None
    y = ConvNorm(x.shape[-1], kernel=3, norm=self.norm, name="conv", **options)(x, train=train)
    scaled = ConvNorm(x.shape[-1], norm=norm, name="pointwise", **options)(x, train=train)
    y = Add(name="sum")(Add(name="sum1")(y, scaled), x)
    return y if self.early else BatchNorm(norm=self.norm, name="norm")(y, train=train)


def _with_channels_mixed(x: jax.Array, norm: Norm, train: bool | jax.Array) -> jax.Array:
  """Adds an expansion and a projection of a map to it; to be called inside a compact method."""
  channels = x.shape[-1]
  y = convolved(x, EXPAND * channels, act="gelu", norm=norm, name="expand", train=train)
  y = ConvNorm(channels, norm=norm._replace(zero=True), name="project")(y, train=train)
  return Add(name="add")(x, y)


class RepViTBlock(nn.Module):
  """Pixels mixed by branches, a squeeze-excite in every other block, and channels mixed."""

  squeeze: bool
  early: bool
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    x = Mixer(self.early, self.norm, name="mixer")(x, train=train)
    if self.squeeze:
      reduced = divisible(x.shape[-1] / SQUEEZE)
      x = SqueezeExcite(reduced, gate="sigmoid", name="se")(x, train=train)
    return _with_channels_mixed(x, self.norm, train)


class Start(nn.Module):
  """Where a stage begins: a block, a depthwise convolution with a stride, and more channels."""

  features: int
  stride: int
  early: bool
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    x = RepViTBlock(False, self.early, self.norm, name="block")(x, train=train)
    depthwise = ConvNorm(
      x.shape[-1], kernel=3, stride=self.stride, groups="depthwise", padding=SYMMETRIC,
      norm=self.norm, name="depthwise",
    )  # fmt: skip
    x = depthwise(x, train=train)
    x = ConvNorm(self.features, norm=self.norm, name="pointwise")(x, train=train)
    return _with_channels_mixed(x, self.norm, train)


class RepViT(nn.Module):
  """The network; see :func:`repvit`."""

  num_classes: int
  size: str
  distilled: bool
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, second, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    size, norm = SIZES[self.size], self.norm
    step: dict[str, Any] = {"kernel": 3, "padding": SYMMETRIC, "norm": norm, "train": train}
    x = convolved(x, size.features // 2, stride=first, act="gelu", name="stem1", **step)
    x = convolved(x, size.features, stride=second, act=None, name="stem2", **step)
    maps = []
    for i, (repeats, stride) in enumerate(zip(size.repeats, (1, *strides), strict=True)):
      if i:
        start = Start(size.features * 2**i, stride, size.early, norm, name=f"stage{i}_start")
        x = start(x, train=train)
      for j in range(repeats):
        block = RepViTBlock(j % 2 == 0, size.early, norm, name=f"stage{i}_block{j}")
        x = block(x, train=train)
      maps.append(x)
    pooled = GlobalAvgPool(name="pool")(x)
    logits = self._classify(pooled, "", train)
    if self.distilled:
      both = Add(name="heads")(logits, self._classify(pooled, "_distilled", train))
      logits = Affine(scale=0.5, name="scores")(both)
    return Endpoints(logits, pooled, tuple(maps), tuple(maps))

  def _classify(self, pooled: jax.Array, end: str, train: bool | jax.Array) -> jax.Array:
    x = BatchNorm(norm=self.norm, name=f"norm{end}")(pooled, train=train)
    return Dense(self.num_classes, name=f"classifier{end}")(x)


def repvit(
  size: str,
  num_classes: int = 1000,
  *,
  distilled: bool = True,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> RepViT:
  """RepViT: MobileNets arranged as vision transformers, with branches while they are trained.

  :func:`~jaxcompress.models.fold_branches` makes one convolution of each sum of branches, and one
  linear layer of the normalized heads, before quantization.

  Args:
    size: ``"m0_9"``, ``"m1_0"``, ``"m1_1"``, ``"m1_5"`` or ``"m2_3"``; ``"m1"`` to ``"m3"`` are those
      of the first release.
    num_classes: size of the logits.
    distilled: whether the logits are the mean of two heads', as in the published checkpoints, one of
      which a teacher taught.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds each stage's last map.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(repvit("m0_9")).parameters
    5489328

  References:
    Wang et al., `RepViT: Revisiting Mobile CNN From ViT Perspective
    <https://arxiv.org/abs/2307.09283>`_, 2024, section 3 and table 2; the sizes are timm's.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return RepViT(num_classes, size, distilled, layout, norm, native_size(layout))


repvit_m0_9 = variant(repvit, "repvit_m0_9", size="m0_9")
""":func:`repvit` M0.9."""
repvit_m1_0 = variant(repvit, "repvit_m1_0", size="m1_0")
""":func:`repvit` M1.0."""
repvit_m1_1 = variant(repvit, "repvit_m1_1", size="m1_1")
""":func:`repvit` M1.1."""
repvit_m1_5 = variant(repvit, "repvit_m1_5", size="m1_5")
""":func:`repvit` M1.5."""
repvit_m2_3 = variant(repvit, "repvit_m2_3", size="m2_3")
""":func:`repvit` M2.3."""
repvit_m1 = variant(repvit, "repvit_m1", size="m1")
""":func:`repvit` M1 of the first release."""
repvit_m2 = variant(repvit, "repvit_m2", size="m2")
""":func:`repvit` M2 of the first release."""
repvit_m3 = variant(repvit, "repvit_m3", size="m3")
""":func:`repvit` M3 of the first release."""
