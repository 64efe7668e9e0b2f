"""Learns one block: its weights' rounding and scales, its biases and its activations' steps together."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.nn.execute import run_node
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.ptq.adaround import as_they_are, regulariser, soft_rounding
from jaxcompress.quantize.ptq.blocks import Shape
from jaxcompress.quantize.ptq.few_bits import LINEAR, made_up
from jaxcompress.quantize.quantizers.steps import round_to_step

FIRST_WEIGHT, LAST_WEIGHT = 0.1, 10.0  # of the regulariser; each weight's own rounding is 1 / 12
WARMUP = 0.2  # share of the steps without the regulariser
FIRST_BETA, LAST_BETA = 20.0, 2.0
MEASURED = 8  # batches that tell how good a block is
TICKS = 10  # that a block gives
Params = dict[str, dict[str, jax.Array]]


class Settings(NamedTuple):
  """How blocks are reconstructed; hashable.

  Attributes:
    layerwise: whether each layer is a block of its own.
    kept: probability with which a value is read as it is rounded, and otherwise as it is in float,
      for each value that the block reads and of tensors inside that have few bits; 1: always.
    steps: of Adam for each block.
    rate: of the rounding, in units of its sigmoid's argument.
    scale_rate: of the weights' scales, as a share of them.
    step_rate: of the activations' steps, likewise.
    bias_rate: of biases, as a share of the standard deviation of what the layer gives.
  """

  layerwise: bool = False
  kept: float = 1.0
  steps: int = 500
  rate: float = 0.1
  scale_rate: float = 5e-3
  step_rate: float = 5e-3
  bias_rate: float = 3e-3


class Task(NamedTuple):
  """Parts of all blocks of one shape that are learned; hashable.

  Attributes:
    shape: of the block.
    learned: the integers of the weights whose rounding is learned, by layer.
    rounded: of tensors with few bits: the tensor, the name of its grid, and the highest code; the
      lowest one is zero.
    trained: the grids whose step is learned.
    settings: of all blocks.
    batch: images in each step.
  """

  shape: Shape
  learned: tuple[tuple[str, Levels], ...]
  rounded: tuple[tuple[str, str, int], ...]
  trained: tuple[str, ...]
  settings: Settings
  batch: int


class Given(NamedTuple):
  """Where learning of a block starts, by name.

  Attributes:
    weights: float ones where their rounding is learned, otherwise rounded.
    scales: (1, ..., out) of the weights.
    bias: (out,).
    steps: of the grids in ``rounded``.
  """

  weights: dict[str, jax.Array]
  scales: dict[str, jax.Array]
  bias: dict[str, jax.Array]
  steps: dict[str, jax.Array]


class Maps(NamedTuple):
  """Maps of all images at a block's borders, or a batch of them.

  Attributes:
    real: what the block reads in the float network.
    rounded: what it reads in the rounded one.
    wanted: what it makes of the former in float.
  """

  real: tuple[jax.Array, ...]
  rounded: tuple[jax.Array, ...]
  wanted: tuple[jax.Array, ...]


class Learned(NamedTuple):
  """Outcome of learning a block, by name, and how good it is.

  Attributes:
    codes: of the weights whose rounding was learned.
    scales: of these.
    bias: of all layers.
    steps: of the grids that were learned.
    before: mean squared error of the outputs with weights rounded to nearest, summed over channels.
    after: with what was learned; never larger.
  """

  codes: dict[str, np.ndarray]
  scales: dict[str, np.ndarray]
  bias: dict[str, np.ndarray]
  steps: dict[str, np.ndarray]
  before: float
  after: float


def learn_block(
  task: Task, given: Given, maps: Maps, key: jax.Array, tick: Callable[[], None] = lambda: None
) -> Learned:
  """Learns a block: Adam on the error of its outputs, until every weight is rounded up or down.

  The loss is ``|y - y*|**2``, summed over channels, divided by what rounding the block's weights to
  nearest makes of it and times a twelfth for each weight, plus ``w sum of 1 - |2 h - 1|**b``, where
  ``b`` falls from 20 to 2 and ``w`` grows from 0.1 to 10 after a fifth of the steps. Published
  settings have 20,000 steps of 32 whole images and a constant weight of 0.01 to 0.2; growing
  weights do with a twentieth of the steps, and pieces of maps with a fraction of each.

  Args:
    task: what is learned.
    given: where it starts.
    maps: of all images.
    key: of the batches, and of the values that are not rounded.
    tick: called ten times.

  References:
    Li et al., `BRECQ <https://arxiv.org/abs/2102.05426>`_, 2021, section 3 and appendix; Wei et al.,
    `QDrop <https://arxiv.org/abs/2203.05740>`_, 2022, algorithm 1.
  """
  settings = task.settings
  params: Params = {
    "rounding": {n: as_they_are(given.weights[n], given.scales[n]) for n, _ in task.learned},
    "scales": {n: jnp.zeros_like(given.scales[n]) for n, _ in task.learned},
    "bias": {n: jnp.zeros_like(bias) for n, bias in given.bias.items()},
    "steps": {name: jnp.zeros(()) for name in task.trained},
  }
  codes = {n: nearest(given.weights[n], given.scales[n], to) for n, to in task.learned}
  unrounded = {n: (w, given.bias[n]) for n, w in given.weights.items()}
  keys = [jax.random.fold_in(key, i) for i in range(MEASURED)]
  probes = [_probe(task, unrounded, given.steps, maps, key) for key in keys]
  spread = probes[-1].spread
  means = jax.tree.map(lambda *each: sum(each) / MEASURED, *(probe.means for probe in probes))
  plain = rounded_layers(given, means, codes, given.scales, given.bias)
  own, before = 0.0, 0.0
  for one, other in zip(keys, probes, strict=True):
    found = _probe(task, plain, given.steps, maps, one)
    own += float(_distance(found.outputs, other.outputs, found.counts)) / MEASURED
    before += float(found.error) / MEASURED
  weights = sum(given.weights[n].size for n, _ in task.learned)
  unit = jnp.float32(12 * own / weights if own > 0 and weights else max(before, 1e-12))
  state = optax.scale_by_adam().init(params)
  for i in range(settings.steps):
    params, state = _step(task, (params, state), given, spread, means, unit, maps, key, i)
    if (i + 1) * TICKS // settings.steps > i * TICKS // settings.steps:
      jax.block_until_ready(params)
      tick()
  codes = {n: _chosen(params["rounding"][n], given, n, to) for n, to in task.learned}
  scales, bias, steps = moved(task, params, given, spread)
  layers = rounded_layers(given, means, codes, scales, bias)
  after = float(np.mean([_probe(task, layers, given.steps | steps, maps, k).error for k in keys]))
  if not after <= before:
    codes = {n: nearest(given.weights[n], given.scales[n], to) for n, to in task.learned}
    layers, scales, steps, after = plain, given.scales, {}, before
  bias = {n: own for n, (_, own) in layers.items()}
  host = jax.device_get((codes, {n: scales[n] for n in codes}, bias, steps))
  whole = {n: array.astype(np.int8) for n, array in host[0].items()}
  return Learned(whole, host[1], host[2], host[3], before, after)


def nearest(weights: jax.Array, scale: jax.Array, to: Levels) -> jax.Array:
  """Codes of weights that are rounded to nearest, as float32."""
  return jnp.clip(jnp.round(weights * (1 / scale)), to.low, to.high)


def rounded_layers(
  given: Given,
  means: Mapping[str, jax.Array],
  codes: Mapping[str, jax.Array],
  scales: Mapping[str, jax.Array],
  bias: Mapping[str, jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Kernels and biases of a block with these codes, which need not be whole, by name.

  Biases make up for what rounding adds where a layer reads its mean, (channels,) in ``means``: what
  is left for learning are errors that vary.
  """
  layers = {name: (weights, bias[name]) for name, weights in given.weights.items()}
  for name in codes:
    kernel, own = codes[name] * scales[name], bias[name]
    if name in means:
      own = own - made_up(means[name], kernel - given.weights[name])
    layers[name] = kernel, own
  return layers


