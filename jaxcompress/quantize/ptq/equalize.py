"""Cross-layer equalization: moves scales between layers so that channels have alike ranges."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcompress.nn import Folded, Graph, Node, kernel_shape
from jaxcompress.nn.graph import alike
from jaxcompress.nn.operations import by_groups, needed_shape, pads_of
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.quantize.model import Move
from jaxcompress.quantize.ptq.moments import Moments, absorbed

MOST_SWEEPS = 20
ENOUGH = 1e-2  # largest change of a scale at which sweeping ends
CEILING, ROOM = 6.0, 1.1  # of ReLU6; other images may go a little higher than those seen
FARTHEST = 2.0**8  # one channel is never moved further in one step
COMMUTES = (None, "relu", "relu6")  # ReLU6 only after it became ReLU


class Equalized(NamedTuple):
  """A network that computes the same with other scales inside.

  Attributes:
    folded: layers whose factors are ones.
    moments: of what layers with BatchNorm compute before their activation, on their new scales.
    moves: what was done to the tensors whose channels were moved, by name.
  """

  folded: dict[str, Folded]
  moments: dict[str, Moments]
  moves: dict[str, Move]


def pair_scales(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """``s = sqrt(r1 r2) / r2``: with ``W1 / s`` and ``W2 * s`` both ranges are ``sqrt(r1 r2)``.

  Args:
    first: (channels,) largest weight of each output channel of the first layer.
    second: (channels,) largest weight that reads each channel in the second one.

  Returns:
    (channels,); 1 where a range is zero.

  Examples:
    >>> pair_scales(np.array([4.0, 0.0]), np.array([1.0, 2.0])).tolist()
    [2.0, 1.0]

  References:
    Nagel et al., `Data-Free Quantization Through Weight Equalization and Bias Correction
    <https://arxiv.org/abs/1906.04721>`_, 2019, equation 11.
  """
  alive = (first > 0) & (second > 0)
  scale = np.sqrt(np.where(alive, first, 1) / np.where(alive, second, 1))
  return np.clip(scale, 1 / FARTHEST, FARTHEST)


def triple_scales(
  first: np.ndarray, depthwise: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Scales around a depthwise layer: with ``W1 / s1``, ``W2 * s1 / s2``, ``W3 * s2`` all ranges
  are ``cbrt(r1 r2 r3)``.

  Examples:
    >>> s1, s2 = triple_scales(np.array([4.0]), np.array([1.0]), np.array([2.0]))
    >>> s1.tolist(), s2.tolist()
    ([2.0], [1.0])
  """
  alive = (first > 0) & (depthwise > 0) & (last > 0)
  ranges = (np.where(alive, r, 1) for r in (first, depthwise, last))
  first, depthwise, last = ranges
  common = np.cbrt(first * depthwise * last)
  clip = lambda scale: np.clip(scale, 1 / FARTHEST, FARTHEST)  # noqa: E731
  return clip(first / common), clip(common / last)


def equalize(
  graph: Graph,
  folded: Mapping[str, Folded],
  moments: Mapping[str, Moments],
  peaks: Mapping[str, np.ndarray],
) -> Equalized:
  """Equalizes every chain of layers of a graph, and absorbs high biases.

  A chain is two layers, or two around a depthwise one, joined by tensors that nothing else reads,
  through no activation, ReLU or ReLU6, and through pools. Sweeps are repeated until scales hardly
  move.

  ReLU6 does not commute with scales, and a device clips a whole tensor at one value. So a channel
  that came near 6 keeps its scale, and any other is made larger only as far as it stays below 6:
  on the images that ``peaks`` were seen on, the network computes what it did.

  Then ``c = max(0, beta - 3 gamma)`` of each channel that ReLU rectifies, which is nearly never
  cut, moves into the bias of the next layer, where that one pads nothing.

  Args:
    graph: with fused activations.
    folded: of every node that has a kernel.
    moments: of the outputs of layers with BatchNorm, from
      :func:`~jaxcompress.quantize.ptq.moments.moments_of`.
    peaks: (channels,) largest output of layers with ReLU6, by name.

  Returns:
    An :class:`Equalized`.

  References:
    Nagel et al., 2019, sections 4.1.1 to 4.1.3.
  """
  chains = find_chains(graph)
  nodes = {node.name: node for node in graph.nodes}
  weights = {name: np.asarray(layer.weights, np.float64) for name, layer in folded.items()}
  bias = {name: np.array(layer.bias, np.float64) for name, layer in folded.items()}
  moved = dict(moments)
  heights = {  # of each channel, as a share of 6
    node.name: peaks.get(node.name, np.full(node.output_shapes[0][-1], CEILING)) * ROOM / CEILING
    for node in graph.nodes
    if node.attrs.get("act") == "relu6" and node.name in folded
  }
  clipped = {name: height >= 1 for name, height in heights.items()}
  inside = dict.fromkeys(name for chain in chains for name in chain.rectified)
  moves = {name: Move(np.ones(bias[name].shape), np.zeros(bias[name].shape)) for name in inside}

  def allowed(name: str, scale: np.ndarray) -> np.ndarray:
    """The scale as far as ReLU6 lets it go."""
    if name not in heights:
      return scale
    return np.where(clipped[name], 1.0, np.maximum(scale, heights[name]))

  def divide(name: str, scale: np.ndarray) -> None:
    weights[name] = weights[name] / scale
    bias[name] = bias[name] / scale
    moves[name] = moves[name]._replace(scale=moves[name].scale * scale)
    if name in moved:
      moved[name] = Moments(moved[name].mean / scale, moved[name].deviation / scale)
    if name in heights:
      heights[name] = heights[name] / scale

  for _ in range(MOST_SWEEPS):
    change = 0.0
    for chain in chains:
      first, last = _range(weights[chain.first]), by_input(nodes[chain.last], weights[chain.last])
      if chain.depthwise is None:
        scales: tuple[np.ndarray, ...] = (pair_scales(first, last),)
      else:
        scales = triple_scales(first, _range(weights[chain.depthwise]), last)
      for name, after, scale in zip(chain.layers, chain.layers[1:], scales, strict=False):
        scale = allowed(name, scale)
        divide(name, scale)
        weights[after] = scale_inputs(nodes[after], weights[after], scale)
        change = max(change, float(np.abs(np.log(scale)).max()))
    if change < ENOUGH:
      break

  for chain in chains:
    for name, after in zip(chain.layers, chain.layers[1:], strict=False):
      if name in moved and nodes[name].attrs["act"] == "relu" and not pads(nodes[after]):
        shift = absorbed(moved[name])
        bias[name] = bias[name] - shift
        moves[name] = moves[name]._replace(shift=shift)
        bias[after] = bias[after] + _sum_inputs(scale_inputs(nodes[after], weights[after], shift))
        moved[name] = moved[name]._replace(mean=moved[name].mean - shift)
  layers = {
    name: Folded(kernel.astype(np.float32), np.ones(kernel.shape[-1]), bias[name])
    for name, kernel in weights.items()
  }
  return Equalized(layers, moved, _through_pools(graph, moves))


