"""Leaf ops as ONNX operators: a table from a leaf op's name to the function that writes it.

Maps are NCHW. In an integer file each tensor of the graph is uint8, the codes plus 128, between a
QuantizeLinear after the operator that writes it and a DequantizeLinear before those that read it;
runtimes fuse the three into an integer operator. A signed file, for TensorRT, has the codes as they
are, activation functions before they are rounded, and biases in float.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.export.onnx_file import OnnxFile
from jaxcompress.export.tensors import FloatNumbers, IntegerNumbers
from jaxcompress.nn import INPUT, Graph, Node, kernel_shape
from jaxcompress.nn.operations import channel_groups, pads_of
from jaxcompress.quantize.integer.arithmetic import counts_padding
from jaxcompress.quantize.integer.functions import clip_range
from jaxcompress.quantize.integer.grid import LOWEST, Grid
from jaxcompress.quantize.integer.runtimes import find_kernels

KERNELS = "onnxruntime"


def _function(kind: str, **attributes: Any) -> Callable[[OnnxFile, str, str], str]:
  """An activation function that is one operator."""
  return lambda file, value, name: file.operator(kind, [value], name, **attributes)


def _relu6(file: OnnxFile, value: str, name: str) -> str:
  bounds = [file.constant(np.float32(end)) for end in (0, 6)]
  return file.operator("Clip", [value, *bounds], name)


FUSED: Mapping[str | None, Callable[[OnnxFile, str, str], str]] = {
  None: lambda file, value, name: value,
  "relu": _function("Relu"),
  "relu6": _relu6,
  "hard_sigmoid": _function("HardSigmoid", alpha=1 / 6, beta=0.5),
}
ALONE = {"hard_swish": _function("HardSwish"), "sigmoid": _function("Sigmoid")}


class OnnxEmitter:
  """A file in the making, and the float tensors of a graph in it.

  Attributes:
    file: the file in the making.
    graph: with fused activations.
    numbers: what its tensors hold.
    signed: whether codes are int8.
  """

  def __init__(self, graph: Graph, numbers: IntegerNumbers | FloatNumbers, *, signed: bool = False):
    self.signed = signed
    self.file = OnnxFile()
    self.graph = graph
    self.numbers = numbers
    self._readable: dict[str, str] = {}

  def grid(self, tensor: str) -> Grid | None:
    """The grid of a tensor; None in a float file."""
    model = getattr(self.numbers, "model", None)
    return model.grids[tensor] if model else None

  def inputs(self, node: Node) -> list[str]:
    """The float tensors that a node reads."""
    return [self.readable(tensor) for tensor in node.inputs]

  def readable(self, tensor: str) -> str:
    """The float tensor that holds a tensor of the graph."""
    return self._readable[tensor]

  def alias(self, tensor: str, value: str) -> None:
    """Makes a float value what the nodes that read a tensor of the graph read."""
    self._readable[tensor] = value

  def compute(self, node: Node, kind: str, *constants: str, **attributes: Any) -> str:
    """The operator of a node on its inputs and constants; the name of its float output."""
    inputs = [*self.inputs(node), *constants]
    return self.file.operator(kind, inputs, f"{node.name}/out", **attributes)

  def write(self, tensor: str, value: str, act: str | None = None) -> None:
    """Makes a float value the tensor of the graph, after an activation function.

    Args:
      tensor: of the graph.
      value: float tensor that the operator wrote.
      act: an activation function; on integers what the ends of the grid do not clip is clipped
        among the codes, so that every code is known.
    """
    grid = self.grid(tensor)
    if grid is None:
      self._readable[tensor] = self.activated(value, f"{tensor}/{act}", act)
      return
    if self.signed:
      value = self.activated(value, f"{tensor}/{act}", act)
      codes = self.rounded(value, f"{tensor}/codes", grid)
      self._readable[tensor] = self.real(codes, f"{tensor}/real", grid)
      return
    low, high = clip_range(act, grid, find_kernels(KERNELS).ceiling)
    value = self.rounded(value, f"{tensor}/codes", grid)
    if (low, high) != (grid.low, grid.high):
      ends = (self.file.constant(np.uint8(end - grid.low)) for end in (low, high))
      value = self.file.operator("Clip", [value, *ends], f"{tensor}/clipped")
    self._readable[tensor] = self.real(value, f"{tensor}/real", grid)

  def rounded(self, value: str, name: str, grid: Grid) -> str:
    """The codes of a float tensor on a grid."""
    return self.file.operator("QuantizeLinear", [value, *self._grid(grid)], name)

  def real(self, codes: str, name: str, grid: Grid) -> str:
    """The numbers that codes on a grid stand for."""
    return self.file.operator("DequantizeLinear", [codes, *self._grid(grid)], name)

  def copied(self, value: str, tensor: str) -> str:
    """A float value that lies on the grid of a tensor already, with the pair that says so."""
    grid = self.grid(tensor)
    if grid is None:
      return value
    return self.real(self.rounded(value, f"{value}/codes", grid), f"{value}/real", grid)

  def reshaped(self, value: str, shape: list[int], name: str) -> str:
    """A float value in another shape; 0 keeps a size, -1 takes what is left."""
    return self.file.operator(
      "Reshape", [value, self.file.constant(np.array(shape, np.int64))], name
    )

  def _grid(self, grid: Grid) -> tuple[str, str]:
    zero_point = grid.zero_point if self.signed else grid.zero_point - LOWEST
    stored = np.array(zero_point, np.int8 if self.signed else np.uint8)
    return self.file.constant(np.float32(grid.scale)), self.file.constant(stored)

  def activated(self, value: str, name: str, act: str | None) -> str:
    """An activation function in float."""
    writers: dict[Any, Callable[[OnnxFile, str, str], str]] = {**FUSED, **ALONE}
    return writers[act](self.file, value, name)

  def weights(self, node: Node, layout: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Kernel, its first axis the output's, and bias of a layer, as float tensors."""
    kernel, bias, kernel_scales, bias_scales = self.numbers.weights(node)
    if self.signed:
      bias, bias_scales = np.asarray(bias * np.float64(bias_scales), np.float32), None
    pairs = {"kernel": (layout(kernel), kernel_scales), "bias": (bias, bias_scales)}
    return [self._constant(f"{node.name}/{kind}", *pair) for kind, pair in pairs.items()]

  def _constant(self, name: str, data: np.ndarray, scales: np.ndarray | None) -> str:
    constant = self.file.constant(data)
    if scales is None:
      return constant
    zeros = self.file.constant(np.zeros(scales.shape, data.dtype))
    inputs = [constant, self.file.constant(scales.astype(np.float32)), zeros]
    return self.file.operator("DequantizeLinear", inputs, name, axis=0)


