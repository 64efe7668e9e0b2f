"""Widens grids whose scales are too far apart for the device.

XNNPACK refuses a convolution whose accumulator steps are 256 output steps or more, overflows where
sums reach 2**31 output steps, and leaves some additions to kernels of TFLite that are wrong for
them; what fits it, other runtimes run as well. The kernels for 16-bit integers have limits of their
own, and round sums alike only where the summands' scales are a power of two apart.

Such ratios come from tensors that hardly move: a residual branch that is still zero, a range that
was seen once. Widening their grids costs nothing, since steps that are far below those of the
tensor that they are added to, or of the sums that they are made from, carry no information. Only if
another op reads the tensor, too, does it, and then the sum reads a copy.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax.core import FrozenDict

from jaxcompress.nn import Graph, Node
from jaxcompress.nn.operations import shares_grid
from jaxcompress.nn.structure import REQUANTIZE
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.functions import fixed_grid
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS
from jaxcompress.quantize.integer.xnnpack import LARGEST_STEPS
from jaxcompress.quantize.sites import Sites, fused_sites

TINIEST = 2.0**-60  # products of scales stay normal float32 numbers
GREATEST = 2.0**60
LEAST_RELU6 = 2.0**-28  # TFLite holds 6 / scale in an int32
MOST_PASSES = 100
WORTH = 2.0  # times as large a step is what a requantization saves tensors from
ENOUGH_BITS = 10

Scales = dict[str, float]


class Need(NamedTuple):
  """A bound that a node sets.

  Attributes:
    tensor: whose scale it is about.
    least: the scale must not be below it.
    exact: whether a scale below is set to ``least`` itself; otherwise a little above.
  """

  tensor: str
  least: float
  exact: bool = False


class Shared(NamedTuple):
  """Tensors of a graph that share a scale.

  Attributes:
    key_of: name of each tensor's scale.
    fixed: the scales that gates must have.
  """

  key_of: dict[str, str]
  fixed: frozenset[str]

  def of(self, scales: Scales, tensors: Iterable[str]) -> list[float]:
    """Scales of tensors."""
    return [scales[self.key_of[tensor]] for tensor in tensors]


def _shared(graph: Graph) -> Shared:
  key_of = fused_sites(graph).key_of
  return Shared(key_of, frozenset(key_of[node.output] for node in graph.nodes if fixed_grid(node)))


def coarsest(scale: float, bits: int) -> float:
  """The largest step that a tensor can get in place of its own before a grid of its own pays.

  Twice as large a step means four times the error, 6 dB; rounding twice, first on the finer grid, has
  at most 1 dB more than rounding on the larger one alone. With 16 bits steps are so fine that 8-bit
  weights drown the error of all steps with which 10 bits are left.

  Examples:
    >>> coarsest(1.0, 8), coarsest(1.0, 16)
    (2.0, 128.0)
  """
  return WORTH * scale * max(1.0, 2.0 ** (bits - ENOUGH_BITS))


def settle_grids(
  graph: Graph, grids: Mapping[str, Grid], apart: Iterable[tuple[str, str]] = ()
) -> tuple[dict[str, Grid], Sites]:
  """The grids, those that gates must have among them, and which tensors share one.

  Args:
    graph: with fused activations.
    grids: of the tensors; those of gates are replaced, or may be missing, and then have the bits of
      what reads them.
    apart: as for :func:`~jaxcompress.quantize.sites.find_sites`. What copies integers from another
      grid than its own is apart, too.

  Raises:
    ValueError: if a tensor has no grid.

  Examples:
    >>> from jaxcompress.nn import Node
    >>> shapes = ((1, 4),), ((1, 4),)
    >>> node = Node("act", "Activation", {"act": "hard_sigmoid"}, ("input",), ("act",), *shapes)
    >>> grids, _ = settle_grids(Graph((node,), (1, 4), "act"), {"input": Grid(np.float32(1), 0)})
    >>> grids["act"].zero_point
    -128
  """
  sites = fused_sites(graph, apart)
  readers = {tensor: node.output for node in graph.nodes for tensor in node.inputs}
  fixed = {}
  for node in graph.nodes:
    near = grids.get(node.output) or grids.get(readers.get(node.output, ""))
    if grid := fixed_grid(node, near.bits if near else 8):
      fixed[sites.key_of[node.output]] = grid
  grids = {**grids, **{tensor: fixed[sites.key_of[tensor]] for tensor in sites.gates}}
  if missing := [tensor for tensor in sites.key_of if tensor not in grids]:
    raise ValueError(
      f"grids: tensor {missing[0]!r} has no grid; give every tensor of the graph one."
    )
  unlike = {
    (node.name, tensor)
    for node in graph.nodes
    if shares_grid(node)
    for tensor in node.inputs
    if grids[tensor] != grids[node.output]
  }
  return grids, fused_sites(graph, {*apart, *unlike})


def fit_grids(
  graph: Graph,
  grids: Mapping[str, Grid],
  steps: Mapping[str, float],
  *,
  split_reads: bool = True,
) -> tuple[Graph, dict[str, Grid]]:
  """Makes every op of the graph one that all runtimes run; zero points stay.

  Scales are raised (see :func:`widen_grids`). Where a sum or product needs one of its inputs much
  coarser than the other readers of that tensor do, a ``Requantize`` is put between the two instead.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    steps: for each node with a kernel, the least output step that it can have, as a multiple of
      its input's; see :func:`least_step`.
    split_reads: whether that is done; otherwise scales are raised for all readers.

  Returns:
    ``(graph, grids)``; equal ones where everything fits.

  Raises:
    ValueError: as :func:`widen_grids`.

  Examples:
    >>> shape, twice = ((1, 4),), ((1, 4), (1, 4))
    >>> nodes = (
    ...   Node("act", "Activation", {"act": "relu"}, ("input",), ("act",), shape, shape),
    ...   Node("square", "Multiply", {}, ("act", "act"), ("square",), twice, shape),
    ...   Node("add", "Add", {}, ("square", "act"), ("add",), twice, shape),
    ... )
    >>> grids = {name: Grid(np.float32(1.0), 0) for name in ("input", "act", "square")}
    >>> grids["add"] = Grid(np.float32(1e5), 0)
    >>> fitted, _ = fit_grids(Graph(nodes, (1, 4), "add"), grids, {})
    >>> fitted.nodes[-1].inputs
    ('square', 'act/for/add')
  """
  grids = dict(grids)
  while True:
    widened = widen_grids(graph, grids, steps)
    unfit = _unfit_read(graph, grids, widened, steps) if split_reads else None
    if unfit is None:
      return graph, widened
    graph, copy = _split_read(graph, *unfit)
    grids[copy] = grids[unfit[1]]


def _unfit_read(
  graph: Graph, grids: Mapping[str, Grid], widened: Mapping[str, Grid], steps: Mapping[str, float]
) -> tuple[str, str] | None:
  """A node and a tensor that is too coarse for its other readers because of this one, if any."""
  shared = _shared(graph)
  scales = {key: float(widened[key].scale) for key in shared.key_of.values()}
  alone = widen_grids(graph, grids, steps, reads=False)
  for node in graph.nodes:
    for tensor, least, _ in _needs_of_reads(node, widened[node.output].bits, scales, shared):
      own = alone[tensor]
      if least > coarsest(float(own.scale), own.bits) and _has_others(graph, shared, node, tensor):
        return node.name, tensor
  return None


def _has_others(graph: Graph, shared: Shared, reader: Node, tensor: str) -> bool:
  """Whether other nodes compute with the numbers on a tensor's grid."""
  key_of, key = shared.key_of, shared.key_of[tensor]
  return key in {key_of[made] for _, made in graph.outputs} or any(
    key in {key_of[name] for name in node.inputs}
    and not (shares_grid(node) and key_of[node.output] == key)
    for node in graph.nodes
    if node.name != reader.name
  )


