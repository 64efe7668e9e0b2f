"""Files that jaxcompress wrote are read back to the same integers: written again, they are the same."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import data, export, models
from jaxcompress.export.contents import read_operators
from jaxcompress.nn import (
  INPUT,
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  ConvTranspose,
  Dense,
  DepthToSpace,
  GlobalAvgPool,
  LeakyRelu,
  Maximum,
  MaxPool,
  Multiply,
  Pad,
  Reshape,
  Resize,
  Slice,
  Softmax,
  SpaceToDepth,
  Split,
  Subtract,
)

ARCHITECTURES = {
  "mobilenet_v1": lambda: models.mobilenet_v1(10, 0.25),
  "mobilenet_v2": lambda: models.mobilenet_v2(10, 0.35),
  "mobilenet_v3": lambda: models.mobilenet_v3_small(10, 0.35),
  "mobilenet_v4": lambda: models.create("mobilenet_v4_conv_small"),
  "shufflenet_v1": lambda: models.create("shufflenet_v1"),
  "shufflenet_v2": lambda: models.create("shufflenet_v2"),
  "ghostnet": lambda: models.create("ghostnet"),
  "resnet18": lambda: models.create("resnet18"),
  "resnet8": lambda: models.resnet8(10),
  "wrn": lambda: models.create("wrn_16_1"),
  "vgg": lambda: models.create("vgg8"),
}


def again(path, tmp_path, **options):
  """The model of a file, and the bytes of the file that is written of it."""
  model = export.from_tflite(path)
  return model, describe(export.tflite(model, tmp_path / "again.tflite", **options))


def describe(path):
  """All that a file computes with, but for the names of tensors in between."""

  def tensor(found):
    values = None if found.values is None else found.values.tolist()
    return found.type, found.shape, found.scales.tolist(), found.zero_points.tolist(), values

  return [
    (
      operator.name,
      operator.version,
      str(sorted(operator.options.items(), key=lambda pair: pair[0])),
      [found and tensor(found) for found in operator.inputs],
      [tensor(found) for found in operator.outputs],
    )
    for operator in read_operators(path)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture(name, networks, tmp_path):
  quantized = networks.random_quantized(ARCHITECTURES[name](), (32, 32, 3))
  path = export.tflite(quantized, tmp_path / "net.tflite")
  model, content = again(path, tmp_path)
  assert content == describe(path)
  assert {name: model.grids[name] for name in quantized.grids if name in model.grids}.items() <= (
    quantized.grids.items()
  )


class Everything(nn.Module):
  """Most leaf ops, in ways in which TFLite has several operators for one of them."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, padding="SYMMETRIC", act="relu6", name="stem")(
      x, train=train
    )
    first, second = Split((3, 5), name="parts")(x)
    x = Concat(name="joined")(second, first)
    x = ChannelShuffle(2, name="shuffle")(x)
    y = ConvNorm(8, kernel=3, groups="depthwise", name="depthwise")(x, train=train)
    gate = Activation("hard_sigmoid", name="gate")(y)
    x = Add(name="sum")(Multiply(name="gated")(y, gate), x)
    x = Activation("relu", name="alone")(Subtract(name="difference")(x, y))
    x = LeakyRelu(0.1, name="leaky")(MaxPool(3, stride=2, padding="SYMMETRIC", name="pool")(x))
    x = SpaceToDepth(2, name="deep")(x)
    x = DepthToSpace(2, name="wide")(
      ConvNorm(16, kernel=1, groups=2, name="grouped")(x, train=train)
    )
    x = ConvTranspose(4, kernel=3, stride=2, name="up")(x, train=train)
    x = Resize((12, 12), method="bilinear", name="resized")(x)
    x = Slice(begin=(1, 0), end=(None, 10), step=(1, 2), name="cut")(x)
    x = Pad(((1, 1), (2, 0)), mode="reflect", name="mirrored")(x)
    x = AvgPool(2, stride=2, name="average")(x)
    x = Activation("gelu", name="gelu")(
      ConvNorm(6, kernel=(1, 3), dilation=2, name="flat")(x, train=train)
    )
    x = Maximum(name="larger")(x, Activation("hard_swish", name="swish")(x))
    x = Reshape((1, 1, 6), name="map")(GlobalAvgPool(name="mean")(x))
    x = Dense(5, name="head")(ConvNorm(6, kernel=1, act="relu", name="hidden")(x, train=train))
    return {"logits": x, "probabilities": Softmax(name="probabilities")(x)}


@pytest.mark.slow
def test_every_operation(networks, tmp_path):
  quantized = networks.random_quantized(Everything(), (16, 16, 3))
  path = export.tflite(quantized, tmp_path / "net.tflite")
  model, _ = again(path, tmp_path)
  codes = quantized.quantize_input(networks.images_for(quantized, 4))
  for kernels in ("xnnpack", "tflm"):
    found, wanted = (m.with_kernels(kernels).run(codes) for m in (model, quantized))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
  assert export.verify(path, model, networks.images_for(quantized, 4)).bit_equal == 1.0


def test_pixels_by_a_table_or_a_shift_are_the_preprocessing(networks, tmp_path):
  quantized = networks.random_quantized(models.resnet8(10), (8, 8, 3))
  colors = data.Preprocess(center=(120.0, 110.0, 100.0), scale=(60.0, 61.0, 62.0), per_image=False)
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
  for preprocess in (colors, data.Preprocess(center=128.0, scale=64.0, per_image=False)):
    grids = {
      **quantized.grids,
      INPUT: quantized.grids[INPUT]._replace(scale=np.float32(1 / 64), zero_point=0),
    }
    ours = type(quantized)(quantized.graph, grids, quantized.layers, preprocess)
    path = export.tflite(ours, tmp_path / "net.tflite", input="uint8", output="uint8")
    model = export.from_tflite(path)
    assert model.preprocess == preprocess  # which the metadata names
    assert np.array_equal(model.integers(images), ours.integers(images))
    assert export.verify(path, model, images).bit_equal == 1.0