def emit(emitter: OnnxEmitter, source: str, target: str) -> None:
  """Writes all nodes of a graph.

  Args:
    emitter: the file in the making.
    source: name of the float input.
    target: name that the float output gets.

  Raises:
    ValueError: for a node that has no ONNX operator here; it names the layer.
  """
  emitter.write(INPUT, source)
  for node in emitter.graph.nodes:
    if node.op not in EMITTERS:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no ONNX operator here; it can be"
        f" one of {', '.join(EMITTERS)}."
      )
    act = node.attrs.get("act")
    if act not in FUSED and not (node.op == "Activation" and act in ALONE):
      raise ValueError(
        f"model: layer {node.name!r} has the activation function {act!r}; ONNX files of jaxcompress"
        f" hold {', '.join(filter(None, FUSED))} in layers, and {' and '.join(ALONE)} as an"
        " Activation of its own."
      )
    EMITTERS[node.op](emitter, node)
  emitter.file.rename(emitter.readable(emitter.graph.output), target)


def _window(node: Node) -> dict[str, list[int]]:
  """Attributes of what slides over a map."""
  (top, bottom), (left, right) = pads_of(node)
  return {
    "kernel_shape": [node.attrs["kernel"]] * 2,
    "strides": [node.attrs["stride"]] * 2,
    "pads": [top, left, bottom, right],
  }


def _convolution(emitter: OnnxEmitter, node: Node) -> None:
  groups = node.input_shapes[0][-1] if kernel_shape(node) is None else channel_groups(node)
  constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 2, 0, 1))
  value = emitter.compute(node, "Conv", *constants, group=groups, **_window(node))
  emitter.write(node.output, value, node.attrs.get("act"))


