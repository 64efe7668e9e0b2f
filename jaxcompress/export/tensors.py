"""How a model file holds numbers: as the integers of a quantized model, or as float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Folded, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import averaging, largest_sum
from jaxcompress.quantize.integer.grid import Grid, fits_int4
from jaxcompress.quantize.integer.runtimes import adds_zero
from jaxcompress.quantize.model import bias_type

if TYPE_CHECKING:  # only .tflite files need what it imports
  from jaxcompress.export.flatbuffer import ModelFile, Shared


LARGEST_INT4_SUM = 2**27  # of a dense layer whose weights have 4 bits (excluded)


class LayerConstants(NamedTuple):
  """LayerConstants of a layer.

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


def has_one_scale(scales: np.ndarray) -> bool:
  """Whether the scales of all channels are the same."""
  return bool(np.all(scales == scales[0]))


class Numbers(Protocol):
  """Answers what the emitters of leaf ops ask."""

  def dtype(self, tensor: str) -> Any:
    """Type of an activation tensor."""

  def quantization(self, file: ModelFile, tensor: str) -> Shared | None:
    """Quantization parameters of an activation tensor."""

  def zero_point(self, tensor: str) -> int:
    """The code of zero in an activation tensor."""

  def weights(self, node: Node) -> LayerConstants:
    """LayerConstants of a convolution or linear layer, or of an average pool as a convolution."""

  def adds_zero(self, node: Node) -> bool:
    """Whether a requantization is an addition of zero."""


class IntegerNumbers(NamedTuple):
  """int8 or int16 activations, int8 weights, int32 or int64 biases.

  Attributes:
    model: whose integers they are.
    narrow: leaf ops whose weights are int4 where they fit and read 8 bits.
  """

  model: QuantizedModel
  narrow: tuple[str, ...] = ()

  def dtype(self, tensor: str) -> np.dtype:
    return self.model.grids[tensor].dtype

  def quantization(self, file: ModelFile, tensor: str) -> Shared:
    grid: Grid = self.model.grids[tensor]
    return file.quantization(grid.scale, int(grid.zero_point))

  def zero_point(self, tensor: str) -> int:
    return int(self.model.grids[tensor].zero_point)

  def weights(self, node: Node) -> LayerConstants:
    layer = averaging(node) if node.op == "AvgPool" else self.model.layers[node.name]
    source = self.model.grids[node.inputs[0]]
    bias_scales = np.float32(source.scale) * layer.scales
    kernel = layer.weights.astype(jnp.int4) if self.is_int4(node) else layer.weights
    return LayerConstants(kernel, layer.bias.astype(bias_type(source)), layer.scales, bias_scales)

  def adds_zero(self, node: Node) -> bool:
    return adds_zero(self.model.grids[node.inputs[0]], self.model.grids[node.output])

  def is_int4(self, node: Node) -> bool:
    """Whether a node's weights have 4 bits in the file."""
    return node.op in self.narrow and self.obstacle_to_int4(node) is None

  def obstacle_to_int4(self, node: Node) -> str | None:
    """Says what keeps the weights of a layer from having 4 bits in a file; None: nothing.

    XNNPACK reads dense ones in pairs of inputs, and holds 16 times their sums in an int32.
    """
    source, layer = self.model.grids[node.inputs[0]], self.model.layers[node.name]
    if source.bits != 8:
      return f"reads {source.bits} bits"
    if not fits_int4(layer.weights):
      return f"has integers up to {np.abs(layer.weights).max()}"
    if node.op not in self.narrow:
      return "is dense, which the target runs in 8 bits only"
    if node.op != "Dense":
      return None
    if len(layer.weights) % 2 == 1:
      return "is dense and has an odd number of inputs"
    if (largest := largest_sum(layer, source).max(initial=0)) >= LARGEST_INT4_SUM:
      return (
        f"is dense and has sums up to {largest:.4g}, which fewer bits make smaller: XNNPACK holds"
        " those of 4 bits below 2**27"
      )
    return None


class FloatNumbers(NamedTuple):
  """Everything float32, with BatchNorm folded.

  Attributes:
    layers: by node.
    stored: type that kernels and biases have in the file, float32 or float16.
  """

  layers: Mapping[str, Folded]
  stored: type = np.float32

  def dtype(self, tensor: str) -> type:
    return np.float32

  def quantization(self, file: ModelFile, tensor: str) -> None:
    return None

  def zero_point(self, tensor: str) -> int:
    return 0

  def adds_zero(self, node: Node) -> bool:
    return False

  def weights(self, node: Node) -> LayerConstants:
    if node.op == "AvgPool":
      cells = averaging(node)
      return self._stored(cells.weights * cells.scales.reshape(1, 1, 1, -1), cells.bias)
    if node.name not in self.layers:
      raise ValueError(f"folded: layer {node.name!r} is missing; fold the graph that is written.")
    layer = self.layers[node.name]
    return self._stored(layer.weights, layer.bias)

  def _stored(self, kernel: np.ndarray, bias: np.ndarray) -> LayerConstants:
    most = np.finfo(self.stored).max  # what lies beyond would be infinite
    return LayerConstants(
      *(np.clip(part, -most, most).astype(self.stored) for part in (kernel, bias))
    )