def _split_read(graph: Graph, reader: str, tensor: str) -> tuple[Graph, str]:
  """The graph in which a node reads a requantized copy of a tensor, and the name of that."""
  copy, shape, nodes = f"{tensor}/for/{reader}", (graph.shape(tensor),), []
  for node in graph.nodes:
    if node.name == reader:
      nodes.append(Node(copy, REQUANTIZE, FrozenDict(), (tensor,), (copy,), shape, shape))
      node = node._replace(inputs=tuple(copy if name == tensor else name for name in node.inputs))
    nodes.append(node)
  return graph._replace(nodes=tuple(nodes)), copy


def widen_grids(
  graph: Graph, grids: Mapping[str, Grid], steps: Mapping[str, float], *, reads: bool = True
) -> dict[str, Grid]:
  """Raises scales until every op of the graph is one that all runtimes run; zero points stay.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    steps: for each node with a kernel, the least output step that it can have, as a multiple of
      its input's; see :func:`least_step`.
    reads: whether tensors are widened for the nodes that read them, too.

  Returns:
    The grids; equal ones where nothing had to be widened.

  Raises:
    ValueError: if a scale is not positive or absurdly large, if tensors that must share a grid
      (around a pool, a split or a concatenation) do not, or if no scales fit.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fuse_activations
    >>> graph = fuse_activations(models.summarize(models.resnet8(), 32).graph)
    >>> tensors = ["input", *(node.output for node in graph.nodes)]
    >>> grids = {name: Grid(np.float32(0.05), 0) for name in tensors}
    >>> grids["stage0_block0/conv2"] = Grid(np.float32(1e-9), 0)  # a branch that is still zero
    >>> widened = widen_grids(graph, grids, {})
    >>> round(0.05 / float(widened["stage0_block0/conv2"].scale))
    1023
  """
  shared = _shared(graph)
  key_of, scales = shared.key_of, _shared_scales(shared.key_of, grids)
  copies = {t for node in graph.nodes if shares_grid(node) for t in node.inputs}
  for _ in range(MOST_PASSES):
    changed = False
    for node in graph.nodes:
      bits = grids[node.output].bits
      widths = node.output not in copies and grids[node.inputs[0]].bits != bits
      needs = [_need_of_output(node, bits, shared.of(scales, node.inputs), steps, widths)]
      if reads:
        needs += _needs_of_reads(node, bits, scales, shared)
      if node.attrs.get("act") == "relu6":
        needs.append(Need(node.output, LEAST_RELU6, exact=True))
      for tensor, least, exact in needs:
        if scales[key_of[tensor]] >= least:
          continue
        if key_of[tensor] in shared.fixed:
          raise ValueError(
            f"grids: layer {node.name!r} needs steps of {least:.3g} for {tensor!r}, whose grid is"
            " fixed; its weights or ranges are far too large: train with a lower learning rate."
          )
        scales[key_of[tensor]] = least if exact else least * MARGIN
        changed = True
    if not changed:
      return {
        tensor: Grid(np.float32(scales[key]), int(grids[tensor].zero_point), grids[tensor].bits)
        for tensor, key in key_of.items()
      }
  raise ValueError("grids: no scales fit the device; calibrate the activation ranges again.")


