"""Numbers in a model file: the integers of a quantized model, or float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Folded, Graph, Node, fuse_activations
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.borders import steps_of
from jaxcompress.quantize.integer.functions import stored_table
from jaxcompress.quantize.integer.grid import Grid, fits_int4
from jaxcompress.quantize.integer.lower import has_operator, lower_gates
from jaxcompress.quantize.integer.pools import averaging
from jaxcompress.quantize.integer.runtimes import adds_zero
from jaxcompress.quantize.integer.stored import is_clear
from jaxcompress.quantize.integer.weighted import largest_sum
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


def float_graph(graph: Graph) -> Graph:
  """A traced graph as float files hold it: activations fused, and what has no operator written out."""
  return lower_gates(fuse_activations(graph), lambda node: not has_operator(node))


def has_one_scale(scales: np.ndarray) -> bool:
  """Whether the scales of all channels are the same."""
  return bool(np.all(scales == scales[0]))


class Numbers(Protocol):
  """The numbers of a file, as the emitters of leaf ops read them."""

  def dtype(self, tensor: str) -> Any:
    """Type of an activation tensor."""

  def quantization(self, file: ModelFile, tensor: str) -> Shared | None:
    """Quantization parameters of an activation tensor."""

  def zero_point(self, tensor: str) -> int:
    """The code of zero in an activation tensor."""

  def code(self, value: float, tensor: str) -> float:
    """The code of a number in an activation tensor; the number itself in a float file."""

  def weights(self, node: Node) -> LayerConstants:
    """LayerConstants of a convolution or linear layer, or of an average pool as a convolution."""

  def adds_zero(self, node: Node) -> bool:
    """Whether a requantization is an addition of zero."""

  def table(self, node: Node) -> np.ndarray | None:
    """Codes of the output of an activation function whose table the file holds, by those of the input."""


class IntegerNumbers(NamedTuple):
  """int8 or int16 activations, int8 weights, int32 or int64 biases.

  Attributes:
    model: whose integers they are.
    narrow: leaf ops whose weights are int4 where they fit and read 8 bits.
    operators: activation functions that are written as operators of their own where every runtime has
      the codes of their tables.
  """

  model: QuantizedModel
  narrow: tuple[str, ...] = ()
  operators: tuple[str, ...] = ()

  def dtype(self, tensor: str) -> np.dtype:
    return self.model.grids[tensor].dtype

  def quantization(self, file: ModelFile, tensor: str) -> Shared:
    grid: Grid = self.model.grids[tensor]
    return file.quantization(grid.scale, int(grid.zero_point))

  def zero_point(self, tensor: str) -> int:
    return int(self.model.grids[tensor].zero_point)

  def code(self, value: float, tensor: str) -> int:
    grid = self.model.grids[tensor]
    return int(steps_of(value, grid)) + int(grid.zero_point)

  def on_grid(self, value: float, tensor: str) -> float:
    """The number that its code stands for."""
    grid = self.model.grids[tensor]
    return float(steps_of(value, grid) * np.float32(grid.scale))

  def weights(self, node: Node) -> LayerConstants:
    layer = averaging(node) if node.op == "AvgPool" else self.model.layers[node.name]
    source = self.model.grids[node.inputs[0]]
    bias_scales = np.float32(source.scale) * layer.scales
    kernel = layer.weights.astype(jnp.int4) if self.is_int4(node) else layer.weights
    return LayerConstants(kernel, layer.bias.astype(bias_type(source)), layer.scales, bias_scales)

  def adds_zero(self, node: Node) -> bool:
    return adds_zero(self.model.grids[node.inputs[0]], self.model.grids[node.output])

  def table(self, node: Node) -> np.ndarray | None:
    table, act = stored_table(node, self.model.grids), node.attrs.get("act")
    if table is None:
      return None
    grids = (self.model.grids[name] for name in (node.inputs[0], node.output))
    return None if act in self.operators and is_clear(act, *grids) else table

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
  """Numbers of a float32 file, with BatchNorm folded.

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

  def code(self, value: float, tensor: str) -> float:
    return value

  def on_grid(self, value: float, tensor: str) -> float:
    return value

  def adds_zero(self, node: Node) -> bool:
    return False

  def table(self, node: Node) -> None:
    return None

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
