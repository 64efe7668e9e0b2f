"""Which tensors of a graph are rounded, which share a grid, and which quantizer each of them has.

In the graph with fused activations these are the input and every output, except that ops which only
move or compare values (pooling, split, shuffle) keep the grid of what they read, and what a
concatenation joins shares one grid.
"""

from typing import NamedTuple

from jaxcompress.nn import INPUT, Graph, fuse_activations
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.grid import stored_bits
from jaxcompress.quantize.integer import Grid, fixed_grid
from jaxcompress.quantize.integer.values import INNER_SWISH
from jaxcompress.quantize.quantizers import Quantizer
from jaxcompress.quantize.rules import Choice, Names, choose, names_of

SAME_GRID = ("MaxPool", "AvgPool", "Split", "ChannelShuffle", "Concat")
MOVES = ("MaxPool", "Split", "ChannelShuffle")  # their outputs are values that were rounded before


class Sites(NamedTuple):
  """Which tensors of a graph are rounded. Hashable.

  Attributes:
    graph: the graph with fused activations.
    keys: pairs of a tensor and the name under which its grid is kept.
    rounded: the tensors that are rounded.
    nonnegative: the tensors that are known to be at least zero.
    fixed: pairs of a tensor and the grid that it always has in 8 bits, as gates have.
    kernels: the nodes that have a kernel.
  """

  graph: Graph
  keys: tuple[tuple[str, str], ...]
  rounded: frozenset[str]
  nonnegative: frozenset[str]
  fixed: tuple[tuple[str, Grid], ...]
  kernels: tuple[str, ...]

  @property
  def key_of(self) -> dict[str, str]:
    """Name of each tensor's grid."""
    return dict(self.keys)


def find_sites(graph: Graph) -> Sites:
  """Decides which tensors are rounded, and which of them share a grid.

  Args:
    graph: a traced graph.

  Raises:
    ValueError: for an activation that has no integer arithmetic where it is.

  Examples:
    >>> from jaxcompress import models
    >>> sites = find_sites(models.summarize(models.resnet8(), 32).graph)
    >>> "stage0_block0/add" in sites.rounded, "stage0_block0/relu" in sites.rounded
    (False, True)
  """
  graph = fuse_activations(graph)
  group = {INPUT: INPUT}
  rounded: set[str] = {INPUT}
  nonnegative: set[str] = set()
  for node in graph.nodes:
    if node.op != "Activation" and node.attrs.get("act") == "hard_swish":
      raise ValueError(f"model: act of {node.name!r}: {INNER_SWISH}")
    for tensor in node.outputs:
      group[tensor] = tensor
    if node.op in SAME_GRID:
      shared = group[node.inputs[0]]
      joined = {group[tensor] for tensor in (*node.inputs, *node.outputs)}
      group = {t: shared if key in joined else key for t, key in group.items()}
    if node.op not in (*MOVES, "Concat"):
      rounded |= set(node.outputs)
    rectified = str(node.attrs.get("act")).startswith(("relu", "hard_sigmoid"))
    if rectified or (node.op in (*SAME_GRID, "GlobalAvgPool") and nonnegative >= set(node.inputs)):
      nonnegative |= set(node.outputs)
  kernels = tuple(node.name for node in graph.nodes if node.op in ("ConvNorm", "Dense"))
  fixed = ((node.output, fixed_grid(node)) for node in graph.nodes)
  return Sites(
    graph,
    tuple(group.items()),
    frozenset(rounded),
    frozenset(nonnegative),
    tuple((tensor, grid) for tensor, grid in fixed if grid is not None),
    kernels,
  )


class Assigned(NamedTuple):
  """The quantizers of a network.

  Attributes:
    weights: by layer; layers that stay in float are left out.
    activations: by grid (see ``Sites.keys``), likewise; fixed grids need none.
    gates: the fixed grids, by tensor, in the bits of the quantizer that the rules give them.
  """

  weights: dict[str, Quantizer]
  activations: dict[str, Quantizer]
  gates: dict[str, Grid]


def assign(plan: Quantization, sites: Sites) -> Assigned:
  """Applies a plan's rules to a network.

  Where several tensors share a grid, the rule for the first of them counts.

  Args:
    plan: says which quantizer a layer gets.
    sites: of the model's graph.

  Raises:
    ValueError: if a rule matches no layer.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize import w4a8
    >>> sites = find_sites(models.summarize(models.resnet8(), 8).graph)
    >>> assigned = assign(w4a8(), sites)
    >>> [assigned.weights[name].levels.high for name in ("stem", "stage0_block0/conv1")]
    [127, 7]
  """
  layers = {INPUT: Names((INPUT,), frozenset()), **names_of(sites.graph)}
  chosen = choose(plan.rules, Choice(plan.weights, plan.activations), layers)
  layer_of = {INPUT: INPUT} | {t: node.name for node in sites.graph.nodes for t in node.outputs}
  fixed = dict(sites.fixed)
  weights = {name: chosen[name].weights for name in sites.kernels}
  activations = {
    key: chosen[layer_of[key]].activations
    for tensor, key in sites.keys
    if tensor in sites.rounded and tensor not in fixed
  }
  present = lambda table: {key: q for key, q in table.items() if q is not None}  # noqa: E731
  fixed_grids = {
    node.output: fixed_grid(node, _bits(chosen[node.name].activations))
    for node in sites.graph.nodes
    if node.output in fixed
  }
  gates = {tensor: grid for tensor, grid in fixed_grids.items() if grid is not None}
  return Assigned(present(weights), present(activations), gates)


def _bits(quantizer: Quantizer | None) -> int:
  """Bits of the integers that a tensor is stored in; of a tensor in float, 8."""
  return 8 if quantizer is None else stored_bits(quantizer.levels)


def tensor_bits(sites: Sites, assigned: Assigned) -> dict[str, int]:
  """Bits of the integers that every tensor is stored in: 8 or 16; of those in float, 8.

  Args:
    sites: of the model's graph.
    assigned: from :func:`assign`.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize import w8a16
    >>> sites = find_sites(models.summarize(models.resnet8(), 8).graph)
    >>> set(tensor_bits(sites, assign(w8a16(), sites)).values())
    {16}
  """
  return {
    tensor: assigned.gates[tensor].bits
    if tensor in assigned.gates
    else _bits(assigned.activations.get(key))
    for tensor, key in sites.keys
  }
