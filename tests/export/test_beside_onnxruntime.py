"""Networks whose tensors differ in size keep what onnxruntime's own quantization keeps of them."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress import export, quantize
from jaxcompress.nn import (
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  MaxPool,
  Split,
  fold,
  init_variables,
  trace,
)

pytestmark = pytest.mark.usefixtures("optimized")

SHAPE = (8, 8, 3)
LOSS = 0.5  # decibels


def conv(name, x, act="relu", features=8, kernel=3):
  fields = {"kernel": kernel, "act": act, "norm": None, "name": name}
  return ConvNorm(features, **fields)(x, train=False)


def two_readers(x):
  small, big = conv("small", x), conv("big", x)
  after = conv("after", Concat(name="cat")(big, small), act=None)
  return Add(name="add")(after, conv("other", small, act=None))


def dense_block(x):
  x = conv("small", x)
  for i in range(3):
    x = Concat(name=f"cat{i}")(x, conv("big" if i == 1 else f"x{i}", x))
  return conv("after", x)


def pool_branches(x):
  small = conv("small", x)
  low = AvgPool(2, 2, "VALID", name="average")(conv("noise", small, act=None))
  joined = Concat(name="cat")(conv("big", low), low)
  joined = Concat(name="more")(joined, MaxPool(2, 2, name="max")(small))
  return conv("after", joined)


def shuffle_blocks(x):
  x = conv("small", x)
  for name in ("big", "last"):
    kept, y = Split((4, 4), name=f"{name}_split")(x)
    y = conv(name, y, features=4)
    x = ChannelShuffle(2, name=f"{name}_shuffle")(Concat(name=f"{name}_cat")(kept, y))
  return conv("after", x)


READS = {  # channels of the large tensor that later layers read, by layer
  two_readers: {"after": range(8)},
  dense_block: {"x2": range(16, 24), "after": range(16, 24)},
  pool_branches: {"after": range(8)},
  shuffle_blocks: {"last": (1, 3), "after": (2, 6)},
}


class Network(nn.Module):
  function: object

  @nn.compact
  def __call__(self, x, *, train):
    return Dense(5, name="head")(GlobalAvgPool(name="mean")(self.function(x)))


def scaled(function, ratio, seed):
  """A network whose 'big' is so many times larger, and which computes the same in float."""
  module = Network(function)
  variables = jax.tree.map(np.array, init_variables(module, jax.random.key(seed), SHAPE))
  params = variables["params"]
  params["big"]["kernel"] *= np.float32(ratio)
  for name, channels in READS[function].items():
    params[name]["kernel"][:, :, list(channels)] /= np.float32(ratio)
  return module, variables


def by_onnxruntime(module, variables, images, folder):
  """Logits of its static quantization, calibrated on the same images."""
  onnxruntime = pytest.importorskip("onnxruntime")
  tools = pytest.importorskip("onnxruntime.quantization")

  graph = trace(module, variables, images[:1])
  path = export.onnx_float(graph, fold(graph, variables), folder / "float.onnx")
  inputs = {"image": images.transpose(0, 3, 1, 2)}

  class Reader(tools.CalibrationDataReader):
    batches = iter([inputs])

    def get_next(self):
      return next(self.batches, None)

  tools.quantize_static(
    path,
    folder / "int8.onnx",
    Reader(),
    quant_format=tools.QuantFormat.QDQ,
    per_channel=True,
    activation_type=tools.QuantType.QInt8,
    weight_type=tools.QuantType.QInt8,
    calibrate_method=tools.CalibrationMethod.MinMax,
  )
  session = onnxruntime.InferenceSession(str(folder / "int8.onnx"))
  return session.run(None, inputs)[0]


def decibels(signal, found):
  noise = np.square(signal - found).sum()
  return 10 * np.log10(np.square(signal - signal.mean(axis=0)).sum() / noise)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "count"), [(1, 20), (10, 15), (10, 40), (100, 15), (1000, 15)])
@pytest.mark.parametrize("function", READS)
def test_no_more_than_half_a_decibel_is_lost_beside_onnxruntime(function, ratio, count, tmp_path):
  """On the average: the few roundings of so small a network differ by about one decibel."""
  differences = []
  several = []
  for seed in range(8):
    module, variables = scaled(function, ratio, seed)
    images = np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)
    want = np.asarray(module.apply(variables, images, train=False))
    theirs = decibels(want, by_onnxruntime(module, variables, images, tmp_path))
    quantized = quantize.post_training(module, variables, images, method="minmax", progress=False)
    differences.append(decibels(want, quantized(images)) - theirs)
    if count == 20:  # the methods choose among each other with half of the images
      best = quantize.post_training(module, variables, images, progress=False)
      several.append(decibels(want, best(images)) - theirs)
  assert np.mean(differences) > -LOSS
  assert not several or np.mean(several) > -LOSS
  assert np.min(differences) > -2.5
