"""Block reconstruction: every block learns, in order, to give what the float network's gives.

It reads what the rounded blocks before it make. Maps at the borders of blocks are computed once and
kept while they are read, and blocks of one shape share their programs.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Folded
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.quantize.codes import round_kernel
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import HIGHEST, Grid
from jaxcompress.quantize.ptq.blocks import WHOLE, Block, Shape, anonymous, find_blocks, find_piece
from jaxcompress.quantize.ptq.few_bits import make_up
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.learn_block import (
  Given,
  Learned,
  Maps,
  Settings,
  Task,
  learn_block,
  run_block,
)
from jaxcompress.quantize.ptq.observe import rounding_visitor
from jaxcompress.quantize.sites import Sites

STORED_BYTES = 2**30  # of the maps at the borders of one block
MOST_IMAGES = 512
MOST_CELLS, MOST_BATCH = 512, 32  # of the outputs in each step, and images


class Reconstructed(NamedTuple):
  """Outcome of learning a network.

  Attributes:
    codes: int8 integers of the layers whose rounding was learned, by name.
    folded: layers with learned biases.
    scales: of the weights.
    grids: of every tensor.
    errors: of each block, before and after; see
      :class:`~jaxcompress.quantize.ptq.learn_block.Learned`.
  """

  codes: dict[str, np.ndarray]
  folded: dict[str, Folded]
  scales: dict[str, np.ndarray]
  grids: dict[str, Grid]
  errors: list[tuple[float, float]]


def reconstruct(
  sites: Sites,
  folded: Mapping[str, Folded],
  scales: Mapping[str, np.ndarray],
  grids: Mapping[str, Grid],
  batches: Batches,
  *,
  to: Mapping[str, Levels],
  settings: Settings,
  few: Collection[str] = (),
  clipped: frozenset[str] = frozenset(),
  below: Mapping[str, np.ndarray] = FrozenDict(),
  seed: int = 0,
) -> Reconstructed:
  """Reconstructs every block of a network, in order.

  Args:
    sites: where tensors are rounded.
    folded: float layers whose factors are ones.
    scales: of their kernels.
    grids: of every tensor.
    batches: of images, of which as many are used as 1 GB of maps allows; told of every block.
    to: the integers of the weights, by name; beside fewer bits, those of 8 are rounded to nearest.
    settings: of what is learned.
    few: grids with fewer than 8 bits, from zero up, whose steps are learned; the others' rounding
      is left out while a block is learned.
    clipped: nodes whose rectifier is there for their few bits, and not in the float network.
    below: by how much what layers read was shifted up for it, by their names.
    seed: of batches.
  """
  blocks = find_blocks(sites.graph, layerwise=settings.layerwise)
  parts = [x[weight > 0] for x, weight in batches.at(slice(_affordable(blocks)))]
  images = jnp.concatenate(parts)
  found = Reconstructed({}, dict(folded), dict(scales), dict(grids), [])
  real = {INPUT: images}
  rounded = {INPUT: rounding_visitor(grids, sites.rounded)(INPUT, images)}
  last = {tensor: i for i, block in enumerate(blocks) for tensor in block.inputs}
  enough = HIGHEST if few or any(levels.high < HIGHEST for levels in to.values()) else HIGHEST + 1
  network = _Network(sites, to, few, clipped, below, enough)
  for i, block in enumerate(blocks):
    xs, ys = (tuple(maps[tensor] for tensor in block.inputs) for maps in (real, rounded))
    key = jax.random.fold_in(jax.random.key(seed), i)
    wanted, made = _rebuild(block, network, found, xs, ys, settings, key, batches)
    for tensor in block.inputs:
      if last[tensor] == i:
        del real[tensor], rounded[tensor]
    for tensor, a, b in zip(block.outputs, wanted, made, strict=True):
      if last.get(tensor, -1) > i:
        real[tensor], rounded[tensor] = a, b
  return found


class _Network(NamedTuple):
  sites: Sites
  to: Mapping[str, Levels]
  few: Collection[str]
  clipped: frozenset[str]
  below: Mapping[str, np.ndarray]
  enough: int  # the highest weight from which on rounding is not learned


def _affordable(blocks: Sequence[Block]) -> int:
  """Images whose maps fit in memory: of a block's borders, in float and rounded."""
  most = 1
  for block in blocks:
    shapes: dict[str, tuple[int, ...]] = {}
    for node in block.nodes:
      shapes |= zip(node.inputs, node.input_shapes, strict=True)
      shapes |= zip(node.outputs, node.output_shapes, strict=True)
    most = max(most, sum(math.prod(shapes[t][1:]) for t in (*block.inputs, *block.outputs)))
  return int(np.clip(STORED_BYTES // (2 * 4 * most), 1, MOST_IMAGES))


def _rebuild(block, network: _Network, found: Reconstructed, xs, ys, settings, key, batches):
  """Learns a block and writes it down; returns its outputs in float and rounded."""
  sites, size = network.sites, batches.size
  key_of, to = sites.key_of, {node.name: network.to[node.name] for node in block.layers}
  shape, names, tensors = anonymous(block, find_piece(block))
  made = [t for node in block.nodes for t in node.outputs if t in sites.rounded]
  grids = {key_of[t]: f"grid{i}" for i, t in enumerate(made)}
  layers = {names[name]: _arrays(found.folded[name].kernel, found.folded[name].bias) for name in to}
  float_shape = shape._replace(
    piece=WHOLE,
    nodes=tuple(
      node._replace(attrs=FrozenDict({**node.attrs, "act": None}))
      if own.name in network.clipped
      else node
      for node, own in zip(shape.nodes, block.nodes, strict=True)
    ),
  )
  wanted = _passed(float_shape, layers, {}, xs, size)
  learned = [
    node.name
    for node in block.layers
    if OPERATIONS[node.op].trained and to[node.name].high < network.enough
  ]
  others = {name: up for name, up in network.below.items() if name in to and name not in learned}
  found.folded.update(
    make_up(
      {name: found.folded[name] for name in others},
      {name: _rounded(found, name, to[name]) for name in others},
      others,
    )
  )
  layers |= {names[n]: _arrays(found.folded[n].kernel, found.folded[n].bias) for n in others}
  few = [t for t in made if key_of[t] in network.few]
  elsewhere = {key_of[t] for t in sites.rounded if t not in made}
  trained = sorted({grids[key_of[t]] for t in few if key_of[t] not in elsewhere})
  if learned or trained:
    task = Task(
      shape,
      tuple((names[name], to[name]) for name in learned),
      tuple((tensors[t], grids[key_of[t]], found.grids[t].high) for t in few),
      tuple(trained),
      settings,
      _batch_size(shape, block, len(xs[0])),
    )
    given = Given(
      {
        names[name]: layers[names[name]][0]
        if name in learned
        else jnp.asarray(_rounded(found, name, to[name]))
        for name in to
      },
      {
        names[name]: jnp.asarray(found.scales[name]).reshape(
          (1,) * (found.folded[name].kernel.ndim - 1) + (-1,)
        )
        for name in to
      },
      {name: bias for name, (_, bias) in layers.items()},
      {grids[key_of[t]]: jnp.float32(found.grids[t].scale) for t in few},
    )
    outcome = learn_block(task, given, Maps(xs, ys, wanted), key, batches.tick)
    _write(found, outcome, names, {name: k for k, name in grids.items()}, key_of)
  layers = {
    names[name]: _arrays(_rounded(found, name, to[name]), found.folded[name].bias) for name in to
  }
  ends = {
    tensors[t]: tuple(
      map(jnp.float32, (found.grids[t].scale, found.grids[t].low, found.grids[t].high))
    )
    for t in made
  }
  return wanted, _passed(shape._replace(piece=WHOLE), layers, ends, ys, size)


def _arrays(kernel: np.ndarray, bias: np.ndarray) -> tuple[jax.Array, jax.Array]:
  return jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32)


def _rounded(found: Reconstructed, name: str, to: Levels) -> np.ndarray:
  """Weights as they are on a device."""
  codes = found.codes.get(name)
  if codes is None:
    codes = round_kernel(found.folded[name].kernel, found.scales[name], to)
  return codes * found.scales[name].astype(np.float32)


def _batch_size(shape: Shape, block: Block, images: int) -> int:
  """Images, or pieces of them, whose outputs have about as many cells as each step takes."""
  piece = shape.piece
  cells = (piece.size // piece.stride - sum(piece.margin)) ** 2
  if not piece.size:
    cells = max(math.prod(s[1:-1]) for node in block.nodes for s in node.output_shapes)
  return int(np.clip(-(-MOST_CELLS // cells), 2, MOST_BATCH))


def _write(found: Reconstructed, outcome: Learned, names, grids, key_of) -> None:
  """Keeps what was learned under the network's own names."""
  own = {short: name for name, short in names.items()}
  for short, codes in outcome.codes.items():
    found.codes[own[short]] = codes
    found.scales[own[short]] = outcome.scales[short].ravel()
  for short, bias in outcome.bias.items():
    name = own[short]
    found.folded[name] = found.folded[name]._replace(bias=bias.astype(np.float64))
  steps = {grids[short]: step for short, step in outcome.steps.items()}
  for tensor, key in key_of.items():
    if key in steps:
      found.grids[tensor] = found.grids[tensor]._replace(scale=np.float32(steps[key]))
  found.errors.append((outcome.before, outcome.after))


def _passed(shape: Shape, layers, ends, xs, size: int) -> tuple[jax.Array, ...]:
  """Outputs of a block for all images, a batch at a time; the last one is filled up."""
  parts = []
  for start in range(0, len(xs[0]), size):
    batch = [x[start : start + size] for x in xs]
    count = len(batch[0])
    full = tuple(jnp.concatenate([x, jnp.repeat(x[:1], size - count, axis=0)]) for x in batch)
    parts.append([y[:count] for y in _outputs(shape, layers, ends, full)])
  return tuple(jnp.concatenate(arrays) for arrays in zip(*parts, strict=True))


@partial(jax.jit, static_argnums=0)
def _outputs(shape: Shape, layers, ends, xs):
  def visit(tensor, array):
    if tensor not in ends:
      return array
    scale, low, high = ends[tensor]
    return jnp.clip(jnp.round(array * (1 / scale)), low, high) * scale

  return run_block(shape, layers, xs, visit)