def _shared_scales(key_of: Mapping[str, str], grids: Mapping[str, Grid]) -> Scales:
  scales: Scales = {}
  for tensor, key in key_of.items():
    scale = float(grids[tensor].scale)
    if not 0 < scale <= GREATEST:
      raise ValueError(
        f"grids: {tensor!r} has scale {scale:.4g}; it must be above 0 and at most {GREATEST:.4g}, so"
        " bring images and weights into a smaller range."
      )
    if grids[tensor] != grids[key]:
      raise ValueError(
        f"grids: {tensor!r} and {key!r} hold the same integers and must share one grid; they have"
        f" {grids[tensor]} and {grids[key]}."
      )
    scales[key] = max(scale, TINIEST)
  return scales


def _need_of_output(
  node: Node, bits: int, inputs: list[float], steps: Mapping[str, float], widths: bool
) -> Need:
  """The least scale of a node's output; ``widths``: it holds the input's numbers in another width."""
  if node.name in steps:
    return Need(node.output, inputs[0] * steps[node.name])
  moves = node.op == REQUANTIZE
  if moves and widths:
    return Need(node.output, inputs[0], exact=True)
  return Need(node.output, ARITHMETIC[node.op].least(node, bits, inputs), exact=moves)


def _needs_of_reads(node: Node, bits: int, scales: Scales, shared: Shared) -> list[Need]:
  """The least scales of what a node reads."""
  (output,), inputs = (shared.of(scales, names) for names in ((node.output,), node.inputs))
  arithmetic = ARITHMETIC[node.op]
  least = arithmetic.least_read(node, bits, output, inputs)
  needs = [Need(tensor, scale) for tensor, scale in zip(node.inputs, least, strict=False)]
  if not arithmetic.aligned or bits != 16:
    return needs
  # Scales of summands are a power of two apart: the smaller one grows, if it is not fixed.
  (smaller, tensor), (larger, other) = sorted(zip(inputs, node.inputs, strict=True))
  octaves = np.log2(larger / smaller)
  if shared.key_of[tensor] in shared.fixed:
    return [*needs, Need(other, smaller * 2.0 ** np.ceil(octaves), exact=True)]
  return [*needs, Need(tensor, larger / 2.0 ** np.floor(octaves), exact=True)]


def least_step(scales: np.ndarray, reach: np.ndarray, bits: int = 8) -> float:
  """Least output step of a layer, as a multiple of its input step, that the device runs.

  Args:
    scales: (out,) of the weights.
    reach: (out,) how far the sums of integer products get from zero.
    bits: of the layer's activations.

  Examples:
    >>> round(256 * least_step(np.array([0.5, 1.0]), np.array([1000, 2000])), 2)
    1.0
  """
  highest = RATIOS[bits]["conv"][1]
  factor = np.maximum(MARGIN / highest, np.asarray(reach, np.float64) / LARGEST_STEPS)
  return float(np.max(scales * factor, initial=0.0))
