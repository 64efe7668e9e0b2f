"""Wide ResNets for 32 px (Zagoruyko & Komodakis, 2016, table 1), as in the CRD repository."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from jaxcompress.models.layouts import check_positive
from jaxcompress.nn import (
  Activation,
  Add,
  BatchNorm,
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  Norm,
)

SYMMETRIC = "SYMMETRIC"


class PreactBlock(nn.Module):
  """Normalises and rectifies before each of two 3x3 convolutions; the shortcut is projected where
  the shape changes, and reads the rectified map then.

  Returns the normalised input, which is the map of the stage before without its ReLU, and the sum.
  """

  features: int
  stride: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = partial(ConvNorm, self.features, padding=SYMMETRIC)
    bare = partial(conv, norm=None, use_bias=False)
    before = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    y = Activation("relu", name="relu")(before)
    if x.shape[-1] != self.features:
      x = bare(stride=self.stride, name="shortcut")(y, train=train)
    y = conv(kernel=3, stride=self.stride, act="relu", norm=self.norm, name="conv1")(y, train=train)
    y = bare(kernel=3, name="conv2")(y, train=train)
    return before, Add(name="add")(x, y)


class WideResNet(nn.Module):
  """The network; see :func:`wide_resnet`."""

  num_classes: int
  depth: int
  widen: int
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem = ConvNorm(16, kernel=3, padding=SYMMETRIC, norm=None, use_bias=False, name="stem")
    x = stem(x, train=train)
    maps, preact = [x], [x]
    for i, features in enumerate((16, 32, 64)):
      for j in range((self.depth - 4) // 6):
        block = PreactBlock(
          features * self.widen, 2 if i > 0 and j == 0 else 1, self.norm, name=f"stage{i}_block{j}"
        )
        before, x = block(x, train=train)
        if i > 0 and j == 0:
          preact.append(before)
      maps.append(x)
    before = BatchNorm(norm=self.norm, name="norm")(x, train=train)
    preact.append(before)
    pooled = GlobalAvgPool(name="pool")(Activation("relu", name="relu")(before))
    logits = Dense(self.num_classes, name="classifier")(pooled)
    return Endpoints(logits, pooled, tuple(maps), tuple(preact))


def wide_resnet(
  depth: int,
  widen: int,
  num_classes: int = 100,
  *,
  norm: Norm = Norm(),  # noqa: B008
) -> WideResNet:
  """WRN-d-k: a wide ResNet of depth d and widening factor k.

  Args:
    depth: number of weight layers, ``6 n + 4``.
    widen: factor of the channels 16, 32, 64.
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum.

  Returns:
    A linen module; ``maps`` holds the stem's map and each stage's sum, ``preact`` the same after
    the normalization that follows and before its ReLU (for the stem, its map), in the order of
    RepDistiller's features.

  Raises:
    ValueError: if the depth is not ``6 n + 4`` or the factor is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(wide_resnet(40, 2)).parameters
    2255156

  References:
    Zagoruyko & Komodakis, `Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_, 2016.
  """
  check_positive(num_classes=num_classes, widen=widen)
  if depth < 10 or (depth - 4) % 6:
    raise ValueError(f"depth: {depth} must be 6 n + 4, such as 10, 16, 22, 28 or 40.")
  return WideResNet(num_classes, depth, widen, norm)


def _named(depth: int, widen: int, name: str) -> Callable[..., WideResNet]:
  def make(num_classes: int = 100, *, norm: Norm = Norm()) -> WideResNet:  # noqa: B008
    return wide_resnet(depth, widen, num_classes, norm=norm)

  make.__name__ = make.__qualname__ = name
  make.__doc__ = f"""{name}: :func:`wide_resnet` of depth {depth} and factor {widen}.

  Examples:
    >>> model = {name}(10)
    >>> model.depth, model.widen, model.num_classes
    ({depth}, {widen}, 10)
  """
  return make


wrn_16_1 = _named(16, 1, "wrn_16_1")
""":func:`wide_resnet` of depth 16 and factor 1."""
wrn_16_2 = _named(16, 2, "wrn_16_2")
""":func:`wide_resnet` of depth 16 and factor 2."""
wrn_40_1 = _named(40, 1, "wrn_40_1")
""":func:`wide_resnet` of depth 40 and factor 1."""
wrn_40_2 = _named(40, 2, "wrn_40_2")
""":func:`wide_resnet` of depth 40 and factor 2."""
