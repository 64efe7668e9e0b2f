"""Integer models in qwix: the same integers, the same sums."""

import sys

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import nn, quantize
from jaxcompress.nn.graph import parameters
from jaxcompress.quantize.integer.program import run
from jaxcompress.quantize.interop import activation_to_qwix

qwix = pytest.importorskip("qwix")


class Net(linen.Module):
  """A convolution, a depthwise one in a block of its own, and a linear layer."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    x = Block(name="block")(x, train=train)
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


class Block(linen.Module):
  @linen.compact
  def __call__(self, x, *, train):
    return nn.ConvNorm(8, kernel=3, groups="depthwise", name="depthwise")(x, train=train)


@pytest.fixture(scope="module")
def quantized():
  rng = np.random.default_rng(0)
  variables = Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  variables = jax.tree.map(
    lambda x: x + np.abs(rng.normal(size=x.shape)).astype(np.float32), variables
  )
  images = rng.normal(0.3, 1.0, (8, 8, 8, 3)).astype(np.float32)
  return quantize.post_training(Net(), variables, images, method="minmax")


def test_every_layer_holds_the_integers_that_are_deployed(quantized):
  tree = quantize.to_qwix(quantized)
  assert set(tree) == {"stem", "block", "classifier"}
  for name, layer in quantized.layers.items():
    entry = parameters(tree, name)
    np.testing.assert_array_equal(entry["kernel"].qvalue, layer.weights)
    spread = (1,) * (layer.weights.ndim - 1) + (-1,)
    weights = layer.weights.astype(np.float32) * layer.scales.reshape(spread)
    np.testing.assert_array_equal(qwix.dequantize(entry["kernel"]), weights)


@pytest.mark.parametrize("name", ["stem", "block/depthwise", "classifier"])
def test_qwix_computes_the_sums_that_we_deploy(quantized, name):
  node = next(node for node in quantized.graph.nodes if node.name == name)
  entry = parameters(quantize.to_qwix(quantized), name)
  shape = (4, *node.input_shapes[0][1:])
  codes = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
  x = activation_to_qwix(quantized, node.inputs[0], codes)
  if node.op == "Dense":
    y = qwix.dot_general(x, entry["kernel"], (((1,), (0,)), ((), ())))
  else:
    y = qwix.conv_general_dilated(
      x,
      entry["kernel"],
      (node.attrs["stride"],) * 2,
      node.attrs["padding"],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=shape[-1] if node.attrs["groups"] == "depthwise" else 1,
    )
  y = y + entry["bias"].reshape((1,) * (y.ndim - 1) + (-1,))
  grid = quantized.grids[node.output]
  low = grid.zero_point if node.attrs.get("act") == "relu6" else -128
  rounded = np.clip(np.rint(np.asarray(y) / grid.scale) + grid.zero_point, low, 127)
  single = quantize.QuantizedModel(
    nn.Graph((node._replace(inputs=("input",)),), node.input_shapes[0], node.output),
    {"input": quantized.grids[node.inputs[0]], node.output: grid},
    {name: quantized.layers[name]},
  )
  got = run(single.program, codes)
  assert np.mean(got == rounded) > 0.999


def test_a_missing_extra_says_what_to_install(quantized, monkeypatch):
  monkeypatch.setitem(sys.modules, "qwix", None)
  with pytest.raises(ImportError, match=r"pip install 'jaxcompress\[qwix\]'"):
    quantize.to_qwix(quantized)


def test_an_unknown_tensor_is_named(quantized):
  with pytest.raises(ValueError, match="tensor: 'nothing' is unknown; there are input, stem"):
    activation_to_qwix(quantized, "nothing", np.zeros((1, 3), np.int8))
