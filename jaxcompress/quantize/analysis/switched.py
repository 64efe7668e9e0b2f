"""A float network each of whose layers can be switched to integers, and what passes over it give.

The switches are traced numbers, so one compiled program serves every combination of layers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT, Folded, Graph
from jaxcompress.nn.execute import run_node
from jaxcompress.nn.outputs import holds_classes
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.program import all_tensors
from jaxcompress.quantize.model import Move

TINY = 1e-30  # float32
See = Callable[[str, jax.Array, jax.Array | None], None]
Array = jax.Array | np.ndarray


class Plan(NamedTuple):
  """The static half of a switched network. Hashable, so it can be static under ``jit``.

  Attributes:
    graph: with fused activations.
    layers: names of the switches, in the order in which the layers run.
    owner: pairs of a node (or ``"input"``) and the position of the switch that it obeys.
    rounded: tensors that have a grid, and are rounded where their switch says so.
    moved: tensors whose channels differ from the float network's.
  """

  graph: Graph
  layers: tuple[str, ...]
  owner: tuple[tuple[str, int], ...]
  rounded: frozenset[str] = frozenset()
  moved: frozenset[str] = frozenset()


class Numbers(NamedTuple):
  """The arrays of a switched network.

  Attributes:
    layers: by node, weights (1 + widths, ...) and biases (1 + widths, out): those of the float
      network first.
    grids: by rounded tensor and output, the scale and the lowest and the highest code, float32 (3,).
    moves: by moved tensor, scale and shift, float32 (2, channels).
  """

  layers: Mapping[str, Any]
  grids: Mapping[str, Array]
  moves: Mapping[str, Array]


class Switches(NamedTuple):
  """One pass over the network, or several on a first axis.

  Attributes:
    weights: (layers,) int32: which of a layer's weights it has; 0: those in float.
    outputs: (layers,) bool: whether its outputs are rounded.
  """

  weights: Array
  outputs: Array


def numbers_of(
  folded: Mapping[str, Folded],
  rounded: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]],
  grids: Mapping[str, Grid],
  moves: Mapping[str, Move],
) -> Numbers:
  """Arrays on the device.

  Args:
    folded: the float network's layers.
    rounded: weights and bias by name, as each width has them; a layer that one lacks stays.
    grids: of the tensors that are rounded, and of the outputs.
    moves: of the tensors that are moved.
  """
  layers = {}
  for name, layer in folded.items():
    real = layer.weights, np.asarray(layer.bias)
    pairs = [real, *(one.get(name, real) for one in rounded)]
    layers[name] = tuple(np.stack(arrays).astype(np.float32) for arrays in zip(*pairs, strict=True))
  return jax.device_put(
    Numbers(
      layers,
      {
        name: np.array([grid.scale, grid.low, grid.high], np.float32)
        for name, grid in grids.items()
      },
      {name: np.stack(move).astype(np.float32) for name, move in moves.items()},
    )
  )


def run(
  plan: Plan,
  numbers: Numbers,
  switches: Switches,
  x: jax.Array,
  see: See = lambda tensor, array, steps: None,
) -> tuple[jax.Array, ...]:
  """The outputs with some layers in float and some on integers, under ``jit``.

  A layer on integers computes in float with the real numbers that its integers stand for, so
  sums are not rounded as on a device; its output then is.

  Args:
    plan: of the network; static.
    numbers: its arrays.
    switches: of one pass.
    x: (batch, height, width, channels), float32.
    see: ``(tensor, array, steps)`` is called with every tensor in the float network's channels, and
      in units of its grid's steps before it was rounded, or None.
  """
  owner, tensors = dict(plan.owner), {}

  def put(tensor, array, node, on):
    rounded = switches.outputs[owner[node]]
    tensors[tensor], steps = _round(plan, numbers, tensor, array, on, rounded)
    see(tensor, tensors[tensor], steps)

  put(INPUT, x, INPUT, None)
  for node in plan.graph.nodes:
    inputs = [tensors[name] for name in node.inputs]
    layer, on = numbers.layers.get(node.name), None
    if layer is not None:
      width = switches.weights[owner[node.name]]
      on, layer = width > 0, tuple(jnp.take(array, width, axis=0) for array in layer)
      inputs = [
        jnp.where(on, _move(numbers, tensor, array), array) if tensor in plan.moved else array
        for tensor, array in zip(node.inputs, inputs, strict=True)
      ]
    for tensor, array in zip(node.outputs, run_node(node, layer, *inputs), strict=True):
      put(tensor, array, node.name, on)
  return tuple(tensors[tensor] for _, tensor in plan.graph.outputs)


def _round(plan, numbers, tensor, array, on, rounded):
  """An output in the float network's channels, rounded where asked, and its grid's steps before.

  ``on``: it is moved already.
  """
  steps = None
  if tensor in plan.moved:
    moved = _move(numbers, tensor, array)
    array = moved if on is None else jnp.where(on, array, moved)
  if tensor in plan.rounded:
    scale, low, high = numbers.grids[tensor]
    steps = array * (1 / scale)
    array = jnp.where(rounded, jnp.clip(jnp.round(steps), low, high) * scale, array)
  return unmove(numbers, tensor, array), steps


def _move(numbers: Numbers, tensor: str, array: jax.Array) -> jax.Array:
  scale, shift = _channels(numbers, tensor, array)
  return array / scale - shift


def unmove(numbers: Numbers, tensor: str, array: jax.Array) -> jax.Array:
  """A tensor of the integer network in the float network's channels."""
  if tensor not in numbers.moves:
    return array
  scale, shift = _channels(numbers, tensor, array)
  return (array + shift) * scale


