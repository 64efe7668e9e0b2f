"""A device that computes a network exactly but for one operation, and layers in plain int64."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.export.faults.walk import evaluated
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  MaxPool,
  Split,
)
from jaxcompress.nn.operations import pads_of
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC


class Inverted(nn.Module):
  """Inverted residuals, as MobileNetV2's."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    y = ConvNorm(24, act="relu6", name="expand")(x, train=train)
    y = ConvNorm(24, kernel=3, groups="depthwise", act="relu6", name="depthwise")(y, train=train)
    y = ConvNorm(8, name="project")(y, train=train)
    x = Add(name="add")(x, y)
    x = ConvNorm(16, name="head")(x, train=train)
    return Dense(7, name="classifier")(GlobalAvgPool(name="mean")(x))


class Residual(nn.Module):
  """A residual network's stem and block."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, padding="SYMMETRIC", act="relu", name="stem")(x, train=train)
    x = MaxPool(3, 2, padding="SYMMETRIC", name="max")(x)
    y = ConvNorm(16, kernel=3, stride=2, act="relu", name="one")(x, train=train)
    y = ConvNorm(16, kernel=3, name="two")(y, train=train)
    x = ConvNorm(16, stride=2, name="shortcut")(x, train=train)
    x = Activation("relu", name="relu")(Add(name="add")(x, y))
    return Dense(7, name="classifier")(GlobalAvgPool(name="mean")(x))


class Excited(nn.Module):
  """Squeeze and excitation, as MobileNetV3's."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    x = SqueezeExcite(4, name="se")(x, train=train)
    x = ConvNorm(12, name="project")(x, train=train)
    return Dense(7, name="classifier")(GlobalAvgPool(name="mean")(x))


class Shuffled(nn.Module):
  """A unit of ShuffleNet's."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(12, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    left, right = Split((6, 6), name="split")(x)
    right = ConvNorm(6, act="relu", name="branch")(right, train=train)
    x = ChannelShuffle(3, name="shuffle")(Concat(name="concat")(left, right))
    x = AvgPool(2, 1, padding="VALID", name="pool")(x)
    return Dense(7, name="classifier")(GlobalAvgPool(name="mean")(x))


NETWORKS = {"inverted": Inverted, "residual": Residual, "excited": Excited, "shuffled": Shuffled}
SHAPE, IMAGES = (12, 12, 3), 3


class Device:
  """Exact evaluation, but for what one operation writes.

  Attributes:
    quantized: the model.
    codes: of its input.
    sound: integers of all tensors without a fault.
  """

  def __init__(self, quantized, codes):
    self.quantized, self.codes = quantized, codes
    self.sound = {"input": codes} | {
      name: self.as_printed(name, array)
      for name, array in evaluated(quantized, {"input": codes}).items()
    }

  def as_printed(self, name, codes):
    return np.asarray(codes).astype(self.quantized.grids[name].dtype)

  def node(self, layer):
    return next(node for node in self.quantized.graph.nodes if node.name == layer)

  def dump(self, layer, *written):
    """Returns the dump of a device whose operation writes these integers; later operations follow them."""
    node, nodes = self.node(layer), self.quantized.graph.nodes
    known = self.sound | {
      name: self.as_printed(name, codes) for name, codes in zip(node.outputs, written, strict=True)
    }
    program, grids = self.quantized.program, self.quantized.grids
    steps = {n: a.astype(np.float32) - grids[n].zero_point for n, a in known.items()}
    found = _go_on(program.steps, program.arrays, steps, nodes.index(node))
    return known | {
      n: self.as_printed(n, np.asarray(a) + grids[n].zero_point) for n, a in found.items()
    }


def _go_on(steps, arrays, known, place):
  return _compiled(steps, arrays, known, jnp.int32(place))


def _run(steps, arrays, known, place):
  tensors = {"input": known["input"]}
  for i, (step, numbers) in enumerate(zip(steps, arrays, strict=True)):
    outputs = ARITHMETIC[step.op].run(step.static, numbers, *(tensors[n] for n in step.inputs))
    for name, output in zip(step.outputs, outputs, strict=True):
      tensors[name] = jnp.where(i <= place, known[name], output)
  return tensors


_compiled = jax.jit(_run, static_argnums=0)


def with_ties(quantized):
  """A model whose scales are powers of two, so that many sums lie halfway between codes."""

  def power(scale):
    return np.exp2(np.rint(np.log2(scale))).astype(np.float32)

  grids = {name: grid._replace(scale=power(grid.scale)) for name, grid in quantized.grids.items()}
  layers = {n: layer._replace(scales=power(layer.scales)) for n, layer in quantized.layers.items()}
  return dataclasses.replace(quantized, grids=grids, layers=layers)


class Layer:
  """A convolution or linear layer in plain int64, each part of which can be another one."""

  def __init__(self, device, layer):
    quantized, node = device.quantized, device.node(layer)
    self.node, (self.weights, self.scales, self.bias) = node, quantized.layers[layer]
    self.source, self.output = quantized.grids[node.inputs[0]], quantized.grids[node.output]
    self.codes = device.sound[node.inputs[0]].astype(np.int64)
    self.zero, self.pad = self.source.zero_point, None
    self.pads = pads_of(node) if node.op == "ConvNorm" else None
    self.act = node.attrs.get("act")

  def sums(self):
    """Accumulators without the bias."""
    x, w = self.codes - self.zero, self.weights.astype(np.int64)
    if self.pads is None:
      return x.reshape(len(x), -1) @ w
    pad = 0 if self.pad is None else self.pad - self.zero
    x = np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=pad)
    height, width = self.node.output_shapes[0][1:3]
    step, (rows, columns, depth, out) = self.node.attrs["stride"], w.shape
    groups = x.shape[-1] // depth
    w = w.reshape(rows, columns, depth, groups, out // groups)
    total = 0
    for i in range(rows):
      for j in range(columns):
        part = x[:, i : i + (height - 1) * step + 1 : step, j : j + (width - 1) * step + 1 : step]
        part = part.reshape(*part.shape[:3], groups, depth)
        total = total + np.einsum("nhwgd,dgo->nhwgo", part, w[i, j])
    return total.reshape(len(x), height, width, out)

  @property
  def factor(self):
    return np.float64(self.source.scale) * self.scales.astype(np.float64) / self.output.scale

  def ends(self, act):
    """Codes from and to which the output goes."""
    low = self.output.zero_point if act else -128
    high = np.floor(6 / np.float64(self.output.scale) + 0.5) + self.output.zero_point
    return low, min(high, 127) if act == "relu6" else 127

  def finish(self, steps):
    """Codes of steps, with the activation function."""
    return np.clip(steps + self.output.zero_point, *self.ends(self.act))


def device_of(networks, name):
  """A device of a network of this file by its name, with scales that make ties if it begins so."""
  quantized = networks.random_quantized(NETWORKS[name.removeprefix("tied ")](), SHAPE)
  quantized = with_ties(quantized) if name.startswith("tied") else quantized
  images = networks.images_for(quantized, IMAGES)
  return Device(quantized, quantized.quantize_input(images))