def _through_pools(graph: Graph, moves: Mapping[str, Move]) -> dict[str, Move]:
  """Moves of all tensors, from those of layers: a pool passes on what its input has."""
  found: dict[str, Move] = {}
  for node in graph.nodes:
    if node.name in moves:
      found[node.output] = moves[node.name]
    elif is_pool(node) and node.inputs[0] in found:
      found[node.output] = found[node.inputs[0]]
  return found


def _range(kernel: np.ndarray) -> np.ndarray:
  """(out,) largest weight of each output channel."""
  return np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)


def _sum_inputs(kernel: np.ndarray) -> np.ndarray:
  return kernel.reshape(-1, kernel.shape[-1]).sum(axis=0)


class Chain(NamedTuple):
  """Layers whose scales can be moved.

  Attributes:
    first: name of the layer that writes the channels.
    depthwise: name of a depthwise layer in between, or None.
    last: name of the layer that reads them.
  """

  first: str
  depthwise: str | None
  last: str

  @property
  def layers(self) -> tuple[str, ...]:
    """The layers in order."""
    return tuple(name for name in self if name is not None)

  @property
  def rectified(self) -> tuple[str, ...]:
    """The layers whose activations lie inside the chain."""
    return self.layers[:-1]


def find_chains(graph: Graph) -> tuple[Chain, ...]:
  """The chains of a graph with fused activations, in order.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fuse_activations
    >>> graph = fuse_activations(models.summarize(models.mobilenet_v2(), 32).graph)
    >>> find_chains(graph)[2].layers
    ('stage1_block0/expand', 'stage1_block0/depthwise', 'stage1_block0/project')
  """
  chains, inside = [], set()
  for node in graph.nodes:
    if node.name in inside or kernel_shape(node) is None:
      continue
    after = _reader(graph, node)
    if after is None:
      continue
    last = _reader(graph, after) if is_depthwise(after) else None
    if last is not None:
      inside.add(after.name)
      chains.append(Chain(node.name, after.name, last.name))
    else:
      chains.append(Chain(node.name, None, after.name))
  return tuple(chains)


def is_pool(node: Node) -> bool:
  """Whether a node takes each channel on its own, and scales pass through it."""
  operation = OPERATIONS[node.op]
  moves = operation.within and operation.route is alike and operation.fill(node) is None
  return operation.homogeneous or moves


def is_depthwise(node: Node) -> bool:
  """Whether a layer makes each channel from the same channel alone."""
  shape, channels = needed_shape(node), node.input_shapes[0][-1]
  return len(shape) == 4 and shape[-2] == 1 and shape[-1] == channels


def _reader(graph: Graph, node: Node) -> Node | None:
  """The layer that alone reads what a layer writes, through ops that keep scales."""
  if node.attrs.get("act") not in COMMUTES:
    return None
  while True:
    readers = graph.consumers(node.output)
    if len(readers) != 1 or any(map(graph.is_output, node.outputs)):
      return None
    node = readers[0]
    if kernel_shape(node) is not None:
      return node
    if not is_pool(node):
      return None


def pads(node: Node) -> bool:
  """Whether a layer reads zeros around its input, or between its cells."""
  return "padding" in node.attrs and (OPERATIONS[node.op].spreads or any(map(any, pads_of(node))))


def by_input(node: Node, kernel: np.ndarray) -> np.ndarray:
  """(in,) largest weight that reads each input channel."""
  return by_groups(node, np.abs(kernel)).max(axis=(0, 3)).T.ravel()


def scale_inputs(node: Node, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """The kernel with every weight times the number of the channel that it reads.

  Args:
    node: of the layer.
    kernel: (k, k, in / groups, out) or (in, out).
    scale: (in,), one for each input channel.
  """
  grouped = by_groups(node, kernel)
  each = scale.reshape(grouped.shape[2], grouped.shape[1]).T[None, :, :, None]
  return (grouped * each).reshape(kernel.shape)
