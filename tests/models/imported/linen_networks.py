"""Networks in Flax linen as people write them: nothing here knows of this library."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BottleneckBlock(nn.Module):
  filters: int
  conv: Any
  norm: Any
  act: Callable
  strides: tuple[int, int] = (1, 1)

  @nn.compact
  def __call__(self, x):
    residual = x
    y = self.conv(self.filters, (1, 1))(x)
    y = self.norm()(y)
    y = self.act(y)
    y = self.conv(self.filters, (3, 3), self.strides)(y)
    y = self.norm()(y)
    y = self.act(y)
    y = self.conv(self.filters * 4, (1, 1))(y)
    y = self.norm(scale_init=nn.initializers.zeros_init())(y)
    if residual.shape != y.shape:
      residual = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(residual)
      residual = self.norm(name="norm_proj")(residual)
    return self.act(residual + y)


class ResNet(nn.Module):
  stage_sizes: tuple[int, ...] = (1, 1)
  num_classes: int = 10
  num_filters: int = 4
  dtype: Any = jnp.float32
  act: Callable = nn.relu

  @nn.compact
  def __call__(self, x, train: bool = True):
    conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name="batch" if self.is_initializing() else None,
    )
    x = conv(self.num_filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
    x = norm(name="bn_init")(x)
    x = nn.relu(x)
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for i, block_size in enumerate(self.stage_sizes):
      for j in range(block_size):
        strides = (2, 2) if i > 0 and j == 0 else (1, 1)
        x = BottleneckBlock(
          self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=self.act
        )(x)
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype)(x)
    return jnp.asarray(x, self.dtype)


class SqueezeExcite(nn.Module):
  reduction: int = 4

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    s = jnp.mean(x, axis=(1, 2), keepdims=True)
    s = nn.Conv(channels // self.reduction, (1, 1))(s)
    s = nn.relu(s)
    s = nn.Conv(channels, (1, 1))(s)
    return x * nn.hard_sigmoid(s)


class InvertedResidual(nn.Module):
  expand: int
  out: int
  kernel: int
  stride: int
  excite: bool
  act: Callable

  @nn.compact
  def __call__(self, x, train: bool):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.99, epsilon=1e-3)
    y = nn.Conv(self.expand, (1, 1), use_bias=False)(x)
    y = self.act(norm()(y))
    y = nn.Conv(
      self.expand,
      (self.kernel, self.kernel),
      strides=self.stride,
      feature_group_count=self.expand,
      use_bias=False,
    )(y)
    y = self.act(norm()(y))
    if self.excite:
      y = SqueezeExcite()(y)
    y = norm()(nn.Conv(self.out, (1, 1), use_bias=False)(y))
    return x + y if x.shape == y.shape else y


class MobileNetV3(nn.Module):
  num_classes: int = 10

  def setup(self):
    self.stem = nn.Conv(8, (3, 3), strides=(2, 2), use_bias=False)
    self.stem_norm = nn.BatchNorm(momentum=0.99, epsilon=1e-3)
    self.blocks = [
      InvertedResidual(16, 8, 3, 2, True, nn.relu),
      InvertedResidual(24, 12, 5, 2, True, nn.hard_swish),
      InvertedResidual(32, 12, 5, 1, False, nn.hard_swish),
    ]
    self.last = nn.Conv(32, (1, 1), use_bias=False)
    self.last_norm = nn.BatchNorm(momentum=0.99, epsilon=1e-3)
    self.hidden = nn.Dense(24)
    self.drop = nn.Dropout(0.2)
    self.classifier = nn.Dense(self.num_classes)

  def __call__(self, x, train: bool = False, deterministic: bool = True):
    x = self.stem_norm(self.stem(x), use_running_average=not train)
    x = nn.hard_swish(x)
    for block in self.blocks:
      x = block(x, train)
    x = nn.hard_swish(self.last_norm(self.last(x), use_running_average=not train))
    x = x.mean(axis=(1, 2))
    x = nn.hard_swish(self.hidden(x))
    x = self.drop(x, deterministic=deterministic)
    return self.classifier(x)


class DenseBlock(nn.Module):
  layers: int
  growth: int

  @nn.compact
  def __call__(self, x, train: bool):
    features = [x]
    for _ in range(self.layers):
      y = jnp.concatenate(features, axis=-1)
      y = nn.BatchNorm(use_running_average=not train)(y)
      y = nn.relu(y)
      y = nn.Conv(self.growth, (3, 3), padding="SAME", use_bias=False)(y)
      features.append(y)
    return jnp.concatenate(features, axis=-1)


class DenseNet(nn.Module):
  growth: int = 4

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Conv(8, (3, 3), strides=(2, 2))(x)
    for i in range(2):
      x = DenseBlock(2, self.growth)(x, train)
      if i == 0:  # transition
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.avg_pool(x, window_shape=(x.shape[1], x.shape[2]))
    x = x.reshape((x.shape[0], -1))
    return nn.Dense(10)(x)


class ConvBNRelu(nn.Module):
  features: int
  kernel: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  dilation: int = 1
  train: bool = False

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(
      self.features, self.kernel, self.strides, kernel_dilation=self.dilation, use_bias=False
    )(x)
    x = nn.BatchNorm(use_running_average=not self.train, momentum=0.95, use_scale=False)(x)
    return nn.relu(x)


class InceptionBlock(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x):
    unit = partial(ConvBNRelu, train=self.train)
    branch1 = unit(8, (1, 1), name="b1")(x)
    branch7 = unit(4, (1, 1), name="b7_1")(x)
    branch7 = unit(4, (1, 7), name="b7_2")(branch7)
    branch7 = unit(8, (7, 1), name="b7_3")(branch7)
    pooled = nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)
    pooled = unit(4, (1, 1), name="pool_proj")(pooled)
    return jnp.concatenate([branch1, branch7, pooled], axis=3)


class InceptionReduce(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x):
    unit = partial(ConvBNRelu, train=self.train)
    branch3 = unit(8, (3, 5), (2, 2), name="b3")(x)
    pooled = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    averaged = nn.avg_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    return jnp.concatenate([branch3, pooled, averaged], axis=3)


class Inception(nn.Module):
  @nn.compact
  def __call__(self, x, train: bool = False):
    x = x / 127.5 - 1.0
    x = ConvBNRelu(8, (3, 3), (2, 2), train=train, name="stem")(x)
    x = InceptionBlock(train)(x)
    x = InceptionReduce(train)(x)
    x = jnp.mean(x, axis=(1, 2))
    return nn.Dense(10, name="head")(x)


class DoubleConv(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x, train):
    for _ in range(2):
      x = nn.Conv(self.features, (3, 3), padding=1)(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.leaky_relu(x, 0.1)
    return x


class UNet(nn.Module):
  """A class for each pixel."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, train: bool = False):
    full = DoubleConv(4, name="down1")(x, train)
    half = DoubleConv(8, name="down2")(nn.max_pool(full, (2, 2), strides=(2, 2)), train)
    x = DoubleConv(8, name="middle")(nn.max_pool(half, (2, 2), strides=(2, 2)), train)
    x = nn.ConvTranspose(8, (2, 2), strides=(2, 2), name="up2")(x)
    x = DoubleConv(8, name="merge2")(jnp.concatenate([x, half], axis=-1), train)
    b, h, w, c = x.shape
    x = jax.image.resize(x, (b, 2 * h, 2 * w, c), method="bilinear")
    x = DoubleConv(4, name="merge1")(jnp.concatenate([full, x], axis=-1), train)
    return nn.Conv(self.num_classes, (1, 1), name="classes")(x)


