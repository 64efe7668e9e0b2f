"""Blocks that several architectures share."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcompress.nn import Activation, Add, ConvNorm, GlobalAvgPool, Multiply, Norm


class SqueezeExcite(nn.Module):
  """Channel attention: global average, two pointwise convolutions with biases, a gate.

  Attributes:
    reduced: channels between the two convolutions.

  References:
    Hu et al., `Squeeze-and-Excitation Networks <https://arxiv.org/abs/1709.01507>`_, 2018; the
    hard gate is that of Howard et al., `Searching for MobileNetV3
    <https://arxiv.org/abs/1905.02244>`_, 2019, section 5.3.
  """

  reduced: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    y = GlobalAvgPool(keepdims=True, name="pool")(x)
    y = ConvNorm(self.reduced, act="relu", norm=None, name="reduce")(y, train=train)
    y = ConvNorm(x.shape[-1], act="hard_sigmoid", norm=None, name="expand")(y, train=train)
    return Multiply(name="scale")(x, y)


def activated(
  x: jax.Array, features: int, *, act: str, name: str, train: bool | jax.Array, **fields: Any
) -> tuple[jax.Array, jax.Array]:
  """A :class:`~jaxcompress.nn.ConvNorm` whose output is wanted before and after its activation.

  Call it inside a compact method; the activation is a module of its own, ``{name}_act``.
  """
  before = ConvNorm(features, name=name, **fields)(x, train=train)
  return before, Activation(act, name=f"{name}_act")(before)


def convolved(
  x: jax.Array, features: int, *, act: str | None, name: str, train: bool | jax.Array, **fields: Any
) -> jax.Array:
  """A :class:`~jaxcompress.nn.ConvNorm` with its activation: inside it where devices fuse them."""
  if act == "hard_swish":
    return activated(x, features, act=act, name=name, train=train, **fields)[1]
  return ConvNorm(features, act=act, name=name, **fields)(x, train=train)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, projected where the shape changes.

  Returns the sum before and after its last ReLU.

  References:
    He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_,
    2015, figure 5.
  """

  features: int
  stride: int
  norm: Norm
  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = _symmetric(self.norm)
    y = conv(self.features, kernel=3, stride=self.stride, act="relu", name="conv1")(x, train=train)
    y = conv(self.features, kernel=3, name="conv2")(y, train=train)
    if self.stride != 1 or x.shape[-1] != self.features:
      x = conv(self.features, stride=self.stride, name="shortcut")(x, train=train)
    total = Add(name="add")(y, x)
    return total, Activation("relu", name="relu")(total)


class Bottleneck(nn.Module):
  """A 3x3 convolution between two pointwise ones, and a shortcut; the 3x3 has the stride.

  Returns the sum, of ``4 * features`` channels, before and after its last ReLU.
  """

  features: int
  stride: int
  norm: Norm
  expansion = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    conv = _symmetric(self.norm)
    out = self.expansion * self.features
    y = conv(self.features, act="relu", name="conv1")(x, train=train)
    y = conv(self.features, kernel=3, stride=self.stride, act="relu", name="conv2")(y, train=train)
    y = conv(out, name="conv3")(y, train=train)
    if self.stride != 1 or x.shape[-1] != out:
      x = conv(out, stride=self.stride, name="shortcut")(x, train=train)
    total = Add(name="add")(y, x)
    return total, Activation("relu", name="relu")(total)


def _symmetric(norm: Norm):
  return partial(ConvNorm, padding="SYMMETRIC", norm=norm)
