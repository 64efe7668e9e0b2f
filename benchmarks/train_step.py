"""Our training step against the same network written with plain Flax layers, in one run.

    python benchmarks/train_step.py [--width 1.0] [--size 32] [--batch 32] [--repeats 5]

MobileNetV2 with batch statistics and SGD with momentum: plain ``nn.Conv`` and ``nn.BatchNorm``,
float and with the fake quantization that one would write by hand, against jaxcompress, float and
int8 (weights, every activation) with moving ranges and with trained steps (LSQ). Rounds alternate, so that a slow moment of the
machine hits all; medians and ratios are printed, with compile times.
"""

import argparse
import statistics
import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxcompress import models, quantize
from jaxcompress.models.mobilenet_v2 import V2_STAGES, head_features, layout_rows, scaled
from jaxcompress.nn import count_parameters
from jaxcompress.training import Recipe, init_state, train_step

LSQ = quantize.Quantization(weights=quantize.lsq(8), activations=quantize.lsq_activations(8))


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

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      self.stride,
      feature_group_count=self.groups,
      use_bias=False,
      conv_general_dilated=rounded_conv if self.int8 else None,
    )(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)
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
  """The network of ``jaxcompress.models.mobilenet_v2``, from the same rows."""

  num_classes: int
  width: float
  layout: str
  int8: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    layer = partial(PlainLayer, int8=self.int8)
    strides, repeats = layout_rows(self.layout, x.shape[1])
    x = layer(scaled(32, self.width), 3, strides[0])(x, train=train)
    for stage, stride, count in zip(V2_STAGES, strides[1:], repeats, strict=True):
      features = scaled(stage.features, self.width)
      for j in range(count):
        inner, step = x.shape[-1] * stage.expand, stride if j == 0 else 1
        y = layer(inner)(x, train=train) if stage.expand != 1 else x
        y = layer(inner, 3, step, groups=inner)(y, train=train)
        y = layer(features, act=False)(y, train=train)
        x = x + y if x.shape == y.shape else y
    x = layer(head_features(self.width, self.layout))(x, train=train)
    return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def plain(model, batch, optimizer):
  """A compiled plain step, its arguments, and the compile time."""
  variables = jax.jit(partial(model.init, train=True))(jax.random.key(0), batch["image"])

  @partial(jax.jit, donate_argnums=0)
  def step(state):
    params, stats, opt_state = state

    def loss_of(params):
      logits, updated = model.apply(
        {"params": params, "batch_stats": stats},
        batch["image"],
        train=True,
        mutable=["batch_stats"],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
      return losses.mean(), updated["batch_stats"]

    (loss, new_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), new_stats, opt_state), loss

  params = variables["params"]
  state = (params, variables["batch_stats"], optimizer.init(params))
  return step, state, count_parameters(params)


def ours(model, batch, optimizer, plan):
  """The same for jaxcompress."""
  recipe = Recipe(student=model, optimizer=optimizer, quantize=plan)
  state = init_state(recipe, jax.random.key(0), batch)
  parameters = count_parameters(state.params)
  return (lambda state: train_step(state, batch)), state, parameters


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--width", type=float, default=1.0)
  parser.add_argument("--size", type=int, default=32)
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--ours", action="store_true", help="leave the plain networks out")
  parser.add_argument("--layout", default="cifar", choices=("cifar", "imagenet", "short"))
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.normal(size=(args.batch, args.size, args.size, 3)).astype(np.float32),
    "label": rng.integers(0, 100, args.batch).astype(np.int32),
  }
  batch = jax.device_put(batch)
  optimizer = optax.sgd(0.05, momentum=0.9)
  model = models.mobilenet_v2(100, args.width, layout=args.layout, padding="SAME")
  contenders = (
    {}
    if args.ours
    else {
      "plain, float": plain(PlainMobileNetV2(100, args.width, args.layout), batch, optimizer),
      "plain, int8": plain(PlainMobileNetV2(100, args.width, args.layout, True), batch, optimizer),
    }
  )
  contenders |= {
    "jaxcompress, float": ours(model, batch, optimizer, None),
    "jaxcompress, int8": ours(model, batch, optimizer, quantize.int8()),
    "jaxcompress, int8 LSQ": ours(model, batch, optimizer, LSQ),
  }
  assert len({parameters for _, _, parameters in contenders.values()}) == 1, "networks differ"
  states, compiled, times = {}, {}, {name: [] for name in contenders}
  for name, (step, state, _) in contenders.items():
    start = time.perf_counter()
    states[name], _ = jax.block_until_ready(step(state))
    compiled[name] = time.perf_counter() - start
  for _ in range(args.repeats):
    for name, (step, _, _) in contenders.items():
      start = time.perf_counter()
      states[name], _ = jax.block_until_ready(step(states[name]))
      times[name].append(time.perf_counter() - start)
  median = {name: statistics.median(values) for name, values in times.items()}
  table = Table(
    title=f"MobileNetV2 x{args.width:g}, {args.size} px, batch {args.batch}, one training step"
  )
  for column in ("", "ms, median", "least", "plain / this", "first step, s"):
    table.add_column(column, justify="left" if not column else "right")
  for name, value in median.items():
    rival = median.get("plain, int8" if "int8" in name else "plain, float", float("nan"))
    table.add_row(
      name,
      f"{value * 1e3:.0f}",
      f"{min(times[name]) * 1e3:.0f}",
      f"{rival / value:.1f}x",
      f"{compiled[name]:.1f}",
    )
  console = Console()
  console.print(table)
  for name in ("jaxcompress, int8", "jaxcompress, int8 LSQ"):
    pairs = zip(times[name], times["jaxcompress, float"], strict=True)
    overhead = statistics.median(quantized / plain for quantized, plain in pairs)
    console.print(f"{name}: {overhead:.2f}x of the float step")


if __name__ == "__main__":
  main()