def _dense(emitter: OnnxEmitter, node: Node) -> None:
  shape, (value,) = node.input_shapes[0], emitter.inputs(node)
  if len(shape) > 2:
    value = emitter.reshaped(value, [0, -1], f"{node.name}/flat")
    value = emitter.copied(value, node.inputs[0])

  def layout(kernel: np.ndarray) -> np.ndarray:
    """The rows, in the order in which the model flattens NHWC, in that of NCHW; transposed."""
    kernel = kernel.reshape(*shape[1:], -1)
    return np.moveaxis(kernel, -2, 0).reshape(-1, kernel.shape[-1]).T

  inputs = [value, *emitter.weights(node, layout)]
  emitter.write(node.output, emitter.file.operator("Gemm", inputs, f"{node.name}/out", transB=1))


def _plain(kind: str, **attributes: Any) -> Callable[[OnnxEmitter, Node], None]:
  """One operator without constants."""

  def write(emitter: OnnxEmitter, node: Node) -> None:
    value = emitter.compute(node, kind, **attributes)
    emitter.write(node.output, value, node.attrs.get("act"))

  return write


def _activation(emitter: OnnxEmitter, node: Node) -> None:
  (value,) = emitter.inputs(node)
  emitter.write(node.output, emitter.activated(value, f"{node.name}/out", node.attrs["act"]))


def _requantize(emitter: OnnxEmitter, node: Node) -> None:
  """Rounds to another grid what is on one already: after a Concat, where that reads it.

  Runtimes make one of two pairs in a row; that of a Concat rounds each of its inputs.
  """
  (value,), grid = emitter.inputs(node), emitter.grid(node.output)
  readers = emitter.graph.consumers(node.output)
  if all(reader.op == "Concat" and emitter.grid(reader.output) == grid for reader in readers):
    emitter.alias(node.output, value)
  else:
    emitter.write(node.output, value)


def _mean(emitter: OnnxEmitter, node: Node) -> None:
  value = emitter.compute(node, "GlobalAveragePool")
  if not node.attrs["keepdims"]:
    value = emitter.reshaped(emitter.copied(value, node.output), [0, -1], f"{node.name}/flat")
  emitter.write(node.output, value)


def _max_pool(emitter: OnnxEmitter, node: Node) -> None:
  emitter.write(node.output, emitter.compute(node, "MaxPool", **_window(node)))


def _average_pool(emitter: OnnxEmitter, node: Node) -> None:
  if counts_padding(node):
    _convolution(emitter, node)
  else:
    emitter.write(node.output, emitter.compute(node, "AveragePool", **_window(node)))


def _split(emitter: OnnxEmitter, node: Node) -> None:
  sizes = emitter.file.constant(np.array(node.attrs["sizes"], np.int64))
  values = [f"{tensor}/out" for tensor in node.outputs]
  emitter.file.operator("Split", [*emitter.inputs(node), sizes], values, axis=1)
  for tensor, value in zip(node.outputs, values, strict=True):
    emitter.write(tensor, value)


def _shuffle(emitter: OnnxEmitter, node: Node) -> None:
  groups, (_, *sides, channels) = node.attrs["groups"], node.input_shapes[0]
  (value,) = emitter.inputs(node)
  value = emitter.reshaped(value, [0, groups, channels // groups, *sides], f"{node.name}/grouped")
  order, name = [0, 2, 1, *range(3, 3 + len(sides))], f"{node.name}/swapped"
  value = emitter.copied(value, node.output)
  value = emitter.copied(emitter.file.operator("Transpose", [value], name, perm=order), node.output)
  emitter.write(node.output, emitter.reshaped(value, [0, channels, *sides], f"{node.name}/out"))


EMITTERS: Mapping[str, Callable[[OnnxEmitter, Node], None]] = {
  "ConvNorm": _convolution,
  "BatchNorm": _convolution,
  "Dense": _dense,
  "Add": _plain("Add"),
  "Multiply": _plain("Mul"),
  "Activation": _activation,
  "Requantize": _requantize,
  "GlobalAvgPool": _mean,
  "AvgPool": _average_pool,
  "MaxPool": _max_pool,
  "Concat": _plain("Concat", axis=1),
  "Split": _split,
  "ChannelShuffle": _shuffle,
}
