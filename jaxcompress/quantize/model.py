"""A quantized network: what every path ends in, and what exporters, verification and reports take."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.codes import to_codes
from jaxcompress.nn import INPUT, Graph, Node, kernel_shape
from jaxcompress.nn.operations import needed_shape
from jaxcompress.nn.outputs import only_or_all
from jaxcompress.quantize.integer.grid import HIGHEST, LOWEST, TYPES, Grid, Integers
from jaxcompress.quantize.integer.program import Program, prepare, run_all

PREPROCESS_BATCH = 256
QUANTIZED = "a QuantizedModel, such as state.quantized() or quantize.post_training(...)"


class Move(NamedTuple):
  """Scales and shifts between a tensor's channels and the float network's: ``y / scale - shift`` of them.

  Attributes:
    scale: (channels,) float64, positive.
    shift: (channels,) float64.
  """

  scale: np.ndarray
  shift: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class QuantizedModel:
  """Integers, scales and ranges of a network, and their exact evaluation.

  Calling it on images gives the logits that a runtime computes from the exported file, bit for bit;
  of a network of several outputs a dict of all by name. The integers are the same for all runtimes;
  they differ in how they round.

  Attributes:
    graph: the graph that the device runs, with fused activations.
    grids: what the integers of every tensor stand for, by name; their ``bits`` make it int8 or
      int16.
    layers: the integers of every node that has a kernel, by name.
    preprocess: maps images to what the network reads, before they are rounded; or None.
    kernels: the runtime whose arithmetic is evaluated: ``"xnnpack"`` (LiteRT with XNNPACK on x86, and
      its own kernels for the 16-bit integers that XNNPACK does not have),
      ``"reference"`` (LiteRT's reference kernels), ``"tflm"`` (TensorFlow Lite for
      Microcontrollers' portable kernels) or ``"onnxruntime"`` (its CPU kernels on x86);
      ``"xnnpack-int4"`` is LiteRT with XNNPACK where a file holds weights in 4 bits;
      ``"xnnpack-arm64"``, ``"xnnpack-int4-arm64"`` and ``"onnxruntime-arm64"`` are the same on 64-bit
      Arm.
    moves: of the tensors whose channels equalization moved, by name; evaluation needs none of it,
      but who compares tensors with the float network's does.

  Raises:
    ValueError: if a grid or a layer is missing, a shape or a value does not fit, or the device
      would refuse an op; the message names the layer.

  Examples:
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> quantized.integers(np.full((1, 2, 2, 3), 0.52, np.float32)).tolist()
    [[5, 5, 5]]
  """

  graph: Graph
  grids: Mapping[str, Grid]
  layers: Mapping[str, Integers]
  preprocess: Callable[[Any], Any] | None = None
  kernels: str = "xnnpack"
  moves: Mapping[str, Move] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    tensors = (INPUT, *(tensor for node in self.graph.nodes for tensor in node.outputs))
    for tensor in tensors:
      _check_grid(tensor, self.grids.get(tensor))
    for node in self.graph.nodes:
      if kernel_shape(node) is not None:
        _check_layer(node, self.layers.get(node.name), self.grids[node.inputs[0]])
    _ = self.program

  def __repr__(self) -> str:
    layers = self.layers.values()
    bits = sorted({grid.bits for grid in self.grids.values()})
    facts = (
      "x".join(map(str, self.graph.input_shape[1:])),
      f"{len(self.graph.nodes)} nodes",
      f"{len(layers)} layers",
      f"{sum(layer.weights.size for layer in layers):,} int8 weights",
      f"{' and '.join(map(str, bits))}-bit activations",
      f"{sum(array.nbytes for layer in layers for array in layer):,} bytes",
      f"kernels={self.kernels!r}",
    )
    return f"QuantizedModel({', '.join(facts)})"

  def with_kernels(self, kernels: str) -> "QuantizedModel":
    """Returns the same integers, evaluated by the kernel rules of another runtime."""
    return dataclasses.replace(self, kernels=kernels)

  @functools.cached_property
  def program(self) -> Program:
    """The graph with all constants computed."""
    return prepare(self.graph, self.grids, self.layers, self.kernels)

  def __call__(self, images: np.ndarray) -> Any:
    """Logits of images, (N, classes) float32; images as for :meth:`quantize_input`.

    Returns:
      An array, (N, ...); of several outputs a dict of them by name.
    """
    found = self.outputs(self.quantize_input(images))
    return only_or_all({name: self.real(name, array) for name, array in found.items()})

  def integers(self, images: np.ndarray) -> Any:
    """Integer logits of images, (N, classes), or a dict; images as for :meth:`quantize_input`."""
    return self.run(self.quantize_input(images))

  def run(self, codes: np.ndarray) -> Any:
    """Integer logits, (N, classes), of integer input (N, height, width, channels), as on a device.

    Any number of images: they are evaluated in batches of bounded size.

    Returns:
      An array of integers; of several outputs a dict of them by name.
    """
    return only_or_all(self.outputs(codes))

  def real(self, name: str, integers: np.ndarray) -> np.ndarray:
    """The float32 numbers that the integers of an output stand for."""
    grid = self.grids[dict(self.graph.outputs)[name]]
    return (integers.astype(np.float32) - grid.zero_point) * grid.scale

  def outputs(self, codes: np.ndarray) -> dict[str, np.ndarray]:
    """As :meth:`run`, by name also where there is one output."""
    codes, dtype = np.asarray(codes), self.grids[INPUT].dtype
    self._check_shape(codes, "codes")
    if codes.dtype != dtype:
      raise ValueError(
        f"codes: {codes.dtype} must be {dtype}; quantize_input makes it from images."
      )
    return run_all(self.program, codes)

  def quantize_input(self, images: np.ndarray) -> np.ndarray:
    """``z + round_half_even(clip(v * float32(1 / s)))``: the integer input of the device.

    That is XNNPACK's. onnxruntime divides by ``s``, and TFLite's reference kernels and TFLite-Micro
    then round halves away from zero.

    Args:
      images: (N, height, width, channels); what ``preprocess`` takes, or float if there is none.

    Returns:
      int8 or int16, as the input's grid has it, of the same shape.

    Raises:
      ValueError: if the shape or dtype does not fit, or a value is not a number.
    """
    grid = self.grids[INPUT]
    codes = []
    for start in range(0, max(len(images), 1), PREPROCESS_BATCH):
      values = self.network_input(images[start : start + PREPROCESS_BATCH])
      codes.append(to_codes(values, grid.scale, grid.zero_point, grid.dtype, self.kernels))
    return np.concatenate(codes)

  def network_input(self, images: np.ndarray) -> np.ndarray:
    """Images after preprocessing, as the network reads them: float32; otherwise as there.

    Args:
      images: as for :meth:`quantize_input`.

    Raises:
      ValueError: if the shape or dtype does not fit.
    """
    if isinstance(images, jax.Array):
      images = np.asarray(images)  # so that what is computed is what a host of a device computes
    if self.preprocess is not None:
      images = np.asarray(self.preprocess(images), np.float32)
    else:
      images = np.asarray(images)
      if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
          f"images: {images.dtype} is no float, and the model has no preprocess; pass what the"
          " network reads, or give the model a preprocess by dataclasses.replace."
        )
    self._check_shape(images, "images")
    return images.astype(np.float32)

  def _check_shape(self, array: np.ndarray, name: str) -> None:
    if array.ndim == 0 or array.shape[1:] != tuple(self.graph.input_shape[1:]):
      wanted = ", ".join(map(str, ("N", *self.graph.input_shape[1:])))
      raise ValueError(f"{name}: shape {array.shape} must be ({wanted}).")


def _check_grid(tensor: str, grid: Grid | None) -> None:
  if grid is None:
    raise ValueError(f"grids: tensor {tensor!r} has no grid; give every tensor of the graph one.")
  if not (np.isfinite(grid.scale) and grid.scale >= np.finfo(np.float32).tiny):
    raise ValueError(
      f"grids: {tensor!r} has scale {grid.scale}; it must be a positive, normal float32."
    )
  if grid.bits not in TYPES:
    raise ValueError(f"grids: {tensor!r} has {grid.bits} bits; it must have 8 or 16.")
  if grid.bits == 16 and grid.zero_point != 0:
    raise ValueError(
      f"grids: {tensor!r} has 16 bits and zero point {grid.zero_point}; it must be 0, since runtimes"
      " have symmetric 16-bit integers only."
    )
  if not LOWEST <= grid.zero_point <= HIGHEST:
    raise ValueError(
      f"grids: {tensor!r} has zero point {grid.zero_point}; it must be in {LOWEST} to {HIGHEST}."
    )


def bias_type(source: Grid) -> np.dtype:
  """Type of the biases of a layer that reads a tensor: int64 where it has 16 bits.

  Examples:
    >>> bias_type(Grid(np.float32(1), 0))
    dtype('int32')
  """
  return np.dtype(np.int64 if source.bits == 16 else np.int32)


def _check_layer(node: Node, layer: Integers | None, source: Grid) -> None:
  name, shape = node.name, needed_shape(node)
  if layer is None:
    raise ValueError(f"layers: {name!r} has no integers; give every layer with a kernel some.")
  expected = (("weights", np.int8, shape), ("scales", np.float32, shape[-1:]))
  for field, dtype, size in (*expected, ("bias", bias_type(source), shape[-1:])):
    array = getattr(layer, field)
    if array.dtype != dtype or array.shape != size:
      raise ValueError(
        f"layers: {name!r} has {field} {array.dtype} {array.shape}; it must be"
        f" {np.dtype(dtype)} {size}."
      )
  if not (np.isfinite(layer.scales).all() and (layer.scales > 0).all()):
    raise ValueError(f"layers: {name!r} has scales that are not positive and finite.")
  if layer.weights.min(initial=0) < -HIGHEST:
    raise ValueError(f"layers: {name!r} has the weight -128; weights are -127 to 127.")
