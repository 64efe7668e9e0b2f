"""An ONNX file in the making, and the float tensors of a graph in it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.export.onnx_file import OnnxFile
from jaxcompress.export.tensors import FloatNumbers, IntegerNumbers
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.integer.functions import clip_range
from jaxcompress.quantize.integer.grid import LOWEST, Grid
from jaxcompress.quantize.integer.runtimes import find_kernels

KERNELS = "onnxruntime"


def _function(kind: str, **attributes: Any) -> Callable[[OnnxFile, str, str], str]:
  """An activation function that is one operator."""
  return lambda file, value, name: file.operator(kind, [value], name, **attributes)


def _clip(low: float, high: float) -> Callable[[OnnxFile, str, str], str]:
  def write(file: OnnxFile, value: str, name: str) -> str:
    bounds = [file.constant(np.float32(end)) for end in (low, high)]
    return file.operator("Clip", [value, *bounds], name)

  return write


FUSED: Mapping[str | None, Callable[[OnnxFile, str, str], str]] = {
  None: lambda file, value, name: value,
  "relu": _function("Relu"),
  "relu6": _clip(0, 6),
  "hard_sigmoid": _function("HardSigmoid", alpha=1 / 6, beta=0.5),
}


ALONE = {
  "hard_swish": _function("HardSwish"),
  "sigmoid": _function("Sigmoid"),
  "tanh": _function("Tanh"),
  "gelu": _function("Gelu"),
  "gelu_tanh": _function("Gelu", approximate="tanh"),
  "elu": _function("Elu"),
  "selu": _function("Selu"),
  "softplus": _function("Softplus"),
  "mish": _function("Mish"),
  "soft_sign": _function("Softsign"),
  "hard_tanh": _clip(-1, 1),
}


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
    self._codes: dict[str, str] = {}
    self._taken: set[str] = set()  # float tensors that are outputs of the file

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
    self._codes.pop(tensor, None)  # those of another shape, or in another order

  def name_output(self, name: str, tensor: str) -> None:
    """Makes a tensor of the graph an output of the file.

    What other nodes or outputs have of it stays theirs: runtimes fuse only operators whose results
    nothing else reads.

    Raises:
      ValueError: if something in the file has the name.
    """
    if self.file.knows(name):
      raise ValueError(
        f"model: its output {name!r} is called as something else in the file; give it another name."
      )
    value = self.readable(tensor)
    if self.graph.consumers(tensor) or value in self._taken:
      self.file.again(value, name)
    else:
      self.file.rename(value, name)
      self.alias(tensor, name)
      self._taken.add(name)

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
    self.write_codes(tensor, value)

  def write_codes(self, tensor: str, codes: str) -> None:
    """Makes codes the tensor of the graph, on its grid."""
    grid = self.grid(tensor)
    assert grid is not None
    self._codes[tensor] = codes
    self._readable[tensor] = self.real(codes, f"{tensor}/real", grid)

  def codes(self, tensor: str) -> str:
    """The uint8 codes of a tensor of the graph."""
    if tensor not in self._codes:
      grid, value = self.grid(tensor), self.readable(tensor)
      assert grid is not None
      self._codes[tensor] = self.rounded(value, f"{value}/places", grid)
    return self._codes[tensor]

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

  def weights(
    self,
    node: Node,
    layout: Callable[[np.ndarray], np.ndarray],
    *,
    axis: int = 0,
    repeats: int = 1,
  ) -> list[str]:
    """Kernel and bias of a layer, as float tensors.

    Args:
      node: the layer.
      layout: from its kernel to that of the file.
      axis: of the file's kernel that is the output's.
      repeats: how often the outputs follow one another in it.
    """
    kernel, bias, kernel_scales, bias_scales = self.numbers.weights(node)
    bias = np.tile(bias, repeats)
    if kernel_scales is not None and bias_scales is not None:
      kernel_scales, bias_scales = (np.tile(each, repeats) for each in (kernel_scales, bias_scales))
    if self.signed:
      bias, bias_scales = np.asarray(bias * np.float64(bias_scales), np.float32), None
    pairs = {"kernel": (layout(kernel), kernel_scales), "bias": (bias, bias_scales)}
    return [
      self.constant(f"{node.name}/{kind}", *pair, axis if kind == "kernel" else 0)
      for kind, pair in pairs.items()
    ]

  def constant(self, name: str, data: np.ndarray, scales: np.ndarray | None, axis: int = 0) -> str:
    """Integers of the file and their scales along an axis, as the numbers that they stand for."""
    if scales is None:
      return self.file.constant(data)
    # onnxruntime shifts weights and their zero points by 128 where a processor needs it, each once
    constant, zeros = (
      self.file.constant(a, own=True) for a in (data, np.zeros(scales.shape, data.dtype))
    )
    inputs = [constant, self.file.constant(scales.astype(np.float32)), zeros]
    return self.file.operator("DequantizeLinear", inputs, name, axis=axis)
