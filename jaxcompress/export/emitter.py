"""A .tflite file in the making: the tensors of a graph and constants on their grids."""

from collections.abc import Callable

import numpy as np

from jaxcompress.export.flatbuffer import ModelFile
from jaxcompress.export.tensors import Numbers, has_one_scale
from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.quantize.integer.grid import Grid

FLOAT_BITS = 32
DEQUANTIZE_VERSION = 3  # that of float16


class Emitter:
  """A file in the making, and where the tensors of a graph lie in it.

  Attributes:
    file: the file in the making.
    graph: with fused activations.
    numbers: what its tensors hold.
    tensors: index of each activation tensor, by name.
    dense_per_tensor: whether dense layers get one scale for all of their outputs, or become
      convolutions.
  """

  def __init__(self, graph: Graph, numbers: Numbers, *, dense_per_tensor: bool = False):
    self.file = ModelFile()
    self.graph = graph
    self.numbers = numbers
    self.dense_per_tensor = dense_per_tensor
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
    return self.file.tensor(name, shape, self.numbers.dtype(like), quantization)

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
    per_tensor = self.dense_per_tensor and node.op == "Dense"
    if (
      per_tensor
      and not (kernel_scales is None or bias_scales is None)
      and has_one_scale(kernel_scales)
    ):
      kernel_scales, bias_scales = kernel_scales[:1], bias_scales[:1]
    self._layers += 1
    return [
      self._constant(f"w{self._layers}", np.ascontiguousarray(layout(kernel)), kernel_scales, axis),
      self._constant(f"b{self._layers}", bias, bias_scales, 0),
    ]

  def _constant(self, name: str, data: np.ndarray, scales: np.ndarray | None, axis: int) -> int:
    quantization = None if scales is None else self.file.quantization(scales, 0, axis)
    constant = self.file.tensor(name, data.shape, data.dtype, quantization, data)
    if data.dtype != np.float16:
      return constant
    restored = self.file.tensor(f"{name}/float32", data.shape, np.float32)
    self.file.operator("DEQUANTIZE", DEQUANTIZE_VERSION, [constant], [restored])
    return restored

  def number(self, value: float, like: str) -> int:
    """A constant of one element on the grid of an activation tensor, or a float."""
    data = np.array([value], self.numbers.dtype(like))
    return self.file.constant(data, self.numbers.quantization(self.file, like))

  def bits(self, tensor: str) -> int:
    """Bits of an activation tensor: 8 or 16 of integers, 32 of floats."""
    return 8 * np.dtype(self.numbers.dtype(tensor)).itemsize

  @property
  def is_integer(self) -> bool:
    """Whether activations are integers; otherwise they are float32."""
    return self.bits(INPUT) < FLOAT_BITS

  def real(self, value: float, grid: Grid | None) -> int:
    """A constant of one element that stands for a real number, on a grid that has it, or a float."""
    if grid is None:
      return self.file.constant(np.array([value], np.float32))
    code = np.rint(value / grid.scale) + grid.zero_point
    quantization = self.file.quantization(grid.scale, grid.zero_point)
    return self.file.constant(np.array([code], grid.dtype), quantization)
