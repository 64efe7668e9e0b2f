"""The network as one would write it with flax.linen's own layers, and qwix on top of it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from contenders import (
  CLASSES,
  KD_TEMPERATURE,
  KD_WEIGHT,
  MOMENTUM,
  RATE,
  TEACHER_WIDTH,
  Rows,
  Setting,
  Step,
  batch_of,
  rows_of,
)


def hand_written_fake_quant(x, low, high, bits=8):
  """Straight-through rounding as found in many code bases."""
  scale = jnp.maximum(high - low, 1e-8) / (2**bits - 1)
  y = jnp.round((jnp.clip(x, low, high) - low) / scale) * scale + low
  return x + jax.lax.stop_gradient(y - x)


def rounded_conv(x, kernel, *args, **kwargs):
  """The convolution that ``nn.Conv`` calls, with per-channel rounded weights."""
  top = jnp.max(jnp.abs(kernel), axis=(0, 1, 2), keepdims=True)
  rounded = hand_written_fake_quant(kernel, -top, top)
  return jax.lax.conv_general_dilated(x, rounded, *args, **kwargs)


class PlainLayer(nn.Module):
  """Convolution, BatchNorm and ReLU6 from flax.linen."""

  features: int
  kernel: int = 1
  stride: int = 1
  groups: int = 1
  act: bool = True
  int8: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      self.stride,
      feature_group_count=self.groups,
      use_bias=False,
      dtype=self.dtype,
      conv_general_dilated=rounded_conv if self.int8 else None,
    )(x)
    x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)
    x = nn.relu6(x) if self.act else x
    if self.int8:
      low = self.variable("batch_stats", "low", jnp.zeros, ())
      high = self.variable("batch_stats", "high", jnp.zeros, ())
      if train:
        low.value = 0.95 * low.value + 0.05 * jnp.min(x)
        high.value = 0.95 * high.value + 0.05 * jnp.max(x)
      x = hand_written_fake_quant(x, low.value, high.value)
    return x


class PlainMobileNetV2(nn.Module):
  """The network of the rows."""

  rows: Rows
  int8: bool = False
  dtype: str = "float32"
  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, x, *, train):
    layer = partial(PlainLayer, int8=self.int8, dtype=self.dtype)
    x = layer(self.rows.stem, 3, self.rows.stride)(x, train=train)
    for block in self.rows.blocks:
      y = layer(block.inner)(x, train=train) if block.expands else x
      y = layer(block.inner, 3, block.stride, groups=block.inner)(y, train=train)
      y = layer(block.features, act=False)(y, train=train)
      x = x + y if x.shape == y.shape else y
    x = layer(self.rows.head)(x, train=train)
    return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))


def step_of(model, batch, optimizer, teach=None) -> Step:
  """A jitted step with batch statistics and momentum, donated."""
  variables = jax.jit(partial(model.init, train=True))(jax.random.key(0), batch["image"])

  @partial(jax.jit, donate_argnums=0)
  def step(state, batch):
    params, stats, opt_state = state
    soft = None if teach is None else nn.softmax(teach(batch["image"]) / KD_TEMPERATURE)

    def loss_of(params):
      logits, updated = model.apply(
        {"params": params, **stats}, batch["image"], train=True, mutable=list(stats)
      )
      hard = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
      if soft is None:
        return hard, updated
      kd = optax.softmax_cross_entropy(logits / KD_TEMPERATURE, soft).mean()
      return (1 - KD_WEIGHT) * hard + KD_WEIGHT * KD_TEMPERATURE**2 * kd, updated

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), stats, opt_state), loss

  params = variables["params"]
  stats = {name: tree for name, tree in variables.items() if name != "params"}
  state = (params, stats, optimizer.init(params))

  def run():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, batch))

  return Step(run, sum(leaf.size for leaf in jax.tree.leaves(params)))


def train(setting: Setting) -> Step:
  """Float, hand-written int8, or distilled."""
  batch, teach = jax.device_put(batch_of(setting)), None
  if setting.task == "distill":
    teacher = PlainMobileNetV2(rows_of(TEACHER_WIDTH, setting.size), dtype=setting.dtype)
    given = jax.jit(partial(teacher.init, train=False))(jax.random.key(1), batch["image"])
    teach = lambda x: teacher.apply(given, x, train=False)  # noqa: E731
  model = PlainMobileNetV2(
    rows_of(setting.width, setting.size), setting.task == "int8", setting.dtype
  )
  return step_of(model, batch, optax.sgd(RATE, MOMENTUM), teach)


def qwix_odml(setting: Setting) -> Step:
  """qwix's quantization-aware training for edge files, of the plain network."""
  import qwix

  model = PlainMobileNetV2(rows_of(setting.width, setting.size), dtype=setting.dtype)
  rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
  quantized = qwix.quantize_model(model, qwix.OdmlQatProvider([rule]))
  return step_of(quantized, jax.device_put(batch_of(setting)), optax.sgd(RATE, MOMENTUM))
