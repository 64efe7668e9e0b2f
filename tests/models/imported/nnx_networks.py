"""Networks in Flax NNX as people write them: nothing here knows of this library."""

import jax
import jax.numpy as jnp
from flax import nnx


class InvertedResidual(nnx.Module):
  def __init__(self, inputs: int, outputs: int, stride: int, expand: int, *, rngs: nnx.Rngs):
    hidden = inputs * expand
    self.use_residual = stride == 1 and inputs == outputs
    self.layers = nnx.Sequential(
      nnx.Conv(inputs, hidden, (1, 1), use_bias=False, rngs=rngs),
      nnx.BatchNorm(hidden, momentum=0.9, rngs=rngs),
      nnx.relu6,
      nnx.Conv(
        hidden,
        hidden,
        kernel_size=(3, 3),
        strides=stride,
        padding=1,
        feature_group_count=hidden,
        use_bias=False,
        rngs=rngs,
      ),
      nnx.BatchNorm(hidden, momentum=0.9, rngs=rngs),
      nnx.relu6,
      nnx.Conv(hidden, outputs, (1, 1), use_bias=False, rngs=rngs),
      nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs),
    )

  def __call__(self, x):
    return x + self.layers(x) if self.use_residual else self.layers(x)


class MobileNetV2(nnx.Module):
  def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, 8, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
    self.stem_bn = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
    self.blocks = nnx.List(
      [
        InvertedResidual(8, 8, 1, 2, rngs=rngs),
        InvertedResidual(8, 12, 2, 3, rngs=rngs),
        InvertedResidual(12, 12, 1, 3, rngs=rngs),
      ]
    )
    self.dropout = nnx.Dropout(rate=0.2, rngs=rngs)
    self.classifier = nnx.Linear(12, num_classes, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu6(self.stem_bn(self.stem(x)))
    for block in self.blocks:
      x = block(x)
    x = jnp.mean(x, axis=(1, 2))
    return self.classifier(self.dropout(x))


class SqueezeExcite(nnx.Module):
  def __init__(self, channels: int, squeezed: int, *, rngs: nnx.Rngs):
    self.reduce = nnx.Linear(channels, squeezed, rngs=rngs)
    self.expand = nnx.Linear(squeezed, channels, rngs=rngs)

  def __call__(self, x):
    s = jnp.mean(x, axis=(1, 2))
    s = nnx.silu(self.reduce(s))
    s = nnx.sigmoid(self.expand(s))
    return x * s[:, None, None, :]


class MBConv(nnx.Module):
  def __init__(self, inputs, outputs, kernel, stride, expand, *, rngs: nnx.Rngs):
    hidden = inputs * expand
    self.expand = nnx.Conv(inputs, hidden, (1, 1), use_bias=False, rngs=rngs)
    self.bn0 = nnx.BatchNorm(hidden, momentum=0.99, epsilon=1e-3, rngs=rngs)
    self.depthwise = nnx.Conv(
      hidden,
      hidden,
      (kernel, kernel),
      strides=(stride, stride),
      feature_group_count=hidden,
      use_bias=False,
      rngs=rngs,
    )
    self.bn1 = nnx.BatchNorm(hidden, momentum=0.99, epsilon=1e-3, rngs=rngs)
    self.se = SqueezeExcite(hidden, max(1, inputs // 4), rngs=rngs)
    self.project = nnx.Conv(hidden, outputs, (1, 1), use_bias=False, rngs=rngs)
    self.bn2 = nnx.BatchNorm(outputs, momentum=0.99, epsilon=1e-3, rngs=rngs)
    self.skip = stride == 1 and inputs == outputs

  def __call__(self, x):
    y = nnx.silu(self.bn0(self.expand(x)))
    y = nnx.silu(self.bn1(self.depthwise(y)))
    y = self.bn2(self.project(self.se(y)))
    return x + y if self.skip else y


class EfficientNet(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, 8, (3, 3), strides=(2, 2), use_bias=False, rngs=rngs)
    self.stem_bn = nnx.BatchNorm(8, momentum=0.99, epsilon=1e-3, rngs=rngs)
    self.blocks = nnx.List(
      [
        MBConv(8, 8, 3, 1, 2, rngs=rngs),
        MBConv(8, 12, 5, 2, 3, rngs=rngs),
        MBConv(12, 12, 3, 1, 3, rngs=rngs),
      ]
    )
    self.head = nnx.Conv(12, 24, (1, 1), use_bias=False, rngs=rngs)
    self.head_bn = nnx.BatchNorm(24, momentum=0.99, epsilon=1e-3, rngs=rngs)
    self.fc = nnx.Linear(24, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.swish(self.stem_bn(self.stem(x)))
    for block in self.blocks:
      x = block(x)
    x = nnx.swish(self.head_bn(self.head(x)))
    return self.fc(x.mean((1, 2)))


class ConvNeXtBlock(nnx.Module):
  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.dwconv = nnx.Conv(dim, dim, (7, 7), padding=3, feature_group_count=dim, rngs=rngs)
    self.norm = nnx.LayerNorm(dim, epsilon=1e-6, rngs=rngs)
    self.pwconv1 = nnx.Linear(dim, 4 * dim, rngs=rngs)
    self.pwconv2 = nnx.Linear(4 * dim, dim, rngs=rngs)
    self.gamma = nnx.Param(1e-6 * jnp.ones((dim,)))

  def __call__(self, x):
    y = self.norm(self.dwconv(x))
    y = jax.nn.gelu(self.pwconv1(y), approximate=False)
    y = self.pwconv2(y)
    return x + self.gamma * y


class ConvNeXt(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, 8, (4, 4), strides=(4, 4), rngs=rngs)
    self.stem_norm = nnx.LayerNorm(8, epsilon=1e-6, rngs=rngs)
    self.block1 = ConvNeXtBlock(8, rngs=rngs)
    self.down_norm = nnx.LayerNorm(8, epsilon=1e-6, rngs=rngs)
    self.down = nnx.Conv(8, 12, (2, 2), strides=(2, 2), rngs=rngs)
    self.block2 = ConvNeXtBlock(12, rngs=rngs)
    self.norm = nnx.LayerNorm(12, epsilon=1e-6, rngs=rngs)
    self.head = nnx.Linear(12, 10, rngs=rngs)

  def __call__(self, x):
    x = self.stem_norm(self.stem(x))
    x = self.block1(x)
    x = self.down(self.down_norm(x))
    x = self.block2(x)
    return self.head(self.norm(x.mean(axis=(1, 2))))


def channel_shuffle(x, groups):
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, groups, c // groups)
  return jnp.swapaxes(x, 3, 4).reshape(n, h, w, c)


class ShuffleUnit(nnx.Module):
  def __init__(self, channels: int, rngs: nnx.Rngs):
    half = channels // 2
    self.conv1 = nnx.Conv(half, half, (1, 1), use_bias=False, rngs=rngs)
    self.bn1 = nnx.BatchNorm(half, rngs=rngs)
    self.conv2 = nnx.Conv(half, half, (3, 3), feature_group_count=half, use_bias=False, rngs=rngs)
    self.bn2 = nnx.BatchNorm(half, rngs=rngs)
    self.conv3 = nnx.Conv(half, half, (1, 1), use_bias=False, rngs=rngs)
    self.bn3 = nnx.BatchNorm(half, rngs=rngs)

  def __call__(self, x):
    half = x.shape[-1] // 2
    left, right = x[..., :half], x[..., half:]
    right = nnx.relu(self.bn1(self.conv1(right)))
    right = self.bn2(self.conv2(right))
    right = nnx.relu(self.bn3(self.conv3(right)))
    return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNet(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, 12, (3, 3), strides=(2, 2), use_bias=False, rngs=rngs)
    self.bn = nnx.BatchNorm(12, rngs=rngs)
    self.units = nnx.List([ShuffleUnit(12, rngs) for _ in range(2)])
    self.fc = nnx.Linear(12 * 4 * 4, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.bn(self.stem(x)))
    x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for unit in self.units:
      x = unit(x)
    x = x[:, ::2, ::2, :]
    return self.fc(x.reshape(x.shape[0], -1))
