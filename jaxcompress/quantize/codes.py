"""Integers of weights and biases for a device, from trained numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.nn import Folded, Graph, Node, kernel_shape
from jaxcompress.nn.operations import needed_shape, shares_grid, without_followers
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.quantize.fake_quant import Levels, levels
from jaxcompress.quantize.integer import wide
from jaxcompress.quantize.integer.convolve import largest_accumulator
from jaxcompress.quantize.integer.grid import HIGHEST, STEPS, Grid, Integers
from jaxcompress.quantize.integer.lower import (
  average_kernel,
  has_operator,
  lower_averages,
  lower_gates,
  lower_grids,
)
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS
from jaxcompress.quantize.integer.weighted import largest_sum
from jaxcompress.quantize.integer.xnnpack import LARGEST_STEPS
from jaxcompress.quantize.limits import fit_grids, least_step, settle_grids
from jaxcompress.quantize.model import Move, QuantizedModel, bias_type

NARROW_INT8 = levels(8, symmetric=True, narrow=True)
LARGEST_BIAS = {8: 2**30, 16: 2**40}  # by bits of activations; leaves as much to the products
SUMS = {8: STEPS, 16: wide.LARGEST_SUM}  # which they stay below, the bias included


def assemble(
  graph: Graph,
  folded: Mapping[str, Folded],
  weight_scales: Mapping[str, np.ndarray],
  grids: Mapping[str, Grid],
  *,
  codes: Mapping[str, np.ndarray] | None = None,
  levels: Levels | Mapping[str, Levels] = NARROW_INT8,
  preprocess: Callable[[Any], Any] | None = None,
  kernels: str = "xnnpack",
  hard_swish: str = "gate",
  moves: Mapping[str, Move] | None = None,
  apart: Iterable[tuple[str, str]] = (),
  split_reads: bool = True,
) -> QuantizedModel:
  """Turns folded layers, weight scales and grids into a :class:`QuantizedModel`.

  The integers are ``round(kernel / s)`` of the kernel as it was trained, half to even, with the
  sign of the folded factor ``f``; they stand for ``q * s * |f|``. So they are the ones that fake
  quantization in training saw, whatever BatchNorm learned. The bias is ``round(b / (s_x * s *
  |f|))``. A channel whose bias would not fit beside its products in int32, whose sums would not, or
  whose steps are beyond the device's range, gets a larger scale and is rounded again; grids are
  widened where the device would refuse their ratio (see
  :func:`~jaxcompress.quantize.limits.fit_grids`).

  A layer with a hard-sigmoid computes ``(w x + b + 3) / 6``, and the ends of its output's grid, 0
  and 1, are the clip; whatever grid is given for it is replaced by that one. A hard-swish is written
  as the product of its input and such a gate, a silu as that of its input and a sigmoid.

  A grid of 16 bits makes its tensor int16: the layer that writes it then reads int16 as well, has
  int64 biases, and requantizations stand where widths meet (see
  :func:`~jaxcompress.quantize.integer.lower.lower_grids`). Weights are int8 everywhere.

  Where what a pool, split, shuffle or concatenation reads has another grid than its output, a
  requantization stands between them, or an average pool becomes a depthwise convolution, which writes
  any grid. One stands as well before a sum or product that needs one of its inputs far coarser than
  the tensor's other readers do.

  Args:
    graph: with fused activations.
    folded: of every node that has a kernel, from :func:`jaxcompress.nn.fold`.
    weight_scales: (out,) float32 scales of the kernels as trained, by node; a normalization on
      its own needs none: its kernel of ones is the highest level.
    grids: of every tensor of the graph.
    codes: integers of the kernels as trained, before the sign of their factors, by node; a node
      without any gets ``round(kernel / s)``.
    levels: the integers of the weights, of all layers or by node; within -127 to 127.
    preprocess: maps images to what the network reads; kept in the model.
    kernels: whose arithmetic evaluates the model; see :class:`~jaxcompress.quantize.QuantizedModel`.
    hard_swish: ``"gate"``: an addition and two products, fast in XNNPACK; ``"operator"``: TFLite's
      HARD_SWISH, one operator for microcontrollers, slow in XNNPACK and for 8 bits only; with 16 it
      is a gate all the same.
    moves: what equalization did to the float network; kept in the model.
    apart: pairs of a node and a tensor that it reads from another grid than its output's, even if
      the grids that are given are equal; see :func:`~jaxcompress.quantize.sites.find_sites`.
    split_reads: whether sums and products get requantized inputs of their own; otherwise the tensors
      are widened for all of their readers, and the graph does not depend on the grids.

  Returns:
    A :class:`QuantizedModel`.

  Raises:
    ValueError: if a layer is missing, codes, scales or levels are out of range, an option is
      unknown, or the device would refuse the network.

  Examples:
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> folded = {"dense": Folded(np.float32([[0.2], [-1.0]]), np.ones(1), np.array([0.5]))}
    >>> grids = dict.fromkeys(("input", "dense"), Grid(np.float32(0.1), 0))
    >>> scales = {"dense": np.float32([1 / 127])}
    >>> model = assemble(Graph((node,), (1, 2), "dense"), folded, scales, grids)
    >>> model.layers["dense"].weights.ravel().tolist(), model.layers["dense"].bias.tolist()
    ([25, -127], [635])

  References:
    Jacob et al., `Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference <https://arxiv.org/abs/1712.05877>`_, 2018, sections 2.2, 2.4.
  """
  if hard_swish not in ("gate", "operator"):
    raise ValueError(f"hard_swish: {hard_swish!r} is unknown; it must be 'gate' or 'operator'.")
  graph = without_followers(graph)
  graph = lower_gates(
    graph,
    lambda node: hard_swish == "gate" or not has_operator(node) or _bits(grids, node) == 16,
  )
  graph, grids = _lowered(graph, grids, apart)
  weighted = [node for node in graph.nodes if kernel_shape(node) is not None]
  folded, weight_scales, levels_of = _completed(weighted, folded, weight_scales, levels)
  folded = {node.name: _scaled(node, folded[node.name]) for node in weighted}
  weights, scales, reaches, steps = {}, {}, {}, {}
  for node in weighted:
    name, layer, to = node.name, folded[node.name], levels_of[node.name]
    if codes is not None and name in codes:
      weights[name] = _checked_codes(name, codes[name], layer.kernel.shape, to)
    else:
      weights[name] = round_kernel(layer.kernel, weight_scales[name], to)
    scales[name] = _live_scales(weights[name], weight_scales[name], layer)
    source = grids[node.inputs[0]]
    reaches[name] = largest_accumulator(weights[name], source)
    steps[name] = least_step(scales[name], reaches[name], source.bits)
  graph, grids = fit_grids(graph, grids, steps, split_reads=split_reads)
  layers = {}
  for node in weighted:
    name, source, output = node.name, grids[node.inputs[0]], grids[node.output]
    integers = _integers(weights[name], scales[name], folded[name], source, output)
    if np.any(reaches[name] + np.abs(integers.bias.astype(np.float64)) >= SUMS[source.bits]):
      signed = weights[name] * np.where(folded[name].factor < 0, -1, 1).astype(np.int8)
      integers = _fitting(name, integers, signed, scales[name], source)
    layers[name] = integers
  return QuantizedModel(graph, grids, layers, preprocess, kernels, dict(moves or {}))


def _lowered(
  graph: Graph, grids: Mapping[str, Grid], apart: Iterable[tuple[str, str]]
) -> tuple[Graph, dict[str, Grid]]:
  """The graph with a change of the grid wherever one is needed, and its grids."""
  grids, sites = settle_grids(graph, grids, apart)
  key_of, graph = sites.key_of, lower_averages(graph, sites.apart)
  copied = {
    (node.name, tensor): key_of[node.output]
    for node in graph.nodes
    if shares_grid(node)
    for tensor in node.inputs
    if (node.name, tensor) in sites.apart
  }
  return lower_grids(graph, grids, sites.nonnegative, copied)


def _completed(
  weighted: Sequence[Node],
  folded: Mapping[str, Folded],
  weight_scales: Mapping[str, np.ndarray],
  levels: Levels | Mapping[str, Levels],
) -> tuple[dict[str, Folded], dict[str, np.ndarray], dict[str, Levels]]:
  """Kernel, scales and levels of every layer, those of averages and lone normalizations among them."""
  folded, scales, levels_of = dict(folded), dict(weight_scales), {}
  for node in weighted:
    name, shape, average = node.name, needed_shape(node)[-1:], average_kernel(node)
    to = levels.get(name) if isinstance(levels, Mapping) else levels
    if average is not None:  # equal weights are the highest level
      folded[name], to = Folded(average, np.ones(shape), np.zeros(shape)), NARROW_INT8
      scales.setdefault(name, np.full(shape, average.max() / HIGHEST, np.float32))
    if to is None:
      raise ValueError(f"levels: layer {name!r} has no levels; give every layer some.")
    if not -HIGHEST <= to.low <= to.high <= HIGHEST:
      raise ValueError(f"levels: {to} must be within -{HIGHEST} to {HIGHEST}, as weights are.")
    if not OPERATIONS[node.op].trained:  # its ones are
      scales.setdefault(name, np.full(shape, 1 / to.high, np.float32))
    levels_of[name] = to
    if name not in folded or name not in scales:
      raise ValueError(f"folded: layer {name!r} needs a folded kernel and weight scales.")
    if scales[name].shape != shape:
      raise ValueError(
        f"weight_scales: {name!r} has shape {scales[name].shape}; it must be {shape}, one for each"
        " output channel."
      )
    if not (np.isfinite(scales[name]).all() and (scales[name] > 0).all()):
      raise ValueError(f"weight_scales: {name!r} has scales that are not positive and finite.")
  return folded, scales, levels_of


def _bits(grids: Mapping[str, Grid], node: Node) -> int:
  """Bits of a node's output; 8 if it has no grid yet."""
  return grids[node.output].bits if node.output in grids else 8


