"""Leaf ops as C functions: a table from a leaf op's name to what makes a call of it."""

from collections.abc import Callable, Mapping
from functools import partial

from jaxcompress.export.c99 import emit_elementwise, emit_layers, emit_pools, emit_rows, emit_shapes
from jaxcompress.export.c99.emitted import Emitted, Network, Tensor
from jaxcompress.export.c99.prepared import Prepared
from jaxcompress.nn import INPUT, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import fits_int4

KERNELS = "tflm"  # whose arithmetic it is
WEIGHTS = ("int8", "int4")

EMITTERS: Mapping[str, Callable[[Prepared], Emitted]] = {
  "ConvNorm": emit_layers.convolution,
  "BatchNorm": emit_layers.convolution,
  "Affine": emit_layers.convolution,
  "FourierPositions": emit_layers.convolution,
  "Dense": emit_layers.dense,
  "Add": partial(emit_elementwise.pair, name="add"),
  "Subtract": partial(emit_elementwise.pair, name="subtract"),
  "Maximum": partial(emit_elementwise.pair, name="maximum"),
  "Minimum": partial(emit_elementwise.pair, name="minimum"),
  "Multiply": partial(emit_elementwise.pair, name="multiply"),
  "Activation": emit_elementwise.unary,
  "LeakyRelu": emit_elementwise.unary,
  "MatMul": emit_rows.matrix_product,
  "Softmax": emit_rows.softmax,
  "ChannelMean": emit_layers.convolution,
  "RmsNorm": emit_rows.rms_norm,
  "Requantize": emit_elementwise.unary,
  "GlobalAvgPool": emit_pools.mean,
  "AvgPool": emit_pools.average_pool,
  "MaxPool": emit_pools.max_pool,
  "Slice": emit_shapes.cut,
  "Pad": emit_shapes.border,
  "ChannelMax": emit_shapes.channel_max,
  "Constant": emit_shapes.constant,
  "Reshape": emit_shapes.reshape,
  "Concat": emit_shapes.concat,
  "Split": emit_shapes.split,
  "ChannelShuffle": emit_shapes.shuffle,
  "ConvTranspose": emit_layers.transposed,
  "Resize": emit_shapes.resize,
  "DepthToSpace": emit_shapes.depth_to_space,
  "SpaceToDepth": emit_shapes.space_to_depth,
}


def emit(quantized: QuantizedModel, weights: str = "int8") -> Network:
  """The calls of C functions that compute a network.

  Args:
    quantized: any; it is evaluated as by TFLite-Micro.
    weights: ``"int8"``, or ``"int4"``: those of layers whose integers have at most 4 bits are packed.

  Raises:
    ValueError: for a node that has no C function, or that TFLite-Micro would refuse; it names the layer.
      If ``weights`` is unknown, or no layer has 4 bits.
  """
  check_weights(weights)
  quantized = quantized.with_kernels(KERNELS)
  graph, program = quantized.graph, quantized.program
  operations = []
  for node, step, arrays in zip(graph.nodes, program.steps, program.arrays, strict=True):
    if node.op not in EMITTERS:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no C function here; it can be one of"
        f" {', '.join(EMITTERS)}."
      )
    integers = quantized.layers.get(node.name)
    is_int4 = weights == "int4" and has_int4(quantized, node)
    prepared = Prepared(node, quantized.grids, integers, step.static, arrays, is_int4)
    try:
      operations.append(EMITTERS[node.op](prepared))
    except ValueError as error:
      raise ValueError(f"model: layer {node.name!r}: {error}") from error
  if weights == "int4" and not any(has_int4(quantized, node) for node in graph.nodes):
    raise ValueError(
      "weights: 'int4' needs a layer with weights of at most 4 bits and an input of 8, and the model has"
      " no such layer; write 'int8', or quantize with 4 bits, such as quantize.w4a8() or"
      " post_training(..., bits=4)."
    )
  names = (INPUT, *(tensor for node in graph.nodes for tensor in node.outputs))
  tensors = {
    name: Tensor(name, tuple(map(int, graph.shape(name)[1:])), quantized.grids[name].dtype)
    for name in names
  }
  return Network(tuple(operations), tensors, INPUT, graph.outputs)


def check_weights(weights: str) -> None:
  """Checks the name of a type.

  Raises:
    ValueError: if it is unknown.
  """
  if weights not in WEIGHTS:
    raise ValueError(f"weights: {weights!r} is unknown; it must be one of {', '.join(WEIGHTS)}.")


def has_int4(quantized: QuantizedModel, node: Node) -> bool:
  """Whether a node's weights can be written in 4 bits."""
  layer = quantized.layers.get(node.name)
  bits = quantized.grids[node.inputs[0]].bits
  return layer is not None and bits == 8 and node.op != "ConvTranspose" and fits_int4(layer.weights)
