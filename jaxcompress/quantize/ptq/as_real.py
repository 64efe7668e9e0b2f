"""An integer model as real numbers, from which fine-tuning starts."""

from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import INPUT, Graph, Node, kernel_shape
from jaxcompress.nn.structure import CONSTANT, OPERATIONS
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.lower import average_kernel
from jaxcompress.quantize.limits import settle_grids
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.ptq.few_bits import readers_of
from jaxcompress.quantize.sites import find_sites


class Given(NamedTuple):
  """An integer model as real numbers, from which fine-tuning starts; arrays by name.

  Attributes:
    codes: float32 integers of the weights.
    scales: (1, ..., out) of these.
    bias: (out,).
    steps: of the tensors that are rounded.
    below: (channels,) by how much what layers read was shifted up.
    constants: tensors of nodes that read nothing.
  """

  codes: dict[str, Any]
  scales: dict[str, Any]
  bias: dict[str, Any]
  steps: dict[str, Any]
  below: dict[str, Any]
  constants: dict[str, Any]


class Form(NamedTuple):
  """The static half of fine-tuning, which depends on no trained number.

  Attributes:
    graph: of the integer model.
    real: of the float network, with fused activations.
    read: what the last layer reads, if the float network has it, too, and as it is.
    highest: the highest integer that a layer's bits hold, of those whose weights are trained.
    reach: of each layer's output, what its grid holds from end to end.
    grids: of the tensors that are rounded.
    key_of: the name of each tensor's grid.
    trained: names of the grids whose steps are trained.
  """

  graph: Graph
  real: Graph
  read: str | None
  highest: dict[str, int]
  reach: dict[str, float]
  grids: dict[str, Grid]
  key_of: dict[str, str]
  trained: tuple[str, ...]


def start_of(quantized: QuantizedModel, real: Graph) -> tuple[Form, Given]:
  """Reads an integer model as real numbers.

  Args:
    quantized: the model.
    real: graph of the float network, with fused activations.

  Raises:
    ValueError: if it has other layers.
  """
  _check_layers(quantized.graph, find_sites(real).graph)
  graph, (grids, sites) = quantized.graph, settle_grids(quantized.graph, quantized.grids)
  codes, scales, bias, highest, reach, constants = {}, {}, {}, {}, {}, {}
  for node in graph.nodes:
    grid = grids[node.output]
    if node.op == CONSTANT:
      held = np.reshape(np.asarray(node.attrs["codes"], np.float32), node.output_shapes[0])
      constants[node.output] = (held - np.float32(grid.zero_point)) * grid.scale
    if kernel_shape(node) is None:
      continue
    name, layer = node.name, quantized.layers[node.name]
    step = float(grids[node.inputs[0]].scale)
    codes[name] = layer.weights.astype(np.float32)
    scales[name] = layer.scales.reshape((1,) * (layer.weights.ndim - 1) + (-1,))
    bias[name] = (layer.bias * (step * layer.scales.astype(np.float64))).astype(np.float32)
    if node.attrs.get("act") == "hard_sigmoid":  # whose layers compute a sixth, moved by a half
      scales[name], bias[name] = scales[name] * 6, bias[name] * 6 - 3
    if _learns(node):
      highest[name] = _highest(layer.weights)
      low = 0 if node.output in sites.nonnegative else grid.low
      reach[name] = float(grid.scale) * (grid.high - low)
  fixed = {sites.key_of[tensor] for tensor in (INPUT, *sites.gates, *constants)}
  moved = {tensor: -move.shift for tensor, move in quantized.moves.items() if move.shift.any()}
  rounded = {tensor: grids[tensor] for tensor in sites.rounded if tensor not in constants}
  below = readers_of(graph, moved)
  steps = {tensor: np.float32(grid.scale) for tensor, grid in rounded.items()}
  trained = tuple(sorted({sites.key_of[tensor] for tensor in rounded} - fixed))
  read = _last_read(quantized, real)
  form = Form(graph, real, read, highest, reach, rounded, sites.key_of, trained)
  return form, Given(codes, scales, bias, steps, below, constants)


def _highest(weights: np.ndarray) -> int:
  """Finds the highest integer of the fewest bits that hold a layer's weights, 2 or more."""
  top = max(1, int(np.abs(weights.astype(int)).max()))
  return 2 ** top.bit_length() - 1


def _last_read(quantized: QuantizedModel, real: Graph) -> str | None:
  """Names what the last layer reads, if the float network has it, too, and as it is."""
  layers: list[Node] = [node for node in quantized.graph.nodes if kernel_shape(node) is not None]
  there = {tensor for node in real.nodes for tensor in node.outputs} - set(quantized.moves)
  tensors = [tensor for node in layers[-1:] for tensor in node.inputs[:1] if tensor in there]
  return tensors[0] if tensors else None


def _check_layers(quantized: Graph, real: Graph) -> None:
  """Raises if two graphs have other layers with weights."""
  ours, theirs = (
    {n.name: kernel_shape(n) for n in g.nodes if _learns(n)} for g in (quantized, real)
  )
  other = sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))
  if other:
    raise ValueError(
      f"model: its layer {other[0]!r} has weights {theirs.get(other[0])}, and the quantized one's"
      f" {ours.get(other[0])}; give the network that was quantized."
    )


def _learns(node: Node) -> bool:
  """Whether a node has weights that are trained."""
  is_layer = kernel_shape(node) is not None and OPERATIONS[node.op].trained
  return is_layer and average_kernel(node) is None
