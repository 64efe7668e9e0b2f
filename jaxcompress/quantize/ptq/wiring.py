"""How layers of a graph are joined, and which weights read which channel."""

from typing import NamedTuple

import numpy as np

from jaxcompress.nn import Graph, Node, kernel_shape
from jaxcompress.nn.graph import alike
from jaxcompress.nn.operations import by_groups, needed_shape
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import resolve_padding

COMMUTES = (None, "relu", "relu6")  # ReLU6 only after it became ReLU


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
  return operation.within and operation.route is alike


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
    if len(readers) != 1 or node.output == graph.output:
      return None
    node = readers[0]
    if kernel_shape(node) is not None:
      return node
    if not is_pool(node):
      return None


def pads(node: Node) -> bool:
  """Whether a layer reads zeros around its input."""
  attrs = node.attrs
  if "padding" not in attrs:
    return False
  cells = resolve_padding(
    attrs["padding"], node.input_shapes[0][1:3], attrs["kernel"], attrs["stride"]
  )
  return any(map(any, cells))


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
