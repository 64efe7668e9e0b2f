"""The image networks of MLPerf Tiny (Banbury et al., 2021), as its reference implementation has them."""

from functools import partial

import flax.linen as nn
import jax

from jaxcompress.models.blocks import Row, classified, unroll
from jaxcompress.models.layouts import check_positive
from jaxcompress.models.mobilenet_v1 import MobileNetV1
from jaxcompress.nn import Activation, Add, ConvNorm, Endpoints, Norm

KERAS = Norm(epsilon=1e-3, momentum=0.99)
STAGES = ((Row(16),), (Row(32, stride=2),), (Row(64, stride=2),))
PERSONS = 96  # side of the images with and without persons


class BiasedBlock(nn.Module):
  """Two 3x3 convolutions with biases and BatchNorm, and a shortcut.

  Where the shape changes the shortcut is a convolution with a bias and without BatchNorm. Returns the
  sum before and after its ReLU.
  """

  features: int
  stride: int
  norm: Norm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = partial(ConvNorm, self.features, use_bias=True)
    y = conv(kernel=3, stride=self.stride, act="relu", norm=self.norm, name="conv1")(x, train=train)
    y = conv(kernel=3, norm=self.norm, name="conv2")(y, train=train)
    if self.stride != 1:
      x = conv(stride=self.stride, norm=None, name="shortcut")(x, train=train)
    total = Add(name="add")(x, y)
    return total, Activation("relu", name="relu")(total)


class MlperfResNet8(nn.Module):
  """The network; see :func:`mlperf_resnet8`."""

  num_classes: int
  norm: Norm
  image_size: int = 32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    stem = ConvNorm(16, kernel=3, act="relu", norm=self.norm, use_bias=True, name="stem")
    x = stem(x, train=train)
    maps, preact = [x], [x]
    for block in unroll(STAGES, (1, 2, 2)):
      residual = BiasedBlock(block.row.features, block.stride, self.norm, name=block.name)
      total, x = residual(x, train=train)
      maps.append(x)
      preact.append(total)
    return classified(x, self.num_classes, maps, preact)


def mlperf_resnet8(num_classes: int = 10, *, norm: Norm = KERAS) -> MlperfResNet8:
  """MLPerf Tiny's ResNet-8 for CIFAR-10: three blocks, each convolution with a bias.

  Of 78,666 numbers with 10 classes 78,186 are trained; the others are BatchNorm's statistics.

  Args:
    num_classes: size of the logits.
    norm: BatchNorm's epsilon and momentum, Keras' by default.

  Returns:
    A linen module for 32 x 32 pixels; ``maps`` holds the stem's map and each stage's, ``preact`` the
    stages' sums before their ReLU (for the stem, its map).

  Raises:
    ValueError: if the number of classes is no positive whole one.

  Examples:
    >>> from jaxcompress import models
    >>> models.summarize(mlperf_resnet8()).parameters
    78186

  References:
    Banbury et al., `MLPerf Tiny Benchmark <https://arxiv.org/abs/2106.07597>`_, 2021, section 4.1;
    the reference implementation's `keras_model.py
    <https://github.com/mlcommons/tiny/blob/master/benchmark/training/image_classification/keras_model.py>`_.
  """
  check_positive(num_classes=num_classes)
  return MlperfResNet8(num_classes, norm)


def mlperf_mobilenet_v1(
  num_classes: int = 2, width: float = 0.25, *, norm: Norm = KERAS
) -> MobileNetV1:
  """MLPerf Tiny's MobileNetV1 for Visual Wake Words: ReLU, and a bias in each convolution.

  Of 221,794 numbers with 2 classes at width 0.25 216,322 are trained; the others are BatchNorm's
  statistics.

  Args:
    num_classes: size of the logits.
    width: every layer has ``int(width * channels)`` channels.
    norm: BatchNorm's epsilon and momentum, Keras' by default.

  Returns:
    A linen module for 96 x 96 pixels; endpoints as of :func:`~jaxcompress.models.mobilenet_v1`.

  Raises:
    ValueError: if the number of classes or the width is not positive.

  Examples:
    >>> from jaxcompress import models
    >>> summary = models.summarize(mlperf_mobilenet_v1())
    >>> summary.parameters, summary.macs
    (216322, 7489664)

  References:
    Banbury et al., `MLPerf Tiny Benchmark <https://arxiv.org/abs/2106.07597>`_, 2021, section 4.1;
    the reference implementation's `vww_model.py
    <https://github.com/mlcommons/tiny/blob/master/benchmark/training/visual_wake_words/vww_model.py>`_.
  """
  check_positive(num_classes=num_classes, width=width)
  return MobileNetV1(num_classes, width, "imagenet", "relu", "SAME", norm, PERSONS, use_bias=True)
