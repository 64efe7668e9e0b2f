"""StarNet: products of two linear layers in place of activation functions (Ma et al., 2024)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, classified
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import Add, BatchNorm, ConvNorm, Endpoints, Multiply, Norm

STRIDES = (2, 2, 2, 2, 2)
STEM = 32


class Size(NamedTuple):
  """One of the family.

  Attributes:
    features: channels of the first stage; each further one has twice as many.
    repeats: blocks of each stage.
    expand: channels inside a block are a multiple of those outside.
  """

  features: int
  repeats: tuple[int, int, int, int]
  expand: int = 4


SIZES = {
  "s050": Size(16, (1, 1, 3, 1), 3),
  "s100": Size(20, (1, 2, 4, 1), 4),
  "s150": Size(24, (1, 2, 4, 2), 3),
  "s1": Size(24, (2, 2, 8, 3)),
  "s2": Size(32, (1, 2, 6, 2)),
  "s3": Size(32, (2, 2, 8, 4)),
  "s4": Size(32, (3, 3, 12, 5)),
}


class StarBlock(nn.Module):
  """Two expansions of one map, multiplied, between two 7x7 depthwise convolutions; a residual."""

  expand: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels = x.shape[-1]
    wide: dict[str, Any] = {"kernel": 7, "groups": "depthwise", "padding": SYMMETRIC}
    normed: dict[str, Any] = {"norm": self.norm, "use_bias": True}
    y = ConvNorm(channels, name="depthwise1", **wide, **normed)(x, train=train)
    inside = self.expand * channels
    left = ConvNorm(inside, act="relu6", norm=None, name="left")(y, train=train)
    right = ConvNorm(inside, norm=None, name="right")(y, train=train)
    y = Multiply(name="star")(left, right)
    y = ConvNorm(channels, name="project", **normed)(y, train=train)
    y = ConvNorm(channels, norm=None, name="depthwise2", **wide)(y, train=train)
    return Add(name="add")(x, y)


class StarNet(nn.Module):
  """The network; see :func:`starnet`."""

  num_classes: int
  size: str
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    size = SIZES[self.size]
    step: dict[str, Any] = {"kernel": 3, "padding": SYMMETRIC, "norm": self.norm, "use_bias": True}
    x = ConvNorm(STEM, stride=first, act="relu6", name="stem", **step)(x, train=train)
    maps = [x]
    for i, (repeats, stride) in enumerate(zip(size.repeats, strides, strict=True)):
      features = size.features * 2**i
      x = ConvNorm(features, stride=stride, name=f"stage{i}_start", **step)(x, train=train)
      for j in range(repeats):
        x = StarBlock(size.expand, self.norm, name=f"stage{i}_block{j}")(x, train=train)
      maps.append(x)
    x = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    return classified(x, self.num_classes, maps)


def starnet(
  size: str,
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> StarNet:
  """StarNet: blocks that multiply two linear functions of a map.

  Args:
    size: ``"s050"``, ``"s100"``, ``"s150"``, or ``"s1"`` to ``"s4"``.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and each stage's
    last.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(starnet("s1")).parameters
    2869168

  References:
    Ma et al., `Rewrite the Stars <https://arxiv.org/abs/2403.19967>`_, 2024, table 4; the smallest
    sizes are those of its appendix.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return StarNet(num_classes, size, layout, norm, native_size(layout))


starnet_s050 = variant(starnet, "starnet_s050", size="s050")
""":func:`starnet` S050."""
starnet_s100 = variant(starnet, "starnet_s100", size="s100")
""":func:`starnet` S100."""
starnet_s150 = variant(starnet, "starnet_s150", size="s150")
""":func:`starnet` S150."""
starnet_s1 = variant(starnet, "starnet_s1", size="s1")
""":func:`starnet` S1."""
starnet_s2 = variant(starnet, "starnet_s2", size="s2")
""":func:`starnet` S2."""
starnet_s3 = variant(starnet, "starnet_s3", size="s3")
""":func:`starnet` S3."""
starnet_s4 = variant(starnet, "starnet_s4", size="s4")
""":func:`starnet` S4."""
