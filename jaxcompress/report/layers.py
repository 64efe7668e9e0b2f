"""Rows of the per-layer table, from a graph, its parameters and its integers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.nn import Graph, Node, count_parameters, kernel_shape
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import macs, window_of
from jaxcompress.quantize.storage import packed_bytes, weight_bytes
from jaxcompress.report.results import Layer, Spread, TensorRange


def layer_rows(
  graph: Graph, params: Mapping[str, Any], bits: int = 32, quantized: Any = None
) -> tuple[Layer, ...]:
  """Counts what each node of a graph costs, and how its weights spread.

  Args:
    graph: a traced graph, fused or not.
    params: the model's parameters, arrays or shapes; only shapes are read.
    bits: bits of a stored weight.
    quantized: a ``QuantizedModel`` whose folded weights are described, and whose integers are
      counted in their smallest form (:func:`jaxcompress.quantize.storage.weight_bytes`); or None.

  Returns:
    One :class:`Layer` per node, in the order of the graph.

  Examples:
    >>> from jaxcompress import models
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> rows = layer_rows(summary.graph, summary.variables["params"])
    >>> rows[0].name, rows[0].parameters, rows[0].macs
    ('stem', 464, 442368)
    >>> sum(row.parameters for row in rows) == summary.parameters
    True
  """
  integers = {} if quantized is None else quantized.layers
  return tuple(
    Layer(
      name=node.name,
      op=describe_op(node),
      output_shape=tuple(node.output_shapes[0][1:]),
      parameters=count_parameters(parameters(params, node.name)),
      macs=macs(node),
      weight_bytes=node_bytes(node, bits, integers.get(node.name)),
      tensor=node.output,
      weights=channel_spread(integers[node.name]) if node.name in integers else None,
    )
    for node in graph.nodes
  )


CONVOLUTIONS = {"ConvNorm": "conv", "ConvTranspose": "transposed conv"}


def describe_op(node: Node) -> str:
  """A node's op with what sets it apart: kernel, stride, depthwise, activation function.

  Examples:
    >>> from jaxcompress import models
    >>> describe_op(models.summarize(models.resnet8()).graph.nodes[0])
    'conv 3x3, relu'
  """
  attrs = node.attrs
  if node.op not in CONVOLUTIONS:
    words = [node.op] if node.op != "Activation" else []
    return ", ".join([*words, *([attrs["act"]] if attrs.get("act") else [])])
  groups = attrs.get("groups", 1)
  kind = "depthwise" if groups == "depthwise" else CONVOLUTIONS[node.op]
  words = [f"{kind} {'x'.join(map(str, window_of(node)))}"]
  for field in ("stride", "dilation"):
    sides = attrs.get(field, 1)
    if sides != 1:
      words.append(f"{field} {'x'.join(map(str, sides)) if isinstance(sides, tuple) else sides}")
  if isinstance(groups, int) and groups > 1:
    words.append(f"{groups} groups")
  return ", ".join(words + ([attrs["act"]] if attrs["act"] else []))


def node_bytes(node: Node, bits: int, integers: Any = None) -> int:
  """Bytes of a node's folded weights, its 32-bit biases and, below 32 bits, its scales.

  Args:
    node: of a graph.
    bits: of a weight.
    integers: with ``weights`` int8 (..., out), which are counted as they are; or None.

  Examples:
    >>> from jaxcompress import models
    >>> stem = models.summarize(models.resnet8()).graph.nodes[0]
    >>> node_bytes(stem, 32), node_bytes(stem, 8)  # 432 weights, 16 channels
    (1792, 560)
  """
  shape = kernel_shape(node)
  if shape is None:
    return 0
  if integers is not None:
    return weight_bytes(np.asarray(integers.weights)) + 8 * shape[-1]
  packed = packed_bytes(math.prod(shape), shape[-1], bits)
  return packed if bits < 32 else packed - 4 * shape[-1]


def estimated_bytes(graph: Graph, bits: int) -> int:
  """Bytes of all weights, biases and scales; a file adds some kilobytes of structure.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.resnet20()).graph
    >>> estimated_bytes(graph, 8) / estimated_bytes(graph, 32) < 0.28
    True
  """
  return sum(node_bytes(node, bits) for node in graph.nodes)


def channel_spread(integers: Any) -> Spread:
  """Spread of the largest magnitudes of a layer's output channels, from integers and scales.

  Args:
    integers: with ``weights`` int8 (..., out) and ``scales`` float32 (out,).

  Examples:
    >>> from types import SimpleNamespace
    >>> channel_spread(SimpleNamespace(weights=np.array([[127, -64]]), scales=np.array([0.5, 1.0])))
    Spread(low=63.5, median=63.75, high=64.0)
  """
  weights = np.abs(np.asarray(integers.weights).astype(np.int32))
  largest = weights.reshape(-1, weights.shape[-1]).max(axis=0)
  values = largest * np.asarray(integers.scales)
  return Spread(float(values.min()), float(np.median(values)), float(values.max()))


def range_rows(grids: Mapping[str, Any]) -> tuple[TensorRange, ...]:
  """Ranges of activation tensors, from the grids of a model.

  Examples:
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> range_rows({"input": Grid(np.float32(0.5), -128)})
    (TensorRange(tensor='input', low=0.0, high=127.5, scale=0.5, zero_point=-128),)
  """
  rows = []
  for tensor, grid in grids.items():
    scale, zero = float(grid.scale), int(grid.zero_point)
    rows.append(TensorRange(tensor, grid.low * scale, grid.high * scale, scale, zero))
  return tuple(rows)
