"""Widens grids whose scales are too far apart for the device.

XNNPACK refuses a convolution whose accumulator steps are 256 output steps or more, overflows where
sums reach 2**31 output steps, and leaves some additions to kernels of TFLite that are wrong for
them; what fits it, other runtimes run as well. The kernels for 16-bit integers have limits of their
own, and round sums alike only where the summands' scales are a power of two apart.

Such ratios come from tensors that hardly move: a residual branch that is still zero, a range that
was seen once. Widening their grids costs nothing, since steps that are far below those of the
tensor that they are added to, or of the sums that they are made from, carry no information.
"""

from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy as np

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.integer import GATES, Grid, fixed_grid, wide, xnnpack
from jaxcompress.quantize.integer.swish import LARGEST_RATIO
from jaxcompress.quantize.integer.xnnpack import LARGEST_STEPS
from jaxcompress.quantize.sites import SAME_GRID, find_sites

TINIEST = 2.0**-60  # products of scales stay normal float32 numbers
GREATEST = 2.0**60
MARGIN = 1 + 2.0**-10  # keeps float32 rounding on the right side of a limit
LEAST_RELU6 = 2.0**-28  # TFLite holds 6 / scale in an int32
MOST_PASSES = 100

RATIOS = {8: xnnpack.RATIOS, 16: wide.RATIOS}  # by the bits of activations

Scales = dict[str, float]


class Need(NamedTuple):
  """What a node needs.

  Attributes:
    tensor: whose scale it is about.
    least: the scale must not be below it.
    exact: whether a scale below is set to ``least`` itself; otherwise a little above.
  """

  tensor: str
  least: float
  exact: bool = False


def fix_grids(graph: Graph, grids: Mapping[str, Grid]) -> dict[str, Grid]:
  """The grids, with the ones that gates must have in place of what was given for them.

  Args:
    graph: with fused activations.
    grids: of the tensors; those of gates may be missing, and then have the bits of what reads them.

  Raises:
    ValueError: if a gate is joined with values of other ranges.

  Examples:
    >>> from jaxcompress import models
    >>> graph = find_sites(models.summarize(models.ghostnet(), 32).graph).graph
    >>> list(fix_grids(graph, {}).values())[0].zero_point
    -128
  """
  key_of, grids = find_sites(graph).key_of, dict(grids)
  readers = {tensor: node.output for node in graph.nodes for tensor in node.inputs}
  fixed = {}
  for node in graph.nodes:
    near = grids.get(node.output) or grids.get(readers.get(node.output, ""))
    if grid := fixed_grid(node, near.bits if near else 8):
      fixed[key_of[node.output]] = grid
  for tensor, key in key_of.items():
    if key in fixed:
      maker = graph.producer(tensor)
      if maker is None or not (fixed_grid(maker) or maker.op in SAME_GRID):
        raise ValueError(
          f"model: {tensor!r} shares its grid with a hard_sigmoid, whose range is 0 to 1; join gates"
          " with gates only."
        )
      grids[tensor] = fixed[key]
  return grids


def widen_grids(
  graph: Graph, grids: Mapping[str, Grid], steps: Mapping[str, float]
) -> dict[str, Grid]:
  """Raises scales until every op of the graph is one that all runtimes run; zero points stay.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    steps: for each node with a kernel, the least output step that it can have, as a multiple of
      its input's; see :func:`least_step`.

  Returns:
    The grids; equal ones where nothing had to be widened.

  Raises:
    ValueError: if a scale is not positive or absurdly large, if tensors that must share a grid
      (around a pool, a split or a concatenation) do not, or if no scales fit.

  Examples:
    >>> from jaxcompress import models
    >>> graph = find_sites(models.summarize(models.resnet8(), 32).graph).graph
    >>> tensors = ["input", *(node.output for node in graph.nodes)]
    >>> grids = {name: Grid(np.float32(0.05), 0) for name in tensors}
    >>> grids["stage0_block0/conv2"] = Grid(np.float32(1e-9), 0)  # a branch that is still zero
    >>> widened = widen_grids(graph, grids, {})
    >>> round(0.05 / float(widened["stage0_block0/conv2"].scale))
    1023
  """
  key_of = find_sites(graph).key_of
  scales = _shared_scales(key_of, grids)
  fixed = {key_of[node.output] for node in graph.nodes if fixed_grid(node)}
  for _ in range(MOST_PASSES):
    changed = False
    for node in graph.nodes:
      bits = grids[node.output].bits
      needs = _needs(node, bits, scales, key_of, steps, fixed)
      if node.attrs.get("act") == "relu6":
        needs.append(Need(node.output, LEAST_RELU6, exact=True))
      for tensor, least, exact in needs:
        if scales[key_of[tensor]] < least and key_of[tensor] in fixed:
          raise ValueError(
            f"grids: layer {node.name!r} needs steps of {least:.3g} for {tensor!r}, a gate from 0 to"
            " 1; its weights or ranges are far too large: train with a lower learning rate."
          )
        if scales[key_of[tensor]] < least:
          scales[key_of[tensor]] = least if exact else least * MARGIN
          changed = True
    if not changed:
      break
  else:
    raise ValueError("grids: no scales fit the device; calibrate the activation ranges again.")
  return {
    tensor: Grid(np.float32(scales[key]), int(grids[tensor].zero_point), grids[tensor].bits)
    for tensor, key in key_of.items()
  }


