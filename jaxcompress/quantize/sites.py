"""Sites of quantization: the tensors that are rounded, those that share a grid, and their quantizers.

In the graph with fused activations these are the input and every output, except that ops which only
move or compare values (pooling, split, shuffle) keep the grid of what they read, and what a
concatenation joins shares one grid. A pair of such an op and a tensor that it reads may be taken
apart: then the op rounds its output to a grid of its own, and the tensor keeps the one that suits its
other readers.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Graph, fuse_activations, kernel_shape
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import grid_kind, shares_grid
from jaxcompress.nn.select import layers_of
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import stored_bits
from jaxcompress.quantize.integer.functions import (
  FIXED,
  fixed_grid,
  fixed_kind,
  has_stored_table,
  obstacle_inside,
  of_8_bits,
)
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.rules import Choice, choose
from jaxcompress.quantize.states import States

Apart = frozenset[tuple[str, str]]


class Sites(NamedTuple):
  """The tensors of a graph that are rounded. Hashable.

  Attributes:
    graph: the graph with fused activations.
    keys: pairs of a tensor and the name under which its grid is kept.
    rounded: the tensors that are rounded.
    nonnegative: the tensors that are known to be at least zero.
    gates: the tensors whose grid is fixed, and the function that it is fixed by.
    kernels: the nodes that have a kernel.
    apart: pairs of a node that would share a grid with what it reads, and a tensor with which it
      does not.
  """

  graph: Graph
  keys: tuple[tuple[str, str], ...]
  rounded: frozenset[str]
  nonnegative: frozenset[str]
  gates: FrozenDict[str, str]
  kernels: tuple[str, ...]
  apart: Apart = frozenset()

  @property
  def key_of(self) -> dict[str, str]:
    """Name of each tensor's grid."""
    return dict(self.keys)


def find_sites(graph: Graph, apart: Iterable[tuple[str, str]] = ()) -> Sites:
  """Decides which tensors are rounded, and which of them share a grid.

  Args:
    graph: a traced graph.
    apart: pairs of a pool, split, shuffle or concatenation and a tensor that it reads and does not
      share its grid with. Gates, whose grid is fixed, and what is no gate are always apart.

  Raises:
    ValueError: for an activation that has no integer arithmetic where it is, or a pair that is not one
      of the graph.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.shufflenet_v2(), 32).graph
    >>> sites = find_sites(graph)
    >>> key = sites.key_of
    >>> key["stage0_block1/split"] == key["stage0_block1/concat"]
    True
    >>> "stage0_block1/concat" in sites.rounded
    False
    >>> sites = find_sites(graph, {("stage0_block1/concat", "stage0_block1/split")})
    >>> key = sites.key_of
    >>> key["stage0_block1/split"] == key["stage0_block1/concat"]
    False
    >>> "stage0_block1/concat" in sites.rounded
    True
  """
  return fused_sites(fuse_activations(graph), apart)


