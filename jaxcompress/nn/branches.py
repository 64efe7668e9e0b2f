"""Sums of linear branches of one tensor, each folded into one convolution or linear layer."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcompress.arguments import unknown
from jaxcompress.nn.execute import Folded, fold
from jaxcompress.nn.foreign import GRAPH, check_made
from jaxcompress.nn.graph import INPUT, Graph, Node
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import both, resolve_padding

LINEAR = ("ConvNorm", "BatchNorm", "Affine", "Dense")
WINDOW = ("kernel", "stride", "padding")


class Branch(NamedTuple):
  """A tensor as a linear function of another one: a convolution of it, pointwise for vectors.

  Attributes:
    source: the tensor that it is a function of.
    fields: kernel, stride and padding, of :class:`~jaxcompress.nn.ConvNorm`.
    groups: of the convolution; 0: it is the source itself, times a factor in each channel.
    kernel: (height, width, in / groups, out) float64; (1, 1, 1, channels) where groups are 0.
    bias: (out,) float64.
    start: rows and columns from an output's place to the first that it reads.
    is_folded: whether several layers became part of it, which are to be one.
  """

  source: str
  fields: Mapping[str, Any]
  groups: int
  kernel: np.ndarray
  bias: np.ndarray
  start: tuple[int, int] = (0, 0)
  is_folded: bool = False


MAPS, VECTORS = {4}, {2}
IDENTITY = {"kernel": 1, "stride": 1, "padding": "VALID"}


def fold_branches(
  graph: Graph, variables: Mapping[str, Any], kept: Iterable[str] = ()
) -> tuple[Graph, dict[str, dict[str, Any]]]:
  """Folds every sum of convolutions and normalizations of one tensor into one convolution.

  The terms of a sum are convolutions of one stride and number of groups without an activation
  function, normalizations and multiples of the tensor, and the tensor itself; a normalization behind
  the sum, or a factor, is folded, too. One of the windows covers those of all others, as a 3x3 does
  that of a pointwise convolution. Unlike windows with ``"SAME"`` padding and a stride are left alone,
  since where they lie depends on the size of the image. ``W' = sum of gamma / sqrt(v + e) W`` at their
  places in that window, and likewise the biases, in float64: the folded network computes the same, up
  to float32's rounding.

  Of vectors, sums of linear layers become one linear layer likewise, and a linear layer takes in the
  normalization or factor before it: ``y = W (gamma / sqrt(v + e) x + b)``.

  Args:
    graph: traced, not fused.
    variables: the model's ``params`` and ``batch_stats``, arrays.
    kept: tensors that stay beside the outputs, whether or not these depend on them.

  Returns:
    ``(graph, variables)``, in which each sum is a :class:`~jaxcompress.nn.ConvNorm`, or of vectors a
    :class:`~jaxcompress.nn.Dense`, with a bias under the name of the sum's last layer; all else is as
    it was.

  Raises:
    ValueError: if the graph is no :class:`~jaxcompress.nn.graph.Graph`, the variables are not arrays or
      of another network, or a tensor to keep is not of the graph.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> import jax
    >>> model = models.repvgg_a0(10)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> folded, few = fold_branches(models.summarize(model, 32).graph, variables)
    >>> [node.name for node in folded.nodes[:4]]
    ['stem/sum', 'stem/act', 'stage0_block0/sum', 'stage0_block0/act']
    >>> few["params"]["stem"]["sum"]["kernel"].shape
    (3, 3, 3, 48)

  References:
    Ding et al., `RepVGG: Making VGG-style ConvNets Great Again <https://arxiv.org/abs/2101.03697>`_,
    2021, section 3.3.
  """
  check_made("graph", graph, Graph, GRAPH)
  kept = set(kept)
  tensors = {INPUT, *(tensor for node in graph.nodes for tensor in node.outputs)}
  if absent := sorted(kept - tensors):
    raise unknown("kept", absent[0], sorted(tensors))
  folded = fold(graph, variables)
  branches: dict[str, Branch] = {}
  for node in graph.nodes:
    found = _branch(node, graph, branches, folded)
    if found is not None:
      branches[node.output] = found
  sums = {tensor: branch for tensor, branch in branches.items() if branch.is_folded}
  nodes = tuple(
    _as_layer(node, graph, sums[node.output]) if node.output in sums else node
    for node in graph.nodes
  )
  nodes = _needed(nodes, {*kept, *(tensor for _, tensor in graph.outputs)})
  whole = {node.name for node in nodes if node.output not in sums}
  flat = flatten_dict(dict(variables), sep="/")
  arrays = {
    path: array
    for path, array in flat.items()
    if path.partition("/")[2].rpartition("/")[0] in whole
  }
  for node in nodes:
    if node.name not in whole:
      branch = sums[node.output]
      kernel = branch.kernel[0, 0] if node.op == "Dense" else branch.kernel
      arrays[f"params/{node.name}/kernel"] = kernel.astype(np.float32)
      arrays[f"params/{node.name}/bias"] = branch.bias.astype(np.float32)
  return graph._replace(nodes=nodes), unflatten_dict(arrays, sep="/")


def _branch(
  node: Node, graph: Graph, branches: Mapping[str, Branch], folded: Mapping[str, Folded]
) -> Branch | None:
  """A node's tensor as a function of one tensor before it, where it is a linear one."""
  ranks = {len(shape) for shape in (*node.input_shapes, *node.output_shapes)}
  if ranks not in (MAPS, VECTORS) or node.attrs.get("act") is not None:
    return None
  if node.op == "Add" and len(set(node.input_shapes)) == 1:
    left, right = (_term(tensor, graph, branches) for tensor in node.inputs)
    found = _sum(left, right, graph)
    if found is not None and ranks == VECTORS and not found.groups:
      return found._replace(is_folded=False)  # no layer of vectors has a factor for each channel
    return found
  if node.op not in LINEAR:
    return None
  layer, (source,) = folded[node.name], node.inputs
  before = branches.get(source)
  if node.op == "ConvNorm":
    return _convolution(node, layer)
  if node.op == "Dense":
    return _linear(source, before, np.float64(layer.kernel) * layer.factor, layer.bias)
  if before is not None and before.is_folded:
    bias = before.bias * layer.factor + layer.bias
    return before._replace(kernel=before.kernel * layer.factor, bias=bias)
  return Branch(source, IDENTITY, 0, layer.factor.reshape(1, 1, 1, -1), layer.bias)


