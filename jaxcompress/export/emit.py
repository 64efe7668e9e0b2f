"""Leaf ops as TFLite operators: a table from a leaf op's name to the function that writes it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress import ops
from jaxcompress.export.flatbuffer import ModelFile
from jaxcompress.export.tensors import Numbers
from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.quantize.integer import LOWEST, channel_groups, counts_padding, pads_of

FUSED = {
  None: schema.ActivationFunctionType.NONE,
  "relu": schema.ActivationFunctionType.RELU,
  "relu6": schema.ActivationFunctionType.RELU6,
}
GROUPED_VERSION = 6  # of CONV_2D
DELEGATED_PARTS = 4  # XNNPACK splits into at most as many equal parts


class Emitter:
  """Writes the nodes of a graph into a file.

  Attributes:
    file: the file in the making.
    graph: with fused activations.
    numbers: what its tensors hold.
    tensors: index of each activation tensor, by name.
  """

  def __init__(self, graph: Graph, numbers: Numbers):
    self.file = ModelFile()
    self.graph = graph
    self.numbers = numbers
    self.tensors: dict[str, int] = {}
    self._layers = 0
    self.activation(INPUT, graph.input_shape)

  def activation(self, tensor: str, shape: tuple[int, ...]) -> int:
    """A new activation tensor of the graph, for one image."""
    self.tensors[tensor] = self.scratch(tensor, (1, *shape[1:]), tensor)
    return self.tensors[tensor]

  def scratch(self, name: str, shape: tuple[int, ...], like: str) -> int:
    """A new tensor that holds numbers as another one of the graph does."""
    quantization = self.numbers.quantization(self.file, like)
    return self.file.tensor(name, shape, self.numbers.dtype, quantization)

  def inputs(self, node: Node) -> list[int]:
    """Indices of a node's inputs."""
    return [self.tensors[tensor] for tensor in node.inputs]

  def outputs(self, node: Node) -> list[int]:
    """New tensors for a node's outputs."""
    pairs = zip(node.outputs, node.output_shapes, strict=True)
    return [self.activation(tensor, shape) for tensor, shape in pairs]

  def weights(self, node: Node, layout: Callable[[np.ndarray], np.ndarray], axis: int) -> list[int]:
    """Constant tensors of a kernel and a bias, with short names: the layer's own is in its output."""
    kernel, bias, kernel_scales, bias_scales = self.numbers.weights(node)
    self._layers += 1
    return [
      self._constant(f"w{self._layers}", np.ascontiguousarray(layout(kernel)), kernel_scales, axis),
      self._constant(f"b{self._layers}", bias, bias_scales, 0),
    ]

  def _constant(self, name: str, data: np.ndarray, scales: np.ndarray | None, axis: int) -> int:
    quantization = None if scales is None else self.file.quantization(scales, 0, axis)
    return self.file.tensor(name, data.shape, data.dtype, quantization, data)

  def number(self, value: int, like: str) -> int:
    """A constant of one element on the grid of an activation tensor, or a float."""
    data = np.array([value], self.numbers.dtype)
    return self.file.constant(data, self.numbers.quantization(self.file, like))

  def emit(self) -> None:
    """Writes all nodes.

    Raises:
      ValueError: for a node that TFLite cannot hold; it names the layer.
    """
    for node in self.graph.nodes:
      if node.op not in EMITTERS:
        raise ValueError(
          f"model: layer {node.name!r} is a {node.op}, which has no TFLite operator here; it can be"
          f" one of {', '.join(EMITTERS)}."
        )
      act = node.attrs.get("act")
      if act not in FUSED:
        raise ValueError(
          f"model: layer {node.name!r} has the activation function {act!r}; TFLite files of"
          f" jaxcompress hold {', '.join(filter(None, FUSED))}."
        )
      EMITTERS[node.op](self, node)

  def version(self, integer: int, floating: int = 1) -> int:
    """Lowest version of an operator that has the types in use."""
    return integer if np.dtype(self.numbers.dtype) == np.int8 else floating