def _scaled(node: Node, layer: Folded) -> Folded:
  """A layer as the device computes it: under a hard-sigmoid, ``(y + 3) / 6``."""
  if node.attrs.get("act") != "hard_sigmoid":
    return layer
  return layer._replace(factor=layer.factor / 6, bias=(layer.bias + 3) / 6)


def round_kernel(kernel: np.ndarray, scales: np.ndarray, to: Levels) -> np.ndarray:
  """``clip(round_half_even(kernel * (1 / s)))`` in float32, as fake quantization computes it; int8.

  Examples:
    >>> round_kernel(np.float32([[0.5, -9.0]]), np.float32([0.2, 0.1]), NARROW_INT8).tolist()
    [[2, -90]]
  """
  spread = (1,) * (kernel.ndim - 1) + (-1,)
  inverse = np.float32(1.0) / scales.astype(np.float32).reshape(spread)
  rounded = np.rint(kernel.astype(np.float32) * inverse)
  return np.clip(rounded, to.low, to.high).astype(np.int8)


def _checked_codes(name: str, codes: np.ndarray, shape: tuple[int, ...], to: Levels) -> np.ndarray:
  if codes.dtype != np.int8 or codes.shape != shape:
    raise ValueError(
      f"codes: {name!r} has {codes.dtype} {codes.shape}; it must be int8 {shape}, as its kernel."
    )
  if codes.size and not to.low <= codes.min() <= codes.max() <= to.high:
    raise ValueError(
      f"codes: {name!r} has {codes.min()} to {codes.max()}; it must be within {to.low} to {to.high}."
    )
  return codes