def _convolution(node: Node, layer: Folded) -> Branch | None:
  if node.attrs.get("dilation", 1) != 1:
    return None
  fields = {key: node.attrs[key] for key in WINDOW}
  pads = resolve_padding(
    fields["padding"], node.input_shapes[0][1:3], both(fields["kernel"]), fields["stride"]
  )
  start = (-pads[0][0], -pads[1][0])
  groups = OPERATIONS[node.op].groups(node)
  kernel = np.float64(layer.kernel) * layer.factor
  return Branch(node.inputs[0], fields, groups, kernel, layer.bias, start)


def _linear(source: str, before: Branch | None, kernel: np.ndarray, bias: np.ndarray) -> Branch:
  """A linear layer of vectors, and of what a normalization or a factor before it reads."""
  if before is None or before.groups:
    return Branch(source, IDENTITY, 1, kernel[None, None], bias)
  scaled = before.kernel.reshape(-1, 1) * kernel
  bias = before.bias @ kernel + bias
  return Branch(before.source, IDENTITY, 1, scaled[None, None], bias, is_folded=True)


def _term(tensor: str, graph: Graph, branches: Mapping[str, Branch]) -> tuple[Branch, ...]:
  """A term of a sum in the ways in which it can be seen: of another tensor, and of itself."""
  channels = graph.shape(tensor)[-1]
  itself = Branch(tensor, IDENTITY, 0, np.ones((1, 1, 1, channels)), np.zeros(channels))
  return (branches[tensor], itself) if tensor in branches else (itself,)


def _sum(left: tuple[Branch, ...], right: tuple[Branch, ...], graph: Graph) -> Branch | None:
  for one in left:
    for other in right:
      if one.source == other.source and one.bias.shape == other.bias.shape:
        return _added(one, other, graph.shape(one.source)[-1])
  return None


def _added(one: Branch, other: Branch, channels: int) -> Branch | None:
  """The sum of two branches; None where no single convolution of their groups computes it."""
  groups = max(one.groups, other.groups)
  if groups == 0:
    kernel, bias = one.kernel + other.kernel, one.bias + other.bias
    return one._replace(kernel=kernel, bias=bias, is_folded=True)
  one, other = (_in_groups(branch, groups, channels) for branch in (one, other))
  if one.groups != other.groups or both(one.fields["stride"]) != both(other.fields["stride"]):
    return None
  if one.fields != other.fields and any(map(_moves, (one, other))):
    return None
  for large, small in ((one, other), (other, one)):
    places = [b - a for a, b in zip(large.start, small.start, strict=True)]
    ends = [p + size for p, size in zip(places, small.kernel.shape, strict=False)]
    if min(places) >= 0 and all(e <= k for e, k in zip(ends, large.kernel.shape, strict=False)):
      kernel = large.kernel.copy()
      kernel[places[0] : ends[0], places[1] : ends[1]] += small.kernel
      return large._replace(kernel=kernel, bias=one.bias + other.bias, is_folded=True)
  return None


def _moves(branch: Branch) -> bool:
  """Whether the place of a window beside others depends on the size of the image."""
  return branch.fields["padding"] == "SAME" and both(branch.fields["stride"]) != (1, 1)


def _in_groups(branch: Branch, groups: int, channels: int) -> Branch:
  """A tensor itself as a pointwise convolution in groups; others as they are."""
  if branch.groups:
    return branch
  depth = channels // groups
  kernel = np.zeros((1, 1, depth, channels))
  kernel[0, 0, np.arange(channels) % depth, np.arange(channels)] = branch.kernel.ravel()
  return branch._replace(kernel=kernel, groups=groups)


def _as_layer(node: Node, graph: Graph, branch: Branch) -> Node:
  """The convolution, or linear layer, that a sum has become."""
  shape = graph.shape(branch.source)
  op, fields = "Dense", dict[str, Any](use_bias=True)
  if len(shape) == 4:
    groups = branch.groups or shape[-1]
    op, fields = "ConvNorm", {"act": None, "norm": None, "use_bias": None, **branch.fields}
    fields["groups"] = "depthwise" if groups == shape[-1] > 1 else groups
  attrs: Any = FrozenDict(features=len(branch.bias), **fields)
  return node._replace(op=op, attrs=attrs, inputs=(branch.source,), input_shapes=(shape,))


def _needed(nodes: tuple[Node, ...], tensors: set[str]) -> tuple[Node, ...]:
  """The nodes on which these tensors depend."""
  wanted, kept = set(tensors), []
  for node in reversed(nodes):
    if wanted & set(node.outputs):
      wanted |= set(node.inputs)
      kept.append(node)
  return tuple(reversed(kept))
