"""Blocks of a graph, which are reconstructed together, and pieces of their maps."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Graph, Node, kernel_shape
from jaxcompress.nn.operations import FACTORS, FOLLOWERS, pads_of, slide_of, window_of
from jaxcompress.nn.structure import OPERATIONS

MOST_LAYERS = 8  # of a block; longer ones are taken layer by layer
POINTWISE = (
  "Add",
  "Subtract",
  "Multiply",
  "Maximum",
  "Minimum",
  "Activation",
  "Affine",
  "BatchNorm",
)
SLIDING = ("ConvNorm", "MaxPool")
CELLS = 14  # side of the output's piece


class Block(NamedTuple):
  """Nodes that are reconstructed together; hashable.

  Attributes:
    nodes: in order.
    inputs: tensors of earlier nodes, or the network's input, that they read.
    outputs: their tensors that later nodes read, or that are outputs of the network.
  """

  nodes: tuple[Node, ...]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]

  @property
  def layers(self) -> tuple[Node, ...]:
    """The nodes that have a kernel."""
    return tuple(node for node in self.nodes if kernel_shape(node) is not None)


def find_blocks(graph: Graph, *, layerwise: bool = False) -> tuple[Block, ...]:
  """Splits a graph into blocks.

  A graph is cut wherever one tensor alone crosses, so that a residual block, or whatever else has
  branches, stays whole. Neighbours of one module, as the path in their names tells, are joined, such
  as the layers of an inverted residual without a sum. What has more than eight layers is taken apart
  into its layers. Nodes without a kernel belong to the layer before them, or to the first one.

  Args:
    graph: with fused activations.
    layerwise: whether each layer is a block of its own.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fuse_activations
    >>> graph = fuse_activations(models.summarize(models.mobilenet_v2(), 32).graph)
    >>> [len(block.layers) for block in find_blocks(graph)][:4]
    [1, 2, 3, 3]
    >>> len(find_blocks(graph, layerwise=True))
    53

  References:
    Li et al., `BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction
    <https://arxiv.org/abs/2102.05426>`_, 2021, section 3.2.
  """
  parts = [[node] for node in graph.nodes] if layerwise else _joined(_segments(graph))
  split: list[list[Node]] = []
  for part in parts:
    long = sum(kernel_shape(node) is not None for node in part) > MOST_LAYERS
    split += [[node] for node in part] if long else [part]
  groups: list[list[Node]] = []
  for part in split:
    if groups and (not _has_layer(part) or not _has_layer(groups[-1])):
      groups[-1] += part
    else:
      groups.append(list(part))
  return tuple(_block(graph, nodes) for nodes in groups)


def _has_layer(nodes: Iterable[Node]) -> bool:
  return any(kernel_shape(node) is not None for node in nodes)


def _segments(graph: Graph) -> list[list[Node]]:
  """The nodes between the places that one tensor alone crosses."""
  last = {tensor: i for i, node in enumerate(graph.nodes) for tensor in node.inputs}
  alive, found, part = {INPUT}, [], []
  for i, node in enumerate(graph.nodes):
    part.append(node)
    alive = {tensor for tensor in (*alive, *node.outputs) if last.get(tensor, -1) > i}
    if len(alive) <= 1:
      found.append(part)
      part = []
  return [*found, part] if part else found


def _joined(segments: list[list[Node]]) -> list[list[Node]]:
  """Segments of one module as one."""
  found: list[list[Node]] = []
  for part in segments:
    modules = {node.name.rpartition("/")[0] for node in (*part, *(found[-1] if found else ()))}
    if found and len(modules) == 1 and modules != {""}:
      found[-1] += part
    else:
      found.append(list(part))
  return found


def _block(graph: Graph, nodes: Sequence[Node]) -> Block:
  names = {node.name for node in nodes}
  made = [tensor for node in nodes for tensor in node.outputs]
  read = dict.fromkeys(tensor for node in nodes for tensor in node.inputs)
  later = {t for node in graph.nodes if node.name not in names for t in node.inputs}
  return Block(
    tuple(nodes),
    tuple(tensor for tensor in read if tensor not in made),
    tuple(tensor for tensor in made if tensor in later or graph.is_output(tensor)),
  )


class Piece(NamedTuple):
  """How pieces are cut out of a block's maps; hashable.

  Attributes:
    size: side of the input's piece, in cells; 0: maps are taken whole.
    stride: of the block; pieces start at its multiples.
    margin: cells of the output's piece, at either end, that cells beyond the input's piece belong to.
    maps: height and width of the input.
  """

  size: int
  stride: int
  margin: tuple[int, int]
  maps: tuple[int, int]


WHOLE = Piece(0, 1, (0, 0), (0, 0))


def find_piece(block: Block, cells: int = CELLS) -> Piece:
  """The pieces of a block's maps that show what the block does at about ``cells`` by ``cells`` places.

  A block that reads one map and whose nodes look at no more than a window of it needs no whole maps,
  which are large where a network begins. All others do, and those whose maps are not larger.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fuse_activations
    >>> graph = fuse_activations(models.summarize(models.mobilenet_v2()).graph)
    >>> blocks = find_blocks(graph)
    >>> find_piece(blocks[2]), find_piece(blocks[-1]) == WHOLE
    (Piece(size=30, stride=2, margin=(1, 0), maps=(112, 112)), True)
  """
  whole = WHOLE
  if len(block.inputs) != 1 or len(block.outputs) != 1:
    return whole
  reach = {block.inputs[0]: (1, 0, 0)}  # stride, and cells at either end that see beyond the piece
  for node in block.nodes:
    ours = [reach[tensor] for tensor in node.inputs]
    if any(len(shape) != 4 for shape in (*node.input_shapes, *node.output_shapes)):
      return whole
    if node.op in SLIDING:
      if (after := _slid(node, *ours[0])) is None:
        return whole
    elif node.op in POINTWISE and len({stride for stride, _, _ in ours}) == 1:
      after = ours[0][0], max(low for _, low, _ in ours), max(high for _, _, high in ours)
    else:
      return whole
    reach |= dict.fromkeys(node.outputs, after)
  stride, low, high = reach[block.outputs[0]]
  size = stride * (cells + low + high)
  height, width = _map_of(block)
  if size >= min(height, width) or height % stride or width % stride:
    return whole
  return Piece(size, stride, (low, high), (height, width))


def _map_of(block: Block) -> tuple[int, int]:
  shapes = (
    dict(zip(node.inputs, node.input_shapes, strict=True)).get(block.inputs[0])
    for node in block.nodes
  )
  shape = next(shape for shape in shapes if shape is not None)
  return shape[1], shape[2]


def _slid(node: Node, stride: int, low: int, high: int) -> tuple[int, int, int] | None:
  """Reach after a kernel that moves over a map, if both directions are alike and sizes divide evenly."""
  steps, pads, dilation = slide_of(node)
  window = window_of(node)
  if len(set(steps)) > 1 or len(set(window)) > 1 or len(set(pads)) > 1 or len(set(dilation)) > 1:
    return None
  step, before, span = steps[0], pads[0][0], (window[0] - 1) * dilation[0]
  height, width = node.input_shapes[0][1:3]
  if height % step or width % step or node.output_shapes[0][1:3] != (height // step, width // step):
    return None
  # output i reads cells i * step - before to i * step - before + span, of which ``low`` are no good
  least = -(-(low + before) // step)
  beyond = max(0, high + span - before - (step - 1))
  return stride * step, least, -(-beyond // step)


class Shape(NamedTuple):
  """A block without its names, so that all of one shape share a program; hashable.

  Attributes:
    nodes: named by their places, as are their tensors.
    inputs: tensors.
    outputs: tensors.
    piece: of its maps.
  """

  nodes: tuple[Node, ...]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  piece: Piece


def anonymous(block: Block, piece: Piece) -> tuple[Shape, dict[str, str], dict[str, str]]:
  """A block's shape, and the names of its nodes and tensors in it.

  The padding is in numbers, which hold for pieces as well.
  """
  known = {tensor: f"x{i}" for i, tensor in enumerate(block.inputs)}
  names: dict[str, str] = {}
  nodes = []
  for i, node in enumerate(block.nodes):
    names[node.name] = f"n{i}"
    known |= {tensor: f"n{i}:{j}" for j, tensor in enumerate(node.outputs)}
    attrs = {key: value for key, value in node.attrs.items() if key not in (FOLLOWERS, FACTORS)}
    if "padding" in attrs and not OPERATIONS[node.op].spreads:
      attrs["padding"] = pads_of(node)
    nodes.append(
      node._replace(
        name=names[node.name],
        attrs=FrozenDict(attrs),
        inputs=tuple(known[tensor] for tensor in node.inputs),
        outputs=tuple(known[tensor] for tensor in node.outputs),
      )
    )
  inputs, outputs = (tuple(known[t] for t in tensors) for tensors in (block.inputs, block.outputs))
  return Shape(tuple(nodes), inputs, outputs, piece), names, known
