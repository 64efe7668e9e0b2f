"""Channels that become cells, and cells that become channels, as people write them."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress import models

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)


def cells(x, block=2, beside=True):
  """Sub-pixel convolution: TensorFlow's order of the channels, or PyTorch's."""
  b, h, w, c = x.shape
  c //= block**2
  if beside:
    y = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
  else:
    y = x.reshape(b, h, w, c, block, block).transpose(0, 1, 4, 2, 5, 3)
  return y.reshape(b, h * block, w * block, c)


def blocks(x, block=2, beside=True):
  """Patches as channels, likewise."""
  b, h, w, c = x.shape
  y = x.reshape(b, h // block, block, w // block, block, c)
  y = y.transpose(0, 1, 3, 2, 4, 5) if beside else y.transpose(0, 1, 3, 5, 2, 4)
  return y.reshape(b, h // block, w // block, c * block**2)


def cells_of_nchw(x):
  """As in a network that keeps channels first."""
  b, h, w, c = x.shape
  y = x.transpose(0, 3, 1, 2).reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
  return y.reshape(b, c // 4, 2 * h, 2 * w).transpose(0, 2, 3, 1)


class Net(nn.Module):
  move: object

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(36, (3, 3))(x)
    x = nn.relu(self.move(x))
    return nn.Conv(5, (3, 3))(x).mean((1, 2))


@pytest.mark.parametrize(
  ("move", "ops"),
  [
    (cells, ["DepthToSpace"]),
    (lambda x: cells(x, beside=False), ["ChannelShuffle", "DepthToSpace"]),
    (lambda x: cells(x, 3), ["DepthToSpace"]),
    (lambda x: cells(x, 6), ["DepthToSpace"]),
    (cells_of_nchw, ["ChannelShuffle", "DepthToSpace"]),
    (blocks, ["SpaceToDepth"]),
    (lambda x: blocks(x, 4), ["SpaceToDepth"]),
    (lambda x: blocks(x, beside=False), ["SpaceToDepth", "ChannelShuffle"]),
    (lambda x: cells(blocks(x, 4), 4), []),  # one undoes the other
  ],
)
def test_they_are_read(move, ops):
  net = Net(move)
  variables = net.init(jax.random.key(0), IMAGES)
  imported = models.from_linen(net, variables, IMAGES)
  found = [layer.op for layer in imported.model.layers if layer.op.startswith(("Ch", "De", "Sp"))]
  assert found == ops
  logits = imported.model.apply(imported.variables, IMAGES, train=False).logits
  np.testing.assert_allclose(logits, net.apply(variables, IMAGES), atol=1e-5)


def test_blocks_that_are_no_squares_are_told():
  def move(x):
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 3, c // 3).transpose(0, 1, 3, 2, 4).reshape(b, 3 * h, w, c // 3)

  net = Net(move)
  variables = net.init(jax.random.key(0), IMAGES)
  with pytest.raises(ValueError, match="a reshape that no leaf op has"):
    models.from_linen(net, variables, IMAGES)
