"""What is computed of one batch: all passes over the switched network, and exact evaluation."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT
from jaxcompress.quantize.analysis.switched import (
  Numbers,
  Plan,
  Switches,
  logit_errors,
  no_switches,
  run,
  unmove,
)
from jaxcompress.quantize.integer.program import all_tensors


class Passes(NamedTuple):
  """What the passes of one batch give.

  Attributes:
    errors: (passes, 3) signal, noise and divergence of the logits, summed over images.
    clipped: (passes, layers) shares of the outputs' values that are clipped, summed over images.
  """

  errors: Any
  clipped: Any


@partial(jax.jit, static_argnums=0)
def run_passes(
  plan: Plan, numbers: Numbers, switches: Switches, x: jax.Array, weight: jax.Array
) -> Passes:
  """All passes over one batch; ``weight`` (batch,) says how much each image counts."""
  outputs = outputs_of(plan)

  def one(switches):
    clipped = {}

    def count(tensor, steps):
      _, low, high = numbers.grids[tensor]
      beyond = (jnp.round(steps) < low) | (jnp.round(steps) > high)
      clipped[tensor] = _over_images(beyond, weight) / math.prod(steps.shape[1:])

    logits = run(plan, numbers, Switches(*switches), x, outside=count)
    return logits, jnp.stack([clipped[tensor] for tensor in outputs])

  logits, clipped = jax.lax.map(one, tuple(switches))
  errors = jax.vmap(logit_errors, (None, 0, None))(logits[0], logits, weight)
  return Passes(errors, clipped)


class Seen(NamedTuple):
  """What one batch shows of the layers, in order.

  Attributes:
    powers: (layers, 2) signal and noise, summed over images.
    low: (channels,) least code of each channel, for each layer.
    high: (channels,) largest code.
    logits: (4,) signal, noise, divergence and agreement of the logits, summed over images.
  """

  powers: Any
  low: Any
  high: Any
  logits: Any


def join(a: Seen, b: Seen) -> Seen:
  """Two batches as one; sums are kept in float64."""
  return Seen(
    a.powers + b.powers.astype(np.float64),
    [np.minimum(*pair) for pair in zip(a.low, b.low, strict=True)],
    [np.maximum(*pair) for pair in zip(a.high, b.high, strict=True)],
    a.logits + b.logits.astype(np.float64),
  )


@partial(jax.jit, static_argnums=(0, 1))
def look(
  plan: Plan, steps: Any, numbers: Numbers, arrays: Any, x: jax.Array, weight: jax.Array
) -> Seen:
  """Every layer of one batch in exact evaluation, beside the float network.

  Args:
    plan: of the switched network; static.
    steps: of the integer program; static.
    numbers: of the switched network.
    arrays: of the integer program.
    x: (batch, height, width, channels) float32.
    weight: (batch,) how much each image counts.
  """
  output = outputs_of(plan)
  real = {}

  def record(tensor, array):
    real[tensor] = array
    return array

  logits = run(plan, numbers, no_switches(plan), x, record)
  scale, low, high = numbers.grids[INPUT]
  codes = all_tensors(steps, arrays, jnp.round(jnp.clip(x * (1 / scale), low, high)))
  powers, lows, highs = [], [], []
  for tensor in output:
    approximate = unmove(numbers, tensor, codes[tensor] * numbers.grids[tensor][0])
    noise = jnp.square(real[tensor] - approximate)
    signal = _over_images(jnp.square(real[tensor]), weight)
    powers.append(jnp.stack([signal, _over_images(noise, weight)]))
    axes = tuple(range(codes[tensor].ndim - 1))
    lows.append(jnp.min(codes[tensor], axis=axes))
    highs.append(jnp.max(codes[tensor], axis=axes))
  exact = codes[plan.graph.output] * numbers.grids[plan.graph.output][0]
  agree = weight @ (logits.argmax(-1) == exact.argmax(-1)).astype(jnp.float32)
  ends = jnp.append(logit_errors(logits, exact, weight), agree)
  return Seen(jnp.stack(powers), lows, highs, ends)


def _over_images(array: jax.Array, weight: jax.Array) -> jax.Array:
  return weight @ jnp.sum(array.astype(jnp.float32), axis=tuple(range(1, array.ndim)))


def outputs_of(plan: Plan) -> tuple[str, ...]:
  """The tensor that each layer ends in."""
  owner, last = dict(plan.owner), {0: INPUT}
  for node in plan.graph.nodes:
    if set(node.outputs) & plan.rounded:
      last[owner[node.name]] = node.output
  return tuple(last[i] for i in range(len(plan.layers)))
