"""FasterNet: 3x3 convolutions of a quarter of the channels (Chen et al., 2023, table 1)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, classified_by_head, convolved
from jaxcompress.models.layouts import NATIVE, check_positive, variant
from jaxcompress.nn import Add, Concat, ConvNorm, Endpoints, Norm, Split

PART = 4  # a fourth of the channels is convolved
EXPAND = 2
HEAD = 1280
PATCH, MERGED = 4, 2  # sides of the kernels that are their own strides


class Size(NamedTuple):
  """One of the family.

  Attributes:
    features: channels of the first stage; each further one has twice as many.
    act: name of the activation function.
    repeats: blocks of each stage.
  """

  features: int
  act: str = "relu"
  repeats: tuple[int, int, int, int] = (1, 2, 8, 2)


SIZES = {
  "t0": Size(40, "gelu"),
  "t1": Size(64, "gelu"),
  "t2": Size(96),
  "s": Size(128, repeats=(1, 2, 13, 2)),
}


class FasterBlock(nn.Module):
  """A 3x3 convolution of some of the channels, an expansion, a projection, and a residual."""

  act: str
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    channels = x.shape[-1]
    few = channels // PART
    part, rest = Split((few, channels - few), name="split")(x)
    mixed = ConvNorm(few, kernel=3, padding=SYMMETRIC, norm=None, use_bias=False, name="partial")
    y = Concat(name="concat")(mixed(part, train=train), rest)
    y = convolved(y, EXPAND * channels, act=self.act, norm=self.norm, name="expand", train=train)
    y = ConvNorm(channels, norm=None, use_bias=False, name="project")(y, train=train)
    return Add(name="add")(x, y)


class FasterNet(nn.Module):
  """The network; see :func:`fasternet`."""

  num_classes: int
  size: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    size, maps = SIZES[self.size], []
    for i, repeats in enumerate(size.repeats):
      side = MERGED if i else PATCH
      merge = ConvNorm(
        size.features * 2**i, kernel=side, stride=side, padding="VALID", norm=self.norm,
        name=f"stage{i}_start",
      )  # fmt: skip
      x = merge(x, train=train)
      for j in range(repeats):
        x = FasterBlock(size.act, self.norm, name=f"stage{i}_block{j}")(x, train=train)
      maps.append(x)
    head: dict[str, Any] = {"act": size.act, "norm": None, "use_bias": False}
    return classified_by_head(x, HEAD, self.num_classes, maps, train=train, **head)


def fasternet(size: str, num_classes: int = 1000, *, norm: Norm = Norm()) -> FasterNet:  # noqa: B008
  """FasterNet: partial convolutions, which read and write little memory.

  Args:
    size: ``"t0"``, ``"t1"`` (with GELU), ``"t2"`` or ``"s"`` (with ReLU).
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds each stage's last map.

  Raises:
    ValueError: for another size.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(fasternet("t0")).parameters
    3905500

  References:
    Chen et al., `Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks
    <https://arxiv.org/abs/2303.03667>`_, 2023, table 1.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return FasterNet(num_classes, size, norm, NATIVE["imagenet"])


fasternet_t0 = variant(fasternet, "fasternet_t0", size="t0")
""":func:`fasternet` T0."""
fasternet_t1 = variant(fasternet, "fasternet_t1", size="t1")
""":func:`fasternet` T1."""
fasternet_t2 = variant(fasternet, "fasternet_t2", size="t2")
""":func:`fasternet` T2."""
fasternet_s = variant(fasternet, "fasternet_s", size="s")
""":func:`fasternet` S."""