def _live_scales(codes: np.ndarray, scales: np.ndarray, layer: Folded) -> np.ndarray:
  """(out,) float64 scales of the folded weights; zero where all weights of a channel are zero."""
  dead = ~codes.reshape(-1, codes.shape[-1]).any(axis=0)
  return np.where(dead, 0.0, np.asarray(scales, np.float64) * np.abs(layer.factor))


def _integers(
  codes: np.ndarray, wanted: np.ndarray, layer: Folded, source: Grid, output: Grid
) -> Integers:
  """Integers of one layer whose input and output grids are fixed."""
  step_in, step_out = float(source.scale), float(output.scale)
  most = step_out * LARGEST_STEPS / 2  # a bias beyond it clips every output all the same
  shift = np.clip(layer.bias, -most, most)
  least = np.maximum(
    step_out / step_in * RATIOS[source.bits]["conv"][0] * MARGIN,  # below it there is no factor
    np.abs(shift) / (step_in * LARGEST_BIAS[source.bits]),  # below it the bias does not fit
  )
  scales = np.maximum(wanted, least).astype(np.float32)
  coarser = np.where(wanted < least, wanted / scales, 1.0)
  weights = np.rint(codes * np.where(layer.factor < 0, -coarser, coarser)).astype(np.int8)
  bias = np.rint(shift / (step_in * scales.astype(np.float64)))
  return Integers(weights, scales, bias.astype(bias_type(source)))


def _fitting(
  name: str, layer: Integers, codes: np.ndarray, wanted: np.ndarray, source: Grid
) -> Integers:
  """A layer with larger steps in the channels whose sums accumulators do not hold.

  The highest weight of such a channel becomes a lower integer, and the others in proportion.

  Args:
    name: of the layer.
    layer: its integers.
    codes: int8, its weights as they were at first, of which the new ones are rounded.
    wanted: (out,), their scales.
    source: of the input.
  """
  limit, axes = SUMS[source.bits], tuple(range(codes.ndim - 1))
  highest, top = np.abs(codes).max(axes), np.abs(layer.weights).max(axes).astype(np.float64)
  fitted, coarser = layer, np.zeros(top.shape, bool)
  while np.any(beyond := (reach := largest_sum(fitted, source)) >= limit):
    top[beyond] = np.minimum(top - 1, np.floor(top * (limit / reach)))[beyond]
    if np.any(top[beyond] < 1):
      raise ValueError(
        f"model: layer {name!r} has {int(np.prod(codes.shape[:-1]))} inputs to each output, whose sums"
        f" reach {reach.max():.4g} even with weights of -1, 0 and 1; runtimes hold them below"
        f" {limit:.4g}, so give it fewer inputs."
      )
    coarser |= beyond
    share = np.where(coarser, top / np.maximum(highest, 1), 1.0)
    scales = np.where(coarser, wanted / share, layer.scales).astype(np.float32)
    bias = np.rint(layer.bias * (layer.scales / scales.astype(np.float64)))
    fitted = Integers(
      np.where(coarser, np.rint(codes * share), layer.weights).astype(np.int8),
      scales,
      bias.astype(layer.bias.dtype),
    )
  return fitted