def _padded(emitter: Emitter, node: Node, fill: int | None = None) -> tuple[int, int]:
  """A node's input, padded by an operator where TFLite's names do not say it, and TFLite's name.

  Args:
    emitter: the file in the making.
    node: a convolution or pool.
    fill: code to pad with; None: the one that stands for zero.

  Returns:
    ``(tensor, padding)``.
  """
  (source,) = emitter.inputs(node)
  shape, output = node.input_shapes[0], node.output_shapes[0]
  kernel, stride = node.attrs["kernel"], node.attrs["stride"]
  pads = tuple(
    (before, max((out - 1) * stride + kernel - size - before, 0))
    for (before, _), out, size in zip(pads_of(node), output[1:3], shape[1:3], strict=True)
  )
  if not any(map(any, pads)):
    return source, schema.Padding.VALID
  same_size = all(
    out == -(-size // stride) for out, size in zip(output[1:3], shape[1:3], strict=True)
  )
  if same_size and pads == ops.resolve_padding("SAME", shape[1:3], kernel, stride):
    return source, schema.Padding.SAME
  return _pad(emitter, node, source, pads, fill), schema.Padding.VALID


def _pad(emitter: Emitter, node: Node, source: int, pads, fill: int | None) -> int:
  tensor = node.inputs[0]
  height, width, channels = node.input_shapes[0][1:]
  shape = (1, height + sum(pads[0]), width + sum(pads[1]), channels)
  padded = emitter.scratch(f"{node.name}/pad", shape, tensor)
  amounts = emitter.file.constant(np.int32([(0, 0), *pads, (0, 0)]))
  if fill is None or fill == emitter.numbers.zero_point(tensor):
    emitter.file.operator("PAD", emitter.version(2), [source, amounts], [padded])
  else:
    value = emitter.number(fill, tensor)
    emitter.file.operator(
      "PADV2", emitter.version(2), [source, amounts, value], [padded], "PadV2Options"
    )
  return padded


def _convolution(emitter: Emitter, node: Node) -> None:
  source, padding = _padded(emitter, node)
  channels = node.input_shapes[0][-1]
  groups = channels if node.op == "AvgPool" else channel_groups(node)
  fields: dict[str, Any] = {
    "padding": padding,
    "strideH": node.attrs["stride"],
    "strideW": node.attrs["stride"],
    "dilationHFactor": 1,
    "dilationWFactor": 1,
    "fusedActivationFunction": FUSED[node.attrs.get("act")],
  }
  if groups == channels > 1:
    code, version = "DEPTHWISE_CONV_2D", emitter.version(3)
    constants = emitter.weights(node, lambda hwio: hwio.transpose(2, 0, 1, 3), 3)
    fields["depthMultiplier"] = node.output_shapes[0][-1] // channels
  else:
    code, version = "CONV_2D", emitter.version(3) if groups == 1 else GROUPED_VERSION
    constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 0, 1, 2), 0)
  emitter.file.operator(code, version, [source, *constants], emitter.outputs(node), **fields)


def _dense(emitter: Emitter, node: Node) -> None:
  constants = emitter.weights(node, np.transpose, 0)
  emitter.file.operator(
    "FULLY_CONNECTED",
    emitter.version(4),
    [*emitter.inputs(node), *constants],
    emitter.outputs(node),
    fusedActivationFunction=FUSED[None],
  )


def _add(emitter: Emitter, node: Node) -> None:
  emitter.file.operator(
    "ADD",
    emitter.version(2),
    emitter.inputs(node),
    emitter.outputs(node),
    fusedActivationFunction=FUSED[node.attrs.get("act")],
  )


def _activation(emitter: Emitter, node: Node) -> None:
  """A rectifier on its own: added to zero, which XNNPACK runs, as it does not run int8 RELU."""
  zero = emitter.number(emitter.numbers.zero_point(node.inputs[0]), node.inputs[0])
  emitter.file.operator(
    "ADD",
    emitter.version(2),
    [*emitter.inputs(node), zero],
    emitter.outputs(node),
    fusedActivationFunction=FUSED[node.attrs["act"]],
  )


def _multiply(emitter: Emitter, node: Node) -> None:
  emitter.file.operator(
    "MUL",
    emitter.version(2),
    emitter.inputs(node),
    emitter.outputs(node),
    fusedActivationFunction=FUSED[node.attrs.get("act")],
  )


def _mean(emitter: Emitter, node: Node) -> None:
  axes = emitter.file.constant(np.int32([1, 2]))
  emitter.file.operator(
    "MEAN",
    emitter.version(2),
    [*emitter.inputs(node), axes],
    emitter.outputs(node),
    "ReducerOptions",
    keepDims=node.attrs["keepdims"],
  )