class Detector(nn.Module):
  """Boxes and scores of a single-stage detector, on one map."""

  num_classes: int = 4

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    for features in (8, 8, 16):
      x = nn.Conv(features, (3, 3), strides=(2, 2), use_bias=False)(x)
      x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
    towers = {}
    for name in ("boxes", "scores"):
      y = nn.Conv(16, (3, 3), feature_group_count=16, name=f"{name}_depthwise")(x)
      towers[name] = nn.relu(y)
    boxes = nn.relu(nn.Conv(4, (1, 1), name="boxes")(towers["boxes"]))
    scores = nn.sigmoid(nn.Conv(self.num_classes, (1, 1), name="scores")(towers["scores"]))
    return {"boxes": boxes, "scores": scores}


class WideBlock(nn.Module):
  features: int
  strides: int

  @nn.compact
  def __call__(self, x, train: bool):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    y = nn.relu(norm(name="bn1")(x))
    shortcut = x
    if x.shape[-1] != self.features or self.strides != 1:
      shortcut = nn.Conv(self.features, (1, 1), self.strides, use_bias=False, name="skip")(y)
    y = nn.Conv(self.features, (3, 3), self.strides, use_bias=False, name="conv1")(y)
    y = nn.relu(norm(name="bn2")(y))
    y = nn.Conv(self.features, (3, 3), use_bias=False, name="conv2")(y)
    return shortcut + y


class WideResNet(nn.Module):
  """Pre-activation, one block rematerialized."""

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Conv(8, (3, 3), use_bias=False, name="stem")(x)
    block = nn.remat(WideBlock, static_argnums=(2,))
    for i, (features, strides) in enumerate(((8, 1), (16, 2), (16, 2))):
      x = block(features, strides, name=f"block{i}")(x, train)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    x = jnp.mean(x, axis=[1, 2])
    return nn.Dense(10, name="head")(x)


class DeepLab(nn.Module):
  """Dilated convolutions beside each other, and the whole image's mean."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, train: bool = False):
    size = x.shape[1:3]
    x = ConvBNRelu(8, (3, 3), (2, 2), train=train, name="stem")(x)
    x = ConvBNRelu(12, (3, 3), (2, 2), train=train, name="body")(x)
    rates = [ConvBNRelu(6, (3, 3), dilation=r, train=train, name=f"rate{r}")(x) for r in (1, 2, 4)]
    pooled = jnp.mean(x, axis=(1, 2), keepdims=True)
    pooled = ConvBNRelu(6, (1, 1), train=train, name="pooled")(pooled)
    pooled = jnp.broadcast_to(pooled, (*x.shape[:3], 6))
    x = jnp.concatenate([*rates, pooled], axis=-1)
    x = ConvBNRelu(8, (1, 1), train=train, name="project")(x)
    x = nn.Conv(self.num_classes, (1, 1), name="classes")(x)
    return jax.image.resize(x, (x.shape[0], *size, self.num_classes), "bilinear")


class EncoderBlock(nn.Module):
  heads: int
  mlp: int

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm()(x)
    y = nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
    x = x + y
    y = nn.LayerNorm()(x)
    y = nn.Dense(self.mlp)(y)
    y = nn.gelu(y)
    return x + nn.Dense(x.shape[-1])(y)


class ViT(nn.Module):
  hidden: int = 16

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.hidden, (8, 8), strides=(8, 8), padding="VALID", name="embedding")(x)
    n, h, w, c = x.shape
    x = jnp.reshape(x, [n, h * w, c])
    cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
    x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
    x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, h * w + 1, c))
    for _ in range(2):
      x = EncoderBlock(heads=2, mlp=32)(x)
    x = nn.LayerNorm(name="encoder_norm")(x)
    return nn.Dense(10, name="head")(x[:, 0])
