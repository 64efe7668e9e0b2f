"""VGGs with batch normalization and one linear layer, for 32 px, as in the CRD repository."""

import flax.linen as nn
import jax

from jaxcompress.models.blocks import SYMMETRIC, activated, classified
from jaxcompress.models.layouts import check_positive, variant
from jaxcompress.nn import Endpoints, MaxPool, Norm

FEATURES = (64, 128, 256, 512, 512)
REPEATS = {
  8: (1, 1, 1, 1, 1),
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}
POOLED_BEFORE = {1: 0, 2: 0, 3: 0, 4: 64}  # stage: smallest image that is pooled in front of it


class VGG(nn.Module):
  """The network; see :func:`vgg`."""

  num_classes: int
  depth: int
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    size = x.shape[1]
    options = {"kernel": 3, "padding": SYMMETRIC, "norm": self.norm, "use_bias": True}
    maps, preact = [], []
    for i, (features, repeats) in enumerate(zip(FEATURES, REPEATS[self.depth], strict=True)):
      if i > 0 and size >= POOLED_BEFORE[i]:
        x = MaxPool(2, 2, "VALID", name=f"stage{i}_pool")(x)
      for j in range(repeats):
        before, x = activated(
          x, features, act="relu", name=f"stage{i}_conv{j}", train=train, **options
        )
      maps.append(x)
      preact.append(before if i > 0 else x)
    return classified(x, self.num_classes, maps, preact)


def vgg(depth: int, num_classes: int = 100, *, norm: Norm = Norm()) -> VGG:  # noqa: B008
  """A VGG of depth 8, 11, 13, 16 or 19, whose three linear layers are one.

  Its convolutions have biases beside batch normalization. Images below 64 px are pooled three
  times, larger ones four times.

  Args:
    depth: of the VGG that it derives from.
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` holds each stage's last map, ``preact`` the same before the ReLU (but
    for the first stage), in the order of RepDistiller's features.

  Raises:
    ValueError: for another depth.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(vgg(13)).parameters
    9462180

  References:
    Simonyan & Zisserman, `Very Deep Convolutional Networks for Large-Scale Image Recognition
    <https://arxiv.org/abs/1409.1556>`_, 2015, table 1.
  """
  check_positive(num_classes=num_classes)
  if depth not in REPEATS:
    raise ValueError(f"depth: {depth} must be one of {', '.join(map(str, REPEATS))}.")
  return VGG(num_classes, depth, norm)


vgg8 = variant(vgg, "vgg8", depth=8)
""":func:`vgg` of depth 8."""
vgg11 = variant(vgg, "vgg11", depth=11)
""":func:`vgg` of depth 11."""
vgg13 = variant(vgg, "vgg13", depth=13)
""":func:`vgg` of depth 13."""
vgg16 = variant(vgg, "vgg16", depth=16)
""":func:`vgg` of depth 16."""
vgg19 = variant(vgg, "vgg19", depth=19)
""":func:`vgg` of depth 19."""
