"""Widens grids whose scales are too far apart for the device.

XNNPACK refuses a convolution whose accumulator steps are 256 output steps or more, and TFLite's own
kernels, which take over when it leaves an addition alone, are wrong for some ratios. Such ratios
come from tensors that hardly move (a residual branch that is still zero, a range seen once).
Doubling a scale there costs nothing: steps that are far below those of the tensor that they are
added to, or far below those that can be reached, carry no information.
"""

from collections.abc import Mapping

import numpy as np

from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.integer import Grid
from jaxcompress.quantize.integer.xnnpack import LARGEST, SMALLEST
from jaxcompress.quantize.transform import find_sites

TINIEST = 2.0**-60  # products of scales stay normal float32 numbers
GREATEST = 2.0**60
MARGIN = 1 + 2.0**-10  # keeps float32 rounding on the right side of a limit
MOST_PASSES = 100

Scales = dict[str, float]
Needs = list[tuple[str, float]]


def widen_grids(
  graph: Graph, grids: Mapping[str, Grid], steps: Mapping[str, float]
) -> dict[str, Grid]:
  """Raises scales until every op of the graph is one that XNNPACK runs; zero points stay.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    steps: for each node with a kernel, the largest scale of its weights.

  Returns:
    The grids; equal ones where nothing had to be widened.

  Raises:
    ValueError: if a scale is not positive or absurdly large, or if tensors that must share a grid
      (around a pool, a split or a concatenation) do not.

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
  for _ in range(MOST_PASSES):
    changed = False
    for node in graph.nodes:
      for tensor, least in _needs(node, scales, key_of, steps):
        if scales[key_of[tensor]] < least:
          scales[key_of[tensor]] = least * MARGIN
          changed = True
    if not changed:
      break
  else:
    raise ValueError("grids: no scales fit the device; calibrate the activation ranges again.")
  return {
    tensor: Grid(np.float32(scales[key]), int(grids[tensor].zero_point))
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
  node: Node, scales: Scales, key_of: Mapping[str, str], steps: Mapping[str, float]
) -> Needs:
  """Tensors of a node and the least scale that each must have."""
  inputs = [scales[key_of[tensor]] for tensor in node.inputs]
  output = scales[key_of[node.output]]
  if node.name in steps:
    return [(node.output, inputs[0] * steps[node.name] * MARGIN / LARGEST)]
  if node.op in ("Add", "Activation"):
    upper = [(node.output, max(inputs) * MARGIN / LARGEST)]
    return upper + [(tensor, output * SMALLEST["add"]) for tensor in node.inputs]
  if node.op == "Multiply":
    left, right = inputs
    upper = [(node.output, left * right * MARGIN / LARGEST)]
    return [*upper, (node.inputs[0], output * SMALLEST["multiply"] / right)]
  return []
