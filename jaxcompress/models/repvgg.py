"""RepVGG: VGGs that train with branches (Ding et al., 2021, table 2)."""

import flax.linen as nn
import jax

from jaxcompress.models.blocks import Row, classified, unroll
from jaxcompress.models.branched import Branched
from jaxcompress.models.layouts import check_positive, layout_strides, native_size, variant
from jaxcompress.nn import Endpoints, Norm

WIDTHS = (64, 128, 256, 512)
SHORT, LONG = (2, 4, 14, 1), (4, 6, 16, 1)
SIZES = {  # blocks of each stage, and multipliers of the stages' channels
  "a0": (SHORT, (0.75, 0.75, 0.75, 2.5)),
  "a1": (SHORT, (1, 1, 1, 2.5)),
  "a2": (SHORT, (1.5, 1.5, 1.5, 2.75)),
  "b0": (LONG, (1, 1, 1, 2.5)),
}
STRIDES = (2, 2, 2, 2, 2)


class RepVGG(nn.Module):
  """The network; see :func:`repvgg`."""

  num_classes: int
  size: str
  layout: str
  norm: Norm
  image_size: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    first, *strides = layout_strides(self.layout, x.shape[1], STRIDES)
    repeats, factors = SIZES[self.size]
    widths = [int(width * factor) for width, factor in zip(WIDTHS, factors, strict=True)]
    stem = Branched(min(64, widths[0]), self.norm, stride=first, identity=False, name="stem")
    x = stem(x, train=train)
    maps = [x]
    stages = [(Row(w, stride=2, repeats=n),) for w, n in zip(widths, repeats, strict=True)]
    for block in unroll(stages, strides):
      x = Branched(
        block.row.features,
        self.norm,
        stride=block.stride,
        identity=block.row.stride == 1,
        name=block.name,
      )(x, train=train)
      if block.ends:
        maps.append(x)
    return classified(x, self.num_classes, maps)


def repvgg(
  size: str,
  num_classes: int = 1000,
  *,
  layout: str = "auto",
  norm: Norm = Norm(),  # noqa: B008
) -> RepVGG:
  """RepVGG: 3x3 convolutions, each beside a pointwise one and the input while it is trained.

  :func:`~jaxcompress.models.fold_branches` makes plain 3x3 convolutions of it, before quantization.

  Args:
    size: ``"a0"``, ``"a1"``, ``"a2"`` or ``"b0"``.
    num_classes: size of the logits.
    layout: ``"imagenet"``, ``"cifar"``, or ``"auto"``: by image size.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``apply(variables, images, train=False)`` takes (batch, h, w, 3) float images
    and returns :class:`~jaxcompress.nn.Endpoints`; ``maps`` holds the stem's map and the last of
    each further resolution.

  Raises:
    ValueError: for another size or an unknown layout.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(repvgg("a0")).parameters
    9108968

  References:
    Ding et al., `RepVGG: Making VGG-style ConvNets Great Again <https://arxiv.org/abs/2101.03697>`_,
    2021, tables 2 and 3.
  """
  check_positive(num_classes=num_classes)
  if size not in SIZES:
    raise ValueError(f"size: {size!r} is unknown; it must be one of {', '.join(SIZES)}.")
  return RepVGG(num_classes, size, layout, norm, native_size(layout))


repvgg_a0 = variant(repvgg, "repvgg_a0", size="a0")
""":func:`repvgg` A0."""
repvgg_a1 = variant(repvgg, "repvgg_a1", size="a1")
""":func:`repvgg` A1."""
repvgg_a2 = variant(repvgg, "repvgg_a2", size="a2")
""":func:`repvgg` A2."""
repvgg_b0 = variant(repvgg, "repvgg_b0", size="b0")
""":func:`repvgg` B0."""