def _chosen(v: jax.Array, given: Given, name: str, to: Levels) -> jax.Array:
  return _codes(given.weights[name], given.scales[name], soft_rounding(v) >= 0.5, to)


def _codes(weights: jax.Array, scale: jax.Array, up: jax.Array, to: Levels) -> jax.Array:
  codes = jnp.clip(jnp.floor(weights / scale) + up, to.low, to.high)
  return jnp.where(weights == 0, 0.0, codes)  # pruned weights stay


def moved(
  task: Task, params: Params, given: Given, spread: Mapping[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
  """Scales, biases and steps after learning; their rates are shares of the rounding's."""
  settings = task.settings
  by = {
    name: rate / settings.rate
    for name, rate in zip(
      ("scales", "bias", "steps"),
      (settings.scale_rate, settings.bias_rate, settings.step_rate),
      strict=True,
    )
  }
  return (
    {n: given.scales[n] * jnp.exp(by["scales"] * p) for n, p in params["scales"].items()},
    {n: given.bias[n] + by["bias"] * spread[n] * p for n, p in params["bias"].items()},
    {n: given.steps[n] * jnp.exp(by["steps"] * p) for n, p in params["steps"].items()},
  )


def run_block(
  shape: Shape,
  layers: Mapping[str, Any],
  xs: tuple[jax.Array, ...],
  visit: Callable[[str, jax.Array], jax.Array],
) -> tuple[jax.Array, ...]:
  """The outputs of a block; ``visit`` replaces every tensor that a node makes."""
  tensors = dict(zip(shape.inputs, xs, strict=True))
  for node in shape.nodes:
    outputs = run_node(node, layers.get(node.name), *(tensors[name] for name in node.inputs))
    tensors |= {t: visit(t, array) for t, array in zip(node.outputs, outputs, strict=True)}
  return tuple(tensors[tensor] for tensor in shape.outputs)


def mixed(rounded: jax.Array, real: jax.Array, kept: float, key: jax.Array) -> jax.Array:
  """QDrop: each value rounded with probability ``kept``, otherwise real."""
  if kept >= 1:
    return rounded
  return jnp.where(jax.random.bits(key, rounded.shape, jnp.uint8) < 256 * kept, rounded, real)


def _rounds(task: Task, steps: Mapping[str, jax.Array], key: jax.Array | None):
  """A visitor that rounds the tensors with few bits; some of their values are not, with a key."""
  places = {tensor: (i, grid, high) for i, (tensor, grid, high) in enumerate(task.rounded)}

  def visit(tensor: str, array: jax.Array) -> jax.Array:
    if tensor not in places:
      return array
    i, grid, high = places[tensor]
    rounded = round_to_step(array, steps[grid], None, high)
    if key is None:
      return rounded
    return mixed(rounded, array, task.settings.kept, jax.random.fold_in(key, i))

  return visit


def draw(task: Task, maps: Maps, key: jax.Array) -> tuple[Maps, jax.Array]:
  """A batch of images, or of pieces of them, and which cells of the outputs count."""
  piece = task.shape.piece
  first, *rest = jax.random.split(key, 3)
  images = jax.random.randint(first, (task.batch,), 0, len(maps.wanted[0]))
  if not piece.size:
    return jax.tree.map(lambda array: array[images], maps), jnp.ones(())
  cells, (low, high) = piece.size // piece.stride, piece.margin
  places, valid, at = [], [], jnp.arange(cells)[None]
  for side, one in zip(piece.maps, rest, strict=True):
    most = (side - piece.size) // piece.stride
    start = jax.random.randint(one, (task.batch,), 0, most + 1)
    places.append(start)
    start = start[:, None]
    valid.append(((at >= low) | (start == 0)) & ((at < cells - high) | (start == most)))

  def cut(array, size, stride):
    def one(image, top, left):
      start, sizes = (image, top * stride, left * stride, 0), (1, size, size, array.shape[-1])
      return jax.lax.dynamic_slice(array, start, sizes)[0]

    return jax.vmap(one)(images, *places)

  real, rounded = (
    tuple(cut(array, piece.size, piece.stride) for array in arrays)
    for arrays in (maps.real, maps.rounded)
  )
  wanted = tuple(cut(array, cells, 1) for array in maps.wanted)
  counts = valid[0][:, :, None, None] & valid[1][:, None, :, None]
  return Maps(real, rounded, wanted), counts.astype(jnp.float32)


def _mean_error(outputs, wanted, counts) -> jax.Array:
  """Mean over cells of the squared error, summed over channels and outputs."""
  total = jnp.zeros(())
  for y, target in zip(outputs, wanted, strict=True):
    square = jnp.sum(jnp.square(y - target), axis=-1, keepdims=True)
    count = jnp.broadcast_to(counts.reshape(counts.shape or (1,) * square.ndim), square.shape)
    total += jnp.sum(square * count) / jnp.maximum(jnp.sum(count), 1)
  return total


_distance = jax.jit(_mean_error)


class _Probe(NamedTuple):
  outputs: tuple[jax.Array, ...]
  counts: jax.Array
  error: jax.Array
  spread: dict[str, jax.Array]
  means: dict[str, jax.Array]


@partial(jax.jit, static_argnums=0)
def _probe(task: Task, layers, steps, maps: Maps, key) -> _Probe:
  """A batch's outputs and error, how each layer's outputs spread, and the means of what it reads."""
  batch, counts = draw(task, maps, key)
  rounds, spread = _rounds(task, steps, None), {}
  nodes = [node for node in task.shape.nodes if node.name in layers]
  tensor_of = {node.output: node.name for node in nodes}
  read = dict(zip(task.shape.inputs, batch.rounded, strict=True))

  def visit(tensor, array):
    if tensor in tensor_of:
      spread[tensor_of[tensor]] = jnp.std(array, axis=tuple(range(array.ndim - 1)))
    read[tensor] = rounds(tensor, array)
    return read[tensor]

  outputs = run_block(task.shape, layers, batch.rounded, visit)
  linear = ((node, read[node.inputs[0]]) for node in nodes if node.op in LINEAR)
  flat = ((n.name, x.reshape(len(x), -1) if n.op == "Dense" else x) for n, x in linear)
  means = {name: jnp.mean(x, axis=tuple(range(x.ndim - 1))) for name, x in flat}
  return _Probe(outputs, counts, _mean_error(outputs, batch.wanted, counts), spread, means)


def _loss(
  params, task: Task, given: Given, spread, means, unit, batch: Maps, counts, key, beta, weight
):
  kept, keys = task.settings.kept, jax.random.split(key, 1 + len(batch.real))
  pairs = zip(batch.rounded, batch.real, keys[1:], strict=True)
  xs = tuple(mixed(rounded, real, kept, key) for rounded, real, key in pairs)
  scales, bias, steps = moved(task, params, given, spread)
  codes = {
    n: _codes(given.weights[n], given.scales[n], soft_rounding(params["rounding"][n]), to)
    for n, to in task.learned
  }
  layers = rounded_layers(given, means, codes, scales, bias)
  visit = _rounds(task, given.steps | steps, keys[0])
  outputs = run_block(task.shape, layers, xs, visit)
  free = sum(regulariser(v, beta) for v in params["rounding"].values())
  return _mean_error(outputs, batch.wanted, counts) / unit + weight * free


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(task: Task, carry, given: Given, spread, means, unit, maps: Maps, key, i):
  """One step of Adam; rates but the rounding's fall to zero along half a cosine."""
  params, state = carry
  settings, keys = task.settings, jax.random.split(jax.random.fold_in(key, i))
  batch, counts = draw(task, maps, keys[0])
  share = i / settings.steps
  done = jnp.maximum(share - WARMUP, 0) / (1 - WARMUP)
  beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * done
  weight = jnp.where(share < WARMUP, 0.0, FIRST_WEIGHT * (LAST_WEIGHT / FIRST_WEIGHT) ** done)
  arguments = task, given, spread, means, unit, batch, counts, keys[1], beta, weight
  updates, state = optax.scale_by_adam().update(jax.grad(_loss)(params, *arguments), state)
  falling = settings.rate * 0.5 * (1 + jnp.cos(jnp.pi * share))
  rates = {kind: settings.rate if kind == "rounding" else falling for kind in params}
  return {
    kind: jax.tree.map(lambda p, u, rate=rates[kind]: p - rate * u, params[kind], updates[kind])
    for kind in params
  }, state
