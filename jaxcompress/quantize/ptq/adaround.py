"""AdaRound: learns, layer by layer, which weights are rounded up and which down.

It walks through a network and chooses the rounding of each layer on what the rounded layers before it
give.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Folded, Graph, Node, kernel_shape
from jaxcompress.nn.activations import activate
from jaxcompress.nn.execute import linear, run_node
from jaxcompress.nn.operations import by_groups, needed_shape, pads_of, slide_of, window_of
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import both
from jaxcompress.quantize.codes import round_kernel
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.weighted import as_map
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.observe import rounding_visitor
from jaxcompress.quantize.sites import Sites

ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched to -0.1 .. 1.1 and clipped
STEPS, RATE = 1000, 0.1  # of Adam for each layer
ROWS = 256  # output positions in each step
WEIGHT = 0.3  # of the regulariser, against the error in units of a rounding step
WARMUP = 0.2  # share of the steps without the regulariser
FIRST_BETA, LAST_BETA = 20.0, 2.0
STORED_BYTES = 2**28  # of the maps that are alive at once
SAMPLED_BYTES = 2**26  # of the patches of one layer
MOST_IMAGES, MOST_ROWS = 512, 4096
Maps = dict[str, np.ndarray]


class Samples(NamedTuple):
  """Output positions of one layer.

  Attributes:
    patches: (rows, groups, in) float32, what the rounded network gives the layer.
    targets: (rows, groups, out) float32, what the float layer makes of what the float network
      gives it, before the activation.
  """

  patches: np.ndarray
  targets: np.ndarray


def soft_rounding(v: jax.Array) -> jax.Array:
  """``h = clip(1.2 sigmoid(v) - 0.1, 0, 1)``: 0 rounds down, 1 rounds up.

  Examples:
    >>> soft_rounding(jnp.array([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
  """
  return jnp.clip(jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def as_they_are(weights: jax.Array, scale: jax.Array) -> jax.Array:
  """The ``v`` with which soft rounding changes nothing: ``h(v)`` is the fraction of ``w / s``.

  Examples:
    >>> float(soft_rounding(as_they_are(jnp.array(0.75), jnp.array(1.0))))
    0.75
  """
  ratio = weights / scale
  return -jnp.log((ZETA - GAMMA) / (ratio - jnp.floor(ratio) - GAMMA) - 1)


def soft_weights(weights: jax.Array, scale: jax.Array, v: jax.Array, to: Levels) -> jax.Array:
  """``s clip(floor(w / s) + h(v), low, high)`` (Nagel et al., 2020, equation 22)."""
  codes = jnp.floor(weights / scale) + soft_rounding(v)
  return scale * jnp.clip(codes, to.low, to.high)


def regulariser(v: jax.Array, beta: jax.Array | float) -> jax.Array:
  """``sum of 1 - |2 h(v) - 1|**beta``, which is zero where every weight has decided.

  Examples:
    >>> float(regulariser(jnp.array([0.0, 9.0]), 2.0))
    1.0
  """
  return jnp.sum(1 - jnp.abs(2 * soft_rounding(v) - 1) ** beta)


def choose_codes(
  weights: np.ndarray,
  scales: np.ndarray,
  bias: np.ndarray,
  samples: Samples,
  *,
  act: str | None,
  to: Levels,
  rng: jax.Array,
) -> np.ndarray:
  """Chooses the integers of one layer.

  Minimises the squared error of the layer's output after its activation, in each channel relative
  to a rounding step there, plus the regulariser, whose exponent falls from 20 to 2. An output
  channel that ends up worse on the samples than rounding to nearest keeps that. Zeros stay zero.

  Args:
    weights: (groups, in, out) float32.
    scales: (groups, 1, out) float32.
    bias: (groups, out) float32.
    samples: of the layer.
    act: name of the activation function, or None.
    to: the integers.
    rng: of the samples' order.

  Returns:
    int8, shaped like ``weights``.

  References:
    Nagel et al., `Up or Down? Adaptive Rounding for Post-Training Quantization
    <https://arxiv.org/abs/2004.10568>`_, 2020, section 3.
  """
  arrays = (np.asarray(array, np.float32) for array in (weights, scales, bias))
  codes = _optimise(*arrays, samples, rng, act, to)
  return np.asarray(codes).astype(np.int8)


def grouped(patches: jax.Array, weights: jax.Array) -> jax.Array:
  """(rows, groups, in) times (groups, in, out): (rows, groups, out)."""
  if weights.shape[-1] == 1:  # depthwise: too little for a product of matrices
    return jnp.sum(patches * weights[None, :, :, 0], axis=-1, keepdims=True)
  return jnp.einsum("mgd,gdo->mgo", patches, weights, precision="highest")


@partial(jax.jit, static_argnums=(5, 6))
def _optimise(weights, scales, bias, samples, rng, act, to):
  power = jnp.mean(jnp.square(samples.patches), axis=(0, 2))  # (groups,)
  unit = jnp.square(scales[:, 0]) * jnp.maximum(power, 1e-12)[:, None]  # (groups, out)
  targets = activate(act, samples.targets)
  rows = len(targets)

  def error(rounded, patches, wanted):
    """(groups, out) mean squared errors in units of a rounding step."""
    y = activate(act, grouped(patches, rounded) + bias[None])
    return jnp.mean(jnp.square(y - wanted), axis=0) / unit

  def loss(v, batch, beta, on):
    rounded = soft_weights(weights, scales, v, to)
    total = jnp.sum(error(rounded, samples.patches[batch], targets[batch]))
    return total + WEIGHT * on * regulariser(v, beta)

  optimizer = optax.adam(RATE)
  start = as_they_are(weights, scales)

  def step(i, carry):
    v, state = carry
    batch = jax.random.randint(jax.random.fold_in(rng, i), (min(ROWS, rows),), 0, rows)
    done = jnp.maximum(i / STEPS - WARMUP, 0) / (1 - WARMUP)
    beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * done
    grads = jax.grad(loss)(v, batch, beta, i >= WARMUP * STEPS)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(v, updates), state

  v, _ = jax.lax.fori_loop(0, STEPS, step, (start, optimizer.init(start)))
  clip = lambda codes: jnp.clip(codes, to.low, to.high)  # noqa: E731
  learned = clip(jnp.floor(weights / scales) + (soft_rounding(v) >= 0.5))
  learned = jnp.where(weights == 0, 0.0, learned)  # pruned weights stay
  nearest = clip(jnp.round(weights * (1 / scales)))
  worse = error(learned * scales, samples.patches, targets) > error(
    nearest * scales, samples.patches, targets
  )
  return jnp.where(worse[:, None], nearest, learned)


def adaround(
  sites: Sites,
  folded: Mapping[str, Folded],
  scales: Mapping[str, np.ndarray],
  grids: Mapping[str, Grid],
  batches: Batches,
  *,
  to: Mapping[str, Levels],
  seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, Folded]]:
  """AdaRound of every layer, in order: each reads what the rounded layers before it make.

  The maps of a bounded number of images are kept, only as long as a later node reads them, once in
  float and once rounded; each layer sees at most 4096 random output positions of them.

  Args:
    sites: where tensors are rounded.
    folded: float layers whose factors are ones.
    scales: of their kernels.
    grids: of every tensor.
    batches: of images; told of every layer, too.
    to: the integers of the weights, by name.
    seed: of the samples.

  Returns:
    ``(codes, folded)``: int8 integers of every layer by name, and the layers with biases that take
    out the mean of the error that is left.
  """
  graph, rng = sites.graph, np.random.default_rng(seed)
  images = np.concatenate([x[weight > 0] for x, weight in batches.at(slice(_affordable(graph)))])
  visit = rounding_visitor(grids, sites.rounded)
  real: Maps = {INPUT: images}
  rounded: Maps = {INPUT: np.asarray(visit(INPUT, images))}
  last = {tensor: node.name for node in graph.nodes for tensor in node.inputs}
  codes, layers = {}, {}
  for i, node in enumerate(graph.nodes):
    ours, theirs = ([maps[name] for name in node.inputs] for maps in (real, rounded))
    if kernel_shape(node) is None:
      outputs = _each(_plain(node), batches.size, *ours)
      approximate = _each(_plain(node), batches.size, *theirs)
    else:
      layer, name = folded[node.name], node.name
      target = _each(_linear(node, layer.kernel, layer.bias), batches.size, *ours)[0]
      samples = sample_positions(node, theirs[0], target, rng)
      codes[name] = _round_layer(node, layer, scales[name], samples, to[name], seed + i)
      kernel = codes[name] * scales[name]
      layers[name] = layer._replace(bias=_centred(node, layer, kernel, samples))
      y = _each(_linear(node, kernel, layers[name].bias), batches.size, *theirs)[0]
      act = node.attrs.get("act")
      outputs, approximate = ([np.asarray(activate(act, jnp.asarray(a)))] for a in (target, y))
      batches.tick()
    for tensor in node.inputs:
      if last[tensor] == node.name:
        real.pop(tensor, None)
        rounded.pop(tensor, None)
    for tensor, a, b in zip(node.outputs, outputs, approximate, strict=True):
      real[tensor], rounded[tensor] = a, np.asarray(visit(tensor, b))
  return codes, layers


def _affordable(graph: Graph) -> int:
  """Images whose maps fit in memory; a few of the largest maps are alive at once."""
  shapes = [graph.input_shape, *(shape for node in graph.nodes for shape in node.output_shapes)]
  each = 8 * 4 * max(int(np.prod(shape[1:])) for shape in shapes)
  return int(np.clip(STORED_BYTES // each, 1, MOST_IMAGES))


def _anonymous(node: Node) -> Node:
  """A node that equals all others of its kind, so that they share a compiled program."""
  return node._replace(name="", inputs=(), outputs=())


_run_plain = partial(jax.jit, static_argnums=0)(lambda node, *x: run_node(node, None, *x))
_run_linear = partial(jax.jit, static_argnums=0)(linear)


def _plain(node: Node):
  return partial(_run_plain, _anonymous(node))


def _linear(node: Node, kernel: np.ndarray, bias: np.ndarray):
  arrays = jax.device_put((np.asarray(kernel, np.float32), np.asarray(bias, np.float32)))
  return lambda x: (_run_linear(_anonymous(node), *arrays, x),)


def _each(run, size: int, *arrays: np.ndarray) -> list[np.ndarray]:
  """Runs a node on a batch of images at a time; the last one is filled up."""
  parts = []
  for start in range(0, len(arrays[0]), size):
    batch = [array[start : start + size] for array in arrays]
    count = len(batch[0])
    full = [np.concatenate([a, np.repeat(a[:1], size - count, axis=0)]) for a in batch]
    parts.append([np.asarray(y)[:count] for y in run(*full)])
  return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def sample_positions(
  node: Node, x: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> Samples:
  """Draws output positions of a layer: the patches that it reads there, and its targets.

  Args:
    node: of the layer.
    x: (images, height, width, channels), or (images, in) of a linear layer.
    target: the layer's wanted outputs.
    rng: picks the positions.
  """
  if OPERATIONS[node.op].spreads:
    node, x = _spread(node, x)
  if node.op == "Dense":
    x, target = x.reshape(len(x), 1, 1, -1), target[:, None, None]
    window, depth, stride, dilation = (1, 1), x.shape[-1], (1, 1), (1, 1)
  elif x.ndim != 4:
    x, target = (array.reshape(as_map(array.shape)) for array in (x, target))
    window, depth, stride, dilation = (1, 1), needed_shape(node)[2], (1, 1), (1, 1)
  else:
    depth, window = needed_shape(node)[2], window_of(node)
    stride, pads, dilation = slide_of(node)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
  positions, channels, count = target.shape[:3], x.shape[-1], math.prod(window)
  rows = _pick(int(np.prod(positions)), count * channels, rng)
  image, top, left = np.unravel_index(rows, positions)
  cells = [
    x[image, top * stride[0] + i * dilation[0], left * stride[1] + j * dilation[1]]
    for i, j in np.ndindex(window)
  ]  # (rows, channels) each
  groups = channels // depth
  taps = np.stack(cells, axis=1).reshape(len(rows), count, groups, depth)
  patches = np.moveaxis(taps, 2, 1).reshape(len(rows), groups, -1)
  return Samples(patches, target[image, top, left].reshape(len(rows), groups, -1))


def _spread(node: Node, x: np.ndarray) -> tuple[Node, np.ndarray]:
  """A transposed convolution as an ordinary one, and its map with zeros between the cells."""
  down, right = both(node.attrs["stride"])
  images, height, width, channels = x.shape
  size = ((height - 1) * down + 1, (width - 1) * right + 1)
  spread = np.zeros((images, *size, channels), x.dtype)
  spread[:, ::down, ::right] = x
  fields = {"stride": 1, "padding": pads_of(node), "groups": 1, "dilation": 1}
  shapes = ((1, *size, channels),)
  node = node._replace(op="ConvNorm", attrs=FrozenDict({**node.attrs, **fields}))
  return node._replace(input_shapes=shapes), spread


def _pick(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
  """As many positions as memory allows, each at most once."""
  most = int(np.clip(SAMPLED_BYTES // (4 * size), 1, MOST_ROWS))
  return rng.permutation(count)[:most] if count > most else np.arange(count)


def split_groups(node: Node, kernel: np.ndarray) -> np.ndarray:
  """A kernel as (groups, in, out) products of matrices."""
  grouped = by_groups(node, kernel)  # (taps, depth, groups, out)
  return np.moveaxis(grouped, 2, 0).reshape(grouped.shape[2], -1, grouped.shape[3])


def join_groups(node: Node, matrices: np.ndarray) -> np.ndarray:
  """The inverse of :func:`split_groups`."""
  return np.moveaxis(matrices, 0, 1).reshape(kernel_shape(node))


def _round_layer(node, layer: Folded, scales, samples, to, seed) -> np.ndarray:
  if not OPERATIONS[node.op].trained:  # one weight in each channel: nothing to choose
    return round_kernel(layer.kernel, scales, to)
  groups = samples.patches.shape[1]
  matrices = choose_codes(
    split_groups(node, layer.kernel),
    scales.reshape(groups, 1, -1),
    layer.bias.reshape(groups, -1),
    samples,
    act=node.attrs.get("act"),
    to=to,
    rng=jax.random.key(seed),
  )
  return join_groups(node, matrices)


def _centred(node: Node, layer: Folded, kernel: np.ndarray, samples: Samples) -> np.ndarray:
  """The bias with which the layer's mean output is the float one's, on the samples."""
  y = np.matmul(samples.patches.swapaxes(0, 1), split_groups(node, kernel))  # (groups, rows, out)
  return np.mean(samples.targets.swapaxes(0, 1) - y, axis=1, dtype=np.float64).ravel()