def fused_sites(graph: Graph, apart: Iterable[tuple[str, str]] = ()) -> Sites:
  """:func:`find_sites` of a graph with fused activations, which is left as it is.

  What lowering put before an activation function does not take it in.
  """
  apart = set(apart)
  group = {INPUT: INPUT}
  rounded: set[str] = {INPUT}
  nonnegative: set[str] = set()
  gates: dict[str, str] = {}
  found: set[tuple[str, str]] = set()
  for node in graph.nodes:
    obstacle = obstacle_inside(node.attrs.get("act"))
    if node.op != "Activation" and obstacle is not None:
      raise ValueError(f"model: act of {node.name!r}: {obstacle}")
    for tensor in node.outputs:
      group[tensor] = tensor
    operation, act = OPERATIONS[node.op], ACTIVATIONS[node.attrs.get("act")]
    rounds = grid_kind(node) != "copied"
    if shares_grid(node):
      kinds = {gates.get(tensor) for tensor in node.inputs}
      kind = kinds.pop() if len(kinds) == 1 else None
      unlike = {t for t in node.inputs if (node.name, t) in apart or gates.get(t) != kind}
      found |= {(node.name, tensor) for tensor in unlike}
      tied = [tensor for tensor in node.inputs if tensor not in unlike]
      shared = group[(*tied, node.output)[0]]
      joined = {group[tensor] for tensor in (*tied, *node.outputs)}
      group = {t: shared if key in joined else key for t, key in group.items()}
      rounds |= bool(unlike)
    if rounds:
      rounded |= set(node.outputs)
    if gate := fixed_kind(node) or (shares_grid(node) and kind):
      gates |= dict.fromkeys(node.outputs, gate)
    fill = operation.fill(node)
    keeps = operation.within and (fill is None or fill >= 0)
    from_zero = (fixed := fixed_grid(node)) is not None and fixed.low >= 0
    if act.low >= 0 or from_zero or (keeps and nonnegative >= set(node.inputs)):
      nonnegative |= set(node.outputs)
  if unknown := sorted(apart - found):
    raise ValueError(
      f"apart: {unknown[0]} is no pair of a pool, split, shuffle or concatenation and a tensor that"
      " it reads; post_training finds such pairs, see quantize.grids_apart."
    )
  kernels = tuple(
    node.name for node in graph.nodes if kernel_shape(node) and OPERATIONS[node.op].trained
  )
  return Sites(
    graph,
    tuple(group.items()),
    frozenset(rounded),
    frozenset(nonnegative),
    FrozenDict(gates),
    kernels,
    frozenset(found),
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
    ValueError: if a rule matches no layer, or gives an activation function 16 bits that has 8 alone.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize import w4a8
    >>> sites = find_sites(models.summarize(models.resnet8(), 8).graph)
    >>> assigned = assign(w4a8(), sites)
    >>> [assigned.weights[name].levels.high for name in ("stem", "stage0_block0/conv1")]
    [127, 7]
  """
  chosen = choose(plan.rules, Choice(plan.weights, plan.activations), layers_of(sites.graph))
  layer_of = {INPUT: INPUT} | {t: node.name for node in sites.graph.nodes for t in node.outputs}
  weights = {name: chosen[name].weights for name in sites.kernels}
  activations = {
    key: chosen[layer_of[key]].activations
    for tensor, key in sites.keys
    if tensor in sites.rounded and tensor not in sites.gates
  }
  for node in sites.graph.nodes:
    if has_stored_table(node) and _bits(activations.get(sites.key_of[node.output])) != 8:
      raise ValueError(f"model: layer {node.name!r}: act: {of_8_bits(node.attrs['act'])}")
  present = lambda table: {key: q for key, q in table.items() if q is not None}  # noqa: E731
  gates = {
    tensor: FIXED[sites.gates[tensor]][_bits(chosen[layer_of[key]].activations)]
    for tensor, key in sites.keys
    if tensor in sites.gates
  }
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


class QuantVariables(NamedTuple):
  """Variables of all quantizers.

  Attributes:
    params: trained; ``{"weights": {layer: ...}, "activations": {tensor: ...}}``.
    state: carried along, such as ranges; read alike, and kept in few arrays, see
      :class:`~jaxcompress.quantize.states.States`.
  """

  params: Any
  state: Any


def init_quantizers(plan: Quantization, sites: Sites, params: Any) -> QuantVariables:
  """Fresh variables of every quantizer.

  Args:
    plan: the quantization.
    sites: of the model's graph.
    params: the model's parameters.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import int8
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> sites = find_sites(Graph((node,), (1, 2), "dense"))
    >>> variables = init_quantizers(int8(), sites, {"dense": {"kernel": jnp.ones((2, 1))}})
    >>> list(variables.state["weights"]), list(variables.state["activations"])
    (['dense'], ['input', 'dense'])
  """
  assigned = assign(plan, sites)
  pairs = {
    "weights": {
      name: quantizer.init(parameters(params, name)["kernel"])
      for name, quantizer in assigned.weights.items()
    },
    "activations": {
      key: quantizer.init(jax.ShapeDtypeStruct(sites.graph.shape(key), jnp.float32))
      for key, quantizer in assigned.activations.items()
    },
  }
  pick = lambda i: {  # noqa: E731
    kind: {name: pair[i] for name, pair in found.items()} for kind, found in pairs.items()
  }
  return QuantVariables(pick(0), {kind: States.of(states) for kind, states in pick(1).items()})
