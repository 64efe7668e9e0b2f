"""Which channels of a network belong together, and where each of them goes.

Channels that an operation adds, scales, copies or moves one by one are one *class*: a residual
stream with everything that is added to it, a convolution's output with the depthwise convolution
behind it, what a squeeze-excite multiplies, and the parts of a concatenation with its whole. A
class is removed as a whole or stays. Classes that pass through the same tensors, and through the
same groups of the same grouped convolutions, are interchangeable: they have one *signature*.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from flax.core import FrozenDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.nn.structure import OPERATIONS


class Routes(NamedTuple):
  """The classes of a graph's channels.

  Attributes:
    ids: by tensor, the class of each of its channels, (channels,) int.
    signatures: of each class, (classes,) uint64: equal where classes are interchangeable.
    locked: of each class, (classes,) bool: whether it holds a channel of the image, a logit, or one of
      those that an operation reads all at once.
  """

  ids: dict[str, np.ndarray]
  signatures: np.ndarray
  locked: np.ndarray


def name_depthwise(graph: Graph) -> Graph:
  """The graph whose depthwise convolutions all say that they are.

  So that a grouped convolution of which one channel in each group is left stays a grouped one.
  """

  def named(node: Node) -> Node:
    groups = node.attrs.get("groups") if node.op == "ConvNorm" else None
    if groups == 1 or groups != node.input_shapes[0][-1]:
      return node
    return node._replace(attrs=FrozenDict({**node.attrs, "groups": "depthwise"}))

  return graph._replace(nodes=tuple(map(named, graph.nodes)))


def is_birth(node: Node) -> bool:
  """Whether a node makes channels: a convolution that mixes its inputs, or a linear layer."""
  return not any(continued(node, *(np.zeros(shape[-1]) for shape in node.input_shapes)))


def groups_of(node: Node) -> int:
  """Groups of channels that must be of one size."""
  return OPERATIONS[node.op].groups(node)


def continued(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """For each output the entries of the input channels that its channels continue, one by one.

  Args:
    node: of a graph.
    channels: for each input, an entry for each of its channels.
  """
  return OPERATIONS[node.op].route(node, *channels)


def tensors_of(graph: Graph) -> dict[str, int]:
  """Number of channels of every tensor, the input first."""
  found = {INPUT: graph.input_shape[-1]}
  for node in graph.nodes:
    found |= {
      tensor: shape[-1] for tensor, shape in zip(node.outputs, node.output_shapes, strict=True)
    }
  return found


def find_routes(graph: Graph) -> Routes:
  """The classes of a graph's channels, and which of them are interchangeable.

  Args:
    graph: traced, not fused; see :func:`name_depthwise`.

  Examples:
    >>> from jaxcompress import models
    >>> routes = find_routes(models.summarize(models.resnet8(10)).graph)
    >>> bool((routes.ids["stem"] == routes.ids["stage0_block0/conv2"]).all())
    True
    >>> bool((routes.ids["stem"] == routes.ids["stage0_block0/conv1"]).any())
    False
  """
  sizes = tensors_of(graph)
  starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1], strict=True))
  total = sum(sizes.values())
  channels = {tensor: starts[tensor] + np.arange(size) for tensor, size in sizes.items()}
  ends = [
    (channels[tensor], source)
    for node in graph.nodes
    for tensor, sources in zip(
      node.outputs, continued(node, *(channels[name] for name in node.inputs)), strict=True
    )
    for source in sources
  ]
  left, right = (np.concatenate([pair[k] for pair in ends] or [np.zeros(0, int)]) for k in (0, 1))
  links = coo_array((np.ones(len(left), bool), (left, right)), shape=(total, total))
  count, labels = connected_components(links, directed=False)
  marks = [(channels[tensor], np.full(size, i)) for i, (tensor, size) in enumerate(sizes.items())]
  code = len(sizes)
  for node in graph.nodes:
    if is_birth(node) and groups_of(node) > 1:
      for tensor in (node.inputs[0], node.output):
        marks.append((channels[tensor], code + _group(sizes[tensor], node)))
        code += groups_of(node)
  elements, codes = (np.concatenate([mark[k] for mark in marks]) for k in (0, 1))
  words = np.random.default_rng(0).integers(2**64, size=code, dtype=np.uint64)
  signatures = np.zeros(count, np.uint64)
  np.add.at(signatures, labels[elements], words[codes])  # modulo 2**64: a hash of the multiset
  ids = {tensor: labels[places] for tensor, places in channels.items()}
  locked = np.zeros(count, bool)
  whole = [node for node in graph.nodes if OPERATIONS[node.op].whole]
  kept = [tensor for node in whole for tensor in (*node.inputs, *node.outputs)]
  for tensor in (INPUT, *(tensor for _, tensor in graph.outputs), *kept):
    locked[ids[tensor]] = True
  return Routes(ids, signatures, locked)


def _group(channels: int, node: Node) -> np.ndarray:
  return np.arange(channels) // (channels // groups_of(node))


def with_counts(graph: Graph, counts: Mapping[str, int]) -> Graph:
  """The graph with other numbers of channels.

  A shuffle keeps the smaller of its two factors, so that it stays the same shuffle of groups.

  Args:
    graph: traced, not fused.
    counts: of every tensor.

  Raises:
    ValueError: if the numbers do not fit an operation; the message names it.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.vgg8(10)).graph
    >>> counts = {**tensors_of(graph), "stage0_conv0": 8, "stage0_conv0_act": 8, "stage1_pool": 8}
    >>> with_counts(graph, counts).nodes[3].input_shapes
    ((1, 16, 16, 8),)
  """

  return graph._replace(nodes=tuple(_resized(node, counts) for node in graph.nodes))


def _resized(node: Node, counts: Mapping[str, int]) -> Node:
  ins, outs = ([counts[name] for name in names] for names in (node.inputs, node.outputs))
  shapes = (
    tuple((*shape[:-1], count) for shape, count in zip(old, new, strict=True))
    for old, new in ((node.input_shapes, ins), (node.output_shapes, outs))
  )
  try:
    fields = OPERATIONS[node.op].resized(node, ins, outs)
    made = Node(node.name, node.op, {**node.attrs, **fields}, node.inputs, node.outputs, *shapes)
    fits = min(*ins, *outs) > 0 and not any(count % groups_of(made) for count in (*ins, *outs))
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(
      f"keep: {node.name!r}, a {node.op}, cannot have {', '.join(map(str, ins))} input and"
      f" {', '.join(map(str, outs))} output channels; keep others."
    )
  return made._replace(attrs=FrozenDict(made.attrs))


def families_of(graph: Graph, routes: Routes) -> tuple[tuple[np.uint64, ...], ...]:
  """Signatures whose numbers of classes depend on each other.

  Shuffles and grouped convolutions need groups of equal sizes. All classes that pass through their
  tensors, and all that meet those anywhere, are one family, whose tensors shrink in proportion.
  Every other signature is a family by itself.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.resnet8(10)).graph
    >>> {len(family) for family in families_of(graph, find_routes(graph))}
    {1}
  """
  signatures, position = np.unique(routes.signatures, return_inverse=True)
  through = {tensor: np.unique(position[ids]) for tensor, ids in routes.ids.items()}
  label = np.arange(len(signatures))

  def join(members: np.ndarray) -> None:
    label[np.isin(label, label[members])] = label[members].min()

  for node in graph.nodes:
    if 1 < groups_of(node) < node.input_shapes[0][-1]:
      join(through[node.inputs[0]])
      join(through[node.output])
  before = -1
  while before != len(np.unique(label)):
    before = len(np.unique(label))
    sizes = np.bincount(label, minlength=len(label))
    for members in through.values():
      if len(members) > 1 and (sizes[label[members]] > 1).any():
        join(members)
  return tuple(tuple(signatures[label == one]) for one in np.unique(label))
