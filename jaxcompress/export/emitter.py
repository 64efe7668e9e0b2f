"""A .tflite file in the making: the tensors of a graph and constants on their grids."""

from collections.abc import Callable

import numpy as np

from jaxcompress.export.flatbuffer import ModelFile
from jaxcompress.export.tensors import Numbers
from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.quantize.integer import Grid


class Emitter:
  """A file in the making, and where the tensors of a graph lie in it.

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

  @property
  def is_integer(self) -> bool:
    """Whether activations are int8; otherwise they are float32."""
    return np.dtype(self.numbers.dtype) == np.int8

  def real(self, value: float, grid: Grid) -> int:
    """A constant of one element that stands for a real number, on a grid that has it, or a float."""
    if not self.is_integer:
      return self.file.constant(np.array([value], self.numbers.dtype))
    code = np.rint(value / grid.scale) + grid.zero_point
    return self.file.constant(np.array([code], np.int8), self.file.quantization(*grid))

  def version(self, integer: int, floating: int = 1) -> int:
    """Lowest version of an operator that has the types in use."""
    return integer if self.is_integer else floating