def _pool(emitter: Emitter, node: Node, code: str, source: int, padding: int) -> None:
  emitter.file.operator(
    code,
    emitter.version(2),
    [source],
    emitter.outputs(node),
    "Pool2DOptions",
    padding=padding,
    strideH=node.attrs["stride"],
    strideW=node.attrs["stride"],
    filterHeight=node.attrs["kernel"],
    filterWidth=node.attrs["kernel"],
    fusedActivationFunction=FUSED[None],
  )


def _max_pool(emitter: Emitter, node: Node) -> None:
  lowest = LOWEST if np.dtype(emitter.numbers.dtype) == np.int8 else np.finfo(np.float32).min
  _pool(emitter, node, "MAX_POOL_2D", *_padded(emitter, node, lowest))


def _average_pool(emitter: Emitter, node: Node) -> None:
  if counts_padding(node):
    _convolution(emitter, node)
    return
  source, padding = _padded(emitter, node)
  if source not in emitter.inputs(node):
    raise ValueError(
      f"model: layer {node.name!r} averages without its padding {node.attrs['padding']!r}, which"
      " TFLite only has for 'SAME'; use that or count_padding=True."
    )
  _pool(emitter, node, "AVERAGE_POOL_2D", source, padding)


def _concat(emitter: Emitter, node: Node) -> None:
  axis = len(node.output_shapes[0]) - 1
  emitter.file.operator(
    "CONCATENATION",
    emitter.version(2),
    emitter.inputs(node),
    emitter.outputs(node),
    axis=axis,
    fusedActivationFunction=FUSED[None],
  )


def _split(emitter: Emitter, node: Node) -> None:
  sizes, rank = list(node.attrs["sizes"]), len(node.input_shapes[0])
  (source,), parts = emitter.inputs(node), emitter.outputs(node)
  if len(set(sizes)) == 1 and 1 < len(sizes) <= DELEGATED_PARTS:
    axis = emitter.file.constant(np.array(rank - 1, np.int32))
    emitter.file.operator("SPLIT", emitter.version(2), [axis, source], parts, numSplits=len(sizes))
    return
  all_but_last = 2 ** (rank - 1) - 1  # masks: these axes are taken whole
  steps = emitter.file.constant(np.ones(rank, np.int32))
  for part, start, size in zip(parts, np.cumsum([0, *sizes]), sizes, strict=False):
    edges = [
      emitter.file.constant(np.int32([0] * (rank - 1) + [at])) for at in (start, start + size)
    ]
    emitter.file.operator(
      "STRIDED_SLICE",
      emitter.version(2),
      [source, *edges, steps],
      [part],
      beginMask=all_but_last,
      endMask=all_but_last,
    )


def _shuffle(emitter: Emitter, node: Node) -> None:
  """Reshape, transpose, reshape; the first axis is free, so that batches can be resized."""
  groups, shape = node.attrs["groups"], node.input_shapes[0]
  cells, parts = int(np.prod(shape[1:-1])), shape[-1] // groups
  grouped = emitter.scratch(f"{node.name}/grouped", (cells, groups, parts), node.inputs[0])
  swapped = emitter.scratch(f"{node.name}/swapped", (cells, parts, groups), node.inputs[0])
  order = emitter.file.constant(np.int32([0, 2, 1]))
  _reshape(emitter, emitter.inputs(node)[0], grouped, [-1, groups, parts])
  emitter.file.operator("TRANSPOSE", emitter.version(2), [grouped, order], [swapped])
  _reshape(emitter, swapped, emitter.outputs(node)[0], [-1, *shape[1:]])


def _reshape(emitter: Emitter, source: int, target: int, shape: list[int]) -> None:
  constant = emitter.file.constant(np.int32(shape))
  emitter.file.operator("RESHAPE", 1, [source, constant], [target], newShape=shape)


EMITTERS: Mapping[str, Callable[[Emitter, Node], None]] = {
  "ConvNorm": _convolution,
  "BatchNorm": _convolution,
  "Dense": _dense,
  "Add": _add,
  "Multiply": _multiply,
  "Activation": _activation,
  "GlobalAvgPool": _mean,
  "AvgPool": _average_pool,
  "MaxPool": _max_pool,
  "Concat": _concat,
  "Split": _split,
  "ChannelShuffle": _shuffle,
}
