"""MCUNet: inverted residuals found by a search for microcontrollers (Lin et al., 2020)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, Expansion, InvertedResidual, classified, unroll
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import ConvNorm, Endpoints, Norm

Stage = tuple[Expansion, ...]


class Found(NamedTuple):
  """A network that the search found.

  Attributes:
    image_size: side of the images in pixels.
    stem: channels of the first convolution.
    stages: rows of each number of channels.
  """

  image_size: int
  stem: int
  stages: tuple[Stage, ...]


def _stage(features: int, stride: int, *blocks: tuple[int, int]) -> Stage:
  """Blocks of one number of channels, each with the side of its kernel and its expansion."""
  return tuple(
    Expansion(features, expand, 1 if i else stride, kernel=kernel)
    for i, (kernel, expand) in enumerate(blocks)
  )


NETWORKS = {
  "in0": Found(
    48,
    24,
    (
      _stage(16, 1, (3, 1)),
      _stage(16, 2, (5, 4), (3, 3), (3, 4)),
      _stage(24, 2, (7, 5), (5, 4), (5, 5)),
      _stage(48, 2, (7, 5), (5, 4)),
      _stage(56, 1, (3, 5), (5, 4), (3, 5)),
      _stage(112, 2, (3, 6), (5, 4)),
      _stage(192, 1, (3, 6)),
    ),
  ),
  "in1": Found(
    96,
    16,
    (
      _stage(8, 1, (3, 1)),
      _stage(16, 2, (3, 4), (3, 3)),
      _stage(24, 2, (7, 3), (3, 5)),
      _stage(40, 2, (3, 5), (7, 4)),
      _stage(48, 1, (5, 4), (3, 3), (3, 4)),
      _stage(96, 2, (7, 5), (5, 4), (5, 4)),
      _stage(160, 1, (3, 6)),
    ),
  ),
  "in2": Found(
    160,
    16,
    (
      _stage(8, 1, (3, 1)),
      _stage(16, 2, (5, 3), (7, 6), (3, 5), (5, 5)),
      _stage(24, 2, (3, 5), (7, 6), (5, 6)),
      _stage(40, 2, (7, 4), (5, 5)),
      _stage(48, 1, (3, 5), (5, 5), (3, 4)),
      _stage(96, 2, (5, 6), (5, 4), (5, 3), (3, 4)),
      _stage(160, 1, (5, 5)),
    ),
  ),
  "in3": Found(
    176,
    16,
    (
      _stage(8, 1, (3, 1)),
      _stage(16, 2, (7, 3), (3, 5), (7, 5), (5, 4)),
      _stage(24, 2, (5, 5), (5, 5), (5, 5)),
      _stage(40, 2, (3, 5), (7, 6), (5, 4)),
      _stage(48, 1, (5, 5), (7, 5), (3, 5)),
      _stage(96, 2, (3, 6), (7, 5), (3, 4)),
      _stage(160, 1, (7, 5)),
    ),
  ),
  "in4": Found(
    160,
    32,
    (
      _stage(16, 1, (3, 1)),
      _stage(24, 2, (7, 3), (3, 5), (5, 4)),
      _stage(40, 2, (7, 5), (3, 4), (7, 4)),
      _stage(80, 2, (7, 3), (3, 3), (7, 3)),
      _stage(96, 1, (3, 4), (5, 3), (5, 3)),
      _stage(192, 2, (7, 4), (7, 3), (5, 3)),
      _stage(320, 1, (5, 4)),
    ),
  ),
}


class MCUNet(nn.Module):
  """The network; see :func:`mcunet`."""

  num_classes: int
  search: str
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    found = NETWORKS[self.search]
    imagenet = (2, *(stage[0].stride for stage in found.stages))
    first, *strides = layout_strides(self.layout, x.shape[1], imagenet)
    relu6: dict[str, Any] = {"act": "relu6", "norm": self.norm}
    stem = ConvNorm(found.stem, kernel=3, stride=first, padding=SYMMETRIC, name="stem", **relu6)
    x = stem(x, train=train)
    maps = [x]
    for block in unroll(found.stages, strides):
      x = InvertedResidual(
        block.row.features,
        x.shape[-1] * block.row.expand,
        block.stride,
        SYMMETRIC,
        kernel=block.row.kernel,
        residual=block.row.stride == 1,
        name=block.name,
        **relu6,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    return classified(x, self.num_classes, maps)


def mcunet(
  search: str,
  num_classes: int = 1000,
  *,
  layout: str = "imagenet",
  norm: Norm = Norm(),  # noqa: B008
) -> MCUNet:
  """MCUNet's networks for ImageNet: a convolution, 14 to 18 inverted residuals, a linear layer.

  Args:
    search: ``"in0"`` and ``"in1"``, found for 10 and 5 images a second on an STM32F746; ``"in2"``,
      ``"in3"`` and ``"in4"`` for 256, 320 and 512 KB of memory.
    num_classes: size of the logits.
    layout: ``"imagenet"``, as searched, for images of 48 to 176 pixels; ``"cifar"``, or ``"auto"``: by
      image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for another network or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> summary = models.summarize(mcunet("in0"))
    >>> summary.graph.input_shape, summary.parameters, round(summary.macs / 1e6, 1)
    ((1, 48, 48, 3), 749840, 6.4)

  References:
    Lin et al., `MCUNet: Tiny Deep Learning on IoT Devices <https://arxiv.org/abs/2007.10319>`_, 2020;
    the authors' `configurations <https://github.com/mit-han-lab/mcunet>`_.
  """
  check_positive(num_classes=num_classes)
  if search not in NETWORKS:
    raise ValueError(f"search: {search!r} is unknown; it must be one of {', '.join(NETWORKS)}.")
  native = native_size(layout)
  size = NETWORKS[search].image_size if layout == "imagenet" else native
  return MCUNet(num_classes, search, layout, norm, size)


mcunet_in0 = variant(mcunet, "mcunet_in0", search="in0")
""":func:`mcunet` for 48 px."""
mcunet_in1 = variant(mcunet, "mcunet_in1", search="in1")
""":func:`mcunet` for 96 px."""
mcunet_in2 = variant(mcunet, "mcunet_in2", search="in2")
""":func:`mcunet` for 160 px."""
mcunet_in3 = variant(mcunet, "mcunet_in3", search="in3")
""":func:`mcunet` for 176 px."""
mcunet_in4 = variant(mcunet, "mcunet_in4", search="in4")
""":func:`mcunet` for 160 px."""