def _shared_scales(key_of: Mapping[str, str], grids: Mapping[str, Grid]) -> Scales:
  scales: Scales = {}
  for tensor, key in key_of.items():
    if tensor not in grids:
      raise ValueError(f"grids: tensor {tensor!r} has none; it is part of the graph.")
    scale = float(grids[tensor].scale)
    if not 0 < scale <= GREATEST:
      raise ValueError(f"grids: {tensor!r} has scale {scale}; it must be positive and finite.")
    if grids[tensor] != grids[key]:
      raise ValueError(
        f"grids: {tensor!r} and {key!r} hold the same integers and must share one grid; they have"
        f" {grids[tensor]} and {grids[key]}."
      )
    scales[key] = max(scale, TINIEST)
  return scales


def _needs(
  node: Node,
  bits: int,
  scales: Scales,
  key_of: Mapping[str, str],
  steps: Mapping[str, float],
  fixed: Set[str],
) -> list[Need]:
  """Tensors of a node and the least scale that each must have."""
  ratios = RATIOS[bits]
  inputs = [scales[key_of[tensor]] for tensor in node.inputs]
  output = scales[key_of[node.output]]
  if node.name in steps:
    return [Need(node.output, inputs[0] * steps[node.name])]
  if node.op == "Requantize":
    return [Need(node.output, inputs[0], exact=True)]
  act = node.attrs.get("act")
  if act == "hard_sigmoid":
    return [Need(node.inputs[0], float(GATES[bits].relu6.scale) * ratios["add"][0])]
  if act == "hard_swish":
    return [Need(node.output, inputs[0] * MARGIN / LARGEST_RATIO)]
  if node.op in ("Add", "Activation"):
    low, high = ratios["add"]
    least = [Need(tensor, output * low) for tensor in node.inputs]
    aligned = _aligned(node, inputs, key_of, fixed) if node.op == "Add" and bits == 16 else []
    return [Need(node.output, max(inputs) * MARGIN / high), *least, *aligned]
  if node.op == "Multiply":
    (left, right), (low, high) = inputs, ratios["multiply"]
    return [
      Need(node.output, left * right * MARGIN / high),
      Need(node.inputs[0], output * low / right),
    ]
  if node.op == "GlobalAvgPool":
    cells = float(np.prod(node.input_shapes[0][1:3]))
    (low, high), most = ratios["cell"], ratios["mean"][1]
    return [
      Need(node.output, inputs[0] * MARGIN / min(most, cells * high)),
      Need(node.inputs[0], output * cells * low),
    ]
  return []


def _aligned(
  node: Node, inputs: list[float], key_of: Mapping[str, str], fixed: Set[str]
) -> list[Need]:
  """The summands' scales must be a power of two apart: the smaller one grows, if it is not fixed."""
  (smaller, tensor), (larger, other) = sorted(zip(inputs, node.inputs, strict=True))
  octaves = np.log2(larger / smaller)
  if key_of[tensor] in fixed:
    return [Need(other, smaller * 2.0 ** np.ceil(octaves), exact=True)]
  return [Need(tensor, larger / 2.0 ** np.floor(octaves), exact=True)]


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
