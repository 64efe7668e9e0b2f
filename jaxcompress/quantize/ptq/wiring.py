"""How layers of a graph are joined, and which weights read which channel."""

from typing import NamedTuple

import numpy as np

from jaxcompress.nn import Graph, Node, kernel_shape
from jaxcompress.nn.operations import needed_shape
from jaxcompress.ops.padding import resolve_padding

COMMUTES = (None, "relu", "relu6")  # ReLU6 only after it became ReLU
POOLS = ("MaxPool", "AvgPool", "GlobalAvgPool")  # each channel on its own, scales pass through


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


def is_depthwise(node: Node) -> bool:
  """Whether a layer makes each channel from the same channel alone."""
  shape, channels = needed_shape(node), node.input_shapes[0][-1]
  return node.op != "Dense" and shape[-2] == 1 and shape[-1] == channels


def _reader(graph: Graph, node: Node) -> Node | None:
  """The layer that alone reads what a layer writes, through ops that keep scales."""
  if node.attrs.get("act") not in COMMUTES:
    return None
  while True:
    readers = graph.consumers(node.output)
    if len(readers) != 1 or node.output == graph.output:
      return None
    node = readers[0]
    if kernel_shape(node) is not None:
      return node
    if node.op not in POOLS:
      return None


def pads(node: Node) -> bool:
  """Whether a layer reads zeros around its input."""
  if node.op in ("Dense", "BatchNorm"):
    return False
  attrs = node.attrs
  cells = resolve_padding(
    attrs["padding"], node.input_shapes[0][1:3], attrs["kernel"], attrs["stride"]
  )
  return any(map(any, cells))


def _groups(node: Node) -> int:
  """Channel groups of a convolution."""
  channels = node.input_shapes[0][-1]
  return channels // needed_shape(node)[-2]


def by_input(node: Node, kernel: np.ndarray) -> np.ndarray:
  """(in,) largest weight that reads each input channel."""
  largest = np.abs(kernel)
  if node.op == "Dense":
    channels = node.input_shapes[0][-1]
    return largest.reshape(-1, channels, kernel.shape[-1]).max(axis=(0, 2))
  groups = _groups(node)
  largest = largest.max(axis=(0, 1)).reshape(kernel.shape[2], groups, -1).max(axis=-1)
  return largest.T.ravel()


def scale_inputs(node: Node, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """The kernel with every weight times the number of the channel that it reads.

  Args:
    node: of the layer.
    kernel: (k, k, in / groups, out) or (in, out).
    scale: (in,), one for each input channel.
  """
  if node.op == "Dense":
    positions = kernel.shape[0] // scale.size
    return kernel * np.tile(scale, positions)[:, None]
  groups = _groups(node)
  each = np.repeat(scale.reshape(groups, -1).T, kernel.shape[-1] // groups, axis=1)
  return kernel * each