def _channels(numbers: Numbers, tensor: str, array: jax.Array) -> Array:
  return numbers.moves[tensor].reshape(2, *(1,) * (array.ndim - 1), -1)


def output_errors(
  graph: Graph,
  real: tuple[jax.Array, ...],
  other: tuple[jax.Array, ...],
  weight: jax.Array,
) -> jax.Array:
  """(outputs, 3) signal, noise and ``KL(real || other)`` of every output, summed over images.

  The divergence is that of class probabilities, a mean over the pixels of a map; of outputs that hold
  no scores of classes that of normal distributions as wide as the signal, ``noise / (2 signal)``.
  """
  rows = []
  for i, pair in enumerate(zip(real, other, strict=True)):
    a, b = pair
    axes = tuple(range(1, a.ndim))
    signal, noise = (jnp.sum(jnp.square(array), axis=axes) for array in (a, a - b))
    if i == 0 and holds_classes(graph):
      log_p, log_q = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
      kl = jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1), axis=axes[:-1])
    else:
      kl = noise / (2 * jnp.maximum(signal, TINY))
    rows.append(jnp.stack([weight @ signal, weight @ noise, weight @ kl]))
  return jnp.stack(rows)


class Passes(NamedTuple):
  """Sums over the images of one batch, for every pass.

  Attributes:
    errors: (passes, outputs, 3) signal, noise and divergence of the outputs, summed over images.
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

    def count(tensor, array, steps):
      if steps is None:
        return
      _, low, high = numbers.grids[tensor]
      beyond = (jnp.round(steps) < low) | (jnp.round(steps) > high)
      clipped[tensor] = _over_images(beyond, weight) / math.prod(steps.shape[1:])

    made = run(plan, numbers, Switches(*switches), x, count)
    return made, jnp.stack([clipped[tensor] for tensor in outputs])

  made, clipped = jax.lax.map(one, tuple(switches))
  return Passes(errors_of_passes(plan.graph, made, weight), clipped)


def errors_of_passes(graph: Graph, made: tuple[jax.Array, ...], weight: jax.Array) -> jax.Array:
  """(passes, outputs, 3) errors of outputs (passes, batch, ...), beside those of the first pass."""
  real = tuple(array[0] for array in made)
  return jax.vmap(lambda *other: output_errors(graph, real, other, weight))(*made)


class Seen(NamedTuple):
  """The layers in one batch, in order.

  Attributes:
    powers: (layers, 2) signal and noise, summed over images.
    low: (channels,) least code of each channel, for each layer.
    high: (channels,) largest code.
    errors: (outputs, 3) signal, noise and divergence of the outputs, summed over images.
    agree: images on which the largest of the first output is the same; of a map, a mean of pixels.
  """

  powers: Any
  low: Any
  high: Any
  errors: Any
  agree: Any


def join(a: Seen, b: Seen) -> Seen:
  """Two batches as one; sums are kept in float64."""
  return Seen(
    a.powers + b.powers.astype(np.float64),
    [np.minimum(*pair) for pair in zip(a.low, b.low, strict=True)],
    [np.maximum(*pair) for pair in zip(a.high, b.high, strict=True)],
    a.errors + b.errors.astype(np.float64),
    a.agree + b.agree.astype(np.float64),
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
  none, real = np.zeros(len(plan.layers), np.int32), {}
  keep = lambda tensor, array, steps: real.update({tensor: array})  # noqa: E731
  made = run(plan, numbers, Switches(none, none > 0), x, keep)
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
  exact = tuple(codes[tensor] * numbers.grids[tensor][0] for _, tensor in plan.graph.outputs)
  alike = (made[0].argmax(-1) == exact[0].argmax(-1)).astype(jnp.float32)
  agree = weight @ jnp.mean(alike, axis=tuple(range(1, alike.ndim)))
  errors = output_errors(plan.graph, made, exact, weight)
  return Seen(jnp.stack(powers), lows, highs, errors, agree)


def _over_images(array: jax.Array, weight: jax.Array) -> jax.Array:
  return weight @ jnp.sum(array.astype(jnp.float32), axis=tuple(range(1, array.ndim)))


def outputs_of(plan: Plan) -> tuple[str, ...]:
  """The tensor that each layer ends in."""
  owner, last = dict(plan.owner), {0: INPUT}
  for node in plan.graph.nodes:
    if set(node.outputs) & plan.rounded:
      last[owner[node.name]] = node.output
  return tuple(last[i] for i in range(len(plan.layers)))
