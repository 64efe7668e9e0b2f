"""From trained numbers to the integers that a device runs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.nn import Folded, Graph
from jaxcompress.quantize.grid import Levels, levels
from jaxcompress.quantize.integer import HIGHEST, Grid, Integers
from jaxcompress.quantize.integer.xnnpack import SMALLEST
from jaxcompress.quantize.limits import MARGIN, widen_grids
from jaxcompress.quantize.model import QuantizedModel

NARROW_INT8 = levels(8, symmetric=True, narrow=True)
LARGEST_BIAS = 2**30  # leaves as much of int32 to the products


def assemble(
  graph: Graph,
  folded: Mapping[str, Folded],
  weight_scales: Mapping[str, np.ndarray],
  grids: Mapping[str, Grid],
  *,
  levels: Levels = NARROW_INT8,
  preprocess: Callable[[Any], Any] | None = None,
) -> QuantizedModel:
  """Turns folded layers, weight scales and grids into a :class:`QuantizedModel`.

  The integers are ``round(kernel / s)`` of the kernel as it was trained, half to even, with the
  sign of the folded factor ``f``; they stand for ``q * s * |f|``. So they are the ones that fake
  quantization in training saw, whatever BatchNorm learned. The bias is ``round(b / (s_x * s *
  |f|))``. A channel whose bias would not fit beside its products in int32, or whose steps are
  beyond the device's range, gets a larger scale and is rounded again; grids are widened where the
  device would refuse their ratio (see :func:`~jaxcompress.quantize.limits.widen_grids`).

  Args:
    graph: with fused activations.
    folded: of every node that has a kernel, from :func:`jaxcompress.nn.fold`.
    weight_scales: (out,) float32 scales of the kernels as trained, by node.
    grids: of every tensor of the graph.
    levels: the integers of the weights; within -127 to 127.
    preprocess: maps images to what the network reads; kept in the model.

  Returns:
    A :class:`QuantizedModel`.

  Raises:
    ValueError: if scales or levels are out of range, or the device would refuse the network.

  Examples:
    See :class:`~jaxcompress.quantize.QuantizedModel`.

  References:
    Jacob et al., `Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference <https://arxiv.org/abs/1712.05877>`_, 2018, sections 2.2, 2.4.
  """
  if not -HIGHEST <= levels.low <= levels.high <= HIGHEST:
    raise ValueError(f"levels: {levels} must be within -{HIGHEST} to {HIGHEST}, as weights are.")
  codes = {
    name: round_kernel(layer.kernel, _checked(name, weight_scales[name], layer), levels)
    for name, layer in folded.items()
  }
  steps = {name: _live_scales(codes[name], weight_scales[name], folded[name]) for name in folded}
  grids = widen_grids(graph, grids, {name: float(s.max(initial=0)) for name, s in steps.items()})
  layers = {
    node.name: _integers(
      codes[node.name],
      steps[node.name],
      folded[node.name],
      grids[node.inputs[0]],
      grids[node.output],
      levels,
    )
    for node in graph.nodes
    if node.name in folded
  }
  return QuantizedModel(graph, grids, layers, preprocess)


def round_kernel(kernel: np.ndarray, scales: np.ndarray, to: Levels) -> np.ndarray:
  """``clip(round_half_even(kernel / s))`` in float32, as fake quantization computes it; int8.

  Examples:
    >>> round_kernel(np.float32([[0.5, -9.0]]), np.float32([0.2, 0.1]), NARROW_INT8).tolist()
    [[2, -90]]
  """
  spread = (1,) * (kernel.ndim - 1) + (-1,)
  rounded = np.rint(kernel.astype(np.float32) / scales.astype(np.float32).reshape(spread))
  return np.clip(rounded, to.low, to.high).astype(np.int8)


def _checked(name: str, scales: np.ndarray, layer: Folded) -> np.ndarray:
  scales = np.asarray(scales, np.float32)
  if scales.shape != layer.bias.shape:
    raise ValueError(
      f"weight_scales: {name!r} has shape {scales.shape}; it must be {layer.bias.shape}, one for"
      " each output channel."
    )
  if not (np.isfinite(scales).all() and (scales > 0).all()):
    raise ValueError(f"weight_scales: {name!r} has scales that are not positive and finite.")
  return scales


def _live_scales(codes: np.ndarray, scales: np.ndarray, layer: Folded) -> np.ndarray:
  """(out,) float64 scales of the folded weights; zero where all weights of a channel are zero."""
  dead = ~codes.reshape(-1, codes.shape[-1]).any(axis=0)
  return np.where(dead, 0.0, np.asarray(scales, np.float64) * np.abs(layer.factor))


def _integers(
  codes: np.ndarray, wanted: np.ndarray, layer: Folded, source: Grid, output: Grid, to: Levels
) -> Integers:
  """Integers of one layer whose input and output grids are fixed."""
  step_in, step_out = float(source.scale), float(output.scale)
  least = np.maximum(
    SMALLEST["conv"] * MARGIN * step_out / step_in,  # beyond it the device has no factor
    np.abs(layer.bias) / (step_in * LARGEST_BIAS),  # below it the bias does not fit
  )
  scales = np.maximum(wanted, least).astype(np.float32)
  signed = codes * np.where(layer.factor < 0, -1, 1).astype(np.int8)
  coarse = round_kernel(layer.weights, scales, to)
  weights = np.where(wanted < least, coarse, signed).astype(np.int8)
  bias = np.rint(layer.bias / (step_in * scales.astype(np.float64)))
  return Integers(weights, scales, np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32))
