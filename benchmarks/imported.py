"""Networks of Flax as they are and imported: seconds of an import, milliseconds of a train step.

``python benchmarks/imported.py`` imports a linen network of EfficientNet-B0's size, and trains one like
MobileNetV2 as plain Flax, imported, and imported and quantized, in turns in one process.
"""

import argparse
import functools
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from shared import in_turns

import jaxcompress as jc

B0 = (  # expansion, features, blocks, stride, kernel
  (1, 16, 1, 1, 3),
  (6, 24, 2, 2, 3),
  (6, 40, 2, 2, 5),
  (6, 80, 3, 2, 3),
  (6, 112, 3, 1, 5),
  (6, 192, 4, 2, 5),
  (6, 320, 1, 1, 3),
)
V2 = ((6, 24, 2, 2, 3), (6, 32, 2, 2, 3), (6, 64, 1, 1, 3))


class Block(nn.Module):
  expansion: int
  features: int
  stride: int
  kernel: int
  excite: bool

  @nn.compact
  def __call__(self, x, train):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    act = nn.silu if self.excite else jax.nn.relu6
    entered, inside, y = x.shape[-1], x.shape[-1] * self.expansion, x
    if self.expansion > 1:
      y = act(norm()(nn.Conv(inside, (1, 1), use_bias=False)(y)))
    sides, depth = (self.kernel,) * 2, {"feature_group_count": inside}
    y = act(norm()(nn.Conv(inside, sides, self.stride, use_bias=False, **depth)(y)))
    if self.excite:
      gate = nn.silu(nn.Conv(max(1, entered // 4), (1, 1))(y.mean((1, 2), keepdims=True)))
      y = y * nn.sigmoid(nn.Conv(inside, (1, 1))(gate))
    y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
    return x + y if x.shape == y.shape else y


class Network(nn.Module):
  rows: tuple
  stem: int
  stride: int
  last: int
  classes: int
  excite: bool

  @nn.compact
  def __call__(self, x, train=True):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    act = nn.silu if self.excite else jax.nn.relu6
    x = act(norm()(nn.Conv(self.stem, (3, 3), self.stride, use_bias=False)(x)))
    for expansion, features, count, stride, kernel in self.rows:
      for i in range(count):
        x = Block(expansion, features, stride if i == 0 else 1, kernel, self.excite)(x, train)
    if self.last:
      x = act(norm()(nn.Conv(self.last, (1, 1), use_bias=False)(x)))
    return nn.Dense(self.classes)(x.mean((1, 2)))


def import_seconds(size):
  """Wall and processor seconds of an import, and how far both networks are apart."""
  model, images = Network(B0, 32, 2, 1280, 1000, True), jnp.ones((1, size, size, 3))
  variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
  wall, processor = time.perf_counter(), time.process_time()
  imported = jc.models.from_linen(model, variables, images)
  taken = time.perf_counter() - wall, time.process_time() - processor
  return *taken, imported.difference


def steps(batch_size):
  """A function for each way to train, which does one step."""
  rng, optimizer = np.random.default_rng(0), optax.sgd(0.05, momentum=0.9)
  x = jnp.asarray(rng.normal(size=(batch_size, 32, 32, 3)), jnp.float32)
  batch = {"image": x, "label": jnp.arange(batch_size) % 47}
  model = Network(V2, 16, 1, 0, 47, False)
  variables = model.init(jax.random.key(0), x, train=False)
  imported = jc.models.from_linen(model, variables, x[:1])
  states = {"flax": (variables, optimizer.init(variables["params"]))}

  @jax.jit
  def flax_step(variables, opt_state):
    def objective(params):
      logits, new = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
      return losses.mean(), new

    gradients, new = jax.grad(objective, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(gradients, opt_state)
    return {"params": optax.apply_updates(variables["params"], updates), **new}, opt_state

  for name, plan in (("imported", None), ("imported, int8", jc.quantize.int8())):
    recipe = jc.Recipe(student=imported.model, quantize=plan, optimizer=optimizer)
    states[name] = jc.init_state(
      recipe, jax.random.key(0), batch, student_variables=imported.variables
    )

  def step(name):
    state = states[name]
    states[name] = flax_step(*state) if name == "flax" else jc.train_step(state, batch)[0]
    return jax.tree.leaves(states[name])

  return {name: lambda name=name: step(name) for name in states}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=12, help="steps of each, in turns")
  parser.add_argument("--batch", type=int, default=32)
  arguments = parser.parse_args()
  jc.ops.keep_freed_memory()
  for size in (64, 224):
    wall, processor, difference = import_seconds(size)
    print(f"import, {size} px: {wall:.1f} s ({processor:.1f} s of CPU), {difference:.0e} apart")
  ways = steps(arguments.batch)
  for call in (*ways.values(), *ways.values()):  # the first ones compile
    jax.block_until_ready(call())
  for name, found in in_turns(ways, arguments.rounds).items():
    print(f"step, {name}: {1e3 * statistics.median(found):.1f} ms")


if __name__ == "__main__":
  main()
