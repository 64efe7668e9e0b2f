"""How a model file holds numbers: as the integers of a quantized model, or as float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from jaxcompress.nn import Folded, Node
from jaxcompress.quantize import Grid, QuantizedModel
from jaxcompress.quantize.integer import averaging
from jaxcompress.quantize.model import bias_type

if TYPE_CHECKING:  # only .tflite files need what it imports
  from jaxcompress.export.flatbuffer import ModelFile, Shared


class Weights(NamedTuple):
  """Constants of a layer.

  Attributes:
    kernel: HWIO or (in, out).
    bias: (out,).
    kernel_scales: (out,) float32, or None in a float file.
    bias_scales: (out,) float32, or None in a float file.
  """

  kernel: np.ndarray
  bias: np.ndarray
  kernel_scales: np.ndarray | None = None
  bias_scales: np.ndarray | None = None


class Numbers(Protocol):
  """What the emitters of leaf ops ask for."""

  def dtype(self, tensor: str) -> Any:
    """Type of an activation tensor."""

  def quantization(self, file: ModelFile, tensor: str) -> Shared | None:
    """Quantization parameters of an activation tensor."""

  def zero_point(self, tensor: str) -> int:
    """What stands for zero in an activation tensor."""

  def weights(self, node: Node) -> Weights:
    """Constants of a convolution or linear layer, or of an average pool as a convolution."""


class IntegerNumbers(NamedTuple):
  """int8 or int16 activations, int8 weights, int32 or int64 biases."""

  model: QuantizedModel

  def dtype(self, tensor: str) -> np.dtype:
    return self.model.grids[tensor].dtype

  def quantization(self, file: ModelFile, tensor: str) -> Shared:
    grid: Grid = self.model.grids[tensor]
    return file.quantization(grid.scale, int(grid.zero_point))

  def zero_point(self, tensor: str) -> int:
    return int(self.model.grids[tensor].zero_point)

  def weights(self, node: Node) -> Weights:
    layer = averaging(node) if node.op == "AvgPool" else self.model.layers[node.name]
    source = self.model.grids[node.inputs[0]]
    bias_scales = np.float32(source.scale) * layer.scales
    return Weights(layer.weights, layer.bias.astype(bias_type(source)), layer.scales, bias_scales)


class FloatNumbers(NamedTuple):
  """Everything float32, with BatchNorm folded."""

  layers: Mapping[str, Folded]

  def dtype(self, tensor: str) -> type:
    return np.float32

  def quantization(self, file: ModelFile, tensor: str) -> None:
    return None

  def zero_point(self, tensor: str) -> int:
    return 0

  def weights(self, node: Node) -> Weights:
    if node.op == "AvgPool":
      cells = averaging(node)
      return Weights(
        cells.weights * cells.scales.reshape(1, 1, 1, -1), np.asarray(cells.bias, np.float32)
      )
    if node.name not in self.layers:
      raise ValueError(f"folded: layer {node.name!r} is missing; fold the graph that is written.")
    layer = self.layers[node.name]
    return Weights(layer.weights, layer.bias.astype(np.float32))
